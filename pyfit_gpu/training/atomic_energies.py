"""From the networks' outputs to the energies of a block's atoms, and back to derivatives by the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pyfit_gpu.datasets.feature_rows import FeatureRows
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.models.bond_order import BondOrder
from pyfit_gpu.models.conditioning import Conditioning
from pyfit_gpu.models.network_jacobian import Members, NetworkJacobian, atoms_by_element
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.training.bond_map import BondMap
from pyfit_gpu.training.local_penalty import LocalPenalty

_ROWS = 512  # of J at once


class Slopes(Protocol):
    """The way from local parameters to energies, see `informed`."""

    def __call__(self, parameters: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, eq=False)
class Informed:
    """The difference that a physically informed network or a bare bond-order potential makes to a training."""

    model: BondOrder
    reach: float  # Å, within which neighbours matter
    is_bare: bool  # whether there are no features
    penalty: LocalPenalty | None = None
    scale: Tensor | None = None  # (S, N), of the outputs, see `Conditioning`

    @classmethod
    def of(
        cls,
        potential: Potential | None,
        like: Tensor | FeatureRows,
        penalty: LocalPenalty | None = None,
        conditioning: Conditioning | None = None,
    ) -> Informed | None:
        """Take it from a potential, for a set's features' device and precision; None: a straight network trains."""
        if potential is None or not potential.is_physically_informed:
            return None
        model = BondOrder(potential)
        if potential.use_baseline:  # the potential itself may be of shapes only
            model.baseline = potential.baseline.to(like.device, like.dtype)
        scale = None if conditioning is None or conditioning.outputs is None else conditioning.outputs
        scale = None if scale is None else scale.to(like.device, like.dtype)
        return cls(model, potential.neighbor_cutoff, potential.is_bare, penalty, scale)

    def scaled(self, by_atom: Tensor, species: Tensor) -> Tensor:
        """Multiply outputs, or derivatives by local parameters, (.., n, N) by the scale of the outputs."""
        return by_atom if self.scale is None else by_atom * self.scale[species]


@dataclass(frozen=True, eq=False)
class AtomicEnergies:
    """Energies of atoms, and how a function of them depends on the outputs."""

    energies: Tensor  # (K, n) eV
    pull: Callable[[Tensor], Tensor]  # from derivatives by the energies (K, n) to those by the outputs (K n_out, n)
    penalty: Tensor | None = None  # (K,), in the squared loss; its derivatives are in those of `pull`
    slopes: Tensor | None = None  # (K, n, n_out), derivatives of energies by outputs; None: they are the outputs
    parameters: Tensor | None = None  # (K, n, N), local ones
    sums: Tensor | None = None  # (K, S N) of the local parameters, where the penalty needs their means


def straight(outputs: Tensor) -> AtomicEnergies:
    """Take outputs (K, n) for the energies."""
    return AtomicEnergies(outputs, lambda grad: grad)


def informed(
    how: Informed, bonds: Slopes, outputs: Tensor, species: Tensor, means: Tensor | None, *, gradient: bool
) -> AtomicEnergies:
    """Take outputs (K n_out, n) for local parameters without the baseline.

    Args:
        bonds: from local parameters (K, n, N) to energies of atoms (K, n) and, if wanted, their derivatives (K, n, N).
        means: (K, S, N) of the local parameters of all atoms; None: not known or not needed.
        gradient: whether `pull` will be used.
    """
    n_outputs = how.model.n_outputs(how.model.n_elements)
    by_member = outputs.unflatten(0, (-1, n_outputs)).transpose(1, 2)
    parameters = how.model.parameters(how.scaled(by_member, species).contiguous(), species)
    energies, slopes = bonds(parameters, gradient=gradient)
    if gradient:
        slopes = how.scaled(slopes, species)
    if how.penalty is None:
        return AtomicEnergies(
            energies, lambda grad: as_outputs(slopes * grad[..., None]), slopes=slopes, parameters=parameters
        )
    penalty, of_penalty = how.penalty.added(parameters, species, means)
    of_penalty = how.scaled(of_penalty, species)
    sums = how.penalty.sums(parameters, species) if how.penalty.needs_means and means is None else None

    def pull(grad: Tensor) -> Tensor:
        return as_outputs(slopes * grad[..., None] + of_penalty)

    return AtomicEnergies(energies, pull, penalty, slopes, parameters, sums)


def as_outputs(by_atom: Tensor) -> Tensor:
    """(K, n, n_out) to (K n_out, n)."""
    return by_atom.transpose(1, 2).flatten(0, 1)


def map_of(how: Informed, chosen: TrainingSet, memory: float) -> BondMap:
    """Find the bonds of a block's structures, and keep as many as there is memory for."""
    return BondMap(chosen, how.model, how.reach, memory=memory)


def penalty_rows(
    how: Informed, networks: ElementNetworks, inputs: Tensor, species: Tensor, local: AtomicEnergies
) -> Iterator[Tensor]:
    """Yield rows (R, P) of J for the squares of negative local parameters, of one member; usually there are none.

    Args:
        inputs: (n, F) of all atoms, conditioned.
        species: (n,) int64.
        local: what the networks give.
    """
    penalty = how.penalty
    assert penalty is not None
    assert local.parameters is not None
    below = penalty.is_barred() & (local.parameters[0] < 0)
    for number in below.any(dim=0).nonzero()[:, 0].tolist() if penalty.negative else ():
        for atoms in below[:, number].nonzero()[:, 0].split(_ROWS):
            slopes = inputs.new_zeros(len(atoms), below.shape[1])
            slopes[:, number] = penalty.slope_of_residual
            slopes = how.scaled(slopes, species[atoms])
            by_element = atoms_by_element(species[atoms], networks.n_elements)
            jacobian = NetworkJacobian(networks, inputs[atoms], by_element, slopes)
            for element in range(networks.n_elements):
                own = (species[atoms] == element).nonzero()
                if len(own):
                    yield jacobian.energy_rows([Members(element, own)])
