"""The radius graph of a batch of structures, with periodic images.

Three backends give the same pairs: `vesin` (CPU, one library call per structure), `torch-cluster` (CUDA, where
it is installed) and `torch` (everywhere, and the oracle of the others). The number of periodic images follows
from the spacing of the lattice planes (docs/theory.md, "Neighbours"), so skewed and tiny cells are right.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.structures import Structures, complete_cell

BACKENDS = ("auto", "vesin", "torch-cluster", "torch")

# Closer than this are two atoms at one place: no electronic structure calculation gives such a structure.
MINIMUM_DISTANCE = 1e-3  # Å

# The torch backend compares every atom with every image: at most so many pairs at a time.
_MAX_CANDIDATE_PAIRS = 4_000_000
# Above this the torch backend's quadratic cost is worse than a trip to the host and back.
_MAX_ATOMS_QUADRATIC = 4096


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Pairs sorted by their central atom. Atoms are numbered over the whole batch, without padding.

    Pairs lie one after the other and not padded per atom: the descriptor pads chunks of atoms with
    similar counts, which wastes a hundredth of the memory that one padded table does.
    """

    counts: Tensor  # (n_atoms,) int64, neighbours of each atom
    index: Tensor  # (n_pairs,) int64, the neighbour's number in the batch
    vectors: Tensor  # (n_pairs, 3) Å, from the central atom to the neighbour's image

    @property
    def centers(self) -> Tensor:
        """(n_pairs,) int64, the central atom of each pair."""
        return torch.repeat_interleave(self.counts)

    def to(self, dtype: torch.dtype) -> Neighbors:
        """The same with vectors in another precision: they lose fewer digits than positions would."""
        return replace(self, vectors=self.vectors.to(dtype))

    @property
    def distances(self) -> Tensor:
        """(n_pairs,) Å."""
        return torch.linalg.vector_norm(self.vectors, dim=1)


def find_neighbors(structures: Structures, cutoff: float, *, backend: str = "auto") -> Neighbors:
    """Every atom and periodic image within the cutoff of every atom (images of the atom itself too).

    Args:
        structures: a batch on any device; the result is on the same device.
        cutoff: Å.
        backend: one of `BACKENDS`; "auto" takes the fastest that is installed for the device.

    Raises:
        InputError: two atoms at one place.
        ValueError: an unknown backend, or one that is not installed or not for this device.
    """
    finders = {"vesin": _vesin_pairs, "torch-cluster": _torch_cluster_pairs, "torch": _torch_pairs}
    name = _choose_backend(structures, backend)
    centers, index, vectors = finders[name](structures, cutoff)
    order = torch.argsort(centers, stable=True)
    neighbors = Neighbors(
        counts=torch.bincount(centers, minlength=structures.n_atoms),
        index=index[order],
        vectors=vectors[order],
    )
    check_distances(structures, neighbors)
    return neighbors


def _choose_backend(structures: Structures, backend: str) -> str:
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    has_cluster = importlib.util.find_spec("torch_cluster") is not None
    if backend == "torch-cluster" and not has_cluster:
        raise ValueError("backend: torch-cluster is not installed (see docs/install.md)")
    if backend != "auto":
        return backend
    if structures.positions.device.type == "cpu":
        return "vesin"
    if has_cluster:
        return "torch-cluster"
    return "torch" if max(structures.sizes) <= _MAX_ATOMS_QUADRATIC else "vesin"


def check_distances(structures: Structures, neighbors: Neighbors) -> None:
    if len(neighbors.index) == 0:
        return
    distances = neighbors.distances
    if bool(distances.min() >= MINIMUM_DISTANCE):
        return
    pair = int(distances.argmin())
    first, second = int(neighbors.centers[pair]), int(neighbors.index[pair])
    raise InputError(
        f"{structures.describe_atom(first)} and {structures.describe_atom(second)} (or images) are at one place: "
        f"expected a distance of at least {MINIMUM_DISTANCE} Å, found {float(distances[pair]):.3g} Å"
    )


Pairs = tuple[Tensor, Tensor, Tensor]  # centers, index, vectors, in any order


def _vesin_pairs(structures: Structures, cutoff: float) -> Pairs:
    from vesin import NeighborList

    # One thread: the pairs of an atom then come in one order, and sums over them keep their bits.
    calculator = NeighborList(cutoff=cutoff, full_list=True, sorted=True, n_threads=1)
    positions = structures.positions.detach().to("cpu", torch.float64).numpy()
    cells = structures.cell.detach().to("cpu", torch.float64).numpy()
    pbc = structures.pbc.cpu().numpy()
    pairs, vectors = [], []
    offset = 0
    for row, size in enumerate(structures.sizes):
        box = complete_cell(cells[row], pbc[row])
        # Without a copy these are views of memory that the next call reuses.
        found, separations = calculator.compute(positions[row, :size], box, pbc[row], "PD", copy=False)
        pairs.append(found.astype(np.int64) + offset)
        vectors.append(separations.copy())
        offset += size
    device, dtype = structures.positions.device, structures.positions.dtype
    index = torch.from_numpy(np.concatenate(pairs)).to(device)
    return index[:, 0], index[:, 1], torch.from_numpy(np.concatenate(vectors)).to(device, dtype)


