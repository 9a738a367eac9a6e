"""Passing over structures of a POSCAR text: what is still known of them, and which of their faults are still found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from dft_samples import BAD, GOOD

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats import text_lines
from pyfit_gpu.formats.dft_text import read_dft_text
from pyfit_gpu.structures.frames import Frame, StructureSummary

Read = Callable[..., list[Frame | StructureSummary]]


def none(number: int) -> bool:
    return False


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(content: str, wanted: Callable[[int], bool] = none) -> list[Frame | StructureSummary]:
        (tmp_path / "si.dat").write_text(content)
        return list(read_dft_text(tmp_path / "si.dat", wanted))

    return read


def structure(atoms: str, count: str, kind: str = "c") -> str:
    return f"made\n1.0\n2 0 0\n0 3 0\n0 0 5\n{count}\n{kind}\n{atoms}\n-1.25\n"


def of_line(number: int, text: str) -> str:
    """GOOD and BAD with one line replaced."""
    lines = (GOOD + BAD).splitlines(keepends=True)
    lines[number - 1] = text and text + "\n"
    return "".join(lines)


@pytest.mark.parametrize("block", [1, 100, 1 << 17], ids="blocks of {}".format)
def test_as_the_frames_say(own_data: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    path = own_data / "structures.poscar.dat"
    frames = list(read_dft_text(path))
    monkeypatch.setattr(text_lines, "_BLOCK", block)
    found = list(read_dft_text(path, lambda number: number % 3 == 1))
    assert len(found) == len(frames)
    for number, (one, frame) in enumerate(zip(found, frames, strict=True)):
        assert isinstance(one, Frame if number % 3 == 1 else StructureSummary)
        assert (one.group, one.source, one.energy) == (frame.group, frame.source, frame.energy)
        assert one.n_atoms == frame.n_atoms
        if isinstance(one, StructureSummary):
            assert one.element_counts == Counter(frame.atomic_numbers.tolist())
        else:
            assert one.positions.tobytes() == frame.positions.tobytes()


def test_every_number_is_asked_for_once(read: Read) -> None:
    asked: list[int] = []
    read(GOOD * 4, lambda number: bool(asked.append(number)))
    assert asked == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("content", "counts"),
    [
        (structure("0 0 0\n0 0 1e-1", "2"), {0: 2}),
        (structure("0 0 0 1 2 3\n0 0 1 1 2 3", "2"), {0: 2}),
        (structure("0 0 0\n0 0 1\n0 0 2\n1 1 1", "C Si C\n1 2 1"), {6: 2, 14: 2}),
        (structure("0 0 0 C\n0 0 1 'Si'\n0 0 2 C", "3"), {6: 2, 14: 1}),
        (structure("0 0 0 C 1 2 3\n0 0 1 Si 1 2 3\n0 0 2 C 1 2 3", "3"), {6: 2, 14: 1}),
        (structure("0 0 0\n0 0 1 Si\n0 0 2 C 1 2 3", "3"), {0: 1, 14: 1, 6: 1}),
        (structure("0 0 0\n0 0 1\n0 0 2\n0 0 3 Si 1 2 3", "4"), {0: 3, 14: 1}),  # 16 cells, but not four on each line
        (structure("1e-3 0 0 H 1e-3 2E-1 3\n0 0 1 'O' 1 2 3e5", "2"), {1: 1, 8: 1}),
        (structure("0 0 0 T T F\n0 0 1 T T T", "2", "Selective\nd"), {0: 2}),
        (structure("0 0 0 T T F C\n0 0 1 T T T Si", "2", "Selective\nd"), {6: 1, 14: 1}),
        (structure("0 0 0 T T F\n0 0 1 T T T", "Si\n2", "Selective\nd"), {14: 2}),
    ],
)
def test_elements(read: Read, content: str, counts: dict[int, int]) -> None:
    (frame,) = read(content, lambda number: True)
    assert isinstance(frame, Frame)
    assert Counter(frame.atomic_numbers.tolist()) == counts
    (outline,) = read(content)
    assert isinstance(outline, StructureSummary)
    assert outline.element_counts == counts
    assert (outline.n_atoms, outline.energy) == (frame.n_atoms, -1.25)


def test_without_an_energy(read: Read) -> None:
    (outline,) = read(GOOD.replace("Si_B1", "NO_DFT_x"))
    assert (outline.group, outline.energy) == ("NO_DFT_x", None)


def test_coordinates_are_passed_over(read: Read) -> None:
    """And the cell. Their lines are counted: what is wrong later is found in the right place."""
    broken = GOOD.replace("1.5 1.0 1.25", "1..5 1e400").replace("0.5 4.0 0.0", "none")
    outline, frame = read(broken + BAD, lambda number: number == 1)
    assert (outline.group, frame.group) == ("Si_B1", "Si_B2")
    with pytest.raises(InputError, match=r"si\.dat, line 19, structure 2 \(Si_B2\): expected x y z.*found '1\.5 1\.0'"):
        read(broken + BAD.replace("1.5 1.0 1.25", "1.5 1.0"), lambda number: number == 1)


@pytest.mark.parametrize(
    ("line", "text", "reported", "message"),
    [
        (11, "Si_B2 weight=x", 11, "weight="),
        (16, "2.0", 16, "number of atoms.*found '2.0'"),
        (16, "3", 20, "end of the file"),
        (16, "1", 19, "energy.*number of atoms.*found '1.5 1.0 1.25'"),
        (16, "X\n2", 16, "element.*found 'X'"),
        (17, "x", 17, "cartesian.*direct.*found 'x'"),
        (19, "1.5 1.0 1.25 X", 19, "element symbol"),
        (19, "1.5 1.0 1.25 1_0", 19, "element symbol"),
        (19, "1.5 nan 1.25", 19, "x y z"),
        (19, "1.5 1.0 1.25 Si Si Si", 19, "x y z"),
        (20, "oops", 20, "energy.*found 'oops'"),
        (20, "", 19, "energy.*found the end of the file"),
    ],
)
def test_other_faults_are_found(read: Read, line: int, text: str, reported: int, message: str) -> None:
    with pytest.raises(InputError, match=rf"si\.dat, line {reported}, structure 2 \(Si_B2\): expected .*{message}"):
        read(of_line(line, text))


def test_an_empty_file(read: Read) -> None:
    with pytest.raises(InputError, match=r"si\.dat: expected at least one structure"):
        read("\n")
