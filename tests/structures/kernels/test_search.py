"""The search by kernels, interpreted, against the search by torch's operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import interpreted  # noqa: F401, first
import numpy as np
import pytest
import torch
from host_waits import HostWaits

from pyfit_gpu import fused
from pyfit_gpu.errors import InputError
from pyfit_gpu.structures import neighbors
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.cell_list import find_pairs
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.kernels import placing
from pyfit_gpu.structures.kernels import search as module
from pyfit_gpu.structures.kernels.search import Found, search
from pyfit_gpu.structures.neighbors import find_any_neighbors, find_neighbors

MakeFrame = Callable[..., Frame]


def assert_same_pairs(structures: Structures, cutoff: float, tolerance: float = 1e-12) -> Found:
    """The same pairs of every atom in any order."""
    found = search(structures, cutoff)
    counts, index, vectors = find_pairs(structures, cutoff)
    assert torch.equal(found.counts, counts)
    assert found.vectors.dtype == structures.positions.dtype
    ends = np.cumsum(counts.numpy())
    for first, last in zip(ends - counts.numpy(), ends, strict=True):
        deviation = (found.vectors[first:last, None] - vectors[None, first:last]).abs().amax(dim=2)
        same = (deviation < tolerance) & (found.index[first:last, None] == index[None, first:last])
        assert (same.sum(dim=0) == 1).all()
        assert (same.sum(dim=1) == 1).all()
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("pbc", [(True,) * 3, (True, True, False), (False, True, False), (False,) * 3], ids=str)
def test_skewed_cells_with_atoms_outside(
    random_frame: MakeFrame, pbc: tuple[bool, bool, bool], dtype: torch.dtype
) -> None:
    """Some with several bins along an axis, some with one, of different sizes."""
    frames = [
        random_frame(seed, n, length=length, skew=0.7, scatter=2 if all(pbc) else 0, pbc=pbc)
        for seed, n, length in [(1, 9, 9.0), (2, 1, 4.0), (3, 4, 5.0)]
    ]
    structures = Structures.from_frames(frames, dtype=dtype)
    assert assert_same_pairs(structures, 3.9, 1e-12 if dtype == torch.float64 else 1e-5).counts.sum() > 5


def test_many_images_in_tiny_cells(random_frame: MakeFrame) -> None:
    structures = Structures.from_frames([random_frame(11, n, length=2.6, skew=0.3) for n in (1, 2)])
    assert assert_same_pairs(structures, 5.5).counts.min() > 30


def test_bins_are_used(random_frame: MakeFrame) -> None:
    """A large cell: each atom is compared with few others, though there are many bins beside."""
    structures = Structures.from_frames([random_frame(3, 27, length=11.0), random_frame(4, 3, length=7.0)])
    assert_same_pairs(structures, 3.0)


@pytest.mark.parametrize("pbc", [(True, False, True), (False,) * 3], ids=str)
def test_cells_without_vectors_along_open_axes(make_frame: MakeFrame, pbc: tuple[bool, bool, bool]) -> None:
    cell = np.diag([4.0 * own for own in pbc])
    frame = make_frame([[0, 0, 0], [1.5, 9.0, -2.0], [1.5, 10.5, 30.0]], cell)
    structures = Structures.from_frames([replace(frame, pbc=np.array(pbc))])
    assert_same_pairs(structures, 4.5)


def test_lone_atoms(make_frame: MakeFrame) -> None:
    structures = Structures.from_frames([make_frame([[0, 0, 0]])] * 2)
    found = search(structures, 4.0)
    assert found.counts.tolist() == [0, 0]
    assert found.vectors.shape == (0, 3)
    assert found.nearest == np.inf


def test_nearest_and_finite(make_frame: MakeFrame) -> None:
    frames = [make_frame([[0, 0, 0], [0, 0, 2.5], [0, 0, 4.0]]), make_frame([[0, 0, 0], [3, 0, 0]])]
    structures = Structures.from_frames(frames)
    found = search(structures, 4.0)
    assert found.nearest == pytest.approx(1.5)
    assert found.all_finite


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, in which the kernel is interpreted
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_an_atom_that_is_nowhere_has_no_neighbours_and_disturbs_no_other(random_frame: MakeFrame, wrong: float) -> None:
    structures = Structures.from_frames([random_frame(1, 5), random_frame(2, 4)])
    whole = search(structures, 4.0)
    structures.positions[0, 2, 1] = wrong
    found = search(structures, 4.0)
    assert not found.all_finite
    assert found.counts[2] == 0
    assert torch.equal(found.counts[5:], whole.counts[5:])
    assert torch.equal(found.vectors[-int(found.counts[5:].sum()) :], whole.vectors[-int(whole.counts[5:].sum()) :])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, in which the kernel is interpreted
@pytest.mark.parametrize("wrong", [np.nan, 0.0])
def test_a_cell_that_is_none_holds_up_nothing(random_frame: MakeFrame, wrong: float) -> None:
    structures = Structures.from_frames([random_frame(1, 3), random_frame(2, 4)])
    whole = search(structures, 3.5)
    structures.cell[0, 1] = wrong
    found = search(structures, 3.5)
    assert found.counts[:3].tolist() == [0, 0, 0]
    assert torch.equal(found.counts[3:], whole.counts[3:])


def test_same_bits_from_run_to_run(random_frame: MakeFrame) -> None:
    structures = Structures.from_frames([random_frame(1, 12, length=8.0)])
    first, second = search(structures, 4.0), search(structures, 4.0)
    assert torch.equal(first.index, second.index)
    assert torch.equal(first.vectors, second.vectors)


class TestByName:
    @pytest.fixture(autouse=True)
    def kernels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A CPU that counts as a device with kernels."""
        for asked in (neighbors, fused):
            monkeypatch.setattr(asked, "has_fused_kernels", lambda device: True)

    @pytest.mark.parametrize("backend", ["auto", "triton"])
    def test_it_is_the_search(self, random_frame: MakeFrame, backend: str) -> None:
        structures = Structures.from_frames([random_frame(1, 4)])
        found, expected = find_neighbors(structures, 4.0, backend=backend), search(structures, 4.0)
        assert torch.equal(found.vectors, expected.vectors)
        assert torch.equal(find_any_neighbors(structures, 4.0, backend=backend).vectors, expected.vectors)

    def test_faults_are_refused(self, make_frame: MakeFrame) -> None:
        structures = Structures.from_frames([make_frame([[0, 0, 0], [0, 0, 1e-4], [2, 0, 0]])])
        with pytest.raises(InputError, match=r"at one place.*found 0\.0001"):
            find_neighbors(structures, 4.0)
        assert find_any_neighbors(structures, 4.0).counts.tolist() == [2, 2, 2]
        structures.positions[0, 1, 0] = np.nan
        with pytest.raises(InputError, match="atom 2: positions: expected finite numbers"):
            find_neighbors(structures, 4.0)

    def test_the_other_way_where_a_kernel_cannot_be_compiled(
        self, random_frame: MakeFrame, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class CompilationError(Exception):
            __module__ = "triton.compiler.errors"

        def fail(*arguments: object) -> None:
            raise CompilationError("no")

        monkeypatch.setattr(fused, "_known", {})
        monkeypatch.setattr(module, "sort_into_bins", fail)
        structures = Structures.from_frames([random_frame(1, 4)])
        found, expected = find_neighbors(structures, 4.0), find_pairs(structures, 4.0)
        assert torch.equal(found.vectors, expected[2])


def test_waits_and_operations(random_frame: MakeFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host waits once, and starts a tenth of the operations of the other search."""

    class Nothing:
        def __getitem__(self, grid: object) -> object:
            return lambda *arguments, **keywords: None

    for where, name in [(placing, "_cells"), (placing, "_places"), (module, "_pairs")]:
        monkeypatch.setattr(where, name, Nothing())
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *sizes, **more: empty(*sizes, **more).zero_())
    structures = Structures.from_frames([random_frame(1, 12, length=9.0), random_frame(2, 5)])
    with HostWaits() as fused_way:
        search(structures, 4.0)
    monkeypatch.setattr(torch, "empty", empty)
    with HostWaits() as other:
        find_pairs(structures, 4.0)
    assert fused_way.n_operations < other.n_operations / 8
    assert sum(fused_way.found.values()) == 0  # one list of numbers, which no operation makes