@dataclass(frozen=True, eq=False)
class _Images:
    """Atoms and all their periodic images that can be within the cutoff of an atom of the wrapped cell."""

    points: Tensor  # (n_images, 3) Å, the structures one after the other
    structure: Tensor  # (n_images,) int64
    atom: Tensor  # (n_images,) int64, number in the batch
    is_home: Tensor  # (n_images,) bool, the atom itself and no image of it
    origin: Tensor  # (n_atoms, 3) Å, the atoms themselves, moved into the cell
    owner: Tensor  # (n_atoms,) int64, structure of each atom


def _ragged_range(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For counts (2, 3): owners 0 0 1 1 1 and positions 0 1 0 1 2."""
    owners = torch.repeat_interleave(counts)
    first = torch.cumsum(counts, 0) - counts
    return owners, torch.arange(len(owners), device=counts.device) - first[owners]


def _images(structures: Structures, cutoff: float) -> _Images:
    device, dtype = structures.positions.device, structures.positions.dtype
    cells = structures.cell.detach().to("cpu", torch.float64).numpy()
    periodic = structures.pbc.cpu()
    complete = [complete_cell(cell, pbc) for cell, pbc in zip(cells, periodic.numpy(), strict=True)]
    cell = torch.from_numpy(np.stack(complete))
    inverse = torch.linalg.inv(cell)
    # The spacing of the lattice planes across vector a is 1 / |column a of the inverse|.
    reach = cutoff * torch.linalg.vector_norm(inverse, dim=1) * periodic  # (B, 3) in units of cell vectors
    cell, inverse, reach = (t.to(device, dtype) for t in (cell, inverse, reach))

    owner = torch.repeat_interleave(torch.tensor(structures.sizes, device=device))
    positions = structures.flatten(structures.positions)
    fractional = torch.einsum("na,nab->nb", positions, inverse[owner])
    shift = fractional.floor() * structures.pbc[owner]
    origin = positions - torch.einsum("na,nab->nb", shift, cell[owner])
    fractional = fractional - shift

    steps = reach.ceil().long()
    span = 2 * steps + 1
    atom, rank = _ragged_range(span.prod(dim=1)[owner])
    row = owner[atom]
    middle, inner = span[row, 1], span[row, 2]
    translation = torch.stack((rank // (middle * inner), rank // inner % middle, rank % inner), dim=1) - steps[row]
    moved = fractional[atom] + translation
    slack = 1e-6  # a candidate too many is dropped by its distance; one too few would be lost
    near = (moved >= -reach[row] - slack) & (moved <= 1 + reach[row] + slack) | ~structures.pbc[row]
    chosen = near.all(dim=1)
    atom, row, translation = atom[chosen], row[chosen], translation[chosen]
    points = origin[atom] + torch.einsum("na,nab->nb", translation.to(dtype), cell[row])
    return _Images(points, row, atom, (translation == 0).all(dim=1), origin, owner)


def _keep_pairs(images: _Images, centers: Tensor, image: Tensor, cutoff: float) -> Pairs:
    """Candidates to pairs: drop what is beyond the cutoff, and each atom itself."""
    vectors = images.points[image] - images.origin[centers]
    squares = vectors.square().sum(dim=1)
    index = images.atom[image]
    itself = (index == centers) & images.is_home[image]
    keep = (squares < cutoff**2) & ~itself
    return centers[keep], index[keep], vectors[keep]


def _torch_pairs(structures: Structures, cutoff: float) -> Pairs:
    """Every atom against every image of its structure, so many at a time as the memory should hold."""
    images = _images(structures, cutoff)
    n_images = torch.bincount(images.structure, minlength=len(structures))
    first_image = torch.cumsum(n_images, 0) - n_images
    candidates = n_images[images.owner]  # images that each atom is compared with
    ends = torch.cumsum(candidates, 0).cpu()
    found: list[Pairs] = []
    start, done = 0, 0
    while start < len(candidates):
        stop = max(start + 1, int(torch.searchsorted(ends, done + _MAX_CANDIDATE_PAIRS, right=True)))
        local, rank = _ragged_range(candidates[start:stop])
        centers = local + start
        found.append(_keep_pairs(images, centers, first_image[images.owner[centers]] + rank, cutoff))
        start, done = stop, int(ends[stop - 1])
    centers, index, vectors = (torch.cat(parts) for parts in zip(*found, strict=True))
    return centers, index, vectors


def _torch_cluster_pairs(structures: Structures, cutoff: float) -> Pairs:
    from torch_cluster import radius

    images = _images(structures, cutoff)
    limit = _most_neighbors(structures, cutoff)
    while True:
        # The search radius is a hair larger: the exact comparison is ours, the same for all backends.
        centers, image = radius(
            images.points,
            images.origin,
            cutoff * (1 + 1e-6),
            images.structure,
            images.owner,
            max_num_neighbors=limit,
        )
        if len(centers) == 0 or int(torch.bincount(centers).max()) < limit:
            return _keep_pairs(images, centers, image, cutoff)
        limit *= 2  # torch-cluster silently drops neighbours beyond its limit


def _most_neighbors(structures: Structures, cutoff: float) -> int:
    """A first guess of the largest neighbour count: the densest cell, twice over.

    torch-cluster takes memory for so many of every atom; a structure without a cell has no density to go by.
    """
    volume = structures.volume
    sizes = torch.tensor(structures.sizes, device=volume.device)
    periodic = structures.pbc.all(dim=1)
    density = torch.where(periodic, sizes / torch.where(periodic, volume, 1.0), 0.0)
    return int(2 * float(density.max()) * 4.19 * cutoff**3) + 64
