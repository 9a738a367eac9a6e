"""A potential: descriptor, networks and energy scale; members joined into one, or taken out of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.networks import ElementNetworks, Seed, member_seed
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.elements import index_elements

Form = Literal["squared", "plain"]  # of a and lambda in the bond order and the screening

_SCREENING_REACH = 1.5  # cutoff of the atoms that screen a bond, over rc


def n_bond_order_parameters(n_elements: int) -> int:
    """Bond-order parameters of an atom, N: A, alpha, B, beta, h, sigma, a and lambda with each kind of neighbour."""
    return 4 * n_elements + 1 + 3 * n_elements**2


@dataclass(frozen=True, eq=False)
class Potential:
    """Descriptor and networks with the other contents of a .nn.dat file.

    Only `fit` changes anything, in place: the networks' parameters, and the energy shift to that of the training set.
    """

    descriptor: LocalStructureParameters
    networks: ElementNetworks
    masses: tuple[float, ...]  # u, per element
    max_random: float  # half-width of the interval that random parameters are drawn from
    use_baseline: bool  # whether network outputs are added to the bond-order parameters
    # (S N) of each element in turn: A, alpha, B, beta (S each), h (S S), sigma, a, lambda (S S each); for straight
    # networks without a meaning, and of any length
    bond_order_parameters: tuple[float, ...]
    energy_shift: Tensor  # (S,) float64 on the CPU, eV per atom of each element; NaN: not known
    untrained: tuple[str, ...] = ()  # elements whose parameters are random still: nothing that trained had such atoms
    form: Form = "squared"  # whether a bond order has a^2 and lambda^2, or a and lambda; not for straight networks

    def __post_init__(self) -> None:
        expected = self.descriptor.n_elements * n_bond_order_parameters(self.descriptor.n_elements)
        found = len(self.bond_order_parameters)
        if self.is_physically_informed and found != expected:
            raise InputError(f"bond_order_parameters: expected {expected} numbers, got {found}")

    @property
    def is_physically_informed(self) -> bool:
        """Whether the outputs are the parameters of a bond-order potential and not the energy."""
        return self.networks.layer_sizes[-1] == n_bond_order_parameters(self.descriptor.n_elements)

    @property
    def knows_shift(self) -> bool:
        """Whether it says by how much its energies are above those of the data."""
        return not bool(self.energy_shift.isnan().any())

    @property
    def is_bare(self) -> bool:
        """Whether it is a bond-order potential without a network: the baseline and one layer of biases, no inputs."""
        return self.networks.layer_sizes[0] == 0

    @property
    def baseline(self) -> Tensor:
        """(S, N) float64 on the CPU, bond-order parameters of each element; not for straight networks."""
        return torch.tensor(self.bond_order_parameters, dtype=torch.float64).view(self.descriptor.n_elements, -1)

    @property
    def parameters(self) -> Tensor:
        """(K, P) float64 on the CPU, as in files: those of a bare potential with what stands in its baseline."""
        flat = self.networks.flat().detach().to("cpu", torch.float64)
        return flat + self.baseline.flatten() if self.is_bare and self.use_baseline else flat

    @property
    def kind(self) -> str:
        """Name of the kind of potential, for messages."""
        if not self.is_physically_informed:
            return "a straight network"
        name = "a bare bond-order potential" if self.is_bare else "a physically informed network"
        return f"{name} ({self.form} form)"

    @property
    def neighbor_cutoff(self) -> float:
        """Å, within which energies depend on atoms: farther than the features reach where bonds are screened."""
        reach = self.descriptor.neighbor_cutoff
        return max(reach, _SCREENING_REACH * self.descriptor.cutoff) if self.is_physically_informed else reach

    @property
    def device(self) -> torch.device:
        return self.networks.weights[0].device

    @property
    def dtype(self) -> torch.dtype:
        return self.networks.weights[0].dtype

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Potential:
        return replace(self, networks=self.networks.to(device, dtype), energy_shift=self.energy_shift.clone())

    def without_parameters(self) -> Potential:
        """The same potential with the shapes of the networks' parameters only (on the meta device)."""
        return replace(self.to("meta"), untrained=())

    def randomized(self, seed: Seed, max_random: float | None = None) -> Potential:
        """The same potential with weights and biases drawn uniformly from +-max_random (the header's, if None)."""
        networks = ElementNetworks.random(
            self.networks.layer_sizes,
            self.max_random if max_random is None else max_random,
            seed,
            n_elements=self.descriptor.n_elements,
            activation=self.networks.activation,
        )
        return replace(self, networks=networks.to(self.device, self.dtype), energy_shift=self.energy_shift.clone())

    def random_members(self, numbers: Iterable[int], seed: int | None) -> Potential:
        """Draw members with random parameters: number k of a seed is the same whichever others are drawn."""
        return join_members([self.randomized(member_seed(seed, 0, number)) for number in numbers])

    def member(self, number: int) -> Potential:
        """One member, counted from 0, as a potential with tensors of its own.

        Raises:
            InputError: there is no such member.
        """
        n_members = self.networks.n_members
        if not 0 <= number < n_members:
            raise InputError(f"member: expected a whole number from 0 to {n_members - 1}, got {number}")
        views = self.networks.member(number)
        weights, biases = (
            tuple(layer.detach().clone() for layer in layers) for layers in (views.weights, views.biases)
        )
        networks = replace(views, weights=weights, biases=biases)
        return replace(self, networks=networks, energy_shift=self.energy_shift.clone())

    def species_index(self, structures: Structures) -> Tensor:
        """(n_atoms,) int64, index into the descriptor's elements.

        Raises:
            InputError: an element that the potential lacks, or atoms without an element for several elements.
        """
        numbers = structures.flatten(structures.atomic_numbers)
        return index_elements(numbers, self.descriptor.elements, structures.describe_atom)


