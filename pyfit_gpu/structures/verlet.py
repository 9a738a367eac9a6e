"""Neighbours of atoms that move a little from one call to the next: a Verlet list with a skin.

Pairs are searched once within cutoff + skin. While no atom has moved further than skin / 2 since, and cell, pbc and
numbers of atoms are the same, no pair from outside can have come within the cutoff, and with displacements d

    v_ij = v_ij(searched) + d_j - d_i        Å

which is kept where it is shorter than the cutoff: the pairs of `find_neighbors` to rounding, in another order within
an atom. An atom that is wrapped into the cell has moved by a cell vector, which ends the list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.moving import MovingLists
from pyfit_gpu.structures.neighbors import Neighbors, check_distances, find_neighbors

# Up to this size one call of vesin is quicker than some hundred torch operations (0.3 ms against 1.9 ms for 64 atoms).
# Its pairs come in another order, so batches, whose bits must not depend on how many structures are in them, do not
# use it.
_FEW_ATOMS = 4096


class VerletList:
    """Finds neighbours like `find_neighbors`, and remembers what it found.

    A cell that the call before did not have is searched without the skin: single structures, and runs in which the
    cell changes at every step, then do not pay for pairs that are never used again.

    On a GPU, and wherever the device is asked late, each structure of a batch has a list of its own, which changes of
    the cell do not end, and pairs beyond the cutoff stay in the result: see `moving.py`.
    """

    def __init__(self, cutoff: float, skin: float, *, backend: str = "auto", late: bool = False) -> None:
        """
        Args:
            cutoff: Å.
            skin: Å; 0: search at every call.
            backend: see `find_neighbors`; "auto" is vesin for a small system on a CPU.
            late: whether what the device finds out about its lists is read one call later, so that no call waits for
                it: for dynamics. `moving.py` says what that takes.

        Raises:
            InputError: a skin that is negative or not finite.
        """
        if not (math.isfinite(skin) and skin >= 0):
            raise InputError(f"skin: expected a length >= 0 Å, got {skin}")
        self.cutoff = cutoff
        self.skin = skin
        self.backend = backend
        self.n_searches = 0  # on a GPU, or asked late, of single structures
        self._late = late
        self._moving = MovingLists(cutoff, skin, backend=backend, late=late)
        self._last: Structures | None = None
        self._found: _Found | None = None

    def __call__(self, structures: Structures) -> Neighbors:
        """The neighbours of every atom of a batch, on its device; see `find_neighbors`.

        Raises:
            InputError: two atoms at one place.
        """
        if self.skin > 0 and (self._late or structures.positions.device.type != "cpu"):
            neighbors = self._moving(structures)
            self.n_searches = self._moving.n_searches
            return neighbors
        if self._found is not None and self._found.holds(structures, self.skin / 2):
            return self._found.update(structures, self.cutoff)
        wide = self.skin > 0 and self._last is not None and _same_frame(self._last, structures)
        self._last, self._found = structures, None
        self.n_searches += 1
        if not wide:
            return self._search(structures, self.cutoff)
        neighbors = self._search(structures, self.cutoff + self.skin)
        self._found = _Found(structures, neighbors, neighbors.centers)
        return self._found.update(structures, self.cutoff)

    def _search(self, structures: Structures, cutoff: float) -> Neighbors:
        backend = self.backend
        if backend == "auto" and structures.positions.device.type == "cpu" and structures.n_atoms <= _FEW_ATOMS:
            backend = "vesin"
        return find_neighbors(structures, cutoff, backend=backend)


@dataclass(frozen=True, eq=False)
class _Found:
    """Pairs within cutoff + skin, and the structures that they were searched in."""

    structures: Structures
    neighbors: Neighbors
    centers: Tensor  # (n_pairs,) int64

    def holds(self, structures: Structures, distance: float) -> bool:
        """Whether it is the same system, no atom of which has moved further than `distance` (Å)."""
        if not _same_frame(self.structures, structures):
            return False
        squares = (structures.positions - self.structures.positions).square().sum(dim=-1)
        return bool((squares <= distance**2).all())

    def update(self, structures: Structures, cutoff: float) -> Neighbors:
        """Pairs that are within the cutoff now."""
        moved = structures.flatten(structures.positions - self.structures.positions)
        index = self.neighbors.index
        # Everything here is bound by memory: index_select and vector_norm are two to three times faster than indexing
        # and sums of squares.
        vectors = self.neighbors.vectors + (moved.index_select(0, index) - moved.index_select(0, self.centers))
        inside = (torch.linalg.vector_norm(vectors, dim=1) < cutoff).nonzero().squeeze(1)
        neighbors = Neighbors(
            counts=torch.bincount(self.centers.index_select(0, inside), minlength=len(moved)),
            index=index.index_select(0, inside),
            vectors=vectors.index_select(0, inside),
        )
        check_distances(structures, neighbors)
        return neighbors


def _same_frame(first: Structures, second: Structures) -> bool:
    """Whether positions can be compared: the same sizes, device, precision, cells and periodicity."""
    if first.sizes != second.sizes or first.positions.device != second.positions.device:
        return False
    if first.positions.dtype != second.positions.dtype:
        return False
    return torch.equal(first.cell, second.cell) and torch.equal(first.pbc, second.pbc)
