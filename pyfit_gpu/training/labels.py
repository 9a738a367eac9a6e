"""Labels beside the energy of a block's structures, and the way from networks to predictions of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.models.force_rows import GPU_SLAB_ATOMS, SLAB_ATOMS, Slab, slabs_of
from pyfit_gpu.models.network_jacobian import NetworkJacobian
from pyfit_gpu.models.networks import ElementLayout, ElementNetworks
from pyfit_gpu.models.turning_slopes import TurningSlopes
from pyfit_gpu.training.atomic_energies import AtomicEnergies, Informed
from pyfit_gpu.training.bond_map import BondForces
from pyfit_gpu.training.force_map import ForceMap
from pyfit_gpu.training.loss import Comparison, Labelled, LabelWeights, WeightedTerm


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions of A members, differentiable by their parameters."""

    energies: Tensor  # (A, n_atoms) eV, of all atoms of the block
    by_name: dict[str, Tensor]  # those of the map's structures and atoms, by `LossTerm.prediction`
    penalty: Tensor | None = None  # (A,) on local parameters, in the squared loss
    parameters: Tensor | None = None  # (A, n_atoms, N), local ones
    sums: Tensor | None = None  # (A, S N) of local parameters, where their means are wanted


class Labels:
    """Labels beside the energy, for the structures that have any, and the map from networks to predictions of them."""

    def __init__(
        self,
        chosen: TrainingSet,
        label_weights: LabelWeights,
        terms: Sequence[WeightedTerm],
        rows: Tensor,
        *,
        memory: float,
        scale: Tensor | None,
        how: Informed | None = None,
    ) -> None:
        """Find neighbours and derivatives, and keep as many as there is memory for.

        Args:
            rows: structures of the block, all of them where a physically informed network trains.
            scale: see `ForceMap`.
        """
        terms = [one for one in terms if bool((label_weights[one.term.name][rows] > 0).any())]
        virials = any(one.term.prediction == "virials" for one in terms)
        reach = None if how is None else how.reach
        of_features = 0 if how is not None and how.is_bare else memory
        self.map = ForceMap(chosen, rows.tolist(), virials=virials, memory=of_features, scale=scale, reach=reach)
        self._informed = how
        self.bonds: BondForces | None = None
        if how is not None:
            self.bonds = BondForces(self.map, how.model, memory=memory - self.map.kept_bytes)
            self._places = torch.argsort(self.map.atoms)  # place of each atom of the block in the map
        self._found_slabs: list[tuple[Slab, slice, slice]] | None = None
        self.comparisons: list[tuple[WeightedTerm, Comparison]] = []
        for one in terms:
            assert one.term.compare is not None
            label_weight = label_weights[one.term.name][self.map.rows]
            labelled = Labelled(chosen, self.map.rows, self.map.atoms, label_weight)
            self.comparisons.append((one, one.term.compare(labelled)))

    @property
    def kept_bytes(self) -> int:
        """Bytes of derivatives and bonds that are kept."""
        return self.map.kept_bytes + (0 if self.bonds is None else self.bonds.kept_bytes)

    def predict(
        self, networks: ElementNetworks, layout: ElementLayout, inputs: Tensor, species: Tensor, means: Tensor | None
    ) -> Predicted:
        """Predict energies of the block's atoms, forces and virials.

        Args:
            layout: of the block's atoms.
            inputs: (S, M, n_in), arranged.
            species: (n_atoms,) int64.
            means: (A, S, N) of local parameters, see `LocalPenalty`.
        """
        if self._informed is not None:
            return self._predict_informed(self._informed, networks, layout, inputs, species, means)
        outputs, grad_features = networks.with_gradient(inputs)
        forces, virials = self._mapped(layout.restore(grad_features))
        return Predicted(layout.restore(outputs[..., None])[..., 0], _by_name(forces, virials))

    def _mapped(self, grad_features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Forces and virials through the features, from derivatives (A, n_atoms, n_features) of all atoms."""
        return self.map(grad_features.index_select(1, self.map.atoms).transpose(0, 1))

    def _predict_informed(
        self,
        how: Informed,
        networks: ElementNetworks,
        layout: ElementLayout,
        inputs: Tensor,
        species: Tensor,
        means: Tensor | None,
    ) -> Predicted:
        assert self.bonds is not None
        found = networks.with_vjp(inputs)
        parameters = how.model.parameters(how.scaled(layout.restore(found.outputs), species), species)
        own = self.bonds(parameters.index_select(1, self.map.atoms))
        forces, virials = own.forces, own.virials
        if not how.is_bare:
            slopes = how.scaled(own.slopes.index_select(1, self._places), species)
            of_features = layout.restore(found.vjp(layout.arrange_members(slopes)))
            more_forces, more_virials = self._mapped(of_features)
            forces = forces + more_forces
            virials = None if virials is None or more_virials is None else virials + more_virials
        energies = own.energies.index_select(1, self._places)
        penalty = sums = None
        if how.penalty is not None:
            penalty = how.penalty.value(parameters, species, means)
            if how.penalty.needs_means and means is None:
                sums = how.penalty.sums(parameters.detach(), species)
        return Predicted(energies, _by_name(forces, virials), penalty, parameters.detach(), sums)

    def squares(self, predicted: Predicted) -> tuple[Tensor, dict[str, Tensor]]:
        """Part of the squared loss (A,) that these labels make, and the squares of `BlockValue`, detached."""
        total = predicted.energies.new_zeros(len(predicted.energies))
        squares: dict[str, Tensor] = {}
        for one, comparison in self.comparisons:
            found = comparison.squares(predicted.by_name[one.term.prediction])
            total = total + one.weight * found[one.term.counted]
            squares |= {name: square.detach() for name, square in found.items()}
        return total, squares

    def jacobian_rows(
        self, networks: ElementNetworks, inputs: Tensor, species: Tensor, local: AtomicEnergies | None
    ) -> Iterator[Tensor]:
        """Yield rows (n, P) of the Jacobian of the residuals of these labels, for one member.

        Args:
            inputs: (n_atoms, F) of all atoms of the block, conditioned.
            species: (n_atoms,) int64.
            local: of all atoms, with slopes and local parameters, of a physically informed network.
        """
        inputs, species = inputs[self.map.atoms], species[self.map.atoms]
        scales = {one.term.prediction: one.weight**0.5 * comparison.scale for one, comparison in self.comparisons}
        for slab, structures, atoms in self._slabs(species, networks.n_elements):
            jacobian, turning = self._linearised(networks, inputs[atoms], slab, atoms, local)
            if "forces" in scales:
                scale = scales["forces"][atoms]
                for group, moves, turns in slab.force_moves(turning):
                    rows = jacobian.moved_rows(group.members, moves, turns)
                    yield rows.mul_(scale[group.rows][:, None, None]).flatten(0, 1)
            if "virials" in scales:
                scale = scales["virials"][structures]
                for group, moves, turns in slab.virial_moves(turning):
                    rows = jacobian.moved_rows(group.members, moves, turns)
                    yield rows.mul_(scale[group.rows][:, None, None]).flatten(0, 1)

    def _linearised(
        self, networks: ElementNetworks, inputs: Tensor, slab: Slab, atoms: slice, local: AtomicEnergies | None
    ) -> tuple[NetworkJacobian, TurningSlopes | None]:
        """Find what rows of J of a slab are made of; see `jacobian_rows`.

        Args:
            inputs, atoms: of the slab, in the map's order.
        """
        if local is None or self._informed is None:
            return NetworkJacobian(networks, inputs, slab.by_element), None
        assert local.slopes is not None
        assert local.parameters is not None
        of_block = self.map.atoms[atoms]
        jacobian = NetworkJacobian(networks, inputs, slab.by_element, local.slopes[0, of_block])
        scale = None if self._informed.scale is None else self._informed.scale[slab.species]
        return jacobian, TurningSlopes(self._informed.model, local.parameters[0, of_block], jacobian, scale)

    def slopes(self, parameters: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor]:
        """Energies (K, n) eV of all atoms of the block and their derivatives by local parameters (K, n, N)."""
        assert self.bonds is not None
        found = self.bonds.slopes(parameters.index_select(1, self.map.atoms))
        energies, slopes = (one.index_select(1, self._places) for one in found)
        return energies, slopes

    def _slabs(self, species: Tensor, n_elements: int) -> list[tuple[Slab, slice, slice]]:
        if self._found_slabs is None:
            most = SLAB_ATOMS if species.device.type == "cpu" else GPU_SLAB_ATOMS
            self._found_slabs = slabs_of(self.map.parts, species, n_elements, most)
        return self._found_slabs


def _by_name(forces: Tensor, virials: Tensor | None) -> dict[str, Tensor]:
    """Predictions by `LossTerm.prediction`. New kinds are added here."""
    return {"forces": forces} if virials is None else {"forces": forces, "virials": virials}
