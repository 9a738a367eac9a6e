"""Atoms sorted into bins by kernels, for the search of `search.py`.

Nothing is asked of the host, so all sizes are known beforehand: a structure has no more bins than atoms, and the
numbers of its bins are among those of its atoms.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyfit_gpu.structures.batch import Structures

_SLACK = 1e-3  # in units of bins, as in bins.py
_MOST_IMAGES = 1024.0  # bins to each side; what sees more, or is no number, is in no cell and has no neighbours
# Columns of the table of structures: cell, inverse, then for each axis where bins begin, bins per unit, cutoff in bins.
COLUMNS = 9 + 9 + 3 + 3 + 3
ROUNDS = {"enable_fp_fusion": False}  # each operation by itself, as on a CPU
_ATOMS = 128  # of a program that places atoms


@triton.jit
def _orthogonal(yx, yy, yz, zx, zy, zz):
    """A unit vector orthogonal to two others, of which one or both may be zero."""
    nx, ny, nz = yy * zz - yz * zy, yz * zx - yx * zz, yx * zy - yy * zx
    wx, wy, wz = yx + zx, yy + zy, yz + zz  # the one that is not zero, if the product is
    ax, ay, az = tl.abs(wx), tl.abs(wy), tl.abs(wz)
    by_x = (ax <= ay) & (ax <= az)
    by_y = (by_x == 0) & (ay <= az)
    single = (nx * nx + ny * ny + nz * nz) == 0
    # w times the unit vector along its least component
    nx = tl.where(single, tl.where(by_x, 0.0, tl.where(by_y, -wz, wy)), nx)
    ny = tl.where(single, tl.where(by_x, wz, tl.where(by_y, 0.0, -wx)), ny)
    nz = tl.where(single, tl.where(by_x, -wy, tl.where(by_y, wx, 0.0)), nz)
    none = (nx * nx + ny * ny + nz * nz) == 0
    nx = tl.where(none, 1.0, nx)
    length = tl.sqrt(nx * nx + ny * ny + nz * nz)
    return nx / length, ny / length, nz / length


@triton.jit
def _extent(positions, n, ix, iy, iz, ATOMS: tl.constexpr):
    """Least and greatest place of n atoms along the cell vector to which a column of the inverse belongs."""
    low = float("inf") + ix * 0
    high = -low
    for done in range(0, n, ATOMS):
        atom = done + tl.arange(0, ATOMS)
        inside = atom < n
        x = tl.load(positions + atom * 3, mask=inside, other=0.0)
        y = tl.load(positions + atom * 3 + 1, mask=inside, other=0.0)
        z = tl.load(positions + atom * 3 + 2, mask=inside, other=0.0)
        f = x * ix + y * iy + z * iz
        known = inside & (tl.abs(f) < float("inf"))
        low = tl.minimum(low, tl.min(tl.where(known, f, float("inf")), axis=0))
        high = tl.maximum(high, tl.max(tl.where(known, f, -float("inf")), axis=0))
    return tl.where(low <= high, low, 0.0), tl.where(low <= high, high, 0.0)


@triton.jit(do_not_specialize=["n_padded"])
def _cells(
    cells, periodic, positions, sizes, cutoff, table, bins, n_padded,
    SLACK: tl.constexpr, MOST: tl.constexpr, COLUMNS: tl.constexpr, ATOMS: tl.constexpr,
):  # fmt: skip
    """Describe one structure: its row of the table, and how many bins it has along each axis."""
    row = tl.program_id(0)
    cell = cells + row * 9
    ax, ay, az = tl.load(cell), tl.load(cell + 1), tl.load(cell + 2)
    bx, by, bz = tl.load(cell + 3), tl.load(cell + 4), tl.load(cell + 5)
    cx, cy, cz = tl.load(cell + 6), tl.load(cell + 7), tl.load(cell + 8)
    pa = tl.load(periodic + row * 3) != 0
    pb = tl.load(periodic + row * 3 + 1) != 0
    pc = tl.load(periodic + row * 3 + 2) != 0
    # Vectors without a period may be any that keep the cell invertible.
    ax, ay, az = tl.where(pa, ax, 0.0), tl.where(pa, ay, 0.0), tl.where(pa, az, 0.0)
    bx, by, bz = tl.where(pb, bx, 0.0), tl.where(pb, by, 0.0), tl.where(pb, bz, 0.0)
    cx, cy, cz = tl.where(pc, cx, 0.0), tl.where(pc, cy, 0.0), tl.where(pc, cz, 0.0)
    ox, oy, oz = _orthogonal(bx, by, bz, cx, cy, cz)
    ax, ay, az = tl.where(pa, ax, ox), tl.where(pa, ay, oy), tl.where(pa, az, oz)
    ox, oy, oz = _orthogonal(cx, cy, cz, ax, ay, az)
    bx, by, bz = tl.where(pb, bx, ox), tl.where(pb, by, oy), tl.where(pb, bz, oz)
    ox, oy, oz = _orthogonal(ax, ay, az, bx, by, bz)
    cx, cy, cz = tl.where(pc, cx, ox), tl.where(pc, cy, oy), tl.where(pc, cz, oz)
    # Columns of the inverse are the cross products of the other two vectors over the volume.
    kx, ky, kz = by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx
    lx, ly, lz = cy * az - cz * ay, cz * ax - cx * az, cx * ay - cy * ax
    mx, my, mz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    volume = ax * kx + ay * ky + az * kz
    kx, ky, kz = kx / volume, ky / volume, kz / volume
    lx, ly, lz = lx / volume, ly / volume, lz / volume
    mx, my, mz = mx / volume, my / volume, mz / volume
    most = tl.load(sizes + row)
    n = most
    here = positions + row.to(tl.int64) * n_padded * 3
    out = table + row * COLUMNS
    distance = tl.load(cutoff)
    for axis in tl.static_range(3):
        if axis == 0:
            px, ix, iy, iz = pa, kx, ky, kz
        elif axis == 1:
            px, ix, iy, iz = pb, lx, ly, lz
        else:
            px, ix, iy, iz = pc, mx, my, mz
        reach = distance * tl.sqrt(ix * ix + iy * iy + iz * iz)
        low, high = _extent(here, tl.where(px, 0, n), ix, iy, iz, ATOMS)
        extent = tl.where(px, 1.0, tl.maximum(high - low, reach))
        wanted = tl.minimum(tl.floor(extent / reach), most.to(reach.dtype))
        number = tl.maximum(tl.where(wanted == wanted, wanted, 1.0), 1.0).to(tl.int32)
        most = tl.maximum(most // number, 1)
        scale = number.to(reach.dtype) / extent
        span = reach * scale + SLACK
        tl.store(bins + row * 3 + axis, number)
        tl.store(out + 18 + axis, tl.where(px, 0.0, low))
        tl.store(out + 21 + axis, scale)
        tl.store(out + 24 + axis, tl.where(span < MOST, span, -1.0))
    tl.store(out, ax)
    tl.store(out + 1, ay)
    tl.store(out + 2, az)
    tl.store(out + 3, bx)
    tl.store(out + 4, by)
    tl.store(out + 5, bz)
    tl.store(out + 6, cx)
    tl.store(out + 7, cy)
    tl.store(out + 8, cz)
    tl.store(out + 9, kx)
    tl.store(out + 10, ky)
    tl.store(out + 11, kz)
    tl.store(out + 12, lx)
    tl.store(out + 13, ly)
    tl.store(out + 14, lz)
    tl.store(out + 15, mx)
    tl.store(out + 16, my)
    tl.store(out + 17, mz)


@triton.jit(do_not_specialize=["n_atoms", "n_padded"])
def _places(
    positions, owner, first_atom, periodic, table, bins, origin, place, number, n_atoms, n_padded,
    COLUMNS: tl.constexpr, ATOMS: tl.constexpr,
):  # fmt: skip
    """Wrap atoms into their cells: `origin` (3, n_atoms) Å, `place` (3, n_atoms) in bins, the `number` of the bin."""
    atom = tl.program_id(0) * ATOMS + tl.arange(0, ATOMS)
    inside = atom < n_atoms
    row = tl.load(owner + atom, mask=inside, other=0)
    before = tl.load(first_atom + row, mask=inside, other=0)
    here = positions + (row * n_padded + atom - before) * 3
    x = tl.load(here, mask=inside, other=0.0)
    y = tl.load(here + 1, mask=inside, other=0.0)
    z = tl.load(here + 2, mask=inside, other=0.0)
    wx, wy, wz = x, y, z
    own = table + row * COLUMNS
    flat = before * 0
    for axis in tl.static_range(3):
        f = (
            x * tl.load(own + 9 + 3 * axis, mask=inside, other=0.0)
            + y * tl.load(own + 10 + 3 * axis, mask=inside, other=0.0)
            + z * tl.load(own + 11 + 3 * axis, mask=inside, other=0.0)
        )
        # An atom that is nowhere may be in any bin: its distances are no numbers, so it has no neighbours.
        f = tl.where(tl.abs(f) < float("inf"), f, 0.0)
        turns = tl.where(tl.load(periodic + row * 3 + axis, mask=inside, other=0) != 0, tl.floor(f), 0.0)
        wx -= turns * tl.load(own + 3 * axis, mask=inside, other=0.0)
        wy -= turns * tl.load(own + 3 * axis + 1, mask=inside, other=0.0)
        wz -= turns * tl.load(own + 3 * axis + 2, mask=inside, other=0.0)
        start = tl.load(own + 18 + axis, mask=inside, other=0.0)
        u = (f - turns - start) * tl.load(own + 21 + axis, mask=inside, other=0.0)
        u = tl.where(tl.abs(u) < float("inf"), u, 0.0)
        n_bins = tl.load(bins + row * 3 + axis, mask=inside, other=1)
        k = tl.minimum(tl.maximum(tl.floor(u), 0.0), (n_bins - 1).to(u.dtype)).to(tl.int64)
        flat = flat * n_bins + k
        tl.store(place + axis * n_atoms + atom, u, mask=inside)
    tl.store(origin + atom, wx, mask=inside)
    tl.store(origin + n_atoms + atom, wy, mask=inside)
    tl.store(origin + 2 * n_atoms + atom, wz, mask=inside)
    tl.store(number + atom, (before + flat).to(tl.int32), mask=inside)


def sort_into_bins(structures: Structures, positions: Tensor, cutoff: float) -> tuple[Tensor, ...]:
    """Sort atoms into bins; returns what `_pairs` reads, up to the cutoff."""
    device, n_atoms, n_padded = positions.device, structures.n_atoms, positions.shape[1]
    sizes = structures.sizes_on_device
    first_atom = torch.cumsum(sizes, 0) - sizes
    owner = torch.repeat_interleave(sizes, output_size=n_atoms)
    periodic = structures.pbc.to(torch.int8).contiguous()
    table = positions.new_empty(len(sizes), COLUMNS)
    bins = torch.empty(len(sizes), 3, dtype=torch.int32, device=device)
    # Numbers are handed over in tensors: Triton would take them in single precision.
    reach = torch.full((), cutoff, dtype=positions.dtype, device=device)
    cell = structures.cell.to(positions.dtype).contiguous()
    _cells[(len(sizes),)](
        cell, periodic, positions, sizes, reach, table, bins, n_padded,
        SLACK=_SLACK, MOST=_MOST_IMAGES, COLUMNS=COLUMNS, ATOMS=_ATOMS, num_warps=1, **ROUNDS,
    )  # fmt: skip
    origin, place = positions.new_empty(3, n_atoms), positions.new_empty(3, n_atoms)
    number = torch.empty(n_atoms, dtype=torch.int32, device=device)
    _places[(-(-n_atoms // _ATOMS),)](
        positions, owner, first_atom, periodic, table, bins, origin, place, number, n_atoms, n_padded,
        COLUMNS=COLUMNS, ATOMS=_ATOMS, **ROUNDS,
    )  # fmt: skip
    number, order = torch.sort(number, stable=True)
    starts = torch.searchsorted(number, torch.arange(n_atoms + 1, dtype=torch.int32, device=device))
    return origin[:, order], order, owner, first_atom, periodic, table, bins, place, starts, reach
