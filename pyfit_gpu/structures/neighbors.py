"""The radius graph of a batch of structures, with periodic images.

The backends give the same pairs: `torch` (everywhere, and the quickest on a CPU: `cell_list.py`), `triton` (kernels for
a GPU: `kernels/search.py`), `vesin` (on the host, one library call per structure) and `torch-cluster` (where it is
installed). The number of periodic images follows from
the spacing of the lattice planes (docs/theory.md, "Neighbours"), so skewed and tiny cells are right.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.fused import by_kernels, has_fused_kernels
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.bins import make_grid, make_lists
from pyfit_gpu.structures.cell_list import Pairs, find_pairs
from pyfit_gpu.structures.cells import complete_cell

BACKENDS = ("auto", "vesin", "torch-cluster", "torch", "triton")

# Two atoms closer than this are at one place: no electronic structure calculation gives such a structure.
MINIMUM_DISTANCE = 1e-3  # Å


@dataclass(frozen=True, eq=False)
class Reactions:
    """For each atom the pairs of which it is the neighbour: where their forces act back."""

    order: Tensor  # (n_pairs,) whole numbers of pairs, those of one neighbour after the other, ascending for each
    first: Tensor  # (n_atoms + 1,) int64, where each atom's begin

    @classmethod
    def of(cls, index: Tensor, n_atoms: int) -> Reactions:
        """Sort pairs by their neighbours, `index` (n_pairs,), without a wait for the device."""
        keys = index
        if index.device.type != "cpu":  # half as many digits to sort by
            keys = index.to(torch.int32)
        ordered, order = torch.sort(keys, stable=True)
        atoms = torch.arange(n_atoms + 1, dtype=keys.dtype, device=index.device)
        return cls(order.to(keys.dtype), torch.searchsorted(ordered, atoms))

    @property
    def counts(self) -> Tensor:
        """(n_atoms,) int64, pairs of each atom."""
        return torch.diff(self.first)


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Pairs sorted by their central atom. Atoms are numbered over the whole batch, without padding.

    Pairs lie one after the other and not padded per atom: the descriptor pads chunks of atoms with
    similar counts, which wastes a sixtieth of what one padded table does.
    """

    counts: Tensor  # (n_atoms,) int64, neighbours of each atom
    index: Tensor  # (n_pairs,) int64, the neighbour's number in the batch
    vectors: Tensor  # (n_pairs, 3) Å, from the central atom to the neighbour's image
    # What was found once for these pairs, whatever their vectors are: shared with `moved` ones.
    _known: dict[str, Reactions] = field(default_factory=dict, repr=False)

    @property
    def reactions(self) -> Reactions:
        """Pairs by their neighbours, sorted when they are first asked for."""
        if "reactions" not in self._known:
            self._known["reactions"] = Reactions.of(self.index, len(self.counts))
        return self._known["reactions"]

    @property
    def first(self) -> Tensor:
        """(n_atoms + 1,) int64, where each atom's pairs begin."""
        return torch.nn.functional.pad(torch.cumsum(self.counts, 0), (1, 0))

    @property
    def centers(self) -> Tensor:
        """(n_pairs,) int64, the central atom of each pair."""
        return torch.repeat_interleave(self.counts, output_size=len(self.index))

    def to(self, dtype: torch.dtype) -> Neighbors:
        """The same pairs with vectors in another precision, which lose fewer digits than positions would."""
        return self.moved(self.vectors.to(dtype))

    def moved(self, vectors: Tensor) -> Neighbors:
        """The same pairs with other vectors."""
        return replace(self, vectors=vectors)

    @property
    def distances(self) -> Tensor:
        """(n_pairs,) Å."""
        return torch.linalg.vector_norm(self.vectors, dim=1)


def find_neighbors(structures: Structures, cutoff: float, *, backend: str = "auto") -> Neighbors:
    """Find every atom and periodic image within the cutoff of every atom (images of the atom itself too).

    Args:
        structures: a batch on any device; the result is on the same device.
        cutoff: Å.
        backend: one of `BACKENDS`; "auto" is "triton" where there are fused kernels, and else "torch".

    Raises:
        InputError: a position that is not finite, two atoms at one place.
        ValueError: an unknown backend, or one that is not installed.
    """
    chosen = choose_backend(backend, structures.positions.device)
    if chosen == "triton":
        return _fused_neighbors(structures, cutoff, refuses=True)
    check_positions(structures)
    neighbors = Neighbors(*_FINDERS[chosen](structures, cutoff))
    check_distances(structures, neighbors)
    return neighbors


def find_any_neighbors(structures: Structures, cutoff: float, *, backend: str = "auto") -> Neighbors:
    """Find neighbours as `find_neighbors` does, without a look at distances. All positions must be finite."""
    chosen = choose_backend(backend, structures.positions.device)
    if chosen == "triton":
        return _fused_neighbors(structures, cutoff, refuses=False)
    return Neighbors(*_FINDERS[chosen](structures, cutoff))


