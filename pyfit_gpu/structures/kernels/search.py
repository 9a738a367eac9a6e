"""The radius graph by kernels: atoms are sorted into bins (`placing.py`), and each looks through the bins around it.

With u the place of an atom along an axis in units of bins and R the cutoff in these units, its neighbours are in the
bins from floor(u - R) to floor(u + R); K = k + n t is bin k of n seen as its image by t cell vectors. A small structure
is one bin, and its images are found the same way. A bin is at least as wide as the cutoff. Nothing but the pairs is
large, and the host waits once: for their number.

An atom's pairs are counted, then written where they belong, in the order of bins and of atoms: the same from run to
run. Distances are compared as elsewhere (`cell_list.py`), but other ways of rounding may differ at the cutoff itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyfit_gpu.fused import current
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.kernels.placing import COLUMNS, ROUNDS, sort_into_bins

_POINTS = 32  # atoms that a program compares at a time, one for each thread of a warp


@triton.jit
def _turns(k, n):
    """How many cell vectors away a bin is: k / n, rounded down; division of whole numbers would round to zero."""
    return tl.where(k >= 0, k // n, -((n - 1 - k) // n))


@triton.jit
def _range(place, own, bins, periodic, AXIS: tl.constexpr):
    """First and last bin along an axis that an atom sees, and how many bins there are."""
    n = tl.load(bins + AXIS)
    span = tl.load(own + 24 + AXIS)
    low = tl.floor(place - span).to(tl.int32)
    high = tl.floor(place + span).to(tl.int32)
    open_ = tl.load(periodic + AXIS) == 0
    low = tl.where(open_, tl.minimum(tl.maximum(low, 0), n - 1), low)
    high = tl.where(open_, tl.maximum(tl.minimum(high, n - 1), 0), high)
    return low, high, n


@triton.jit(do_not_specialize=["n_atoms"])
def _pairs(
    points, order, owner, first_atom, periodic, table, bins, place, starts, cutoff, first_pair,
    counts, nearest, index, vectors, n_atoms,
    WRITES: tl.constexpr, COLUMNS: tl.constexpr, POINTS: tl.constexpr,
):  # fmt: skip
    """Count the pairs of one atom, and find the square of its least distance; or write them.

    `points` (3, n_atoms) and `order` are the wrapped atoms and their numbers, bin by bin, which begin at `starts`.
    """
    me = tl.program_id(0)
    atom = tl.load(order + me)
    row = tl.load(owner + atom)
    own = table + row * COLUMNS
    limit = tl.load(cutoff)
    limit = limit * limit
    x = tl.load(points + me)
    y = tl.load(points + n_atoms + me)
    z = tl.load(points + 2 * n_atoms + me)
    base = tl.load(first_atom + row)
    low_0, high_0, n_0 = _range(tl.load(place + atom), own, bins + row * 3, periodic + row * 3, 0)
    low_1, high_1, n_1 = _range(tl.load(place + n_atoms + atom), own, bins + row * 3, periodic + row * 3, 1)
    low_2, high_2, n_2 = _range(tl.load(place + 2 * n_atoms + atom), own, bins + row * 3, periodic + row * 3, 2)
    found = tl.load(first_pair + atom) if WRITES else atom * 0
    least = limit * 0 + float("inf")
    ax, ay, az = tl.load(own), tl.load(own + 1), tl.load(own + 2)
    bx, by, bz = tl.load(own + 3), tl.load(own + 4), tl.load(own + 5)
    cx, cy, cz = tl.load(own + 6), tl.load(own + 7), tl.load(own + 8)
    for k_0 in range(low_0, high_0 + 1):
        t_0 = _turns(k_0, n_0)
        for k_1 in range(low_1, high_1 + 1):
            t_1 = _turns(k_1, n_1)
            bin_ = base + ((k_0 - t_0 * n_0) * n_1 + k_1 - t_1 * n_1) * n_2
            # Bins along the last axis are one after the other, as far as they are of the same image.
            for t_2 in range(_turns(low_2, n_2), _turns(high_2, n_2) + 1):
                begin = tl.load(starts + bin_ + tl.maximum(low_2 - t_2 * n_2, 0))
                end = tl.load(starts + bin_ + tl.minimum(high_2 - t_2 * n_2, n_2 - 1) + 1)
                itself = tl.where(t_0 * t_0 + t_1 * t_1 + t_2 * t_2 == 0, me, -1)
                for at in range(begin, end, POINTS):
                    j = at + tl.arange(0, POINTS)
                    inside = j < end
                    dx = tl.load(points + j, mask=inside, other=0.0)
                    dy = tl.load(points + n_atoms + j, mask=inside, other=0.0)
                    dz = tl.load(points + 2 * n_atoms + j, mask=inside, other=0.0)
                    dx = dx + t_0 * ax + t_1 * bx + t_2 * cx - x
                    dy = dy + t_0 * ay + t_1 * by + t_2 * cy - y
                    dz = dz + t_0 * az + t_1 * bz + t_2 * cz - z
                    square = dx * dx + dy * dy + dz * dz
                    hit = inside & (square < limit) & (j != itself)
                    number = tl.where(hit, 1, 0)
                    if WRITES:
                        to = found + tl.cumsum(number, axis=0) - 1
                        tl.store(index + to, tl.load(order + j, mask=inside, other=0), mask=hit)
                        tl.store(vectors + to * 3, dx, mask=hit)
                        tl.store(vectors + to * 3 + 1, dy, mask=hit)
                        tl.store(vectors + to * 3 + 2, dz, mask=hit)
                    else:
                        least = tl.minimum(least, tl.min(tl.where(hit, square, float("inf")), axis=0))
                    found += tl.sum(number, axis=0)
    if not WRITES:
        tl.store(counts + atom, found)
        tl.store(nearest + atom, least)


@dataclass(frozen=True, eq=False)
class Found:
    """Pairs, and what must be known to refuse them, on the host."""

    counts: Tensor  # (n_atoms,) int64
    index: Tensor  # (n_pairs,) int64
    vectors: Tensor  # (n_pairs, 3) Å
    nearest: float  # Å, of all pairs; infinity: there are none
    all_finite: bool  # whether all positions are


@torch.no_grad()
def search(structures: Structures, cutoff: float) -> Found:
    """Find the neighbours of all atoms. The host waits for the device once."""
    positions, n_atoms = structures.positions.contiguous(), structures.n_atoms
    with current(positions.device):
        inputs = sort_into_bins(structures, positions, cutoff)
        counts = torch.empty(n_atoms, dtype=torch.int64, device=positions.device)
        nearest = positions.new_empty(n_atoms)
        options = {"COLUMNS": COLUMNS, "POINTS": _POINTS, "num_warps": 1, **ROUNDS}
        nothing = (counts, counts, nearest, counts, positions, n_atoms)
        _pairs[(n_atoms,)](*inputs, *nothing, WRITES=False, **options)
        ends = torch.cumsum(counts, 0)
        known = torch.stack((ends[-1].double(), nearest.min().double(), positions.isfinite().all().double()))
        total, square, all_finite = known.tolist()  # the only wait
        index = torch.empty(int(total), dtype=torch.int64, device=positions.device)
        vectors = positions.new_empty(int(total), 3)
        if total:
            writes = (ends - counts, counts, nearest, index, vectors, n_atoms)
            _pairs[(n_atoms,)](*inputs, *writes, WRITES=True, **options)
    return Found(counts, index, vectors, square**0.5, bool(all_finite))
