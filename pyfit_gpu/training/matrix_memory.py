"""Memory of J^T J and of the rows of J that it is added up from, as a part of memory_plan.py."""

from __future__ import annotations

from dataclasses import dataclass

from pyfit_gpu.models.force_rows import ENERGY_ROWS, SLAB_ATOMS
from pyfit_gpu.training.set_sizes import SetSizes

_MATRICES = 5  # sum of the lanes, its conversion, a factor and what it is made of
_TABLE_PADDING = 1.3  # places of the tables of a slab for one pair of atoms


@dataclass(frozen=True)
class MatrixMemory:
    """Sizes of everything that is there only where an optimiser or the evidence needs J^T J."""

    sizes: SetSizes
    layers: tuple[int, ...]
    n_parameters: int
    itemsize: int  # bytes of a number in features and networks
    n_workers: int
    n_kept: int  # matrices that wait for the optimiser
    on_gpu: bool

    @property
    def matrices(self) -> int:
        """Bytes of J^T J of lanes, of their sum, and of those that are kept for the optimiser."""
        in_lanes = 1 if self.on_gpu else min(self.sizes.n_lanes, 2 * self.n_workers) + 2 * self.n_workers
        return 8 * self.n_parameters**2 * (in_lanes + _MATRICES + self.n_kept)

    def rows(self, atoms: int) -> int:
        """Bytes of some rows of J, of the inputs and activations of a block, and of the moves of a slab.

        Args:
            atoms: of a block.
        """
        n_features, slab = self.layers[0], max(SLAB_ATOMS, self.sizes.largest)
        numbers: float = atoms * (n_features + 4 * sum(self.layers[1:]))
        rows = ENERGY_ROWS
        if self.sizes.label_atoms:
            pairs = (1 + _TABLE_PADDING * self.sizes.places_for_pairs / self.sizes.label_atoms) * min(slab, atoms)
            rows = 3 * slab
            # Moves in tables, those of a chunk beside them; changes of the activations; indices.
            numbers += pairs * (3 * (2 * n_features + 5 * sum(self.layers[1:])) + 12)
            numbers += pairs * n_features
        return int(self.itemsize * (numbers + 2 * min(rows, 3 * atoms) * self.n_parameters))

    @property
    def places(self) -> int:
        """Bytes of the indices by which slabs gather derivatives (force_rows.py), which stay once they are found."""
        sizes = self.sizes
        by_atom = 8 * (_TABLE_PADDING + 5)  # entry of its own in a table and its place, numbers in chunk, slab, group
        return int(8 * (1 + _TABLE_PADDING) * sizes.places_for_pairs + by_atom * sizes.label_atoms)
