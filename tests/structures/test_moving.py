"""Lists of many structures against searches anew, along walks; which are searched, and what the host waits for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from host_waits import HostWaits
from same_pairs import assert_equal_up_to_order

from pyfit_gpu.errors import InputError
from pyfit_gpu.structures import moving
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.moving import MovingLists
from pyfit_gpu.structures.neighbors import Neighbors, find_any_neighbors, find_neighbors
from pyfit_gpu.structures.verlet import VerletList

MakeFrame = Callable[..., Frame]

CUTOFF, SKIN = 4.2, 0.6  # Å


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Sizes of the structures of every search."""
    found: list[tuple[int, ...]] = []

    def noted(structures: Structures, cutoff: float, **keywords: str) -> Neighbors:
        found.append(structures.sizes)
        return find_any_neighbors(structures, cutoff, **keywords)

    monkeypatch.setattr(moving, "find_any_neighbors", noted)
    return found


@pytest.fixture
def frames(random_frame: MakeFrame) -> list[Frame]:
    """Structures of different sizes, one with open axes; atoms outside of the cell, too."""
    return [
        random_frame(1, 4, skew=0.3),
        random_frame(2, 9, length=7.0, scatter=1),
        random_frame(3, 6, pbc=(True, False, True)),
        random_frame(4, 1, length=3.0),
    ]


def batch_of(frames: list[Frame]) -> Structures:
    return Structures.from_frames(frames)


def moved(frame: Frame, displacement: object) -> Frame:
    return replace(frame, positions=frame.positions + np.asarray(displacement, dtype=np.float64))


def within(neighbors: Neighbors, cutoff: float) -> Neighbors:
    inside = neighbors.distances < cutoff
    counts = torch.bincount(neighbors.centers[inside], minlength=len(neighbors.counts))
    return Neighbors(counts, neighbors.index[inside], neighbors.vectors[inside])


def assert_same_pairs(found: Neighbors, structures: Structures, tolerance: float = 1e-12) -> None:
    assert_equal_up_to_order(within(found, CUTOFF), find_neighbors(structures, CUTOFF), tolerance)


@pytest.mark.parametrize("late", [False, True])
def test_same_pairs_along_a_walk(frames: list[Frame], searched: list[tuple[int, ...]], late: bool) -> None:
    """Atoms take random steps; now and then one is wrapped by a cell vector, which ends no list."""
    lists, rng = MovingLists(CUTOFF, SKIN, late=late), np.random.default_rng(0)
    for step in range(30):
        frames = [moved(frame, rng.normal(0, 0.02, frame.positions.shape)) for frame in frames]
        if step % 7 == 6:
            frames[1].positions[rng.integers(9)] += frames[1].cell[0] - frames[1].cell[2]
        structures = batch_of(frames)
        assert_same_pairs(lists(structures), structures)
    assert 1 < len(searched) < 12
    assert any(len(sizes) < len(frames) for sizes in searched)
    assert lists.n_searches == sum(map(len, searched))
    assert lists.n_late == 0


def test_only_what_moved_too_far_is_searched(frames: list[Frame], searched: list[tuple[int, ...]]) -> None:
    lists = MovingLists(CUTOFF, SKIN)
    lists(batch_of(frames))
    for row, distance, wanted in [(0, 0.29, []), (0, 0.02, [(4,)]), (2, 0.31, [(6,)]), (0, 0.29, [])]:
        searched.clear()
        frames[row] = moved(frames[row], np.eye(frames[row].n_atoms, 3, k=0)[::-1] * distance)
        structures = batch_of(frames)
        assert_same_pairs(lists(structures), structures)
        assert searched == wanted


def test_all_are_searched_where_most_have_ended(frames: list[Frame], searched: list[tuple[int, ...]]) -> None:
    lists = MovingLists(CUTOFF, SKIN)
    lists(batch_of(frames))
    frames = [moved(frame, [[0.4, 0, 0]] * frame.n_atoms) if frame.n_atoms > 4 else frame for frame in frames]
    for _ in range(2):
        structures = batch_of(frames)
        assert_same_pairs(lists(structures), structures)
        assert searched == [(4, 9, 6, 1)] * 2


@pytest.mark.parametrize("late", [False, True])
def test_cells_that_change_slowly_keep_their_lists(
    frames: list[Frame], searched: list[tuple[int, ...]], late: bool
) -> None:
    lists, rng = MovingLists(CUTOFF, SKIN, late=late), np.random.default_rng(1)
    for _ in range(12):
        strain = np.eye(3) + rng.normal(0, 0.002, (3, 3))
        frames = [replace(own, positions=own.positions @ strain, cell=own.cell @ strain) for own in frames]
        structures = batch_of(frames)
        assert_same_pairs(lists(structures), structures)
    assert 1 <= len(searched) < 8


