"""The radius graph in plain torch: every atom is compared with the points around its own bin (`bins.py`).

Work and memory grow with the number of atoms. Bins of similar size are compared together, padded to the largest.
Candidates come from a matrix product and are compared exactly afterwards, elementwise, so the pairs of a structure
have the same bits and the same order in any batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.bins import WIDTH, BinLists, make_grid, make_lists
from pyfit_gpu.sums import ragged_range

_MOST_PADDING = 1.3  # pairs that a tile compares, padding included, over those that it needs to
_ROUNDING = 32 * torch.finfo(torch.float64).eps  # relative to |x|^2: more than the rounding error of a square


@dataclass(frozen=True)
class _Limits:
    """Amounts handled at once: on a CPU as much as its cache holds, on a GPU a moderate part of its memory."""

    atoms: int  # atoms of small structures, or central atoms of the pairs of a large one
    points: int  # points in the lists of a tile
    pairs: int  # pairs compared


_LIMITS = {"cpu": _Limits(2**13, 2**16, 2**17), "cuda": _Limits(2**20, 2**22, 2**25)}

Pairs = tuple[Tensor, Tensor, Tensor]  # counts, index, vectors


def _limits(tensor: Tensor) -> _Limits:
    return _LIMITS["cpu" if tensor.device.type == "cpu" else "cuda"]


_Tile = tuple[Tensor, int, int]


def _tiles(lists: BinLists) -> Iterator[_Tile]:
    """Group bins of similar size.

    Yields a table (4, b) of first centre, number of centres, first candidate and number of candidates, and the largest
    of both numbers.
    """
    limit = _limits(lists.atom)
    n_centers, n_points = torch.stack((lists.n_centers, lists.n_points)).cpu().numpy()
    first_center, first_point = np.cumsum(n_centers) - n_centers, np.cumsum(n_points) - n_points
    # A bin with too many pairs is split, each part with some of its centres.
    together = np.maximum(limit.pairs // n_points, 1)
    parts = -(-n_centers // together)  # none for a bin without atoms of its own
    row = np.repeat(np.arange(len(parts)), parts)
    done = (np.arange(len(row)) - (np.cumsum(parts) - parts)[row]) * together[row]
    centers = np.minimum(together[row], n_centers[row] - done)
    tiles = np.stack((first_center[row] + done, centers, first_point[row], n_points[row]))
    tiles = tiles[:, np.lexsort((tiles[3], tiles[1]))]
    on_device = torch.from_numpy(tiles).to(lists.atom.device)
    start = 0
    while start < len(row):
        _, centers, _, points = tiles[:, start : start + limit.points // tiles[3, start] + 1]
        widest, number = np.maximum.accumulate(points), np.arange(1, len(centers) + 1)
        wasteful = number * centers * widest > _MOST_PADDING * np.cumsum(centers * points) + limit.pairs // 4
        taken = max(1, int(np.argmax(np.append(wasteful | (number * widest > limit.points), True))))
        yield on_device[:, start : start + taken], int(centers[taken - 1]), int(widest[taken - 1])
        start += taken


class _Comparison:
    """Finds candidates tile by tile in one buffer: allocating memory anew would take as long as the computation.

    Squares of distances come from a matrix product, |x|^2 + |y|^2 - 2 x y, several times faster than differences.
    How it rounds is not specified, so there is some slack, which grows with |x|^2 (|y| of a neighbour is about the
    same), and candidates are compared exactly afterwards.
    """

    def __init__(self, lists: BinLists, tiles: Sequence[_Tile], cutoff: float) -> None:
        self.lists = lists
        self.square = cutoff**2
        self.slack = cutoff**2 * torch.finfo(lists.points[0].dtype).eps ** 0.5
        self.limit = _limits(lists.atom).pairs
        most = max(min(tile.shape[1], self._together(*sizes)) * math.prod(sizes) for tile, *sizes in tiles)
        self.memory = torch.empty(most, dtype=torch.float64, device=lists.atom.device)

    def _together(self, n_centers: int, n_points: int) -> int:
        """Number of bins compared at once."""
        return max(1, self.limit // (n_centers * n_points))

    def __call__(self, tile: Tensor, n_centers: int, n_points: int) -> tuple[Tensor, Tensor, Tensor]:
        """Places of the centres, -1 for padding, and how many candidates each has; then the candidates' places."""
        lists = self.lists
        first_center, centers_there, first_point, points_there = tile[..., None]
        rank = torch.arange(max(n_centers, n_points), device=tile.device)
        is_center, is_point = rank[:n_centers] < centers_there, rank[:n_points] < points_there
        center = _take(lists.centers, (first_center + rank[:n_centers]).clamp_(max=len(lists.centers) - 1))
        place = (first_point + rank[:n_points]).clamp_(max=len(lists.atom) - 1)
        here, there = (torch.stack([_take(x, i) for x in lists.points]).double() for i in (center, place))
        origin = here[:, :, :1].clone()  # the first atom of the bin: short vectors keep their digits
        here, there = here.sub_(origin), there.sub_(origin)
        # Padding is infinitely far away.
        own = (here * here).sum(dim=0).mul_(1 - _ROUNDING).sub_(self.square).masked_fill_(~is_center, torch.inf)
        other = (there * there).sum(dim=0).masked_fill_(~is_point, torch.inf)
        left = torch.stack((*here, own, torch.ones_like(own)), dim=2)
        right = torch.stack((*there.mul_(-2), torch.ones_like(other), other), dim=1)
        itself = (center - first_point).clamp_(0, n_points - 1)[:, :, None]
        found = self._products(left, right, itself)
        row = found // n_points
        counts = torch.bincount(row, minlength=center.numel())
        start = first_point - n_points * torch.arange(center.numel(), device=tile.device).view(center.shape)
        found += start.view(-1).index_select(0, row)
        return center.masked_fill_(~is_center, -1).view(-1), counts, found

    def _products(self, left: Tensor, right: Tensor, itself: Tensor) -> Tensor:
        """Flat indices where left (b, centers, 5) times right (b, 5, points) is below the slack; never `itself`."""
        n_lists, n_centers, n_points = len(left), left.shape[1], right.shape[2]
        step = self._together(n_centers, n_points)
        found = []
        for start in range(0, n_lists, step):
            some = slice(start, start + step)
            shape = (len(left[some]), n_centers, n_points)
            squares = torch.bmm(left[some], right[some], out=self.memory[: math.prod(shape)].view(shape))
            squares.scatter_(2, itself[some], torch.inf)
            found.append(_below(squares.view(-1), self.slack).add_(start * n_centers * n_points))
        return torch.cat(found)


