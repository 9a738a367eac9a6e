"""Frames, padded batches, selection, batches of similar size, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pyfit_gpu.errors import InputError
from pyfit_gpu.structures.batch import Structures, size_batches
from pyfit_gpu.structures.cells import cell_volumes, complete_cell
from pyfit_gpu.structures.frames import Frame, check_frame

MakeFrame = Callable[..., Frame]
CUBE = 4.0 * np.eye(3)


@pytest.fixture
def frames(make_frame: MakeFrame) -> list[Frame]:
    return [
        make_frame([[0, 0, 0], [1, 1, 1.5]], CUBE, symbols=["C", "Si"], energy=-3.5, weight=2.0, source="a"),
        make_frame([[0.5, 0, 0]], source="b"),
        make_frame(
            [[0, 0, 0], [2, 0, 0], [0, 2, 0]],
            CUBE,
            pbc=(True, False, True),
            forces=np.arange(9.0).reshape(3, 3),
            stress=np.arange(6.0),
            source="c",
        ),
    ]


def test_padding_and_unknown_labels(frames: list[Frame]) -> None:
    batch = Structures.from_frames(frames)
    assert len(batch) == 3
    assert batch.sizes == (2, 1, 3)
    assert batch.n_atoms == 6
    assert batch.atom_mask.tolist() == [[True, True, False], [True, False, False], [True, True, True]]
    assert batch.atomic_numbers.tolist() == [[6, 14, -1], [14, -1, -1], [14, 14, 14]]
    assert batch.atomic_numbers.dtype == torch.int64
    assert batch.positions[~batch.atom_mask].eq(0).all()
    assert batch.pbc.tolist() == [[True] * 3, [False] * 3, [True, False, True]]
    assert batch.pbc.dtype == torch.bool
    assert batch.energy[0] == -3.5
    assert batch.energy[1:].isnan().all()
    assert batch.forces[:2].isnan().all()
    np.testing.assert_array_equal(batch.forces[2], frames[2].forces)
    assert batch.stress[:2].isnan().all()
    np.testing.assert_array_equal(batch.stress[2], frames[2].stress)
    assert batch.weight.tolist() == [2.0, 1.0, 1.0]
    assert batch.sources == ("a", "b", "c")
    assert batch.groups == ("made",) * 3


def test_flatten_puts_the_atoms_one_after_the_other(frames: list[Frame]) -> None:
    batch = Structures.from_frames(frames)
    expected = np.concatenate([frame.positions for frame in frames])
    np.testing.assert_array_equal(batch.flatten(batch.positions), expected)


def test_other_positions_of_the_same_atoms(frames: list[Frame], monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a dynamics makes no table of places anew."""
    structures = Structures.from_frames(frames)
    structures.prepare()
    monkeypatch.setattr(np, "repeat", None)
    moved = structures.changed(positions=structures.positions + 1, cell=2 * structures.cell)
    assert torch.equal(moved.flatten(moved.positions), structures.flatten(structures.positions) + 1)
    assert torch.equal(moved.cell, 2 * structures.cell)
    assert moved.sizes_on_device is structures.sizes_on_device


def test_volume(make_frame: MakeFrame) -> None:
    left_handed = [[0, 0, 3], [0, 2, 0], [5, 1, 1]]  # determinant -30
    batch = Structures.from_frames([make_frame([[0, 0, 0]], left_handed), make_frame([[0, 0, 0]])])
    torch.testing.assert_close(batch.volume, torch.tensor([30.0, 0.0], dtype=torch.float64))


def test_describe_atom_counts_from_one_in_its_structure(frames: list[Frame]) -> None:
    batch = Structures.from_frames(frames)
    described = [batch.describe_atom(atom) for atom in range(6)]
    assert described == ["a, atom 1", "a, atom 2", "b, atom 1", "c, atom 1", "c, atom 2", "c, atom 3"]