def join_members(potentials: Sequence[Potential], names: Sequence[str] | None = None) -> Potential:
    """Join potentials that differ only in their networks' parameters into one, with all members in the given order.

    The result has tensors of its own. Masses and `max_random`, which decide no result, are those of the first; an
    element is untrained if it is in one of them. Where baselines of physically informed networks differ, that of the
    first counts, and the last biases of the others take up the difference.

    Args:
        names: of the potentials, for errors.

    Raises:
        InputError: none given, or one that differs from the first in a setting, which the message names.
    """
    if not potentials:
        raise InputError("members: expected at least one potential, got none")
    names = [f"potential {number}" for number in range(1, len(potentials) + 1)] if names is None else names
    first = potentials[0]
    for name, other in zip(names[1:], potentials[1:], strict=True):
        difference = _difference(first, other)
        if difference:
            raise InputError(f"{name} cannot be a member beside {names[0]}: {difference}")
    if differ_in_baseline(potentials):
        potentials = _with_one_baseline(potentials)
        first = potentials[0]

    def joined(layers: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return tuple(torch.cat(layer).detach() for layer in zip(*layers, strict=True))

    networks = replace(
        first.networks,
        weights=joined(potential.networks.weights for potential in potentials),
        biases=joined(potential.networks.biases for potential in potentials),
    )
    untrained = (symbol for symbol in first.descriptor.elements if any(symbol in one.untrained for one in potentials))
    return replace(first, networks=networks, energy_shift=first.energy_shift.clone(), untrained=tuple(untrained))


def equal_members(potential: Potential) -> list[list[int]]:
    """Members that have the same parameters, to the bit: one list of two or more, from 0, for each that comes again."""
    found: dict[bytes, list[int]] = {}
    for number, parameters in enumerate(potential.networks.flat().detach().cpu().numpy()):
        found.setdefault(parameters.tobytes(), []).append(number)
    return [numbers for numbers in found.values() if len(numbers) > 1]


def _difference(first: Potential, other: Potential) -> str:
    """Name the first setting in which two potentials differ, with both values; empty: they can be joined."""
    kinds = [one.kind for one in (first, other)]
    if kinds[0] != kinds[1]:
        return f"expected {kinds[0]}, found {kinds[1]}"
    inputs = first.descriptor.difference(other.descriptor)
    if inputs:
        return inputs
    pairs: dict[str, tuple[object, object]] = {
        "layer sizes": (first.networks.layer_sizes, other.networks.layer_sizes),
        "activation": (first.networks.activation, other.networks.activation),
        "dtype": (first.dtype, other.dtype),
        "device": (first.device, other.device),
    }
    for name, (expected, found) in pairs.items():
        if expected != found:
            return f"{name}: expected {expected}, found {found}"
    # A shift that neither knows is no difference.
    if not torch.allclose(first.energy_shift, other.energy_shift, rtol=0.0, atol=0.0, equal_nan=True):
        return f"e_shift: expected {first.energy_shift.tolist()}, found {other.energy_shift.tolist()}"
    return ""


def differ_in_baseline(potentials: Sequence[Potential]) -> bool:
    """Whether these are physically informed and have not all the same baseline."""
    return len({_baseline(one) for one in potentials if one.is_physically_informed}) > 1


def _with_one_baseline(potentials: Sequence[Potential]) -> list[Potential]:
    """Make the same potentials with one baseline for all: zero for bare ones, that of the first for others."""
    first = potentials[0]
    if first.is_bare:
        return [with_all_in_biases(potential) for potential in potentials]
    return [first, *(_with_baseline_of(first, potential) for potential in potentials[1:])]


def _with_baseline_of(first: Potential, potential: Potential) -> Potential:
    """Move the difference of two baselines into the last biases."""
    own, other = (one.baseline if one.use_baseline else torch.zeros_like(one.baseline) for one in (potential, first))
    *earlier, last = potential.networks.biases
    networks = replace(potential.networks, biases=(*earlier, last + (own - other).to(last)))
    numbers = first.bond_order_parameters
    return replace(potential, networks=networks, use_baseline=first.use_baseline, bond_order_parameters=numbers)


def with_all_in_biases(potential: Potential) -> Potential:
    """Move a bare potential's baseline into its biases, in which members may differ."""
    flat = potential.networks.flat()
    if potential.use_baseline:
        flat = flat + potential.baseline.flatten().to(flat)
    zeros = (0.0,) * len(potential.bond_order_parameters)
    networks = potential.networks.with_flat(flat)
    return replace(potential, networks=networks, use_baseline=True, bond_order_parameters=zeros)


def _baseline(potential: Potential) -> tuple[float, ...] | None:
    return potential.bond_order_parameters if potential.use_baseline else None
