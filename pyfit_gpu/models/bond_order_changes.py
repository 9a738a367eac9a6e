"""How derivatives of bond-order energies depend on the parameters, for training on forces and stress.

A loss of forces depends on dE/dp and dE/dv, v the vectors of pairs. With its derivatives P and V by these,

    d(loss)/dp = d/dp (dE/dp . P + dE/dv . V) = d/dp (dE/dp . P + dE/dg . G)

where g are the lengths of `Lengths` and G their changes along V: v enters through them alone, and they depend on no
parameter. As second derivatives do not depend on their order, that is how dE/dp changes while p moves along P and g
along G, and is written out: every number that dE/dp is made of, and its change.

Where every dE/dp_k must be known by itself, for rows of the Jacobian, it is written out (`BondEnergies`), and one pass
of autograd through each gives its derivatives by p and g.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.models.bond_order import BondEnergies, BondOrder, Parameters
from pyfit_gpu.models.kept_surroundings import Lengths, changes_vjp, with_leaves
from pyfit_gpu.models.potential import Form
from pyfit_gpu.models.surroundings import Surroundings


def change_of_slopes(energies: BondEnergies, direction: Tensor, changes: Lengths) -> Tensor:
    """(n, N): derivative of dE/dp . P + dE/dg . G by the parameters.

    Args:
        direction: (n, N), P.
        changes: G.
    """
    return _SlopeChanges(energies, Parameters.of(direction, energies.around.n_elements), changes).slopes()


class _SlopeChanges:
    """How energies' derivatives by the parameters change while parameters and lengths do, to first order.

    Every name of `BondEnergies` here is that number's change.
    """

    def __init__(self, energies: BondEnergies, own: Parameters, lengths: Lengths) -> None:
        """Find the changes of what energies are made of.

        Args:
            own, lengths: changes of the parameters and of the lengths.
        """
        self.of, self.own, self.lengths = energies, own, lengths
        around, bonds = energies.around, energies.around.bonds
        strength, screening = own.angular_strength, own.screening
        if energies.form == "squared":
            strength = 2 * energies.own.angular_strength * strength
            screening = 2 * energies.own.screening * screening
        self.screening = energies.screening.change(screening, lengths.detour)
        self.weights = self.screening.bonds * bonds.smooth + energies.screening.bonds * lengths.smooth
        self.angles = energies.angles.change(lengths.unit, self.weights, strength, own.preferred_cosine)
        self.order = -0.5 * energies.order**3 * self.angles.bonds
        now = energies.own
        self.repulsion, self.attraction = (
            value * (around.of_bonds(of_height) - around.of_bonds(of_decay) * bonds.distance
                     - around.of_bonds(decay) * lengths.distance)
            for value, of_height, of_decay, decay in (
                (energies.repulsion, own.repulsion, own.repulsion_decay, now.repulsion_decay),
                (energies.attraction, own.attraction, own.attraction_decay, now.attraction_decay),
            )
        )  # fmt: skip
        self.promoted = self.weights * energies.order + energies.weights * self.order
        self.root = 0.5 * energies.inverse_root * self.promoted.sum(dim=1, keepdim=True)

    def slopes(self) -> Tensor:
        """(n, N): change of `BondEnergies.grad_parameters`."""
        of, bonds = self.of, self.of.around.bonds
        of_weights, of_strength, _, _ = of.backwards(vectors=False)
        moved_weights, moved_strength, moved_cosine = self._backwards()
        moved_screening = self.screening.grad_parameters(
            of_weights * bonds.smooth, moved_weights * bonds.smooth + of_weights * self.lengths.smooth
        )
        if of.form == "squared":
            of_screening = of.screening.grad_parameters(of_weights * bonds.smooth)
            moved_screening = 2 * (self.own.screening * of_screening + of.own.screening * moved_screening)
            moved_strength = self.own.angular_strength * of_strength + of.own.angular_strength * moved_strength
            moved_strength = 2 * moved_strength
        repulsion = 0.5 * (self.repulsion * bonds.smooth + of.repulsion * self.lengths.smooth)
        attraction = -0.5 * (self.promoted * of.attraction + of.promoted * self.attraction)
        across_repulsion = repulsion * bonds.distance + 0.5 * of.repulsion * bonds.smooth * self.lengths.distance
        across_attraction = attraction * bonds.distance - 0.5 * of.promoted * of.attraction * self.lengths.distance
        to_elements = of.around.to_elements
        slopes = (
            to_elements(repulsion), -to_elements(across_repulsion),
            to_elements(attraction), -to_elements(across_attraction),
            moved_cosine.flatten(1), -self.root, moved_strength.flatten(1), moved_screening.flatten(1),
        )  # fmt: skip
        return torch.cat(slopes, dim=1)

    def _backwards(self) -> tuple[Tensor, Tensor, Tensor]:
        """Changes of the first three of `BondEnergies.backwards`."""
        of = self.of
        of_root = of.inverse_root * (self.own.promotion - of.own.promotion * of.inverse_root * self.root)
        of_promoted = -0.5 * (of_root + self.attraction)
        product = of.promoted * of.of_promoted
        moved = (self.promoted * of.of_promoted + of.promoted * of_promoted) * of.order + 2 * product * self.order
        of_angles, of_of_angles = -0.5 * product * of.order.square(), -0.5 * moved * of.order
        of_weights, of_strength, of_cosine = self.angles.vjp(of_angles, of_of_angles)
        return of_weights + self.order * of.of_promoted + of.order * of_promoted, of_strength, of_cosine


def slope_derivatives(around: Surroundings, parameters: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """Derivatives of the slopes dE/dp: (n, N, N) by the parameters, and (n, N, 3, K) by the neighbours' vectors.

    Args:
        parameters: (n, N), p.
    """
    n, n_parameters = parameters.shape
    by_parameters = parameters.new_empty(n, n_parameters, n_parameters)
    by_vectors = parameters.new_empty(n, n_parameters, 3, around.distances.shape[1])
    with torch.enable_grad():
        leaf = parameters.detach().requires_grad_()
        free, lengths = with_leaves(around)
        kinds = BondEnergies(free, leaf, form).grad_by_kind()
        slopes = [slope for kind in kinds for slope in kind.sum(dim=0).unbind()]
        for number, slope in enumerate(slopes):
            of_leaf, *of_lengths = torch.autograd.grad(
                slope, (leaf, *lengths), retain_graph=True, materialize_grads=True
            )
            by_parameters[:, number] = of_leaf
            by_vectors[:, number] = changes_vjp(around, Lengths(*of_lengths)).transpose(0, 1)
    return by_parameters, by_vectors


def chunk_slope_derivatives(model: BondOrder, chunk: Chunk, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Do as `slope_derivatives` for all atoms of a chunk, with parameters (n, N); K: places for pairs of the chunk."""
    n, n_parameters = parameters.shape
    by_parameters = parameters.new_empty(n, n_parameters, n_parameters)
    by_vectors = parameters.new_empty(n, n_parameters, 3, chunk.pairs.shape[1])
    for rows, around in model.surroundings(chunk):
        own = slope_derivatives(around, parameters.index_select(0, rows), model.form)
        by_parameters.index_copy_(0, rows, own[0])
        by_vectors.index_copy_(0, rows, own[1])
    return by_parameters, by_vectors