@pytest.mark.parametrize("rows", [[2, 0], [1], [0, 1, 2], [1, 1]])
def test_select_equals_a_batch_of_the_same_frames(frames: list[Frame], rows: list[int]) -> None:
    selected = Structures.from_frames(frames).select(rows)
    expected = Structures.from_frames([frames[row] for row in rows])
    for name, value in vars(expected).items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(getattr(selected, name), value, rtol=0, atol=0, equal_nan=True, msg=name)
        else:
            assert getattr(selected, name) == value


@pytest.mark.parametrize("rows", [range(-2, 0), range(-1, 1), range(-3, -1), range(1, 3), range(2, 0, -1)], ids=str)
def test_select_takes_ranges_as_it_takes_their_numbers(frames: list[Frame], rows: range) -> None:
    batch = Structures.from_frames(frames)
    selected, expected = batch.select(rows), batch.select(list(rows))
    for name, value in vars(expected).items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(getattr(selected, name), value, rtol=0, atol=0, equal_nan=True, msg=name)
        else:
            assert getattr(selected, name) == value


def test_dtype_is_that_of_positions_and_cells(frames: list[Frame]) -> None:
    """Labels stay float64: total energies of many atoms have more digits than float32 holds."""
    batch = Structures.from_frames(frames, dtype=torch.float32, device="meta")
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    assert {value.device.type for value in tensors.values()} == {"meta"}
    kinds = {name: value.dtype for name, value in tensors.items()}
    assert kinds.pop("pbc") == torch.bool
    assert kinds.pop("atomic_numbers") == torch.int64
    assert kinds.pop("positions") == kinds.pop("cell") == torch.float32
    assert set(kinds) == {"energy", "forces", "stress", "weight"}
    assert set(kinds.values()) == {torch.float64}


def test_to_changes_positions_and_cells_only(frames: list[Frame]) -> None:
    batch = Structures.from_frames(frames)
    single = batch.to("cpu", torch.float32)
    assert single.positions.dtype == single.cell.dtype == torch.float32
    assert single.energy.dtype == single.forces.dtype == torch.float64
    assert single.atomic_numbers.dtype == torch.int64
    assert single.pbc.dtype == torch.bool
    assert batch.positions.dtype == torch.float64
    moved = single.to("meta")
    assert {value.device.type for value in vars(moved).values() if isinstance(value, torch.Tensor)} == {"meta"}
    assert moved.positions.dtype == torch.float32


def test_no_structures() -> None:
    with pytest.raises(InputError, match="at least one structure"):
        Structures.from_frames([])


def test_no_atoms(make_frame: MakeFrame) -> None:
    with pytest.raises(InputError, match=r"si\.dat, structure 7 \(line 9\).*at least one atom"):
        Structures.from_frames([make_frame([], CUBE, source="si.dat, structure 7 (line 9)")])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["positions", "cell", "energy", "forces", "stress", "weight"])
def test_numbers_that_are_not_finite(make_frame: MakeFrame, name: str, bad: float) -> None:
    labels = {"energy": 1.0, "forces": np.zeros((1, 3)), "stress": np.zeros(6), "weight": 1.0}
    frame = make_frame([[0, 0, 0]], CUBE, source="si.dat, structure 2 (line 11)", **labels)
    value = np.array(vars(frame)[name], dtype=np.float64)
    value.flat[-1] = bad
    broken = Frame(**{**vars(frame), name: float(value) if value.ndim == 0 else value})
    check_frame(frame)
    with pytest.raises(InputError, match=rf"si\.dat, structure 2 \(line 11\): {name}.*finite"):
        Structures.from_frames([frame, broken])


def test_negative_weight(make_frame: MakeFrame) -> None:
    with pytest.raises(InputError, match=r"made\.dat, structure 1.*weight.*-1\.0"):
        Structures.from_frames([make_frame([[0, 0, 0]], CUBE, weight=-1.0)])
    assert Structures.from_frames([make_frame([[0, 0, 0]], CUBE, weight=0.0)]).weight.tolist() == [0.0]