def _take(column: Tensor, index: Tensor) -> Tensor:
    """Same as column[index], in less than half the time on a CPU."""
    return column.index_select(0, index.view(-1)).view(index.shape)


def _below(values: Tensor, limit: float) -> Tensor:
    """(m,) int64, where values are below a limit."""
    if values.device.type == "cpu":  # NumPy compares five times faster than torch, and finds twice as fast
        return torch.from_numpy(np.flatnonzero(values.numpy() < limit))
    return (values < limit).nonzero().squeeze(1)


def _pairs(structures: Structures, cutoff: float, width: float) -> Iterator[Pairs]:
    """Pairs of some structures, for as many atoms at a time as the limits allow."""
    lists = make_lists(make_grid(structures, cutoff, width))
    tiles = list(_tiles(lists))
    compare = _Comparison(lists, tiles, cutoff)
    centers, counts, found = (torch.cat(parts) for parts in zip(*(compare(*tile) for tile in tiles), strict=True))
    # From the order of the tiles to that of the atoms.
    first = torch.cumsum(counts, 0) - counts
    is_center = (centers >= 0).nonzero().squeeze(1)
    atom = lists.atom.index_select(0, centers.index_select(0, is_center))
    order = torch.empty_like(is_center).index_copy_(0, atom, is_center)
    centers, first, counts = (x.index_select(0, order) for x in (centers, first, counts))
    limit = _limits(lists.atom).atoms
    totals = torch.stack([part.sum() for part in counts.split(limit)]).tolist()
    for center, begin, number, total in zip(
        centers.split(limit), first.split(limit), counts.split(limit), totals, strict=True
    ):
        owner, place = ragged_range(begin, number, total)
        yield _exact(lists, cutoff, center, number, owner, found.index_select(0, place))


def _exact(lists: BinLists, cutoff: float, centers: Tensor, counts: Tensor, owner: Tensor, place: Tensor) -> Pairs:
    """Reduce candidates, given as places of points, to pairs; elementwise, so the bits do not depend on the batch."""
    columns = [x.index_select(0, place) - x.index_select(0, centers).index_select(0, owner) for x in lists.points]
    squares = columns[0] * columns[0]
    for column in columns[1:]:
        squares.addcmul_(column, column)
    if len(squares) and bool(squares.max() >= cutoff**2):
        inside = squares < cutoff**2
        owner, place, *columns = (column[inside] for column in (owner, place, *columns))
        counts = torch.bincount(owner, minlength=len(centers))
    return counts, lists.atom.index_select(0, place), torch.stack(columns, dim=1)


@torch.no_grad()
def find_pairs(structures: Structures, cutoff: float, *, width: float = WIDTH) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbours of all atoms: see `Neighbors`.

    Args:
        structures: a batch on any device.
        cutoff: Å.
        width: of a bin, in units of the cutoff; infinity compares every atom with every image of its structure.

    Returns:
        (n_atoms,) counts, (n_pairs,) index and (n_pairs, 3) vectors in Å, sorted by central atom.
    """
    found, done = [], 0
    for rows in _slices(structures.sizes, _limits(structures.positions).atoms):
        part = structures if len(rows) == len(structures) else structures.select(rows)
        found += [(counts, index + done, vectors) for counts, index, vectors in _pairs(part, cutoff, width)]
        done += part.n_atoms
    counts, index, vectors = (torch.cat(parts) for parts in zip(*found, strict=True))
    return counts, index, vectors


def _slices(sizes: Sequence[int], limit: int) -> Iterator[range]:
    """Runs of consecutive structures with at most `limit` atoms, or of one larger structure."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + limit, side="right")))
        yield range(start, stop)
        start = stop