def choose_backend(backend: str, device: torch.device) -> str:
    """The backend that "auto" stands for on a device, or the one named.

    Raises:
        ValueError: an unknown backend, or one that is not there.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "torch-cluster" and importlib.util.find_spec("torch_cluster") is None:
        raise ValueError("backend: torch-cluster is not installed (see docs/install.md)")
    if backend in ("auto", "triton"):
        if has_fused_kernels(device):
            return "triton"
        if backend == "triton":
            raise ValueError(f"backend: triton has no kernels on {device} (see docs/install.md)")
        return "torch"
    return backend


def _fused_neighbors(structures: Structures, cutoff: float, *, refuses: bool) -> Neighbors:
    """Search by kernels; by torch's operations if they cannot be compiled."""

    def fused() -> Neighbors:
        from pyfit_gpu.structures.kernels.search import search  # imports Triton

        found = search(structures, cutoff)
        neighbors = Neighbors(found.counts, found.index, found.vectors)
        if refuses and not found.all_finite:
            check_positions(structures)
        if refuses and found.nearest < MINIMUM_DISTANCE:
            check_distances(structures, neighbors)
        return neighbors

    find = find_neighbors if refuses else find_any_neighbors
    return by_kernels(structures.positions.device, fused, lambda: find(structures, cutoff, backend="torch"))


def check_positions(structures: Structures) -> None:
    """Refuse positions that are not finite. Files cannot give them, but structures can be changed."""
    wrong = ~structures.positions.isfinite().all(dim=2) & structures.atom_mask
    if bool(wrong.any()):
        atom = int(structures.flatten(wrong).nonzero()[0])
        raise InputError(
            f"{structures.describe_atom(atom)}: positions: expected finite numbers, "
            f"found {structures.flatten(structures.positions)[atom].tolist()}"
        )


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


def _vesin_pairs(structures: Structures, cutoff: float) -> Pairs:
    from vesin import NeighborList

    # One thread: the pairs of an atom then come in one order, and sums over them keep their bits.
    calculator = NeighborList(cutoff=cutoff, full_list=True, sorted=True, n_threads=1)
    positions = structures.positions.detach().to("cpu", torch.float64).numpy()
    pbc = structures.pbc.cpu().numpy()
    cells = complete_cell(structures.cell.detach().to("cpu", torch.float64).numpy(), pbc)
    pairs, vectors = [], []
    offset = 0
    for row, size in enumerate(structures.sizes):
        # Without a copy these are views of memory that the next call reuses.
        found, separations = calculator.compute(positions[row, :size], cells[row], pbc[row], "PD", copy=False)
        pairs.append(found.astype(np.int64) + offset)
        vectors.append(separations.copy())
        offset += size
    device, dtype = structures.positions.device, structures.positions.dtype
    index = torch.from_numpy(np.concatenate(pairs)).to(device)
    counts = torch.bincount(index[:, 0], minlength=offset)
    return counts, index[:, 1].contiguous(), torch.from_numpy(np.concatenate(vectors)).to(device, dtype)


def _torch_cluster_pairs(structures: Structures, cutoff: float) -> Pairs:
    from torch_cluster import radius

    # In one bin, a structure has one list: all atoms and images that can be within the cutoff of any.
    lists = make_lists(make_grid(structures, cutoff, width=math.inf))
    rows = torch.arange(len(structures), device=lists.atom.device)
    points = torch.stack(lists.points, dim=1)
    atoms = points.index_select(0, lists.centers)
    point_rows, atom_rows = (torch.repeat_interleave(rows, n) for n in (lists.n_points, lists.n_centers))
    limit = _most_neighbors(structures, cutoff)
    while True:
        # The search radius is a hair larger: the exact comparison is ours, the same for all backends.
        found = radius(points, atoms, cutoff * (1 + 1e-6), point_rows, atom_rows, max_num_neighbors=limit)
        centers, place = found
        if len(centers) == 0 or int(torch.bincount(centers).max()) < limit:
            break
        limit *= 2  # torch-cluster silently drops neighbours beyond its limit
    vectors = points.index_select(0, place) - atoms.index_select(0, centers)
    keep = (vectors.square().sum(dim=1) < cutoff**2) & (place != lists.centers.index_select(0, centers))
    centers, place, vectors = centers[keep], place[keep], vectors[keep]
    order = torch.argsort(centers, stable=True)
    counts = torch.bincount(centers, minlength=structures.n_atoms)
    return counts, lists.atom.index_select(0, place[order]), vectors[order]


_FINDERS = {"torch": find_pairs, "vesin": _vesin_pairs, "torch-cluster": _torch_cluster_pairs}


def _most_neighbors(structures: Structures, cutoff: float) -> int:
    """A first guess of the largest neighbour count: the densest cell, twice over.

    torch-cluster allocates that many for every atom; a structure without a cell has no density to go by.
    """
    volume = structures.volume
    sizes = torch.tensor(structures.sizes, device=volume.device)
    periodic = structures.pbc.all(dim=1)
    density = torch.where(periodic, sizes / torch.where(periodic, volume, 1.0), 0.0)
    return int(2 * float(density.max()) * 4.19 * cutoff**3) + 64
