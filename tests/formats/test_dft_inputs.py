"""Inputs of `prepare`: the same structures whether files are held or read twice, and in windows of so many atoms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats import dft_inputs
from pyfit_gpu.formats.dft_inputs import summarize, survey
from pyfit_gpu.formats.dft_text_writer import write_dft_text
from pyfit_gpu.formats.extxyz.writer import write_extxyz
from pyfit_gpu.formats.opening import read_frames
from pyfit_gpu.structures.frames import Frame, StructureSummary

MakeFrames = Callable[..., list[Frame]]


@pytest.fixture
def paths(mixed_frames: MakeFrames, tmp_path: Path) -> list[str]:
    """Two of classic text, and between them extended XYZ and one that ASE reads: 5, 2, 1 and 2 structures."""
    frames = [frame for seed in range(3) for frame in mixed_frames(("Si", "C"), seed) if frame.pbc.all()]
    made = []
    for name, ends in (("a.dat", (0, 5)), ("b.extxyz", (5, 7)), ("c.extxyz", (7, 8)), ("d.dat", (8, 10))):
        with open(tmp_path / name, "w") as file:
            (write_extxyz if name.endswith("xyz") else write_dft_text)(file, frames[slice(*ends)])
        if name.startswith("c"):
            atoms = ase.io.read(tmp_path / name)
            name = "c.traj"
            ase.io.write(tmp_path / name, atoms)
        made.append(str(tmp_path / name))
    return made


@pytest.fixture(params=["held", "read twice"])
def limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(dft_inputs, "HELD_BYTES", 2**26 if request.param == "held" else 0)
    return request.param


def assert_same_frames(found: list[Frame], expected: list[Frame]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert vars(one).keys() == vars(other).keys()
        for name, value in vars(other).items():
            np.testing.assert_array_equal(vars(one)[name], value, err_msg=name)


@pytest.mark.parametrize("shard", [(0, 1), (0, 2), (1, 2), (2, 3), (9, 10)], ids=str)
@pytest.mark.parametrize("window", [1, 7, 10**6])
def test_frames(
    paths: list[str], limit: str, shard: tuple[int, int], window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dft_inputs, "WINDOW_ATOMS", window)
    expected = [frame for path in paths for frame in read_frames(path)]
    own = expected[shard[0] :: shard[1]]
    inputs = survey(paths, shard=shard)
    assert len(inputs.structures) == 10
    assert len(inputs.taken) == len(own)
    assert inputs.n_atoms == sum(frame.n_atoms for frame in own)
    windows = list(inputs.windows())
    assert_same_frames([frame for frames in windows for frame in frames], own)
    for frames in windows:
        counts = np.cumsum([frame.n_atoms for frame in frames])
        assert (counts[:-1] < window).all()
        assert counts[-1] >= window or frames is windows[-1]


def test_what_is_known_of_all(paths: list[str], limit: str) -> None:
    expected = [frame for path in paths for frame in read_frames(path)]
    for structure, frame in zip(survey(paths, shard=(1, 4)).structures, expected, strict=True):
        assert structure.element_counts == frame.element_counts
        assert structure.n_atoms == frame.n_atoms
        for name in ("group", "source", "energy"):
            assert getattr(structure, name) == getattr(frame, name)


def test_what_is_held(paths: list[str], limit: str) -> None:
    """Coordinates of own structures, where files are held; ASE's are."""
    held = [isinstance(structure, Frame) for structure in survey(paths, shard=(1, 2)).structures]
    if limit == "held":
        assert held == [number % 2 == 1 for number in range(10)]
    else:
        assert held == [number == 7 for number in range(10)]


def test_single_atoms_come_as_frames(paths: list[str], limit: str) -> None:
    """Single atoms of all shards are frames: whether they are isolated depends on the cell."""
    structures = survey(paths, shard=(0, 3), atoms=True).structures
    single = [structure for structure in structures if structure.n_atoms == 1]
    assert single
    assert all(isinstance(structure, Frame) for structure in single)
    if limit == "read twice":
        assert any(isinstance(structure, StructureSummary) for structure in structures)


def test_outline(paths: list[str]) -> None:
    frame = next(read_frames(paths[0]))
    expected = StructureSummary(frame.element_counts, frame.group, frame.source, frame.energy)
    assert summarize(frame) == expected
    assert summarize(expected) is expected


CHANGES: dict[str, Callable[[list[Frame]], list[Frame]]] = {
    "fewer": lambda frames: frames[:4],
    "more": lambda frames: [*frames, frames[0]],
    "another size": lambda frames: frames[::-1],
    "another energy": lambda frames: [*frames[:4], replace(frames[4], energy=-1.0)],
    "no energy": lambda frames: [replace(frames[0], energy=None), *frames[1:]],
    "another group": lambda frames: [*frames[:4], replace(frames[4], group="other")],
    "another element": lambda frames: [*frames[:4], replace(frames[4], atomic_numbers=frames[4].atomic_numbers + 1)],
    "gone": lambda frames: [],
}


@pytest.mark.parametrize("shard", [(0, 1), (1, 5)], ids=str)
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_meanwhile(
    paths: list[str], change: str, shard: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the survey has told of it to others, such as the fit of energy shifts; in structures not taken too."""
    monkeypatch.setattr(dft_inputs, "HELD_BYTES", 0)
    inputs = survey(paths, shard=shard)
    changed = CHANGES[change](list(read_frames(paths[0])))
    with open(paths[0], "w") as file:
        write_dft_text(file, changed)
    if change == "gone":
        Path(paths[0]).unlink()
    with pytest.raises(InputError, match=r"a\.dat: (.*has changed while it was read|cannot read: No such file)"):
        list(inputs.windows())


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.dat: cannot read: No such file"):
        survey([str(tmp_path / "nowhere.dat")])
    with pytest.raises(InputError, match=r"expected structures, found a folder"):
        survey([str(tmp_path)])


def test_no_file() -> None:
    with pytest.raises(InputError, match="expected at least one DFT file, got none"):
        survey([])
