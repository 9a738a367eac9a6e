"""Lines in blocks, and many numbers at once: the same lines as the file's own, the same numbers as float()."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats import text_lines
from pyfit_gpu.formats.text_lines import (
    Lines,
    NumberedLines,
    ZeroByte,
    is_count,
    may_be_cut,
    parse_columns,
    parse_numbers,
)

NUMBERS = np.dtype([("values", np.float64, 3)])

SAMPLES = ["", "\n", "a", "a\n", "\na", "one\n\ntwo\n", "one\n" * 50 + "last", "x" * 300 + "\ny\n\n"]


@pytest.mark.parametrize("block", [1, 5, 1000])
@pytest.mark.parametrize("content", SAMPLES, ids=repr)
def test_lines(monkeypatch: pytest.MonkeyPatch, content: str, block: int) -> None:
    monkeypatch.setattr(text_lines, "_BLOCK", block)
    expected = [line.removesuffix("\n") for line in io.StringIO(content)]
    lines = Lines(io.StringIO(content))
    for number, text in enumerate(expected, 1):
        assert lines.next() == text
        assert lines.number == number
    for _ in range(2):
        assert lines.next() is None
        assert lines.number == len(expected)


@pytest.mark.parametrize("block", [1, 5, 1000])
@pytest.mark.parametrize(
    ("content", "is_open"), [("a\nbc", True), ("a\nbc\n", False), ("", False), ("a", True), ("a\n ", True)]
)
def test_open_end(monkeypatch: pytest.MonkeyPatch, content: str, is_open: bool, block: int) -> None:
    """Known with the last line, and only then."""
    monkeypatch.setattr(text_lines, "_BLOCK", block)
    lines = Lines(io.StringIO(content))
    for number in range(1, len(content.splitlines()) + 1):
        lines.next()
        assert lines.at_open_end == (is_open and number == len(content.splitlines()))
    assert lines.next() is None
    assert lines.at_open_end == is_open


def test_zero_byte() -> None:
    with pytest.raises(ZeroByte):
        Lines(io.StringIO("one\ntwo\0\n")).next()


@pytest.mark.parametrize("count", [1, 3, 7, 100])
@pytest.mark.parametrize("block", [1, 20, 1000])
def test_several_lines(monkeypatch: pytest.MonkeyPatch, block: int, count: int) -> None:
    """Taken together or one by one: between the blocks nothing is lost."""
    monkeypatch.setattr(text_lines, "_BLOCK", block)
    expected = [f"line {k}" * (k % 4) for k in range(50)]
    lines = Lines(io.StringIO("\n".join(expected) + "\n"))
    found: list[str] = []
    while len(found) < len(expected):
        taken = lines.take(count)
        assert len(taken) == min(count, len(expected) - len(found))
        found += taken
        assert lines.number == len(found)
        if (text := lines.next()) is not None:
            found.append(text)
    assert found == expected
    assert lines.take(count) == []


def test_numbers_to_the_bit() -> None:
    """All magnitudes, many forms, and cases where the nearest float64 is hard to tell."""
    rng = np.random.default_rng(7)
    values = np.frombuffer(rng.bytes(8 * 3000), dtype=np.float64)
    cells = [f"{value:{form}}" for form in (".17g", ".6E", ".25e") for value in values[np.isfinite(values)]]
    cells += [f"{value:.{k}f}" for value in rng.normal(0, 100, 200) for k in range(20)]
    cells += ["9007199254740993", "2.4703282292062328e-324", "2.4703282292062327e-324", "1.7976931348623158e308"]
    cells += ["-0", "+.5", "5.", "0.1000000000000000055511151231257827021181583404541015625"]
    cells += ["0"] * (-len(cells) % 3)
    table = parse_columns([" ".join(cells[k : k + 3]) for k in range(0, len(cells), 3)], NUMBERS)
    assert table is not None
    assert table["values"].tobytes() == np.array([float(cell) for cell in cells]).tobytes()
    assert parse_numbers(cells) == [float(cell) for cell in cells]


@pytest.mark.parametrize("line", ["", "  ", "1 2", "1 2 3 4", "1 2 x", "1 2 1_0", "1 2 0x1", "1 2 1,5", "1 2 1d0"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_line_unlike_the_others(line: str, place: int) -> None:
    lines = ["1 2 3"] * 3
    assert parse_columns(lines, NUMBERS) is not None
    lines[place] = line
    assert parse_columns(lines, NUMBERS) is None


def test_words() -> None:
    columns = np.dtype([("word", "U3"), ("value", np.float64)])
    table = parse_columns(["one 1", "seven 7"], columns)
    assert table is not None
    assert table["word"].tolist() == ["one", "sev"]
    assert parse_columns(["one\0 1"], columns) is None


@pytest.mark.parametrize("lines", [[], [""], [" ", "\t"]], ids=repr)
def test_nothing_on_the_lines(lines: list[str]) -> None:
    assert parse_columns(lines, NUMBERS) is None


@pytest.mark.parametrize("cell", ["x", "", "nan", "-inf", "1e999", "1_0", "0x1"])
def test_not_finite_numbers(cell: str) -> None:
    assert parse_numbers(["1", cell, "2"]) is None
    table = parse_columns([f"1 {cell or 'x'} 2"], NUMBERS)
    assert table is None or not math.isfinite(table["values"].sum())


@pytest.mark.parametrize(("cell", "expected"), [("12", True), ("0", True), ("-1", False), ("1e3", False), ("٣", False)])
def test_counts(cell: str, expected: bool) -> None:
    assert is_count(cell) == expected


def test_a_count_of_thousands_of_digits_is_none() -> None:
    assert not is_count("9" * 5000)


def test_numbered_lines() -> None:
    lines = NumberedLines(Lines(io.StringIO("one\n\n \t\n  two  \n")).numbered(), "a.dat", "a list")
    assert (lines.next("a word"), lines.number) == ("one", 1)
    assert (lines.next("a word"), lines.number) == ("  two  ", 4)
    error = lines.error("a number")
    assert str(error) == "a.dat, line 4: expected a number, found 'two'"
    assert error.where == "a.dat, line 4"
    assert str(lines.error("a number", "words")) == "a.dat, line 4: expected a number, found 'words'"
    with pytest.raises(InputError, match=r"^a\.dat: expected a word, found the end of the file$"):
        lines.next("a word")


@pytest.mark.parametrize(
    ("last", "others"),
    [
        ("-10.75", ["-9.50", "1234.25"]),
        ("0.10000000", ["-12.00000000"] * 3),
        ("3.8081678252053552e-02", ["-5.9500675297898997e-01"]),
        ("1.5E+00", ["2.5E-10"]),
        (".25", ["0.75"]),
        ("0.25", ["0.75", "12", "Si"]),  # whole numbers and words say nothing about decimals
        ("14", ["-8", "31"]),
        ("T", ["F", "T"]),
    ],
)
def test_last_number_is_whole(last: str, others: list[str]) -> None:
    assert not may_be_cut(last, others)
    assert not may_be_cut(last, iter(others))
    for cut in range(1, len(last)):
        assert may_be_cut(last[:cut], others)


@pytest.mark.parametrize(
    ("last", "others"),
    [
        ("-10.75", []),
        ("-10.7", ["-9.7", "-9.75"]),  # as many digits as one, fewer than another
        ("-10", ["-9.75", "12"]),
        ("1.5", ["1.5", "1.5e-05"]),
        ("1.5e-10", ["1.5e-10", "1.5e-100"]),
        ("123", ["123", "1234"]),
        ("S", ["Si", "C"]),
    ],
)
def test_last_number_may_be_cut(last: str, others: list[str]) -> None:
    assert may_be_cut(last, others)
