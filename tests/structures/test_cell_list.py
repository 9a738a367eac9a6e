"""The bins against comparing every atom with every image, and against vesin, also with little memory at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from ase.build import bulk
from held_memory import PeakMemory
from structures.test_neighbors import assert_same_pairs

from pyfit_gpu.structures import bins, cell_list
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.cell_list import find_pairs
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.neighbors import Neighbors, find_neighbors

MakeFrame = Callable[..., Frame]

TINY = cell_list._Limits(atoms=7, points=50, pairs=100)


@pytest.fixture
def boxes_in_small_structures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bins, "_SMALL", 0)


def find(frames: list[Frame], cutoff: float, width: float, dtype: torch.dtype = torch.float64) -> Neighbors:
    return Neighbors(*find_pairs(Structures.from_frames(frames, dtype=dtype), cutoff, width=width))


def n_bins(frame: Frame, cutoff: float, width: float) -> list[int]:
    grid = bins.make_grid(Structures.from_frames([frame]), cutoff, width)
    return [int(axis.n_bins) for axis in grid.axes]


@pytest.fixture(scope="module")
def silicon() -> Frame:
    """A perturbed crystal, which has about eight atoms in a bin of its own cutoff."""
    atoms = bulk("Si", cubic=True) * (4, 3, 3)
    positions = atoms.positions + np.random.default_rng(1).normal(0, 0.1, atoms.positions.shape)
    none = {"group": "made", "source": "made"}
    return Frame(positions, np.array(atoms.cell), np.array([True] * 3), atoms.numbers.astype(np.int64), **none)


@pytest.mark.usefixtures("boxes_in_small_structures")
@pytest.mark.parametrize("width", [0.21, 0.5, 1.0, np.inf])
@pytest.mark.parametrize("pbc", [(True,) * 3, (True, True, False), (False, True, False), (False,) * 3], ids=str)
def test_boxes_of_any_width(random_frame: MakeFrame, width: float, pbc: tuple[bool, bool, bool]) -> None:
    """Skewed cells with atoms outside of them; widths far below the cutoff make lists reach over many bins."""
    frames = [random_frame(seed, 8, length=7.5, skew=0.7, scatter=2, pbc=pbc) for seed in range(3)]
    assert max(n_bins(frame, 3.6, width) for frame in frames) >= ([1, 1, 1] if width > 1 else [2, 1, 1])
    assert_same_pairs(find(frames, 3.6, width), frames, 3.6)


@pytest.mark.usefixtures("boxes_in_small_structures")
@pytest.mark.parametrize("width", [0.1, 0.3, np.inf])
def test_several_images_in_tiny_cells(random_frame: MakeFrame, width: float) -> None:
    """Boxes smaller than the reach of several cells: an atom is in the list of its own bin many times."""
    frames = [random_frame(11, n_atoms, length=2.6, skew=0.3) for n_atoms in (1, 2, 3)]
    found = find(frames, 7.5, width)
    assert found.counts.min() > 50
    assert_same_pairs(found, frames, 7.5)


def test_large_structures_are_cut_and_small_ones_are_not(silicon: Frame, random_frame: MakeFrame) -> None:
    assert n_bins(silicon, 4.0, 1.0) == [5, 4, 4]
    assert n_bins(random_frame(1, 8, length=9.0), 2.0, 1.0) == [1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("pbc", [(True,) * 3, (False, True, True), (False,) * 3], ids=str)
def test_a_large_structure_against_vesin_and_one_box(
    silicon: Frame, pbc: tuple[bool, bool, bool], dtype: torch.dtype
) -> None:
    frame = Frame(silicon.positions, silicon.cell, np.array(pbc), silicon.atomic_numbers, "made", "made")
    structures = Structures.from_frames([frame], dtype=dtype)
    cut, whole = find([frame], 4.5, 1.0, dtype), find([frame], 4.5, np.inf, dtype)
    vesin = find_neighbors(structures, 4.5, backend="vesin")
    assert cut.counts.max() > 15
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for other in (whole, vesin):
        assert torch.equal(cut.counts, other.counts)
        assert_equal_sets(cut, other, tolerance)


def assert_equal_sets(first: Neighbors, second: Neighbors, tolerance: float) -> None:
    """The same pairs of every atom in any order: both are put in the order of neighbours and rounded vectors."""
    ordered = []
    for one in (first, second):
        rounded = (one.vectors.double() * 1e3 + 0.123).round().T.numpy()
        place = np.lexsort((*rounded, one.index.numpy(), one.centers.numpy()))
        ordered.append((one.index[place], one.vectors[place]))
    assert torch.equal(ordered[0][0], ordered[1][0])
    torch.testing.assert_close(ordered[0][1], ordered[1][1], rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_same_bits_whatever_is_treated_at_once(
    mixed_frames: Callable[..., list[Frame]], silicon: Frame, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [*mixed_frames(), silicon]
    whole = find(frames, 4.0, 1.0, dtype)
    monkeypatch.setitem(cell_list._LIMITS, "cpu", TINY)
    parts = find(frames, 4.0, 1.0, dtype)
    for name in ("counts", "index", "vectors"):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name


@pytest.mark.usefixtures("boxes_in_small_structures")
def test_little_memory_finds_all_pairs(random_frame: MakeFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cell_list._LIMITS, "cpu", TINY)
    frames = [random_frame(1, 9, length=7.0), random_frame(2, 1), random_frame(3, 12, length=8.0, scatter=1)]
    for width in (0.5, np.inf):
        assert_same_pairs(find(frames, 4.4, width), frames, 4.4)


@pytest.mark.parametrize("pairs", [1, 300, 1000, 3000])
def test_lists_larger_than_a_comparison_may_be(
    random_frame: MakeFrame, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are dealt in parts, and parts of lists of unequal sizes are padded to more than the limit."""
    monkeypatch.setitem(cell_list._LIMITS, "cpu", cell_list._Limits(atoms=1000, points=4000, pairs=pairs))
    frames = [random_frame(n, n, length=5 + n / 4, pbc=(n % 2 == 0, True, n % 3 == 0)) for n in range(4, 16)]
    assert_same_pairs(find(frames, 4.4, np.inf), frames, 4.4)


