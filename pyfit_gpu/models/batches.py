"""Many structures in batches of similar size, with neighbours and species, and their features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.devices import rows_that_fit
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.batch import Structures, size_batches
from pyfit_gpu.structures.neighbors import Neighbors, find_neighbors
from pyfit_gpu.sums import ragged_range

_FEATURES_SHARE = 1 / 64  # of the memory, for the features of a batch


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


def batch_atoms(device: torch.device, n_features: int) -> int:
    """Most atoms of a batch, padding included. A GPU takes hardly longer for more of them."""
    most = 50_000 if device.type == "cpu" else 250_000
    return min(most, rows_that_fit(8 * n_features, device, share=_FEATURES_SHARE))


def batch_maker(
    sizes: Sequence[int],
    take: Callable[[list[int]], Structures],
    potential: Potential,
    *,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    cutoff: float | None = None,
) -> Callable[[list[int]], Batch]:
    """Function that makes a batch of some rows; arguments as those of `batches`."""
    counts = torch.tensor(sizes)
    first = torch.cumsum(counts, 0) - counts
    reach = potential.neighbor_cutoff if cutoff is None else cutoff

    def make(rows: list[int]) -> Batch:
        structures = take(rows)
        device = structures.positions.device
        _, atoms = ragged_range(first[rows], counts[rows], structures.n_atoms)
        species = potential.species_index(structures)
        neighbors = find_neighbors(structures, reach, backend=backend)
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
    positions = structures.positions
    potential.descriptor.require_memory(structures.n_atoms, positions.device, positions.itemsize)
    features = positions.new_empty(structures.n_atoms, potential.descriptor.n_features)
    reach = potential.descriptor.neighbor_cutoff
    for batch in batches(structures.sizes, structures.select, potential, backend=backend, cutoff=reach):
        features[batch.atoms] = batch.features(potential.descriptor)
    return features
