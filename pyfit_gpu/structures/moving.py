"""Neighbours of many structures whose atoms move, on a device: lists with a skin, kept and renewed for each structure.

Pairs are searched within cutoff + skin and all kept, also those that are beyond the cutoff at present, where the
functions of the descriptor are zero: so every array keeps its size, and an update is a few operations on it without a
question to the device. With h the cell, t the image of a pair's neighbour and F the strain since the search,

    v_ij = x_j - x_i + t h        h = h(searched) F        d_i = x_i - x_i(searched) F        Å

and no pair from outside can have come within the cutoff while, for all atoms,

    |d_i| <= ((cutoff + skin) (1 - |F - 1|) - cutoff) / 2

An atom that is wrapped into the cell has moved by a cell vector, which is taken off again: it ends no list.

Which structures must be searched anew is known on the device. Asked at once, the host waits for it, and every list is
valid. Asked late (`late`), the host reads at a call what the device found out in the call before, so that at most one
step lies between them and neither waits for the other. A structure is then searched when its atoms would leave their
list by moving twice as far as in their last step. Should one move still further, its pairs lack in that one step what
came from beyond the skin: the next call counts it in `n_late` and says so once. Atoms that are nowhere (NaN) end no
list and disturb no other structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.devices import sent
from pyfit_gpu.log import log
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.cells import complete_cell, inverse_cells
from pyfit_gpu.structures.neighbors import Neighbors, check_distances, check_positions, find_any_neighbors
from pyfit_gpu.sums import ragged_range

_AHEAD = 2.0  # steps as long as the last one, that a list must hold for when it is asked late
_MOST_ANEW = 0.5  # share of the atoms above which all structures are searched: merging takes time, too


class MovingLists:
    """Finds the neighbours of a batch whose structures stay the same, but for positions and cells."""

    def __init__(self, cutoff: float, skin: float, *, backend: str = "auto", late: bool = False) -> None:
        """
        Args:
            cutoff, skin: Å.
            backend: see `find_neighbors`.
            late: whether the device is asked late; see above.
        """
        self.cutoff, self.skin, self.backend, self.late = cutoff, skin, backend, late
        self.n_searches = 0  # of single structures
        self.n_late = 0  # steps of single structures whose list had ended
        self._lists: _Lists | None = None
        self._last: Tensor | None = None  # positions of the last call
        self._answer: _Answer | None = None

    def __call__(self, structures: Structures) -> Neighbors:
        """Neighbours of all atoms, some of them beyond the cutoff but within cutoff + skin.

        Raises:
            InputError: a position that is not finite, two atoms at one place; neither is looked for if the device is
                asked late.
        """
        if not self.late:
            check_positions(structures)
        if self._lists is None or not self._lists.fits(structures):
            self._lists = self._search(structures, None, range(len(structures)))
            self._last, self._answer = structures.positions, None
        motion = self._lists.motion(structures)
        rows = self._ended(structures, motion)
        if rows:
            atoms = sum(structures.sizes[row] for row in rows)
            if atoms > _MOST_ANEW * structures.n_atoms:
                rows = range(len(structures))
            self._lists = self._search(structures, self._lists, rows)
            motion = self._lists.motion(structures)
        neighbors = self._lists.neighbors_now(structures, motion)
        if self.late:
            self._answer = _Answer(self._flags(structures, motion))
        else:
            check_distances(structures, neighbors)
        self._last = structures.positions
        return neighbors

    def _ended(self, structures: Structures, motion: _Motion) -> Sequence[int]:
        """Rows of the structures whose list has ended, or may have by now if the device was asked late."""
        answer = self._answer if self.late else _Answer(self._flags(structures, motion))
        if answer is None:
            return ()
        ended, soon = answer.read()
        if self.late and ended.any():
            if not self.n_late:
                log.warning(
                    "neighbours: atoms moved more than twice as far as in the step before, in %d of %d structures; "
                    "a wider skin than %g Å or shorter steps avoid that",
                    np.count_nonzero(ended), len(ended), self.skin,
                )  # fmt: skip
            self.n_late += int(np.count_nonzero(ended))
        return np.flatnonzero(soon).tolist()

    def _flags(self, structures: Structures, motion: _Motion) -> Tensor:
        """(2, B) bool: whether the list of each structure has ended, and whether it may do so in the next step."""
        assert self._lists is not None
        assert self._last is not None
        farthest = _farthest(structures, motion.moved)
        allowed = ((self.cutoff + self.skin) * (1 - motion.stretched) - self.cutoff) / 2
        allowed = torch.where(motion.same_pbc, allowed, -1.0)
        ended = farthest > allowed  # false for what is nowhere
        if not self.late:
            return torch.stack((ended, ended))
        step, _ = self._lists.wrapped_back(structures, structures.positions - self._last, motion.cell)
        return torch.stack((ended, farthest + _AHEAD * _farthest(structures, step) > allowed))

    def _search(self, structures: Structures, lists: _Lists | None, rows: Sequence[int]) -> _Lists:
        """Search some structures anew, and merge them with the lists of the others."""
        self.n_searches += len(rows)
        whole = len(rows) == len(structures)
        part = _finite(structures if whole else structures.select(rows), lists, rows)
        found = _Lists.of(part, find_any_neighbors(part, self.cutoff + self.skin, backend=self.backend))
        return found if whole or lists is None else lists.merged(found, rows)


class _Answer:
    """Flags on their way from the device to the host."""

    def __init__(self, flags: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        if flags.device.type == "cuda":
            self._flags = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True)
            self._flags.copy_(flags, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(flags.device))
        else:
            self._flags = flags

    def read(self) -> np.ndarray:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._flags.numpy()


@dataclass(frozen=True, eq=False)
class _Motion:
    """How structures differ from when they were searched."""

    cell: Tensor  # (B, 3, 3) Å, now, completed
    moved: Tensor  # (B, A, 3) Å, d
    turns: Tensor  # (B, A, 3), whole cell vectors that were taken off
    stretched: Tensor  # (B,) |F - 1|
    same_pbc: Tensor  # (B,) bool


@dataclass(frozen=True, eq=False)
class _Lists:
    """Pairs within cutoff + skin, and where the atoms were when these were searched."""

    sizes: tuple[int, ...]
    positions: Tensor  # (B, A, 3) Å
    cell: Tensor  # (B, 3, 3) Å, completed
    inverse: Tensor  # (B, 3, 3) 1/Å
    pbc: Tensor  # (B, 3)
    neighbors: Neighbors  # vectors are not used
    centers: Tensor  # (n_pairs,) int64
    images: Tensor  # (n_pairs, 3) int16, t
    n_pairs: np.ndarray  # (B,) int64, of each structure, on the host

    @classmethod
    def of(cls, structures: Structures, neighbors: Neighbors) -> _Lists:
        """Remember what was found for some structures."""
        device, dtype = structures.positions.device, structures.positions.dtype
        lattices, pbc = structures.cell.detach().to("cpu", torch.float64).numpy(), structures.pbc.cpu().numpy()
        cell = torch.from_numpy(complete_cell(lattices, pbc))
        inverse = inverse_cells(cell).to(device, dtype)
        by_atom = _of_atoms(structures, inverse)
        positions, centers = structures.flatten(structures.positions), neighbors.centers
        shift = neighbors.vectors - (positions.index_select(0, neighbors.index) - positions.index_select(0, centers))
        x, y, z = (shift[:, k, None] * by_atom[:, k].index_select(0, centers) for k in range(3))
        ends = np.cumsum(structures.sizes)
        upto = torch.cumsum(neighbors.counts, 0)[sent(torch.from_numpy(ends - 1), device)].cpu().numpy()
        return cls(
            structures.sizes, structures.positions, cell.to(device, dtype), inverse, structures.pbc, neighbors, centers,
            (x + y + z).round().to(torch.int16), np.diff(upto, prepend=0),
        )  # fmt: skip

    def fits(self, structures: Structures) -> bool:
        """Whether positions can be compared: the same sizes, device and precision."""
        new, old = structures.positions, self.positions
        return structures.sizes == self.sizes and new.device == old.device and new.dtype == old.dtype

    def motion(self, structures: Structures) -> _Motion:
        """Compare structures with what was searched, on the device."""
        cell = torch.where(structures.pbc[:, :, None], structures.cell, self.cell)
        strain = torch.bmm(self.inverse, cell)
        moved = structures.positions - torch.bmm(self.positions, strain)
        moved, turns = self.wrapped_back(structures, moved, cell)
        strain.diagonal(dim1=1, dim2=2).sub_(1.0)
        same_pbc = (structures.pbc == self.pbc).all(dim=1)
        return _Motion(cell, moved, turns, torch.linalg.vector_norm(strain, dim=(1, 2)), same_pbc)

    def wrapped_back(self, structures: Structures, moved: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Motions (B, A, 3) Å without whole cell vectors along periodic axes, and how many these are.

        They are counted in the cell that was searched, to which the present one is close, or its list has ended.
        """
        turns = (torch.bmm(moved, self.inverse).round_() * structures.pbc[:, None]).nan_to_num_(0.0, 0.0, 0.0)
        return moved - torch.bmm(turns, cell), turns

    def neighbors_now(self, structures: Structures, motion: _Motion) -> Neighbors:
        """The pairs with their present vectors."""
        cell, turns = motion.cell, motion.turns
        positions = structures.flatten(structures.positions - torch.bmm(turns, cell))
        by_atom = _of_atoms(structures, cell)
        vectors = positions.index_select(0, self.neighbors.index)
        vectors -= positions.index_select(0, self.centers)
        for axis in range(3):
            along = by_atom[:, axis].index_select(0, self.centers)
            vectors.addcmul_(self.images[:, axis, None].to(vectors.dtype), along)
        return self.neighbors.moved(vectors)

    def merged(self, found: _Lists, rows: Sequence[int]) -> _Lists:
        """The lists with those of some structures replaced."""
        device = self.positions.device
        index = sent(torch.tensor(list(rows)), device)
        width = found.positions.shape[1]
        positions = self.positions.clone()
        positions[:, :width].index_copy_(0, index, found.positions)
        # Atoms of the searched structures among all, and from where the pairs of each structure come.
        sizes = np.array(self.sizes)
        first = np.cumsum(sizes) - sizes
        own = np.concatenate([np.arange(first[row], first[row] + sizes[row]) for row in rows])
        atoms = sent(torch.from_numpy(own), device)
        begin, n_pairs = np.cumsum(self.n_pairs) - self.n_pairs, self.n_pairs.copy()
        begin[list(rows)] = self.n_pairs.sum() + np.cumsum(found.n_pairs) - found.n_pairs
        n_pairs[list(rows)] = found.n_pairs
        ranges = sent(torch.from_numpy(np.stack((begin, n_pairs))), device)
        _, take = ragged_range(ranges[0], ranges[1], int(n_pairs.sum()))

        def both(old: Tensor, new: Tensor) -> Tensor:
            return torch.cat((old, new)).index_select(0, take)

        counts = self.neighbors.counts.index_copy(0, atoms, found.neighbors.counts)
        vectors = both(self.neighbors.vectors, found.neighbors.vectors)
        return _Lists(
            sizes=self.sizes,
            positions=positions,
            cell=self.cell.index_copy(0, index, found.cell),
            inverse=self.inverse.index_copy(0, index, found.inverse),
            pbc=self.pbc.index_copy(0, index, found.pbc),
            neighbors=Neighbors(counts, both(self.neighbors.index, atoms[found.neighbors.index]), vectors),
            centers=both(self.centers, atoms[found.centers]),
            images=both(self.images, found.images),
            n_pairs=n_pairs,
        )


def _finite(structures: Structures, lists: _Lists | None, rows: Sequence[int]) -> Structures:
    """The structures, with atoms that are nowhere put where they were searched last."""
    positions, padded = structures.positions, structures.positions.shape[1]
    if lists is None:
        before = torch.zeros_like(positions)
    else:
        before = lists.positions[sent(torch.tensor(list(rows)), positions.device), :padded]
    whole = positions.isfinite().all(dim=2).all(dim=1)[:, None, None]
    return structures.changed(positions=torch.where(whole, positions, before))


def _farthest(structures: Structures, moved: Tensor) -> Tensor:
    """(B,) Å, the longest motion of each structure's atoms."""
    squares = moved.square().sum(dim=2)
    return torch.where(structures.atom_mask, squares, 0.0).amax(dim=1).sqrt()


def _of_atoms(structures: Structures, per_structure: Tensor) -> Tensor:
    """(n_atoms, ..): what is known of each structure for each of its atoms."""
    rows = torch.repeat_interleave(structures.sizes_on_device, output_size=structures.n_atoms)
    return per_structure.index_select(0, rows)