@pytest.mark.parametrize("distance", [4.0, np.nextafter(4.0, 0), np.nextafter(4.0, 5)])
@pytest.mark.parametrize("company", [1, 30])
def test_the_cutoff_is_exact(make_frame: MakeFrame, distance: float, company: int) -> None:
    """The matrix product cannot tell these apart, and its rounding depends on what else is there."""
    pair = make_frame([[0, 0, 0], [distance, 0, 0]])
    found = find([pair] + [make_frame(np.eye(3) * 3.1)] * company, 4.0, 1.0)
    assert found.counts[:2].tolist() == ([1, 1] if distance < 4 else [0, 0])


def test_no_pair_is_lost_to_the_rounding_of_the_product(make_frame: MakeFrame) -> None:
    """Pairs nearer than the cutoff by less than the product's error, far from the atom that it counts from."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(100):
        place, direction = rng.uniform(20, 30, 3), rng.normal(size=3)
        frames.append(make_frame([[0, 0, 0], place, place + direction * (4 - 2e-14) / np.linalg.norm(direction)]))
    assert find(frames, 4.0, np.inf).counts.tolist() == [0, 1, 1] * 100


def test_atoms_far_apart(make_frame: MakeFrame) -> None:
    """Where there is no cell, bins fill what atoms take, however empty it is; short vectors keep their digits."""
    rng = np.random.default_rng(0)
    cluster = rng.uniform(0, 20, (150, 3))
    positions = np.concatenate((cluster, cluster + 3e7, cluster - [4e8, 0, 1e6]))
    frame = make_frame(positions)
    assert max(n_bins(frame, 3.0, 1.5)) == bins._MOST_BINS
    found = find([frame], 3.0, 1.5)
    whole = find_neighbors(Structures.from_frames([frame]), 3.0, backend="vesin")
    assert torch.equal(found.counts, whole.counts)
    assert found.counts.max() > 0


@pytest.mark.parametrize("apart", [1e6, 1e8, 1e9])
def test_two_clusters_far_apart_in_one_box(make_frame: MakeFrame, apart: float) -> None:
    """The product's squares are those of the way from one cluster to the other, and their rounding grows with them."""
    cluster = np.round(np.random.default_rng(3).uniform(0, 12, (90, 3)), 1)
    frame = make_frame(np.concatenate((cluster, cluster + np.array([apart, 0, 0]))))
    distances = np.linalg.norm(frame.positions[:, None] - frame.positions, axis=2)
    expected = (distances < 3.05).sum(axis=1) - 1
    assert n_bins(frame, 3.05, np.inf) == [1, 1, 1]
    found = find([frame], 3.05, np.inf)
    assert expected.sum() > 500
    assert found.counts.tolist() == expected.tolist()


