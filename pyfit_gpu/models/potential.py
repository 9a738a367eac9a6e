"""A potential: descriptor, networks and energy scale, and what it says about structures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from ase.data import atomic_numbers as ATOMIC_NUMBERS
from ase.data import chemical_symbols as CHEMICAL_SYMBOLS
from torch import Tensor

from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.networks import ElementLayout, ElementNetworks, Seed, member_seed
from pyfit_gpu.structures.batch import Structures, size_batches
from pyfit_gpu.structures.neighbors import Neighbors, find_neighbors
from pyfit_gpu.sums import ragged_range

N_BOND_ORDER_PARAMETERS = 8


@dataclass(frozen=True, eq=False)
class Potential:
    """Descriptor and networks with what else a .nn.dat file holds.

    Only `fit` changes anything, in place: the networks' weights, and the energy shift to that of the training set.
    """

    descriptor: LocalStructureParameters
    networks: ElementNetworks
    masses: tuple[float, ...]  # u, per element
    max_random: float  # half-width of the interval of random weights
    use_baseline: bool  # whether network outputs are added to the bond-order parameters
    bond_order_parameters: tuple[float, ...]  # A, alpha, B, beta, h, sigma, a, lambda
    energy_shift: Tensor  # (S,) float64 on the CPU, eV per atom of each element; NaN: not known

    @property
    def is_physically_informed(self) -> bool:
        return self.networks.layer_sizes[-1] == N_BOND_ORDER_PARAMETERS

    @property
    def device(self) -> torch.device:
        return self.networks.weights[0].device

    @property
    def dtype(self) -> torch.dtype:
        return self.networks.weights[0].dtype

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Potential:
        return replace(self, networks=self.networks.to(device, dtype), energy_shift=self.energy_shift.clone())

    def without_parameters(self) -> Potential:
        """Everything but the networks' parameters, of which the shapes are left (on the meta device)."""
        return self.to("meta")

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
        """Potentials with drawn weights as one: number k of a seed is the same whatever others are drawn."""
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

    def require_straight(self, purpose: str) -> None:
        """Refuse what has no energies yet: physically informed networks."""
        if self.is_physically_informed:
            raise InputError(
                f"{purpose}: expected a straight network with 1 output, got a physically informed one with "
                f"{N_BOND_ORDER_PARAMETERS} outputs (bond-order parameters), whose energies are not supported yet"
            )

    def species_index(self, structures: Structures) -> Tensor:
        """(n_atoms,) int64, index into the descriptor's elements.

        Raises:
            InputError: an element that the potential lacks, or atoms without an element for several elements.
        """
        numbers = structures.flatten(structures.atomic_numbers)
        return index_elements(numbers, self.descriptor.elements, structures.describe_atom)


