"""The radius graph in plain torch: structures cut into boxes, atoms compared with what lies around their own box.

A structure is cut along its cell vectors into boxes of about equal width, a small one into a single box. With u an
atom's place along an axis in units of boxes, wrapped into the cell, and R the cutoff in the same units, the atom can
be a neighbour of an atom in box K, counted on beyond the cell, where

    u - 1 - R <= K <= u + R,        K = k + n t:  its image by -t cell vectors, seen from box k of n

so one range per axis gives the images and the lists of all boxes, and three of them after each other the boxes in
space. Every atom is then compared with the list of its own box: work and memory grow with the number of atoms.
All of it is elementwise, so the pairs of a structure have the same bits and the same order whatever else is in the
batch: an atom's neighbours come by their numbers, images of one by the boxes from which they are seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.structures import Structures, complete_cell

# Width of a box in units of the cutoff: narrower ones compare fewer atoms, wider ones list fewer images.
_WIDTH = 1.5
_SMALL = 200  # atoms of a structure up to which one box is quickest
_MOST_BOXES = 2**16  # along an axis: numbers of boxes stay within int64, however far apart two atoms are
_SLACK = 1e-3  # of a box: a candidate too many is dropped by its distance; one too few would be lost

_MOST_PADDING = 1.3  # pairs that a tile compares for one that it has to


@dataclass(frozen=True)
class _Limits:
    """What is treated at once: on a CPU as much as its cache holds, on a GPU a moderate part of its memory."""

    atoms: int  # of small structures, or of the pairs of a large one
    points: int  # in the lists of a tile
    pairs: int  # that are compared


_LIMITS = {"cpu": _Limits(2**13, 2**16, 2**17), "cuda": _Limits(2**20, 2**22, 2**25)}

Columns = tuple[Tensor, ...]  # x, y, z: gathering from columns is several times faster than rows


def _ragged_range(first: Tensor, counts: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """For first (7, 3) and counts (2, 3): owners 0 0 1 1 1 and numbers 7 8 3 4 5. With the total, nothing waits."""
    owners = torch.repeat_interleave(counts, output_size=total)
    offset = first - torch.cumsum(counts, 0) + counts
    return owners, torch.arange(total, device=counts.device) + offset.index_select(0, owners)


@dataclass(frozen=True, eq=False)
class _Axis:
    """Along one cell vector: the boxes of every structure, counted on beyond the cell, and which of them atoms see."""

    n_boxes: Tensor  # (B,) int64
    first: Tensor  # (B,) int64, the first K of any atom
    counts: Tensor  # (B,) int64, how many K
    atom_first: Tensor  # (n_atoms,) int64, the first K of each atom, from that of its structure
    atom_counts: Tensor  # (n_atoms,) int64, how many
    atom_home: Tensor  # (n_atoms,) int64, the box it is in, from its first


@dataclass(frozen=True, eq=False)
class _Grid:
    cell: Tensor  # (B, 3, 3) Å
    owner: Tensor  # (n_atoms,) int64, structure of each atom
    origin: Columns  # (n_atoms,) Å each, atoms wrapped into the cell
    axes: tuple[_Axis, ...]


def _combine(columns: Tensor, matrices: Tensor) -> Tensor:
    """(3, B, A) x (B, 3, 3) to (3, B, A): vectors times matrices.

    One operation after the other, because a matrix product may round otherwise for other numbers of vectors.
    """
    x, y, z = (column * matrices[:, axis].T[:, :, None] for axis, column in enumerate(columns))
    return x + y + z


def make_grid(structures: Structures, cutoff: float, width: float) -> _Grid:
    device, dtype = structures.positions.device, structures.positions.dtype
    lattices = structures.cell.detach().to("cpu", torch.float64).numpy()
    cell = torch.from_numpy(complete_cell(lattices, structures.pbc.cpu().numpy()))
    inverse = torch.linalg.inv(cell)
    # The spacing of the lattice planes across vector a is 1 / |column a of the inverse|.
    reach = cutoff * torch.linalg.vector_norm(inverse, dim=1).T  # (3, B) in units of cell vectors
    cell, inverse, reach = (t.to(device, dtype) for t in (cell, inverse, reach))
    periodic, mask = structures.pbc.T, structures.atom_mask
    sizes = torch.tensor(structures.sizes, device=device)

    positions = structures.positions.permute(2, 0, 1).contiguous()
    fractional = _combine(positions, inverse)
    shift = fractional.floor() * periodic[:, :, None]
    fractional -= shift
    origin = positions - _combine(shift, cell)

    # Boxes fill the cell along periodic axes, and what the atoms take along the others.
    low = fractional.masked_fill(~mask, torch.inf).amin(dim=2)
    high = fractional.masked_fill(~mask, -torch.inf).amax(dim=2)
    start = torch.where(periodic, 0.0, low)
    extent = torch.where(periodic, 1.0, torch.maximum(high - low, reach))
    n_boxes = (extent / (width * reach)).floor().clamp(1, _MOST_BOXES)
    n_boxes = torch.where(sizes > _SMALL, n_boxes, 1.0)
    scale = n_boxes / extent
    place = (fractional - start[:, :, None]) * scale[:, :, None]
    reach = reach * scale + _SLACK
    # Of a single box the part that atoms lie in is enough: it sees fewer images.
    bottom = torch.where(n_boxes == 1, (low - start) * scale, 0.0)
    top = torch.where(n_boxes == 1, (high - start) * scale, 1.0)
    first = torch.where(periodic, (-1 - reach).ceil(), 0.0)[:, :, None]
    last = torch.where(periodic, (n_boxes + reach).floor(), n_boxes - 1)[:, :, None]
    lowest = torch.maximum((place - (top + reach)[:, :, None]).ceil(), first)
    highest = torch.minimum((place + (reach - bottom)[:, :, None]).floor(), last)
    home = torch.minimum(place.floor(), n_boxes[:, :, None] - 1)

    kept = mask.view(-1).nonzero().squeeze(1)

    def per_atom(padded: Tensor) -> Tensor:
        return padded.reshape(-1).index_select(0, kept)

    axes = tuple(
        _Axis(
            n_boxes=n_boxes[axis].long(),
            first=first[axis, :, 0].long(),
            counts=(last - first)[axis, :, 0].long() + 1,
            atom_first=per_atom(lowest[axis] - first[axis]).long(),
            atom_counts=per_atom(highest[axis] - lowest[axis]).long() + 1,
            atom_home=per_atom(home[axis] - lowest[axis]).long(),
        )
        for axis in range(3)
    )
    owner = torch.repeat_interleave(sizes, output_size=structures.n_atoms)
    return _Grid(cell, owner, tuple(per_atom(column) for column in origin), axes)


@dataclass(frozen=True, eq=False)
class Lists:
    """The lists of the boxes that have any, one after the other."""

    points: Columns  # (n_points,) Å each
    atom: Tensor  # (n_points,) int64, number in the batch
    homes: Tensor  # (n_atoms,) int64, the atoms themselves among the points, box by box
    n_points: Tensor  # (n_lists,) int64
    n_homes: Tensor  # (n_lists,) int64


def _sizes(grid: _Grid) -> tuple[list[int], list[int], int, int]:
    """What must be known to allocate: K of each axis, points after each, all boxes and the most of a structure."""
    boxes = grid.axes[0].n_boxes * grid.axes[1].n_boxes * grid.axes[2].n_boxes
    one, two, three = (axis.atom_counts for axis in grid.axes)
    numbers = [axis.counts.sum() for axis in grid.axes]
    numbers += [one.sum(), (one * two).sum(), (one * two * three).sum(), boxes.sum(), boxes.max()]
    known = torch.stack(numbers).tolist()
    return known[:3], known[3:6], known[6], known[7]


def make_lists(grid: _Grid) -> Lists:
    in_axes, in_points, n_boxes, most_boxes = _sizes(grid)
    device = grid.owner.device
    stride = grid.axes[0].n_boxes * grid.axes[1].n_boxes * grid.axes[2].n_boxes
    box = (torch.cumsum(stride, 0) - stride).index_select(0, grid.owner)
    atom, points, itself = torch.arange(len(grid.owner), device=device), grid.origin, torch.zeros_like(grid.owner)
    for number, axis in enumerate(grid.axes):
        stride = stride // axis.n_boxes
        # Every K of every structure: the box's part of the number, and where its atoms come from.
        row, unwrapped = _ragged_range(axis.first, axis.counts, in_axes[number])
        along = axis.n_boxes.index_select(0, row)
        turns = torch.div(unwrapped, along, rounding_mode="floor")
        part = (unwrapped - turns * along) * stride.index_select(0, row)
        moved = grid.cell[:, number].index_select(0, row) * -turns[:, None]
        # Every atom so far with each K of it.
        begin = (torch.cumsum(axis.counts, 0) - axis.counts).index_select(0, grid.owner) + axis.atom_first
        begin, counts = begin.index_select(0, atom), axis.atom_counts.index_select(0, atom)
        parent, seen = _ragged_range(begin, counts, in_points[number])
        atom = atom.index_select(0, parent)
        box = box.index_select(0, parent) + part.index_select(0, seen)
        points = tuple(
            x.index_select(0, parent) + d.index_select(0, seen)
            for x, d in zip(points, moved.T.contiguous(), strict=True)
        )
        itself = itself * axis.atom_counts + axis.atom_home
    per_atom = torch.bincount(atom, minlength=len(grid.owner))
    itself += torch.cumsum(per_atom, 0) - per_atom
    if most_boxes > 1:
        # Sorting takes half as long with half the bytes.
        short = next(t for t in (torch.int16, torch.int32, torch.int64) if n_boxes <= torch.iinfo(t).max)
        box, order = torch.sort(box.to(short), stable=True)
        atom, points = atom.index_select(0, order), tuple(x.index_select(0, order) for x in points)
        is_home = torch.zeros_like(order, dtype=torch.bool).index_fill_(0, itself, True).index_select(0, order)
        itself = is_home.nonzero().squeeze(1)
    n_points = torch.unique_consecutive(box, return_counts=True)[1]
    last = torch.searchsorted(itself, torch.cumsum(n_points, 0))
    return Lists(points, atom, itself, n_points, torch.diff(last, prepend=last.new_zeros(1)))


def _tiles(lists: Lists) -> Iterator[tuple[Tensor, int, int]]:
    """Lists of similar size together: (4, b) first home, homes, first point, points; then the largest of the two."""
    limit = _LIMITS[lists.atom.device.type]
    n_homes, n_points = torch.stack((lists.n_homes, lists.n_points)).cpu().numpy()
    first_home, first_point = np.cumsum(n_homes) - n_homes, np.cumsum(n_points) - n_points
    # A list of too many pairs takes several turns, each with some of its homes.
    together = np.maximum(limit.pairs // n_points, 1)
    parts = -(-n_homes // together)  # none for a list that is nobody's home
    row = np.repeat(np.arange(len(parts)), parts)
    done = (np.arange(len(row)) - (np.cumsum(parts) - parts)[row]) * together[row]
    homes = np.minimum(together[row], n_homes[row] - done)
    tiles = np.stack((first_home[row] + done, homes, first_point[row], n_points[row]))
    tiles = tiles[:, np.lexsort((tiles[3], tiles[1]))]
    on_device = torch.from_numpy(tiles).to(lists.atom.device)
    start = 0
    while start < len(row):
        _, homes, _, points = tiles[:, start : start + limit.points // tiles[3, start] + 1]
        widest, number = np.maximum.accumulate(points), np.arange(1, len(homes) + 1)
        wasteful = number * homes * widest > _MOST_PADDING * np.cumsum(homes * points) + limit.pairs // 4
        taken = max(1, int(np.argmax(np.append(wasteful | (number * widest > limit.points), True))))
        yield on_device[:, start : start + taken], int(homes[taken - 1]), int(widest[taken - 1])
        start += taken


class _Comparison:
    """Finds candidates tile after tile, in memory that all of them use: fresh memory takes as long as the numbers.

    Squares of distances come from a matrix product, |x|^2 + |y|^2 - 2 x y, several times faster than differences.
    It rounds as it likes, so there is some slack, and candidates are compared exactly afterwards.
    """

    def __init__(self, lists: Lists, cutoff: float) -> None:
        self.lists = lists
        self.square = cutoff**2
        self.slack = cutoff**2 * torch.finfo(lists.points[0].dtype).eps ** 0.5
        self.limit = max(_LIMITS[lists.atom.device.type].pairs, int(lists.n_points.max()))
        self.memory = torch.empty(self.limit, dtype=torch.float64, device=lists.atom.device)

    def __call__(self, tile: Tensor, n_homes: int, n_points: int) -> tuple[Tensor, Tensor, Tensor]:
        """Places of the homes, -1 for padding, and how many candidates each has; then the candidates' places."""
        lists = self.lists
        first_home, homes_there, first_point, points_there = tile[..., None]
        rank = torch.arange(max(n_homes, n_points), device=tile.device)
        is_home, is_point = rank[:n_homes] < homes_there, rank[:n_points] < points_there
        home = _take(lists.homes, (first_home + rank[:n_homes]).clamp_(max=len(lists.homes) - 1))
        place = (first_point + rank[:n_points]).clamp_(max=len(lists.atom) - 1)
        here, there = (torch.stack([_take(x, i) for x in lists.points]).double() for i in (home, place))
        origin = here[:, :, :1].clone()  # the first atom of the box: short vectors keep their digits
        here, there = here.sub_(origin), there.sub_(origin)
        # What pads a tile is infinitely far away.
        own = (here * here).sum(dim=0).sub_(self.square).masked_fill_(~is_home, torch.inf)
        other = (there * there).sum(dim=0).masked_fill_(~is_point, torch.inf)
        left = torch.stack((*here, own, torch.ones_like(own)), dim=2)
        right = torch.stack((*there.mul_(-2), torch.ones_like(other), other), dim=1)
        itself = (home - first_point).clamp_(0, n_points - 1)[:, :, None]
        found = self._products(left, right, itself)
        row = found // n_points
        counts = torch.bincount(row, minlength=home.numel())
        start = first_point - n_points * torch.arange(home.numel(), device=tile.device).view(home.shape)
        found += start.view(-1).index_select(0, row)
        return home.masked_fill_(~is_home, -1).view(-1), counts, found

    def _products(self, left: Tensor, right: Tensor, itself: Tensor) -> Tensor:
        """Where left (b, homes, 5) times right (b, 5, points) is below the slack, counted through; never `itself`."""
        n_lists, n_homes, n_points = len(left), left.shape[1], right.shape[2]
        step = max(1, self.limit // (n_homes * n_points))
        found = []
        for start in range(0, n_lists, step):
            some = slice(start, start + step)
            shape = (len(left[some]), n_homes, n_points)
            squares = torch.bmm(left[some], right[some], out=self.memory[: math.prod(shape)].view(shape))
            squares.scatter_(2, itself[some], torch.inf)
            found.append(_below(squares.view(-1), self.slack).add_(start * n_homes * n_points))
        return torch.cat(found)


def _take(column: Tensor, index: Tensor) -> Tensor:
    """column[index], which takes more than twice as long on a CPU."""
    return column.index_select(0, index.view(-1)).view(index.shape)


def _below(values: Tensor, limit: float) -> Tensor:
    """(m,) int64, where values are below a limit."""
    if values.device.type == "cpu":  # NumPy compares five times faster than torch, and finds twice as fast
        return torch.from_numpy(np.flatnonzero(values.numpy() < limit))
    return (values < limit).nonzero().squeeze(1)


Pairs = tuple[Tensor, Tensor, Tensor]  # counts, index, vectors


def _pairs(structures: Structures, cutoff: float, width: float) -> Iterator[Pairs]:
    """The pairs of some structures, of so many atoms at a time as the limits say."""
    lists = make_lists(make_grid(structures, cutoff, width))
    compare = _Comparison(lists, cutoff)
    homes, counts, found = (torch.cat(parts) for parts in zip(*(compare(*tile) for tile in _tiles(lists)), strict=True))
    # From the order of the tiles to that of the atoms.
    first = torch.cumsum(counts, 0) - counts
    is_home = (homes >= 0).nonzero().squeeze(1)
    order = is_home.index_select(0, torch.argsort(lists.atom.index_select(0, homes.index_select(0, is_home))))
    homes, first, counts = (x.index_select(0, order) for x in (homes, first, counts))
    limit = _LIMITS[lists.atom.device.type].atoms
    totals = torch.stack([part.sum() for part in counts.split(limit)]).tolist()
    for home, begin, number, total in zip(
        homes.split(limit), first.split(limit), counts.split(limit), totals, strict=True
    ):
        centers, place = _ragged_range(begin, number, total)
        yield _exact(lists, cutoff, home, number, centers, found.index_select(0, place))


def _exact(lists: Lists, cutoff: float, homes: Tensor, counts: Tensor, centers: Tensor, place: Tensor) -> Pairs:
    """Candidates, as places of points, to pairs; elementwise, which is the same bits in any company."""
    columns = [x.index_select(0, place) - x.index_select(0, homes).index_select(0, centers) for x in lists.points]
    squares = columns[0] * columns[0]
    for column in columns[1:]:
        squares.addcmul_(column, column)
    inside = squares < cutoff**2
    if not bool(inside.all()):
        centers, place, *columns = (column[inside] for column in (centers, place, *columns))
        counts = torch.bincount(centers, minlength=len(homes))
    return counts, lists.atom.index_select(0, place), torch.stack(columns, dim=1)


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
    found, done = [], 0
    for rows in _slices(structures.sizes, _LIMITS[structures.positions.device.type].atoms):
        part = structures if len(rows) == len(structures) else structures.select(rows)
        found += [(counts, index + done, vectors) for counts, index, vectors in _pairs(part, cutoff, width)]
        done += part.n_atoms
    counts, index, vectors = (torch.cat(parts) for parts in zip(*found, strict=True))
    return counts, index, vectors


def _slices(sizes: Sequence[int], limit: int) -> Iterator[range]:
    """Consecutive structures with at most so many atoms, or one with more."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + limit, side="right")))
        yield range(start, stop)
        start = stop