@pytest.mark.usefixtures("boxes_in_small_structures")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("sides", [(5, 5, 5), (7, 9, 5), (3, 11, 13)], ids=str)
def test_pairs_at_the_cutoff_on_lattice_points(
    make_frame: MakeFrame, sides: tuple[int, int, int], dtype: torch.dtype
) -> None:
    """Atoms on the borders of bins, and neighbours within the last digits of the cutoff: which bin is luck.

    Coordinates are quarters, and so distances are exact, but parts of a cell are not.
    """
    points = np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), axis=-1).reshape(-1, 3)
    for skew, origin, steps in itertools.product((0, 1), (-5, 50), (1, 2, 3)):
        cell = np.diag(sides) + skew * np.array([[0, 0, 0], [1, 0, 0], [2, -1, 0]])
        frame = make_frame(0.25 * (points + origin), 0.25 * cell)
        shifts = np.arange(-4, 5)
        around = np.stack(np.meshgrid(*[shifts] * 3), axis=-1).reshape(-1, 3)  # whole numbers: a lattice of points
        expected = ((around**2).sum(axis=1) <= steps**2).sum() - 1
        cutoff = 0.25 * steps * (1 + 2 * torch.finfo(dtype).eps)
        for width in (1 / 3, 0.5, 1.0, np.inf):
            found = find([frame], cutoff, width, dtype)
            assert (found.counts == expected).all(), (skew, origin, steps, width)


@pytest.mark.parametrize("sizes", [(1, 1), (40, 40, 40), range(1, 30)], ids=str)
def test_memory_is_that_of_the_pairs(
    random_frame: MakeFrame, sizes: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few atoms need less memory than a GPU may take at once."""
    monkeypatch.setitem(cell_list._LIMITS, "cpu", cell_list._LIMITS["cuda"])
    structures = Structures.from_frames([random_frame(n, n, length=8 + n / 5) for n in sizes])
    lists = bins.make_lists(bins.make_grid(structures, 4.0))
    n_pairs = len(lists.n_centers) * int(lists.n_centers.max() * lists.n_points.max())  # all padded to the largest
    with PeakMemory() as memory:
        find_pairs(structures, 4.0)
    assert memory.peak < 16 * n_pairs + 200 * len(lists.atom) + 2000


def test_positions_that_ask_for_a_gradient(random_frame: MakeFrame) -> None:
    structures = Structures.from_frames([random_frame(1, 4)])
    structures.positions.requires_grad_()
    assert not find_neighbors(structures, 4.0).vectors.requires_grad


@pytest.mark.filterwarnings("ignore")  # the profiler's own
def test_waits_for_the_device_as_often_for_many_structures_as_for_one(random_frame: MakeFrame) -> None:
    """Every question to the device is one of the few that a memory slice or a tile needs, never one of a structure."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    waits = []
    for number in (1, 40):
        structures = Structures.from_frames([random_frame(seed, 5) for seed in range(number)], device="cuda")
        find_pairs(structures, 4.0)
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            find_pairs(structures, 4.0)
        waits.append(sum(event.count for event in profile.key_averages() if "Synchronize" in event.key))
    assert waits[1] - waits[0] < 20, waits  # a few tiles more
