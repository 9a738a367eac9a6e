"""The radius graph in plain torch: structures cut into boxes, atoms compared with what lies around their own box.

A structure is cut along its cell vectors into boxes of about equal width, small ones into a single box. With u an
atom's place along an axis in units of boxes, wrapped into the cell, and R the cutoff in the same units, the atom can
be a neighbour of an atom in box K, counted on beyond the cell, where

    u - 1 - R <= K <= u + R,        K = k + n t:  its image by -t cell vectors, seen from box k of n

so one range per axis gives the images and the lists of all boxes, and three of them after each other the boxes in
space. Every atom is then compared with the list of its own box: work and memory grow with the number of atoms.
All of it is elementwise, so the pairs of a structure have the same bits and the same order whatever else is in the
batch; a list is ordered by atom, then by image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyfit_gpu.structures import Structures, complete_cell

# Width of a box in units of the cutoff: narrower ones compare fewer atoms, wider ones list fewer images.
_WIDTH = 1.2
_MOST_BOXES = 2**16  # along an axis: numbers of boxes stay within int64, however far apart two atoms are
_SLACK = 1e-3  # of a box: a candidate too many is dropped by its distance; one too few would be lost

# Pairs of an atom and a candidate that are compared at once: on a CPU they fit into its cache.
_CANDIDATES = {"cpu": 2**17, "cuda": 2**25}

Integers = NDArray[np.int64]


def ragged_range(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For counts (2, 3): owners 0 0 1 1 1 and positions 0 1 0 1 2."""
    owners = torch.repeat_interleave(counts)
    first = torch.cumsum(counts, 0) - counts
    return owners, torch.arange(len(owners), device=counts.device) - first[owners]


@dataclass(frozen=True, eq=False)
class _Grid:
    """Where atoms are in the boxes of their structures."""

    cell: Tensor  # (B, 3, 3) Å
    n_boxes: Tensor  # (B, 3) int64
    owner: Tensor  # (n_atoms,) int64, structure of each atom
    origin: Tensor  # (n_atoms, 3) Å, atoms wrapped into the cell
    home: Tensor  # (n_atoms, 3) int64, the box that each is in
    lowest: Tensor  # (n_atoms, 3) int64, the first box that each can be a neighbour in, counted on beyond the cell
    counts: Tensor  # (n_atoms, 3) int64, how many such boxes


def _times_rows(vectors: Tensor, matrices: Tensor) -> Tensor:
    """(n, 3) x (n, 3, 3), one operation after the other: a matrix product may round otherwise for other n."""
    x, y, z = (vectors[:, axis, None] * matrices[:, axis] for axis in range(3))
    return x + y + z


def _grid(structures: Structures, cutoff: float, width: float) -> _Grid:
    device, dtype = structures.positions.device, structures.positions.dtype
    lattices = structures.cell.detach().to("cpu", torch.float64).numpy()
    cell = torch.from_numpy(complete_cell(lattices, structures.pbc.cpu().numpy()))
    inverse = torch.linalg.inv(cell)
    # The spacing of the lattice planes across vector a is 1 / |column a of the inverse|.
    reach = cutoff * torch.linalg.vector_norm(inverse, dim=1)  # (B, 3) in units of cell vectors
    cell, inverse, reach = (t.to(device, dtype) for t in (cell, inverse, reach))

    owner = torch.repeat_interleave(torch.tensor(structures.sizes, device=device))
    positions = structures.flatten(structures.positions)
    fractional = _times_rows(positions, inverse[owner])
    shift = fractional.floor() * structures.pbc[owner]
    fractional = fractional - shift
    origin = positions - _times_rows(shift, cell[owner])

    # Boxes fill the cell along periodic axes, and what the atoms take along the others.
    place = owner[:, None].expand(-1, 3)
    low = torch.zeros_like(reach).scatter_reduce(0, place, fractional, "amin", include_self=False)
    high = torch.zeros_like(reach).scatter_reduce(0, place, fractional, "amax", include_self=False)
    low = torch.where(structures.pbc, 0.0, low)
    extent = torch.where(structures.pbc, 1.0, torch.maximum(high - low, width * reach))
    n_boxes = (extent / (width * reach)).floor().clamp(1, _MOST_BOXES)
    per_cell = n_boxes / extent
    boxes = (fractional - low[owner]) * per_cell[owner]
    reach, last = (reach * per_cell)[owner] + _SLACK, n_boxes[owner] - 1
    is_open = ~structures.pbc[owner]
    lowest, highest = (boxes - 1 - reach).ceil(), (boxes + reach).floor()
    lowest = torch.where(is_open, lowest.clamp(min=0), lowest).long()
    highest = torch.where(is_open, torch.minimum(highest, last), highest).long()
    home = torch.minimum(boxes.floor(), last).long()
    return _Grid(cell, n_boxes.long(), owner, origin, home, lowest, highest - lowest + 1)


