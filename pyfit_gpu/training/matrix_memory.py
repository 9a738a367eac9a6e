"""Memory of J^T J and of the rows of J that it is added up from, as a part of memory_plan.py."""

from __future__ import annotations

from dataclasses import dataclass

from pyfit_gpu.models.force_rows import ENERGY_ROWS, GPU_SLAB_ATOMS, SLAB_ATOMS
from pyfit_gpu.training.set_sizes import SetSizes

_SOLVING = 4  # matrices when one is solved: itself, what it is made of, a factor, an inverse
_SUMMING = 3  # matrices when one is summed and made symmetric: itself, what it was, its copy with other axes
_TABLE_PADDING = 1.3  # places of the tables of a slab for one pair of atoms


@dataclass(frozen=True)
class MatrixMemory:
    """Sizes of everything that is there only where an optimiser or the evidence needs J^T J."""

    sizes: SetSizes
    layers: tuple[int, ...]
    n_parameters: int
    itemsize: int  # bytes of a number in features and networks
    n_workers: int
    on_gpu: bool
    n_kept: int  # matrices that wait for the optimiser, beside the one in work

    @property
    def matrices(self) -> int:
        """Bytes of J^T J of lanes and of their sum, or afterwards of solving, and of those kept for the optimiser."""
        # With several threads some lanes wait for their turn in the sum.
        in_lanes = 1 if self.n_workers == 1 else min(self.sizes.n_lanes, 2 * self.n_workers)
        return 8 * self.n_parameters**2 * (max(in_lanes + 1, _SOLVING) + self.n_kept)

    def rows(self, atoms: int) -> int:
        """Bytes of some rows of J, of the inputs and activations of a block, and of the moves of a slab.

        Args:
            atoms: of a block.
        """
        n_features, slab = self.layers[0], max(GPU_SLAB_ATOMS if self.on_gpu else SLAB_ATOMS, self.sizes.largest)
        numbers: float = atoms * (n_features + 4 * sum(self.layers[1:]))
        rows = ENERGY_ROWS
        if self.sizes.label_atoms:
            pairs = (1 + _TABLE_PADDING * self.sizes.places_for_pairs / self.sizes.label_atoms) * min(slab, atoms)
            rows = 3 * slab
            # Moves in tables, beside them those of a chunk, on a GPU sorted and summed too; changes of the activations;
            # indices. For outputs that are no energies the turns of slopes are counted as changes: kept, in tables, and
            # beside them those of a chunk.
            copies = 4 if self.on_gpu else 2
            numbers += pairs * (3 * (copies * n_features + 3 * sum(self.layers[1:])) + 12)
            numbers += pairs * n_features
        rows = min(rows, 3 * atoms)
        in_double = 8 * rows if self.itemsize < 8 else 0
        return int(self.itemsize * numbers + (2 * self.itemsize * rows + in_double) * self.n_parameters)

    def recorded(self, atoms: int) -> int:
        """Bytes of a recording of J^T J (`cuda_graphs`): memory of its own for its rows, and matrices of the sum.

        Args:
            atoms: of a block.
        """
        return self.rows(atoms) + 8 * self.n_parameters**2 * _SUMMING

    @property
    def places(self) -> int:
        """Bytes of the indices by which slabs gather derivatives (force_rows.py), which stay once they are found."""
        sizes = self.sizes
        by_atom = 8 * (_TABLE_PADDING + 6)  # entry of its own in a table and its place, numbers in chunk, slab, groups
        return int(8 * (1 + _TABLE_PADDING) * sizes.places_for_pairs + by_atom * sizes.label_atoms)