def join_members(potentials: Sequence[Potential], names: Sequence[str] | None = None) -> Potential:
    """Potentials that differ in their weights alone as one, with all their members in the given order.

    Tensors are its own. Masses and the interval of random weights, which decide no result, are those of the first.

    Args:
        names: of the potentials, for errors.

    Raises:
        InputError: none given, or one that differs from the first in more than weights, with the setting's name.
    """
    if not potentials:
        raise InputError("members: expected at least one potential, got none")
    names = [f"potential {number}" for number in range(1, len(potentials) + 1)] if names is None else names
    first = potentials[0]
    for name, other in zip(names[1:], potentials[1:], strict=True):
        difference = _difference(first, other)
        if difference:
            raise InputError(f"{name} cannot be a member beside {names[0]}: {difference}")

    def joined(layers: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return tuple(torch.cat(layer).detach() for layer in zip(*layers, strict=True))

    networks = replace(
        first.networks,
        weights=joined(potential.networks.weights for potential in potentials),
        biases=joined(potential.networks.biases for potential in potentials),
    )
    return replace(first, networks=networks, energy_shift=first.energy_shift.clone())


def _difference(first: Potential, other: Potential) -> str:
    """What keeps two potentials from being members of one, with both values; empty: nothing."""
    inputs = first.descriptor.difference(other.descriptor)
    if inputs:
        return inputs
    pairs: dict[str, tuple[object, object]] = {
        "layer sizes": (first.networks.layer_sizes, other.networks.layer_sizes),
        "activation": (first.networks.activation, other.networks.activation),
        "dtype": (first.dtype, other.dtype),
        "device": (first.device, other.device),
    }
    if first.is_physically_informed:
        pairs["baseline"] = (_baseline(first), _baseline(other))
    for name, (expected, found) in pairs.items():
        if expected != found:
            return f"{name}: expected {expected}, found {found}"
    # A shift that neither knows is no difference.
    if not torch.allclose(first.energy_shift, other.energy_shift, rtol=0.0, atol=0.0, equal_nan=True):
        return f"e_shift: expected {first.energy_shift.tolist()}, found {other.energy_shift.tolist()}"
    return ""


def _baseline(potential: Potential) -> tuple[float, ...] | None:
    return potential.bond_order_parameters if potential.use_baseline else None


def index_elements(numbers: Tensor, elements: Sequence[str], where: Callable[[int], str]) -> Tensor:
    """(n_atoms,) int64, index into `elements` of atomic numbers (n_atoms,).

    Args:
        where: names an atom, counted from 0, in an error.

    Raises:
        InputError: an element that is not one of them, or atoms without an element for several elements.
    """
    table = torch.full((len(CHEMICAL_SYMBOLS),), -1, dtype=torch.int64)
    if len(elements) == 1:
        table[0] = 0  # a file without symbols means the potential's only element
    for species, symbol in enumerate(elements):
        table[ATOMIC_NUMBERS[symbol]] = species
    index = table.to(numbers.device)[numbers]
    if bool((index < 0).any()):
        atom = int((index < 0).nonzero()[0])
        raise unknown_element(int(numbers[atom]), elements, where(atom))
    return index


def unknown_element(number: int, elements: Sequence[str], where: str) -> InputError:
    expected = f"expected an element of the potential ({', '.join(elements)})"
    found = f"found {CHEMICAL_SYMBOLS[number]}" if number else "the file names no element"
    return InputError(f"{where}: {expected}, {found}")


@dataclass(frozen=True, eq=False)
class Batch:
    """Structures of similar size, padded, with the neighbours of their atoms."""

    rows: Tensor  # (B,) int64, places of the structures in the whole
    atoms: Tensor  # (n,) int64, numbers of the atoms in the whole, without padding
    structures: Structures
    species: Tensor  # (n,) int64
    neighbors: Neighbors

    @property
    def sizes(self) -> Tensor:
        """(B,) int64, atoms of each structure."""
        return torch.tensor(self.structures.sizes, device=self.rows.device)

    def features(self, descriptor: LocalStructureParameters) -> Tensor:
        """(n, n_features)."""
        return descriptor(self.neighbors, self.species, self.structures.describe_atom)


@torch.no_grad()
def batches(
    sizes: Sequence[int],
    take: Callable[[list[int]], Structures],
    potential: Potential,
    *,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    max_atoms: int | None = None,
) -> Iterator[Batch]:
    """Many structures in batches of similar size, so that neither padding nor neighbours fill the memory.

    Args:
        sizes: atoms of each structure.
        take: gives the batch of the named structures.
        dtype: of the neighbour vectors; None: that of the positions. Neighbours are found in the positions' precision.
        max_atoms: padded atoms of a batch; None: as suits the potential's device.

    Raises:
        InputError: an element that the potential lacks, two atoms at one place.
    """
    make = batch_maker(sizes, take, potential, backend=backend, dtype=dtype)
    for rows in size_batches(sizes, max_atoms or batch_atoms(potential.device)):
        yield make(rows)


def batch_atoms(device: torch.device) -> int:
    """Padded atoms that go through at once. A GPU is hardly slower for more of them."""
    return 50_000 if device.type == "cpu" else 250_000


def batch_maker(
    sizes: Sequence[int],
    take: Callable[[list[int]], Structures],
    potential: Potential,
    *,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
) -> Callable[[list[int]], Batch]:
    """Makes a batch of the named structures; arguments as those of `batches`."""
    counts = torch.tensor(sizes)
    first = torch.cumsum(counts, 0) - counts

    def make(rows: list[int]) -> Batch:
        structures = take(rows)
        device = structures.positions.device
        _, atoms = ragged_range(first[rows], counts[rows], structures.n_atoms)
        species = potential.species_index(structures)
        neighbors = find_neighbors(structures, potential.descriptor.neighbor_cutoff, backend=backend)
        if dtype is not None:
            neighbors = neighbors.to(dtype)
        return Batch(torch.tensor(rows, device=device), atoms.to(device), structures, species, neighbors)

    return make


def featurize(structures: Structures, potential: Potential, *, backend: str = "auto") -> Tensor:
    """The raw network inputs of every atom, atoms in file order: (n_atoms, n_features).

    Computed in the dtype and on the device of the structures, in batches of similar size.

    Raises:
        InputError: an element that the potential lacks, two atoms at one place, a logarithm of zero.
    """
    features = structures.positions.new_empty(structures.n_atoms, potential.descriptor.n_features)
    for batch in batches(structures.sizes, structures.select, potential, backend=backend):
        features[batch.atoms] = batch.features(potential.descriptor)
    return features


def network_outputs(potential: Potential, features: Tensor, species: Tensor) -> Tensor:
    """(K, n_atoms, n_out): the networks' bare outputs, each atom by its own element's network."""
    layout = ElementLayout.of(species, potential.descriptor.n_elements)
    return layout.restore(potential.networks(layout.arrange(features)))


def local_parameters(potential: Potential, features: Tensor, species: Tensor) -> Tensor:
    """(K, n_atoms, 8): bond-order parameters of a physically informed network, baseline added where it has one."""
    outputs = network_outputs(potential, features, species)
    if potential.use_baseline:
        outputs = outputs + outputs.new_tensor(potential.bond_order_parameters)
    return outputs


def sum_over_atoms(atomic: Tensor, sizes: Tensor) -> Tensor:
    """(K, n_atoms) to (K, B): the sum of each structure's atoms, always in the same order.

    Args:
        atomic: values per atom, one structure after the other.
        sizes: (B,) int64, atoms of each structure.
    """
    return torch.segment_reduce(atomic.T.contiguous(), "sum", lengths=sizes, axis=0, unsafe=True).T
