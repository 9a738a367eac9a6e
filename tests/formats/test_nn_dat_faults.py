"""Every fault of a potential file gives the file, the line, what was expected and what was found."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from formats.test_nn_dat import HEADER, VALUES

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import load_potential
from pyfit_gpu.models.potential import Potential

Load = Callable[[str | bytes], Potential]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """The potential of a file with the given content."""

    def load(content: str | bytes) -> Potential:
        path = tmp_path / "si.nn.dat"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_potential(path)

    return load


def with_line(number: int, text: str) -> str:
    lines = (HEADER + VALUES).splitlines(keepends=True)
    lines[number - 1] = text and text + "\n"
    return "".join(lines)


def test_the_file_without_faults(load: Load) -> None:
    assert load(HEADER + VALUES).networks.layer_sizes == (2, 2, 1)


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (1, "7 0.5 1", "expected .*0: .*1: .*2: .*3: .*4: .*5: .*7"),  # a mode we do not have: the others are listed
        (1, "1.5 0.5 1", "gi_mode.*found '1.5 0.5 1'"),
        (1, "1 x 1", "shift.*found '1 x 1'"),
        (1, "1 nan 1", "shift.*found '1 nan 1'"),
        (1, "1 0.5", "activation.*found '1 0.5'"),
        (1, "1 0.5 3", r"activation.*expected .*0: .*1: .*2: .*3"),
        (2, "0", "number of elements.*found '0'"),
        (2, "x", "number of elements.*found 'x'"),
        (3, "Xx 28.0855", "element symbol.*found 'Xx 28.0855'"),
        (3, "X 28.0855", "element symbol.*found 'X 28.0855'"),
        (3, "Si", "mass.*found 'Si'"),
        (3, "Si heavy", "mass.*found 'Si heavy'"),
        (3, "Si 28.0855 - e_shift", "e_shift.*found"),
        (3, "Si 28.0855 - e_shift high", "e_shift.*found"),
        (4, "0 0.25 4.5 1.0", "sigma.*found '0 0.25 4.5 1.0'"),
        (4, "2 0.25 4.5 1.0 0.8", "randomize.*found '2 0.25 4.5 1.0 0.8'"),
        (4, "1 -0.25 4.5 1.0 0.8", "max_random.*-0.25"),
        (4, "0 0.25 -4.5 1.0 0.8", "cutoff.*-4.5"),
        (4, "0 0.25 4.5 0.0 0.8", "cutoff_width.*0.0"),
        (4, "0 0.25 4.5 1.0 inf", "sigma.*found '0 0.25 4.5 1.0 inf'"),
        (5, "3 0 3", "Legendre orders.*3 numbers.*found '3 0 3'"),
        (5, "2 0 -3", "orders.*-3"),
        (5, "0", "Legendre orders.*found '0'"),
        (6, "2 2.5", "r0.*2 numbers.*found '2 2.5'"),
        (6, "1 -2.5", "centers.*-2.5"),
        (6, "1 2_5", "r0.*found '1 2_5'"),
        (7, "0 9.6 4.7 4.3 1.45 0.12 0.8 0.9", "8 bond-order parameters.*found '0 9.6"),
        (7, "2 9.6 4.7 4.3 1.45 0.12 0.8 0.9 0.85", "baseline flag.*found '2 9.6"),
        (8, "3 4 2 1", "2 inputs.*found '3 4 2 1'"),
        (8, "3 2 2 3", "1 output.*8.*found '3 2 2 3'"),
        (8, "4 2 2 1", "layer sizes.*4 numbers.*found '4 2 2 1'"),
        (8, "1 2", "layer sizes.*at least two.*found '1 2'"),
        (8, "3 2 0 1", "layer sizes.*found '3 2 0 1'"),
        (8, "3 2 2.5 1", "layer sizes.*found '3 2 2.5 1'"),
        (12, "nan 0.0000", "weight or bias.*found 'nan 0.0000'"),
        (12, "inf 0.0000", "weight or bias.*found 'inf 0.0000'"),
        (12, "1_0 0.0000", "weight or bias.*found '1_0 0.0000'"),
        (12, "0.5 x", "found '0.5 x'"),
        (12, "0.5 0.6 0.7", "found '0.5 0.6 0.7'"),  # one value per line, the second cell is reserved
        (17, "x 0.0000", "weight or bias.*found 'x 0.0000'"),
    ],
)
def test_refused(load: Load, line: int, text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"si\.nn\.dat, line {line}: .*{message}"):
        load(with_line(line, text))


def test_two_elements_and_a_logarithm(load: Load) -> None:
    content = HEADER.replace(" 1\n Si 28.0855", " 2\n Si 28.0855\n C 12.011") + VALUES
    with pytest.raises(InputError, match=r"si\.nn\.dat, line 1: .*expected one that takes 2 elements .*, got 1"):
        load(content)


def test_one_element_twice(load: Load) -> None:
    content = HEADER.replace(" 1 0.5 1\n 1\n", " 5 0.5 1\n 2\n Si 28.0855\n") + VALUES
    with pytest.raises(InputError, match=r"si\.nn\.dat, line \d: .*elements: .*different"):
        load(content)


@pytest.mark.parametrize("count", [0, 1, 8])
def test_too_few_weights(load: Load, count: int) -> None:
    content = HEADER + "".join(VALUES.splitlines(keepends=True)[:count])
    with pytest.raises(InputError, match=rf"si\.nn\.dat.*expected 9 weights.*layers 2 2 1.*found {count}\b"):
        load(content)


def test_too_many_weights(load: Load) -> None:
    with pytest.raises(InputError, match=r"si\.nn\.dat, line 18: expected 9 weights.*no more, found '7.5"):
        load(HEADER + VALUES + " 7.5 0.0000\n")


@pytest.mark.parametrize("size", ["1000000000000000", "10000000000000000000000000"])
def test_layers_beyond_any_memory(load: Load, size: str) -> None:
    with pytest.raises(InputError, match=r"si\.nn\.dat.*expected \d+ weights.*found 9"):
        load(with_line(8, f"3 2 {size} 1"))


@pytest.mark.parametrize("n_lines", range(1, 8))
def test_truncated_header(load: Load, n_lines: int) -> None:
    with pytest.raises(InputError, match=r"si\.nn\.dat.*expected .*end of the file"):
        load("".join(HEADER.splitlines(keepends=True)[:n_lines]))


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty(load: Load, content: str) -> None:
    with pytest.raises(InputError, match=r"si\.nn\.dat: expected .*end of the file"):
        load(content)


@pytest.mark.parametrize("content", [bytes(range(256)), b"\0" * 64, b"\x89HDF\r\n\x1a\n" + b"\0\1" * 99])
def test_binary(load: Load, content: bytes) -> None:
    with pytest.raises(InputError, match=r"si\.nn\.dat: expected a potential.*binary"):
        load(content)


def test_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "no.nn.dat", tmp_path):
        with pytest.raises(InputError, match=f"{re.escape(str(path))}: cannot read"):
            load_potential(path)


@pytest.mark.parametrize("centers", ["4 1.5 2.0 2.5 3.5", "4 2 3 4 5", "4 2.0 3.0 4.0 5.0"])
def test_older_header_is_recognised(load: Load, centers: str) -> None:
    """Without the lines of Legendre orders and bond-order parameters: orders 0 1 2 4 6, N = 16 in mode 1."""
    lines = HEADER.splitlines()
    older = "\n".join([*lines[:4], f" {centers}", " 3 20 2 1", ""]) + "0.5 0.0000\n" * 45
    with pytest.raises(InputError, match=r"si\.nn\.dat, line \d+: .*older header.*0 1 2 4 6.*16"):
        load(older)


@pytest.mark.parametrize("tail", ["", "   0.0000"], ids=["one cell", "two cells"])
def test_cut_within_the_last_number(load: Load, tail: str) -> None:
    """Whole without its line end, since the lines before have as many digits; not with fewer."""
    values = [f"{value: .16e}{tail}" for value in range(1, len(VALUES.split("\n")))]
    whole = HEADER + "\n".join(values)
    assert load(whole).networks.flat()[0, -1] == float(values[-1].split()[0])
    for cut in range(1, len(values[-1])):
        with pytest.raises(InputError, match=r"si\.nn\.dat(, line \d+)?: expected"):
            load(whole[:-cut])
        if not whole[:-cut].endswith(("e", "+", "-", " ", ".")):
            with pytest.raises(InputError, match=r"expected a line end after the last number|as many cells"):
                load(whole[:-cut])


@pytest.mark.parametrize("cell", ["\u0661.5", "1\u0660", "1_0", "1.5\0"])
def test_forms_that_python_takes(load: Load, cell: str) -> None:
    n_header = len(HEADER.splitlines())
    for line, text in ((3, f"Si {cell}"), (n_header + 1, cell), (n_header + 2, f"0.5 {cell}")):
        with pytest.raises(InputError, match=rf"si\.nn\.dat(, line {line}|: .*binary)"):
            load(with_line(line, text))


def test_random_parameters_beyond_any_network(load: Load) -> None:
    """Nothing in a file that asks for random parameters bounds their number but this."""
    lines = HEADER.splitlines()
    lines[3] = lines[3].replace("0", "1", 1)
    lines[-1] = "3 2 1000000000 1"
    with pytest.raises(InputError, match=r"si\.nn\.dat, line 8: expected layers with at most 10000000 random"):
        load("\n".join(lines) + "\n")


def test_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe: cannot read: expected a file, found a pipe"):
        load_potential(tmp_path / "pipe")
