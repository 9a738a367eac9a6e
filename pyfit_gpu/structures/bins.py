"""Structures cut into bins, and the atoms and images around each bin: what `cell_list.py` compares.

A structure is cut along its cell vectors into bins of about equal width, a small one into a single bin. Bins are
numbered beyond the cell (K < 0 or K >= n: periodic images). With u the place of an atom along an axis in units of
bins, wrapped into the cell, and R the cutoff in the same units, the atom lies within the cutoff of bin K if

    u - 1 - R <= K <= u + R,        K = k + n t:  its image by -t cell vectors, seen from bin k of n

so one range per axis gives the images and the lists of all bins, and three of them one after the other the bins in
space. All of it is elementwise, so the lists of a structure have the same bits and the same order in any batch: atoms
by their numbers, images of one atom by the bins from which they are seen.

In one dimension, with n = 4 bins and R = 0.5: an atom at u = 3.8 lies within the cutoff of 2.3 <= K <= 4.3, so of bin 3
as itself and of bin 4 = 0 + 4, which is bin 0, as its image by -1 cell vector, at u = -0.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.cells import complete_cell, inverse_cells
from pyfit_gpu.sums import ragged_range

# Width of a bin in units of the cutoff: narrower ones compare fewer atoms, wider ones list fewer images.
WIDTH = 2.5
_SMALL = 200  # atoms of a structure up to which one bin is quickest
_MOST_BINS = 2**16  # along an axis: numbers of bins stay within int64, however far apart two atoms are
_SLACK = 1e-3  # in units of bins: a candidate too many is dropped by its distance; one too few would be lost

Columns = tuple[Tensor, ...]  # x, y, z: gathering from columns is several times faster than rows


@dataclass(frozen=True, eq=False)
class Axis:
    """Along one cell vector: the bins of every structure, numbered beyond the cell, and which of them atoms see."""

    n_bins: Tensor  # (B,) int64
    first: Tensor  # (B,) int64, the first K of any atom
    counts: Tensor  # (B,) int64, how many K
    atom_first: Tensor  # (n_atoms,) int64, the first K of each atom, from that of its structure
    atom_counts: Tensor  # (n_atoms,) int64, how many
    atom_bin: Tensor  # (n_atoms,) int64, the bin it is in, from its first


@dataclass(frozen=True, eq=False)
class Grid:
    """Atoms in the bins of their structures."""

    cell: Tensor  # (B, 3, 3) Å
    owner: Tensor  # (n_atoms,) int64, structure of each atom
    origin: Columns  # (n_atoms,) Å each, atoms wrapped into the cell
    axes: tuple[Axis, ...]


def _combine(columns: Tensor, matrices: Tensor) -> Tensor:
    """(3, B, A) x (B, 3, 3) to (3, B, A): vectors times matrices.

    One operation after the other, because a matrix product may round otherwise for other numbers of vectors.
    """
    x, y, z = (column * matrices[:, axis].T[:, :, None] for axis, column in enumerate(columns))
    return x + y + z


def make_grid(structures: Structures, cutoff: float, width: float = WIDTH) -> Grid:
    """Atoms in bins.

    Args:
        structures: a batch on any device.
        cutoff: Å.
        width: least width of a bin in units of the cutoff; infinity makes one bin of every structure.
    """
    device, dtype = structures.positions.device, structures.positions.dtype
    lattices = structures.cell.detach().to("cpu", torch.float64).numpy()
    cell = torch.from_numpy(complete_cell(lattices, structures.pbc.cpu().numpy()))
    inverse = inverse_cells(cell)
    # The spacing of the lattice planes across vector a is 1 / |column a of the inverse|.
    reach = cutoff * torch.linalg.vector_norm(inverse, dim=1).T  # (3, B) in units of cell vectors
    cell, inverse, reach = (t.to(device, dtype) for t in (cell, inverse, reach))
    positions = structures.positions.permute(2, 0, 1).contiguous()
    fractional = _combine(positions, inverse)
    shift = fractional.floor() * structures.pbc.T[:, :, None]
    origin = positions - _combine(shift, cell)

    kept = structures.atom_mask.view(-1).nonzero().squeeze(1)
    sizes = torch.tensor(structures.sizes, device=device)
    owner = torch.repeat_interleave(sizes, output_size=structures.n_atoms)
    axes = _axes(structures, fractional.sub_(shift), reach, torch.where(sizes > _SMALL, width, torch.inf), kept)
    return Grid(cell, owner, tuple(x.reshape(-1).index_select(0, kept) for x in origin), axes)


def _axes(structures: Structures, fractional: Tensor, reach: Tensor, width: Tensor, kept: Tensor) -> tuple[Axis, ...]:
    """Cut each of the three axes into bins.

    Args:
        fractional: (3, B, A) in units of cell vectors, wrapped.
        reach: (3, B) the cutoff in these units.
        width: (B,) of bins in units of the cutoff.
        kept: (n_atoms,) int64, the atoms among A x B, which padding fills.
    """
    periodic, mask = structures.pbc.T, structures.atom_mask
    low = fractional.masked_fill(~mask, torch.inf).amin(dim=2)
    high = fractional.masked_fill(~mask, -torch.inf).amax(dim=2)
    # Bins fill the cell along periodic axes, and the extent of the atoms along the others.
    start = torch.where(periodic, 0.0, low)
    extent = torch.where(periodic, 1.0, torch.maximum(high - low, reach))
    n_bins = (extent / (width * reach)).floor().clamp(1, _MOST_BINS)
    scale = n_bins / extent
    place = (fractional - start[:, :, None]) * scale[:, :, None]
    reach = reach * scale + _SLACK
    # A single bin only needs to span its atoms: it then sees fewer images.
    bottom = torch.where(n_bins == 1, (low - start) * scale, 0.0)
    top = torch.where(n_bins == 1, (high - start) * scale, 1.0)
    first = torch.where(periodic, (-1 - reach).ceil(), 0.0)
    last = torch.where(periodic, (n_bins + reach).floor(), n_bins - 1)
    lowest = torch.maximum((place - (top + reach)[:, :, None]).ceil(), first[:, :, None])
    highest = torch.minimum((place + (reach - bottom)[:, :, None]).floor(), last[:, :, None])
    own_bin = torch.minimum(place.floor(), n_bins[:, :, None] - 1)

    def per_atom(padded: Tensor) -> Tensor:
        return padded.reshape(-1).index_select(0, kept).long()

    return tuple(
        Axis(
            n_bins=n_bins[axis].long(),
            first=first[axis].long(),
            counts=(last - first)[axis].long() + 1,
            atom_first=per_atom(lowest[axis] - first[axis, :, None]),
            atom_counts=per_atom(highest[axis] - lowest[axis]) + 1,
            atom_bin=per_atom(own_bin[axis] - lowest[axis]),
        )
        for axis in range(3)
    )


@dataclass(frozen=True, eq=False)
class BinLists:
    """Candidate lists of all bins that are not empty, one after the other."""

    points: Columns  # (n_points,) Å each
    atom: Tensor  # (n_points,) int64, number in the batch
    centers: Tensor  # (n_atoms,) int64, the atoms themselves among the points, bin by bin
    n_points: Tensor  # (n_lists,) int64
    n_centers: Tensor  # (n_lists,) int64


def _sizes(grid: Grid) -> tuple[list[int], list[int], int, int]:
    """Sizes to allocate: K of each axis, points after each axis, bins in all and at most in one structure."""
    bins = grid.axes[0].n_bins * grid.axes[1].n_bins * grid.axes[2].n_bins
    one, two, three = (axis.atom_counts for axis in grid.axes)
    numbers = [axis.counts.sum() for axis in grid.axes]
    numbers += [one.sum(), (one * two).sum(), (one * two * three).sum(), bins.sum(), bins.max()]
    known = torch.stack(numbers).tolist()
    return known[:3], known[3:6], known[6], known[7]


def make_lists(grid: Grid) -> BinLists:
    """Candidate lists of all bins: atoms are spread along one axis after the other, then sorted by bin."""
    in_axes, in_points, n_bins, most_bins = _sizes(grid)
    device = grid.owner.device
    stride = grid.axes[0].n_bins * grid.axes[1].n_bins * grid.axes[2].n_bins
    bin_number = (torch.cumsum(stride, 0) - stride).index_select(0, grid.owner)
    atom, points, itself = torch.arange(len(grid.owner), device=device), grid.origin, torch.zeros_like(grid.owner)
    for number, axis in enumerate(grid.axes):
        stride = stride // axis.n_bins
        # Every K of every structure: the bin's part of the number, and where its atoms come from.
        row, unwrapped = ragged_range(axis.first, axis.counts, in_axes[number])
        along = axis.n_bins.index_select(0, row)
        image = torch.div(unwrapped, along, rounding_mode="floor")
        part = (unwrapped - image * along) * stride.index_select(0, row)
        moved = grid.cell[:, number].index_select(0, row) * -image[:, None]
        # Every atom so far with each K of it.
        begin = (torch.cumsum(axis.counts, 0) - axis.counts).index_select(0, grid.owner) + axis.atom_first
        begin, counts = begin.index_select(0, atom), axis.atom_counts.index_select(0, atom)
        parent, seen = ragged_range(begin, counts, in_points[number])
        atom = atom.index_select(0, parent)
        bin_number = bin_number.index_select(0, parent) + part.index_select(0, seen)
        points = tuple(
            x.index_select(0, parent) + d.index_select(0, seen)
            for x, d in zip(points, moved.T.contiguous(), strict=True)
        )
        itself = itself * axis.atom_counts + axis.atom_bin
    per_atom = torch.bincount(atom, minlength=len(grid.owner))
    itself += torch.cumsum(per_atom, 0) - per_atom
    if most_bins > 1:
        # Sorting takes half as long with half the bytes.
        short = next(t for t in (torch.int16, torch.int32, torch.int64) if n_bins <= torch.iinfo(t).max)
        bin_number, order = torch.sort(bin_number.to(short), stable=True)
        atom, points = atom.index_select(0, order), tuple(x.index_select(0, order) for x in points)
        is_center = torch.zeros_like(order, dtype=torch.bool).index_fill_(0, itself, True).index_select(0, order)
        itself = is_center.nonzero().squeeze(1)
    n_points = torch.unique_consecutive(bin_number, return_counts=True)[1]
    last = torch.searchsorted(itself, torch.cumsum(n_points, 0))
    return BinLists(points, atom, itself, n_points, torch.diff(last, prepend=last.new_zeros(1)))
