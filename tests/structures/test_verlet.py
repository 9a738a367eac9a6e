"""The remembered pairs against a fresh search, along walks of the atoms, and how often it searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from same_pairs import assert_equal_up_to_order

from pyfit_gpu.errors import InputError
from pyfit_gpu.structures import verlet
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.neighbors import Neighbors, find_neighbors
from pyfit_gpu.structures.verlet import VerletList

MakeFrame = Callable[..., Frame]

CUTOFF = 4.2  # Å


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The cutoffs of all searches that were done."""
    cutoffs: list[float] = []

    def counted(structures: Structures, cutoff: float, **keywords: str) -> Neighbors:
        cutoffs.append(cutoff)
        return find_neighbors(structures, cutoff, **keywords)

    monkeypatch.setattr(verlet, "find_neighbors", counted)
    return cutoffs


def batch_of(*frames: Frame) -> Structures:
    return Structures.from_frames(frames)


def moved(frame: Frame, displacement: object) -> Frame:
    return replace(frame, positions=frame.positions + np.asarray(displacement, dtype=np.float64))


def walk(list_: VerletList, frames: list[Frame], steps: int, seed: int = 0, length: float = 0.03) -> None:
    """Every atom takes random steps; now and then one is moved by a cell vector."""
    rng = np.random.default_rng(seed)
    for step in range(steps):
        frames = [moved(frame, rng.normal(0, length, frame.positions.shape)) for frame in frames]
        if step % 17 == 16:
            for frame in frames:
                frame.positions[rng.integers(frame.n_atoms)] += frame.cell[0] * frame.pbc[0]
        structures = batch_of(*frames)
        assert_equal_up_to_order(list_(structures), find_neighbors(structures, list_.cutoff, backend="torch"))


@pytest.mark.parametrize("backend", ["vesin", "torch"])
@pytest.mark.parametrize("skin", [0.0, 0.3, 1.0])
def test_same_pairs_along_a_walk(random_frame: MakeFrame, searches: list[float], skin: float, backend: str) -> None:
    walk(VerletList(CUTOFF, skin, backend=backend), [random_frame(1, 12, length=8.0)], 60)
    if skin == 0.0:
        assert searches == [CUTOFF] * 60
    else:
        assert 5 <= len(searches) < 45  # two to begin with, and one for each of three jumps by a cell vector
        assert set(searches) == {CUTOFF, CUTOFF + skin}


@pytest.mark.parametrize("n_atoms", [1, 2])
def test_tiny_cell_sees_images_of_the_atoms_themselves(
    random_frame: MakeFrame, searches: list[float], n_atoms: int
) -> None:
    frame = random_frame(11, n_atoms, length=2.6, skew=0.3)
    list_ = VerletList(6.0, 0.8)
    assert list_(batch_of(frame)).counts.min() > 20
    walk(list_, [frame], 40)
    assert len(searches) < 25


@pytest.mark.parametrize("pbc", [(True, True, False), (False, True, False), (False,) * 3], ids=str)
def test_mixed_periodicity(random_frame: MakeFrame, searches: list[float], pbc: tuple[bool, ...]) -> None:
    walk(VerletList(CUTOFF, 0.5), [random_frame(5, 9, length=7.0, pbc=pbc)], 40)
    assert len(searches) < 30


def test_batch_of_several_structures(make_frame: MakeFrame, random_frame: MakeFrame, searches: list[float]) -> None:
    frames = [random_frame(1, 4), make_frame([[0, 0, 0], [0, 0, 2.3]]), random_frame(2, 9, pbc=(True, True, False))]
    walk(VerletList(CUTOFF, 0.6), frames, 30)
    assert len(searches) < 20


def test_pairs_stay_sorted_by_center(random_frame: MakeFrame) -> None:
    frame, list_ = random_frame(1, 12, length=8.0), VerletList(CUTOFF, 0.5)
    for _ in range(3):
        found = list_(batch_of(frame))
    assert_equal_up_to_order(found, find_neighbors(batch_of(frame), CUTOFF))
    assert found.centers.diff().min() >= 0


def test_searches_only_when_an_atom_has_moved_further_than_half_the_skin(
    random_frame: MakeFrame, searches: list[float]
) -> None:
    frame, list_ = random_frame(1, 6), VerletList(CUTOFF, 0.4)

    def count(*displacements: tuple[int, float]) -> int:
        shift = np.zeros((6, 3))
        for atom, distance in displacements:
            shift[atom] = np.array([2.0, -1.0, 2.0]) / 3 * distance
        list_(batch_of(moved(frame, shift)))
        return len(searches)

    assert [count(), count()] == [1, 2]
    assert searches == [CUTOFF, CUTOFF + 0.4]
    assert count((0, 0.1)) == 2
    assert count((0, 0.199)) == 2
    assert count((0, -0.199)) == 2  # from where it was searched, not along the path
    assert count(*((atom, 0.199) for atom in range(6))) == 2
    assert count((4, 0.201)) == 3  # the origin is now here
    assert count((4, 0.399)) == 3
    assert count() == 4
    assert list_.n_searches == 4