@pytest.mark.parametrize(
    ("cell", "pbc"),
    [
        ([[1, 0, 0], [0, 1, 0], [1, 1, 0]], (True, True, True)),
        ([[3, 0, 0], [0, 3, 0], [1, 1, 1e-9]], (True, True, True)),
        ([[3, 0, 0], [0, 3, 0], [0, 0, 0]], (True, True, True)),
        ([[3, 0, 0], [6, 0, 0], [0, 0, 1]], (True, True, False)),
        ([[0, 0, 0], [0, 0, 0], [0, 0, 0]], (False, True, False)),
    ],
)
def test_singular_cell(make_frame: MakeFrame, cell: list[list[float]], pbc: tuple[bool, bool, bool]) -> None:
    with pytest.raises(InputError, match=r"made\.dat, structure 1 \(line 1\).*cell is singular"):
        Structures.from_frames([make_frame([[0, 0, 0]], cell, pbc=pbc)])


@pytest.mark.parametrize("scale", [1e-4, 1e6])
def test_small_and_large_cells_are_not_singular(make_frame: MakeFrame, scale: float) -> None:
    check_frame(make_frame([[0, 0, 0]], scale * CUBE))


@pytest.mark.parametrize("pbc", [(True, False, True), (False, False, True), (False, False, False), (True, True, False)])
@pytest.mark.parametrize("zero", [True, False])
def test_complete_cell(pbc: tuple[bool, bool, bool], zero: bool) -> None:
    """Periodic rows stay as they are, the others become unit vectors orthogonal to all the rest."""
    cell = np.random.default_rng(1).normal(size=(3, 3))
    periodic = np.array(pbc)
    given = np.where(periodic[:, None], cell, 0.0) if zero else cell
    before = given.copy()
    completed = complete_cell(given, periodic)
    np.testing.assert_array_equal(given, before)
    np.testing.assert_array_equal(completed[periodic], cell[periodic])
    for row in np.flatnonzero(~periodic):
        products = completed @ completed[row]
        np.testing.assert_allclose(products, np.eye(3)[row], atol=1e-14)


def test_size_batches() -> None:
    sizes = [5, 2, 9, 2, 30, 5, 1]
    batches = list(size_batches(sizes, max_atoms=10))
    assert sorted(row for batch in batches for row in batch) == list(range(len(sizes)))
    ordered = [sizes[row] for batch in batches for row in batch]
    assert ordered == sorted(sizes)
    assert batches == [[6, 1, 3], [0, 5], [2], [4]]
    for batch in batches:
        padded = len(batch) * max(sizes[row] for row in batch)
        assert padded <= 10 or len(batch) == 1


def test_size_batches_count_the_structure_that_is_added() -> None:
    assert list(size_batches([3, 3, 3, 3], max_atoms=10)) == [[0, 1, 2], [3]]


def test_size_batches_of_nothing() -> None:
    assert list(size_batches([])) == []


def test_a_cell_that_is_flat_but_for_rounding_has_no_volume() -> None:
    """Its stress would be a huge number that means nothing."""
    flat = np.arange(1.0, 10.0).reshape(3, 3) / 10
    assert np.linalg.det(flat) != 0
    cells = torch.from_numpy(np.stack([flat, np.diag([1e-3, 1e3, 2.0]), np.zeros((3, 3))]))
    assert cell_volumes(cells).tolist() == pytest.approx([0.0, 2.0, 0.0])


def test_a_group_that_utf_8_cannot_hold(make_frame: MakeFrame) -> None:
    """Half a character, as JSON and names of files can bring it, would end in an error wherever it is written."""
    frame = make_frame([[0, 0, 0]])
    assert replace(frame, group="\U0001f600 Å").group == "\U0001f600 Å"
    with pytest.raises(InputError, match=r"made: group: expected text that UTF-8 can hold, found 'a\\ud800'"):
        replace(frame, group="a\ud800", source="made")