def test_a_cell_that_is_compressed_ends_the_list(make_frame: MakeFrame, searched: list[tuple[int, ...]]) -> None:
    """No atom moves, as fractions of the cell, yet pairs come in."""
    frame = make_frame([[0, 0, 0]], 4.9 * np.eye(3))
    lists = MovingLists(CUTOFF, SKIN)
    found = []
    for scale in (1.0, 0.97, 0.9, 0.85, 0.7):
        structures = batch_of([replace(frame, cell=frame.cell * scale)])
        neighbors = lists(structures)
        assert_same_pairs(neighbors, structures)
        found.append(int(within(neighbors, CUTOFF).counts[0]))
    assert found[0] == 0
    assert found[-1] == 6
    assert 1 < len(searched) < 5


def test_other_systems_begin_anew(frames: list[Frame], searched: list[tuple[int, ...]]) -> None:
    lists = MovingLists(CUTOFF, SKIN, late=True)
    structures = batch_of(frames)
    for other in (structures, batch_of(frames[:2]), structures.to("cpu", torch.float32), structures):
        assert_same_pairs(lists(other), other, 1e-12 if other.positions.dtype == torch.float64 else 1e-4)
    assert len(searched) == 4


def test_periodicity_that_changes_ends_the_list(frames: list[Frame]) -> None:
    lists = MovingLists(CUTOFF, SKIN)
    for pbc in ((True, True, True), (True, True, False), (False, False, True)):
        structures = batch_of([replace(frames[0], pbc=np.array(pbc)), frames[1]])
        assert_same_pairs(lists(structures), structures)


def test_what_is_nowhere_disturbs_no_other(frames: list[Frame], searched: list[tuple[int, ...]]) -> None:
    lists = MovingLists(CUTOFF, SKIN, late=True)
    lists(batch_of(frames))
    rng = np.random.default_rng(2)
    for _ in range(6):
        frames = [moved(frame, rng.normal(0, 0.1, frame.positions.shape)) for frame in frames]
        structures = batch_of(frames)
        whole = find_neighbors(structures, CUTOFF)
        structures.positions[1, 3] = np.nan
        found = lists(structures)
        own = within(found, CUTOFF)
        assert torch.equal(own.counts[:4], whole.counts[:4])
        assert torch.equal(own.counts[13:], whole.counts[13:])
        assert torch.isnan(found.vectors[found.centers == 7]).any()
    assert len(searched) < 7


def test_what_is_nowhere_is_refused_at_once_where_the_device_is_asked_at_once(frames: list[Frame]) -> None:
    lists = MovingLists(CUTOFF, SKIN)
    for wrong in (False, True):
        structures = batch_of(frames)
        if wrong:
            structures.positions[1, 3] = np.nan
            with pytest.raises(InputError, match=r"atom 4: positions: expected finite numbers"):
                lists(structures)
        else:
            lists(structures)


def test_a_list_that_ended_unnoticed_is_counted_and_said_once(
    frames: list[Frame], caplog: pytest.LogCaptureFixture
) -> None:
    """Atoms at rest jump: nobody could have known."""
    lists = MovingLists(CUTOFF, SKIN, late=True)
    frames[1].positions[:] = frames[1].positions
    for jump in (0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0):
        frames[1] = moved(frames[1], [[jump, 0, 0]] + [[0, 0, 0]] * 8)
        found = lists(batch_of(frames))
    assert lists.n_late == 2
    assert_same_pairs(found, batch_of(frames))
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "in 1 of 4 structures" in line


@pytest.mark.parametrize("late", [False, True])
def test_a_late_step_waits_for_nothing(frames: list[Frame], late: bool) -> None:
    """But for what is asked late, and one answer per step otherwise."""
    lists, rng = MovingLists(CUTOFF, SKIN, late=late), np.random.default_rng(3)
    lists(batch_of(frames))
    for _ in range(4):
        frames = [moved(frame, rng.normal(0, 0.003, frame.positions.shape)) for frame in frames]
        structures = batch_of(frames)
        with HostWaits() as noted:
            lists(structures)
        assert (noted.found == {}) == late, noted.found
        assert noted.n_operations < 110


def test_reactions_are_sorted_once_while_a_list_is_kept(frames: list[Frame]) -> None:
    lists = MovingLists(CUTOFF, SKIN)
    first = lists(batch_of(frames)).reactions
    frames = [moved(frame, [[0.01, 0, 0]] * frame.n_atoms) for frame in frames]
    assert lists(batch_of(frames)).reactions is first
    assert torch.equal(first.counts, torch.bincount(lists(batch_of(frames)).index, minlength=20))


def test_atoms_that_come_to_one_place_are_refused(make_frame: MakeFrame) -> None:
    lists = MovingLists(CUTOFF, 2.0)
    lists(batch_of([make_frame([[0, 0, 0], [0, 0, 0.5]])]))
    with pytest.raises(InputError, match="at one place"):
        lists(batch_of([make_frame([[0, 0, 0.4999], [0, 0, 0.5]])]))


def test_a_verlet_list_that_is_asked_late(frames: list[Frame]) -> None:
    list_ = VerletList(CUTOFF, SKIN, late=True)
    structures = batch_of(frames)
    assert_same_pairs(list_(structures), structures)
    assert list_.n_searches == 4
    assert float(list_(structures).distances.max()) > CUTOFF