@pytest.mark.parametrize("step", [0.03, 0.07, 0.199])
def test_two_atoms_that_approach_each_other(make_frame: MakeFrame, searches: list[float], step: float) -> None:
    """The worst case: a pair from beyond the skin comes within the cutoff twice as fast as either atom moves."""
    list_ = VerletList(CUTOFF, 0.4)
    found = []
    for way in np.arange(0.0, 0.7, step):
        structures = batch_of(make_frame([[way, 0, 0], [CUTOFF + 0.6 - way, 0, 0]]))
        assert_equal_up_to_order(list_(structures), find_neighbors(structures, CUTOFF))
        found.append(int(list_(structures).counts.sum()))
    assert found[0] == 0
    assert found[-1] == 2
    assert len(searches) < 2 * len(found)


def test_changes_of_the_system_end_the_list(random_frame: MakeFrame, searches: list[float]) -> None:
    """The first search of a cell is without the skin: it may never come again."""
    list_ = VerletList(CUTOFF, 0.5)
    frame = random_frame(1, 6)
    others = [
        replace(frame, cell=frame.cell * 1.0001),
        replace(frame, pbc=np.array([True, True, False])),
        replace(frame, positions=frame.positions[:5], atomic_numbers=frame.atomic_numbers[:5]),
    ]
    for other in others:
        for state, new_searches in [
            (frame, [CUTOFF]),
            (frame, [CUTOFF + 0.5]),
            (frame, []),
            (other, [CUTOFF]),
            (other, [CUTOFF + 0.5]),
            (other, []),
        ]:
            searches.clear()
            structures = batch_of(state)
            assert_equal_up_to_order(list_(structures), find_neighbors(structures, CUTOFF))
            assert searches == new_searches


def test_a_cell_that_changes_at_every_step_never_pays_for_the_skin(
    random_frame: MakeFrame, searches: list[float]
) -> None:
    list_ = VerletList(CUTOFF, 0.5)
    for step in range(4):
        frame = random_frame(1, 6)
        list_(batch_of(replace(frame, cell=frame.cell * (1 + 0.001 * step))))
    assert searches == [CUTOFF] * 4


def test_other_precision_ends_the_list(make_frame: MakeFrame) -> None:
    """All numbers are exact in both: nothing else tells them apart."""
    list_, structures = VerletList(CUTOFF, 0.5), batch_of(make_frame([[0, 0, 0], [1.5, 2, 0.5]], 5.5 * np.eye(3)))
    for dtype in (torch.float64, torch.float64, torch.float32, torch.float32, torch.float32):
        assert list_(structures.to("cpu", dtype)).vectors.dtype == dtype


def test_new_positions_do_not_reach_the_remembered_ones(random_frame: MakeFrame) -> None:
    """Atoms objects are moved in place; what was searched must not move with them."""
    frame, list_ = random_frame(1, 6), VerletList(CUTOFF, 1.0)
    for _ in range(5):
        structures = batch_of(frame)
        assert_equal_up_to_order(list_(structures), find_neighbors(structures, CUTOFF))
        frame.positions[:] += np.random.default_rng(3).normal(0, 0.05, (6, 3))


def test_atoms_that_come_to_one_place_are_refused(make_frame: MakeFrame, searches: list[float]) -> None:
    list_ = VerletList(CUTOFF, 2.0)
    for distance in (1.0, 1.0):
        list_(batch_of(make_frame([[0, 0, 0], [0, 0, distance]])))
    with pytest.raises(InputError, match=r"atom 1 and .*atom 2 .*at one place.*at least 0.001 Å, found 0.0001"):
        list_(batch_of(make_frame([[0, 0, 0.4999], [0, 0, 0.5]])))
    assert len(searches) == 2


def test_lone_atom(make_frame: MakeFrame) -> None:
    list_ = VerletList(CUTOFF, 0.5)
    for x in (0.0, 0.0, 0.1):
        found = list_(batch_of(make_frame([[x, 0, 0]])))
        assert found.counts.tolist() == [0]
        assert found.vectors.shape == (0, 3)


@pytest.mark.parametrize("skin", [-0.1, float("nan"), float("inf")])
def test_skin_must_be_a_length(skin: float) -> None:
    with pytest.raises(InputError, match=r"skin: expected a length >= 0 Å, got"):
        VerletList(CUTOFF, skin)