@dataclass(frozen=True, eq=False)
class _Lists:
    """The lists of the boxes that have any atom, one after the other, and a point at infinity as the last."""

    points: tuple[Tensor, Tensor, Tensor]  # (n_points + 1,) Å each: x, y, z
    atom: Tensor  # (n_points + 1,) int64, number in the batch
    homes: Tensor  # (n_atoms + 1,) int64, the atoms themselves among the points, box by box
    n_points: Tensor  # (n_lists,) int64
    n_homes: Tensor  # (n_lists,) int64


def _axis(grid: _Grid, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """What every atom is along one axis, all its boxes after each other: how many boxes on, and how far it moves.

    Returns:
        (n,) the first of each atom, (m,) the box's part of its number in the batch, (m, 3) Å, the image's displacement.
    """
    counts = grid.counts[:, axis]
    atom, rank = ragged_range(counts)
    row = grid.owner.index_select(0, atom)
    box = grid.lowest[:, axis].index_select(0, atom) + rank
    along = grid.n_boxes[:, axis].index_select(0, row)
    turns = torch.div(box, along, rounding_mode="floor")
    stride = grid.n_boxes[:, axis + 1 :].prod(dim=1)
    number = (box - turns * along) * stride.index_select(0, row)
    moved = -turns.to(grid.cell.dtype)[:, None] * grid.cell[:, axis].index_select(0, row)
    return torch.cumsum(counts, 0) - counts, number, moved


def _lists(grid: _Grid) -> _Lists:
    n_atoms = len(grid.owner)
    n_boxes = grid.n_boxes.prod(dim=1)
    parent = torch.arange(n_atoms, device=grid.owner.device)
    atom, points = parent, grid.origin.unbind(1)
    box = (torch.cumsum(n_boxes, 0) - n_boxes).index_select(0, grid.owner)
    itself = torch.zeros_like(atom)
    for axis in range(3):
        first, number, moved = _axis(grid, axis)
        counts = grid.counts[:, axis]
        itself = itself * counts + grid.home[:, axis] - grid.lowest[:, axis]
        parent, rank = ragged_range(counts.index_select(0, atom))
        atom = atom.index_select(0, parent)
        rank += first.index_select(0, atom)
        box = box.index_select(0, parent) + number.index_select(0, rank)
        points = tuple(
            x.index_select(0, parent) + d.contiguous().index_select(0, rank)
            for x, d in zip(points, moved.unbind(1), strict=True)
        )
    total = grid.counts.prod(dim=1)
    itself += torch.cumsum(total, 0) - total
    is_home = torch.zeros_like(box, dtype=torch.bool).index_fill_(0, itself, True)
    if bool(n_boxes.max() > 1):
        box, order = torch.sort(_narrow(box, int(n_boxes.sum())), stable=True)
        atom, is_home, *points = (x.index_select(0, order) for x in (atom, is_home, *points))
    homes = is_home.nonzero().squeeze(1)
    n_points = torch.unique_consecutive(box, return_counts=True)[1]
    last = torch.searchsorted(homes, torch.cumsum(n_points, 0))
    return _Lists(
        points=tuple(_append(x, torch.inf) for x in points),
        atom=_append(atom, n_atoms),
        homes=_append(homes, len(atom)),
        n_points=n_points,
        n_homes=torch.diff(last, prepend=last.new_zeros(1)),
    )


def _narrow(numbers: Tensor, end: int) -> Tensor:
    """Whole numbers below `end` in the shortest type: sorting takes half as long with half the bytes."""
    return numbers.to(next(t for t in (torch.int16, torch.int32, torch.int64) if end <= torch.iinfo(t).max))


def _append(column: Tensor, value: float) -> Tensor:
    return torch.nn.functional.pad(column, (0, 1), value=value)


def _tiles(lists: _Lists, limit: int) -> Iterator[tuple[Tensor, int, int]]:
    """Lists of similar size together: (4, b) first home, homes, first point, points; then the largest of the two.

    Padded to the largest, a tile compares at most `limit` pairs, or those of one atom if they are more.
    """
    n_homes, n_points = torch.stack((lists.n_homes, lists.n_points)).cpu().numpy()
    first_home, first_point = np.cumsum(n_homes) - n_homes, np.cumsum(n_points) - n_points
    # A list that is too large for a tile takes several, each with some of its homes.
    together = np.maximum(limit // n_points, 1)
    parts = -(-n_homes // together)  # none for a list that is nobody's home
    row = np.repeat(np.arange(len(parts)), parts)
    done = (np.arange(len(row)) - (np.cumsum(parts) - parts)[row]) * together[row]
    homes = np.minimum(together[row], n_homes[row] - done)
    tiles = np.stack((first_home[row] + done, homes, first_point[row], n_points[row]))
    tiles = tiles[:, np.lexsort((tiles[3], tiles[1]))]
    on_device = torch.from_numpy(tiles).to(lists.atom.device)
    start = 0
    while start < len(row):
        _, homes, _, points = tiles[:, start : start + limit // (tiles[1, start] * tiles[3, start]) + 1]
        widest = np.maximum.accumulate(points)
        padded = np.arange(1, len(homes) + 1) * homes * widest
        taken = max(1, int(np.searchsorted(padded, limit, side="right")))
        yield on_device[:, start : start + taken], int(homes[taken - 1]), int(widest[taken - 1])
        start += taken


class _Comparison:
    """Compares tile after tile, in memory that all of them use: fresh memory would take as long as the numbers."""

    def __init__(self, lists: _Lists, cutoff: float, limit: int) -> None:
        self.lists = lists
        self.square = cutoff**2
        size = max(limit, int(lists.n_points.max()))
        self.memory = [torch.empty(size, dtype=lists.points[0].dtype, device=lists.atom.device) for _ in range(2)]

    def __call__(self, tile: Tensor, n_homes: int, n_points: int) -> tuple[Tensor, Tensor, Tensor]:
        """(b n_homes) places of the homes and how many neighbours each has; then the neighbours' places."""
        lists, n_lists = self.lists, tile.shape[1]
        first_home, homes_there, first_point, points_there = tile[..., None]
        rank = torch.arange(max(n_homes, n_points), device=tile.device)
        home = torch.where(rank[:n_homes] < homes_there, first_home + rank[:n_homes], len(lists.homes) - 1)
        home = _take(lists.homes, home)
        place = torch.where(rank[:n_points] < points_there, first_point + rank[:n_points], len(lists.atom) - 1)
        squares, others = (m[: n_lists * n_homes * n_points].view(n_lists, n_homes, n_points) for m in self.memory)
        for column, out in zip(lists.points, (squares, others, others), strict=True):
            torch.sub(_take(column, place)[:, None], _take(column, home)[:, :, None], out=out)
            if out is squares:
                squares.square_()
            else:
                squares.addcmul_(others, others)
        itself = (home - first_point).clamp(max=n_points - 1)
        squares.scatter_(2, itself[:, :, None], torch.inf)
        found = _below(squares.view(-1), self.square)
        row = found // n_points
        counts = torch.bincount(row, minlength=home.numel())
        start = first_point - n_points * torch.arange(home.numel(), device=tile.device).view(home.shape)
        return home.flatten(), counts, found + start.view(-1).index_select(0, row)


def _take(column: Tensor, index: Tensor) -> Tensor:
    """column[index], which takes more than twice as long on a CPU."""
    return column.index_select(0, index.view(-1)).view(index.shape)


def _below(values: Tensor, limit: float) -> Tensor:
    if values.device.type == "cpu":  # NumPy compares five times faster than torch, and finds three times faster
        return torch.from_numpy(np.flatnonzero(values.numpy() < limit))
    return (values < limit).nonzero().squeeze(1)


@torch.no_grad()
def find_pairs(structures: Structures, cutoff: float, *, width: float = _WIDTH) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbours of all atoms: see `Neighbors`.

    Args:
        structures: a batch on any device.
        cutoff: Å.
        width: of a box, in units of the cutoff; infinity compares every atom with every image of its structure.

    Returns:
        (n_atoms,) counts, (n_pairs,) index and (n_pairs, 3) vectors in Å, sorted by central atom.
    """
    lists = _lists(_grid(structures, cutoff, width))
    limit = _CANDIDATES[structures.positions.device.type]
    compare = _Comparison(lists, cutoff, limit)
    homes, counted, found = (torch.cat(t) for t in zip(*(compare(*tile) for tile in _tiles(lists, limit)), strict=True))
    # From the order of the tiles to that of the atoms; what tiles were padded with has the number n_atoms.
    atom = lists.atom[homes]
    first, counts, own = (torch.zeros(structures.n_atoms + 1, dtype=torch.int64, device=atom.device) for _ in range(3))
    counts[atom] = counted
    first[atom] = torch.cumsum(counted, 0) - counted
    own[atom] = homes
    centers, rank = ragged_range(counts[:-1])
    place = found.index_select(0, first.index_select(0, centers) + rank)
    own = own.index_select(0, centers)
    vectors = torch.stack([x.index_select(0, place) - x.index_select(0, own) for x in lists.points], dim=1)
    return counts[:-1], lists.atom.index_select(0, place), vectors
