"""Every fault of a POSCAR text gives the file, the line, the structure, what was expected and what was found."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from dft_samples import BAD, GOOD

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.dft_text import read_dft_text
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame

Read = Callable[[str | bytes], list[Frame]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """All structures of a file with the given content."""

    def read(content: str | bytes) -> list[Frame]:
        path = tmp_path / "si.dat"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return list(read_dft_text(path))

    return read


def with_line(number: int, text: str) -> str:
    """GOOD and BAD, one line of them replaced; text may hold several lines or none."""
    lines = (GOOD + BAD).splitlines(keepends=True)
    lines[number - 1] = text and text + "\n"
    return "".join(lines)


def test_line_numbers_count_empty_lines(read: Read) -> None:
    content = "\n\n" + GOOD + "\n\n" + BAD.replace("1.25", "oops")
    with pytest.raises(InputError, match=r"si\.dat, line 23, structure 2 \(Si_B2\)"):
        read(content)


@pytest.mark.parametrize("content", ["", "\n\n \n"])
def test_nothing_in_it(read: Read, content: str) -> None:
    with pytest.raises(InputError, match=r"si\.dat: expected at least one structure"):
        read(content)


@pytest.mark.parametrize(
    "content",
    [
        bytes(range(256)),
        b"\0" * 100,
        b"\x89HDF\r\n\x1a\n" + b"\0\1" * 99,
        GOOD.encode("utf-16"),
        b"label\n1.0\n\0\0\n",
        BAD.replace("0.0 0.0 0.0\n1.5 1.0 1.25", "0 0 0 Si\n1 1 1 Si\0").encode(),
    ],
)
@pytest.mark.parametrize("before", ["", GOOD])
def test_binary_data(read: Read, content: bytes, before: str) -> None:
    with pytest.raises(InputError, match=r"si\.dat.*expected text, found (binary data|UTF-16)"):
        read(before.encode() + content)


@pytest.mark.parametrize("symbol", ["", " Si"])
@pytest.mark.parametrize("last", range(11, 20))
def test_truncated_last_structure(read: Read, last: int, symbol: str) -> None:
    whole = GOOD + BAD.replace("0.0 0.0 0.0\n1.5", f"0.0 0.0 0.0{symbol}\n1.5")
    content = "".join(whole.splitlines(keepends=True)[:last])
    assert len(read(GOOD)) == 1
    for text in (content, content.rstrip("\n")):
        with pytest.raises(InputError, match=rf"si\.dat, line {last}, structure 2 \(Si_B2\).*end of the file"):
            read(text)


NOT_NUMBERS = [
    "x",
    "1_0",
    "\u0661\u0662",
    "\uff11.5",
    "nan",
    "NaN",
    "inf",
    "-Infinity",
    "1e400",
    "1,5",
    "0x10",
    "1.0D+00",
    "--1",
]


@pytest.mark.parametrize("cell", NOT_NUMBERS)
@pytest.mark.parametrize(
    ("line", "text"),
    [
        (12, "{}"),
        (13, "{} 0 0"),
        (15, "0 0 {}"),
        (18, "0 {} 0"),
        (19, "1 1 1 Si 0 {} 0"),
        (19, "1 1 1 0 0 {}"),
        (20, "{}"),
    ],
)
def test_not_a_number(read: Read, line: int, text: str, cell: str) -> None:
    found = text.format(cell)
    with pytest.raises(
        InputError, match=rf"si\.dat, line {line}, structure 2 \(Si_B2\): expected .*found '{re.escape(found)}'"
    ):
        read(with_line(line, found))


@pytest.mark.parametrize(
    ("line", "text", "reported", "message"),
    [
        (12, "0.0", 12, "scale factor"),
        (12, "1.0 2.0", 12, "scale factor.*found '1.0 2.0'"),
        (13, "4 0", 13, "three numbers.*found '4 0'"),
        (14, "4 0 0 0", 14, "three numbers.*found '4 0 0 0'"),
        (12, "-100\n1 0 0\n0 1 0\n1 1 0", 15, "span a volume"),
        (16, "3", 20, "found '-10.5'"),  # one too many: the energy stands where an atom should
        (16, "1", 19, "energy.*number of atoms.*found '1.5 1.0 1.25'"),
        (16, "0", 16, "number of atoms.*found '0'"),
        (16, "-2", 16, "number of atoms.*found '-2'"),
        (16, "2.0", 16, "number of atoms.*found '2.0'"),
        (16, "2_0", 16, "found '2_0'"),
        (16, "Si Xx\n1 1", 16, "element.*found 'Si Xx'"),
        (16, "X\n2", 16, "element.*found 'X'"),
        (16, "Si C\n2", 17, "2 numbers of atoms.*found '2'"),
        (16, "Si C\n1 1 1", 17, "2 numbers of atoms.*found '1 1 1'"),
        (16, "Si C\n1 x", 17, "number of atoms.*found '1 x'"),
        (16, "1000000000000000", 16, r"at most \d\d atoms.*found '1000000000000000'"),
        (16, "25", 20, "25 lines.*end of the file"),
        (17, "x", 17, r"cartesian.*direct.*found 'x'"),
        (17, "", 17, r"cartesian.*direct.*found '0.0 0.0 0.0'"),
        (17, "selective\nx", 18, r"cartesian.*direct.*found 'x'"),
        (17, "selective\ndirect", 19, "T or F.*found '0.0 0.0 0.0'"),
        (18, "0 0", 18, "x y z.*found '0 0'"),
        (18, "0 0 0 0", 18, "element symbol.*found '0 0 0 0'"),
        (18, "0 0 0 1 2", 18, "x y z.*found '0 0 0 1 2'"),
        (18, "0 0 0 T T T", 18, "x y z.*found '0 0 0 T T T'"),
        (18, "0 0 0 Si 1 2", 18, "x y z.*found '0 0 0 Si 1 2'"),
        (18, "0 0 0 Si 1 2 3 4", 18, "x y z.*found '0 0 0 Si 1 2 3 4'"),
        (18, "0 0 0 si", 18, "element symbol.*found '0 0 0 si'"),
        (18, "0 0 0 X", 18, "element symbol.*found '0 0 0 X'"),
        (18, "0 0 0 ''''''Six\n0 0 1 Si", 18, "element symbol.*found '0 0 0 ''''''Six'"),
        (18, "\n0 0 0", 18, "x y z.*found an empty line"),
        (16, "Si\n2\nc\n0 0 0 Si\n1 1 1 C\n-1\n", 20, "Si.*found '1 1 1 C'"),
        (20, "-10.5 eV", 20, "energy.*found '-10.5 eV'"),
        (11, "Si_B2 weight=x", 11, "weight=.*found 'Si_B2 weight=x'"),
        (11, "Si_B2 weight=", 11, "weight=.*found"),
        (11, "Si_B2 weight=-1", 11, "weight=.*found"),
        (11, "Si_B2 weight=nan", 11, "weight=.*found"),
    ],
)
def test_refused(read: Read, line: int, text: str, reported: int, message: str) -> None:
    with pytest.raises(InputError, match=rf"si\.dat, line {reported}, structure 2 \(Si_B2\): expected .*{message}"):
        read(with_line(line, text))


@pytest.mark.parametrize("cell", ["nan", "1e400", "1_0"])
@pytest.mark.parametrize("atom", ["0 0 {}", "0 {} 0 Si", "0 0 0 1 2 {}", "0 0 {} 1 2 3", "0 0 0 Si 1 2 {}"])
def test_one_line_like_all_the_others(read: Read, atom: str, cell: str) -> None:
    """The parser of many lines must refuse everything that the parser of single lines refuses."""
    good, bad = atom.format("0.5"), atom.format(cell)
    content = GOOD + BAD.replace("0.0 0.0 0.0\n1.5 1.0 1.25", f"{good}\n{bad}")
    with pytest.raises(InputError, match=rf"line 19, structure 2 .*x y z.*found '{re.escape(bad)}'"):
        read(content)


def test_numbers_enough_for_a_cell_on_one_line(read: Read) -> None:
    with pytest.raises(InputError, match=r"line 13, structure 2 \(Si_B2\): .*three numbers.*found '1 2 3"):
        read(GOOD + "Si_B2\n1.0\n1 2 3 4 5 6 7 8 9 10 11\n")


def test_singular_cell(read: Read) -> None:
    frames = read(with_line(15, "4.5 4.0 0.0"))
    with pytest.raises(InputError, match=r"si\.dat, structure 2 \(line 11\).*cell is singular"):
        Structures.from_frames(frames)


@pytest.mark.parametrize("cell", ["\u0661", "1\u0660", "\uff12"])
@pytest.mark.parametrize("line", [16, 18, 20])
def test_digits_of_other_scripts(tmp_path: Path, read: Read, line: int, cell: str) -> None:
    """Python takes them for numbers. Also where structures are only passed over."""
    text = with_line(line, f"{cell} 0 0" if line == 18 else cell)
    for passed_over in (False, True):
        with pytest.raises(InputError, match=rf"si\.dat, line {line}, structure 2"):
            list(read_dft_text(tmp_path / "si.dat", lambda number: False)) if passed_over else read(text)


def test_a_number_of_atoms_beyond_the_file(read: Read) -> None:
    """Refused where it stands, before the rest of the file is read in search of the atoms."""
    for count in ("50", "9" * 18):
        with pytest.raises(InputError, match=rf"line 16, .*at most \d\d atoms.*found '{count}'"):
            read(with_line(16, count) + "x\n")


@pytest.mark.parametrize("energies", [["-8.25"], ["-8.25", "-10.50"], ["-8.2500", "-10.50"]])
@pytest.mark.parametrize("passed_over", [False, True])
def test_cut_within_the_last_number(tmp_path: Path, energies: list[str], passed_over: bool) -> None:
    """Without a line end the last energy is taken only if one before has as many digits, and none has more."""
    blocks = [GOOD.rsplit("\n", 2)[0] + f"\n{energy}\n" for energy in energies]
    whole, path = "".join(blocks), tmp_path / "si.dat"

    def count() -> int:
        return sum(1 for _ in read_dft_text(path, lambda number: not passed_over))

    for cut in range(1, len(energies[-1]) + 1):
        path.write_text(whole[:-cut])
        if cut == 1 and energies == ["-8.25", "-10.50"]:
            assert count() == len(energies)
            continue
        n_lines = len(whole[:-cut].splitlines())
        with pytest.raises(InputError, match=rf"si\.dat, line {n_lines}, structure {len(energies)} .*expected"):
            count()
    path.write_text(whole)
    assert count() == len(energies)
    path.write_text(whole.removesuffix("\n") + " ")  # what follows the number shows its end
    assert count() == len(energies)


def test_an_energy_that_is_ignored_may_be_cut(read: Read) -> None:
    content = "NO_DFT_" + GOOD.rsplit("\n", 2)[0] + "\n0."
    assert read(content)[0].energy is None


def test_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe: cannot read: expected a file, found a pipe"):
        list(read_dft_text(tmp_path / "pipe"))


def test_a_comment_is_called_one(tmp_path: Path) -> None:
    path = tmp_path / "a.dat"
    path.write_text("# made up\nSi_B1\n1.0\n4 0 0\n0 4 0\n0 0 4\n1\ndirect\n0 0 0\n-5.4\n")
    with pytest.raises(InputError, match=r"line 2, .*\(the line before .* there are no comments in this format\)"):
        list(read_dft_text(path))
