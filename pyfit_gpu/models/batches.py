"""Many structures in batches of similar size, with neighbours and species, and their features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.devices import rows_that_fit, sent
from pyfit_gpu.models.batch_stream import BatchStream, Take, read_ahead
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.batch import Structures, size_batches
from pyfit_gpu.structures.neighbors import Neighbors, find_neighbors
from pyfit_gpu.sums import ragged_range

R = TypeVar("R")

_FEATURES_SHARE = 1 / 64  # of the memory, for the features of a batch


class BatchMaker(Protocol):
    """A function of rows of structures, and of these structures where they are there already."""

    def __call__(self, rows: list[int], structures: Structures | None = None) -> Batch: ...


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
        return self.structures.sizes_on_device

    def features(self, descriptor: LocalStructureParameters) -> Tensor:
        """(n, n_features)."""
        return descriptor(self.neighbors, self.species, self.structures.describe_atom)


@torch.no_grad()
def batches(
    sizes: Sequence[int],
    take: Take,
    potential: Potential,
    *,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    max_atoms: int | None = None,
    cutoff: float | None = None,
) -> Iterator[Batch]:
    """Many structures in batches of similar size, so that neither padding nor neighbours fill the memory.

    Args:
        sizes: atoms of each structure.
        take: gives the structures of some rows, padded.
        dtype: of the neighbour vectors; None: that of the positions. Neighbours are found in the positions' precision.
        max_atoms: most atoms of a batch, padding included; None: as suits the potential's device and inputs.
        cutoff: Å, of the neighbours; None: that within which the potential's energies depend on atoms.

    Raises:
        InputError: an element that the potential lacks, two atoms at one place.
    """
    make = batch_maker(sizes, take, potential, backend=backend, dtype=dtype, cutoff=cutoff)
    for rows in size_batches(sizes, max_atoms or batch_atoms(potential.device, potential.descriptor.n_features)):
        yield make(rows)


@torch.no_grad()
def computed_batches(
    sizes: Sequence[int],
    take: Take,
    potential: Potential,
    compute: Callable[[Batch], Callable[[], R]],
    *,
    device: torch.device,
    from_host: bool = False,
    max_atoms: int | None = None,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    cutoff: float | None = None,
) -> Iterator[R]:
    """Yield what is computed for many structures, batch by batch as `batches` makes them.

    On a GPU batches are read, computed and fetched side by side, and halved where its memory ends.

    Args:
        compute: computes a batch, and gives a function that waits for the results: see `Arriving`.
        from_host: whether `take` reads from the host's memory, which then goes on beside the computation.
        cutoff: as for `batches`.

    Raises:
        InputError: as `batches`.
        torch.OutOfMemoryError: a single structure takes more memory than a GPU has.
    """
    make = batch_maker(sizes, take, potential, backend=backend, dtype=dtype, cutoff=cutoff)
    stream: BatchStream[Batch, R] = BatchStream(sizes, make, compute, device)
    rows = size_batches(sizes, max_atoms or batch_atoms(device, potential.descriptor.n_features))
    if from_host and device.type == "cuda":
        yield from stream.results(read_ahead(take, rows, device))
    else:
        yield from stream.results((own, None) for own in rows)


def batch_atoms(device: torch.device, n_features: int) -> int:
    """Most atoms of a batch, padding included. A GPU takes hardly longer for more of them."""
    most = 50_000 if device.type == "cpu" else 250_000
    return min(most, rows_that_fit(8 * n_features, device, share=_FEATURES_SHARE))


def batch_maker(
    sizes: Sequence[int],
    take: Take,
    potential: Potential,
    *,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    cutoff: float | None = None,
) -> BatchMaker:
    """Function that makes a batch of some rows, of structures that it takes itself or that are there already.

    Arguments are those of `batches`.
    """
    counts = torch.tensor(sizes)
    first = torch.cumsum(counts, 0) - counts
    reach = potential.neighbor_cutoff if cutoff is None else cutoff

    def make(rows: list[int], structures: Structures | None = None) -> Batch:
        structures = take(rows) if structures is None else structures
        device = structures.positions.device
        _, atoms = ragged_range(first[rows], counts[rows], structures.n_atoms)
        species = potential.species_index(structures)
        neighbors = find_neighbors(structures, reach, backend=backend)
        if dtype is not None:
            neighbors = neighbors.to(dtype)
        return Batch(sent(torch.tensor(rows), device), sent(atoms, device), structures, species, neighbors)

    return make


def featurize(structures: Structures, potential: Potential, *, backend: str = "auto") -> Tensor:
    """The raw network inputs of every atom, atoms in file order: (n_atoms, n_features).

    Computed in the dtype and on the device of the structures, in batches of similar size.

    Raises:
        InputError: an element that the potential lacks, two atoms at one place, a logarithm of zero.
    """
    positions = structures.positions
    potential.descriptor.require_memory(structures.n_atoms, positions.device, positions.itemsize)
    features = positions.new_empty(structures.n_atoms, potential.descriptor.n_features)

    def compute(batch: Batch) -> Callable[[], tuple[Tensor, Tensor]]:
        found = batch.atoms, batch.features(potential.descriptor)
        return lambda: found

    every = computed_batches(
        structures.sizes, structures.select, potential, compute,
        device=positions.device, backend=backend, cutoff=potential.descriptor.neighbor_cutoff,
    )  # fmt: skip
    for atoms, found in every:
        features[atoms] = found
    return features
