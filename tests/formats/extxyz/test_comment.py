"""The second line of a structure: its keys and values, and the columns of the atoms."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from pyfit_gpu.formats.extxyz.comment import is_sure, parse_comment, parse_properties, record_type


@pytest.mark.parametrize(
    ("line", "pairs"),
    [
        ("energy=-3", {"energy": "-3"}),
        ("energy = -3 pbc =  T", {"energy": "-3", "pbc": "T"}),
        ("\tenergy\t=\t-3\t", {"energy": "-3"}),
        ('a="1 2" b=\'3 4\' c={5 6} d=[7, 8]', {"a": "1 2", "b": "3 4", "c": "5 6", "d": "7, 8"}),
        ('a="" b=', {"a": "", "b": ""}),
        ("a=[[1, 2], [3, 4]] b=1", {"a": "[1, 2], [3, 4]", "b": "1"}),
        (r'a="say \"x = 1\" \\ here" b=1', {"a": r'say "x = 1" \ here', "b": "1"}),
        (r"a=C:\\dir\ with\ blanks", {"a": r"C:\dir with blanks"}),
        ('"a key"=1 b=2', {"a key": "1", "b": "2"}),
        ("a=b=c", {"a": "b=c"}),
        ("a=1 a=1", {"a": "1"}),
        ("a=1 A=2", {"a": "1", "A": "2"}),
        ("no_value energy=-3 T", {"energy": "-3"}),
        ("it's energy=-3 isn't it", {"energy": "-3"}),
        ('a={"b c"} d=1', {"a": '"b c"', "d": "1"}),
        ("a=[1 b=2", {"a": "[1", "b": "2"}),
        ("a= b=1 c = ", {"a": "", "b": "1", "c": ""}),
        ('a = "b=1" c = [d=2] e=\tf=3', {"a": "b=1", "c": "d=2", "e": "", "f": "3"}),
        ("=1", {}),
        ("Å=1", {"Å": "1"}),
        ("water, from a book", {}),
        ('the "usual" cell', {}),
        ("", {}),
    ],
)  # fmt: skip
def test_pairs(line: str, pairs: dict[str, str]) -> None:
    assert parse_comment(line) == pairs


@pytest.mark.parametrize(
    "line",
    [
        'Lattice="4 0 0 0 4 0 0 0 4 energy=-3',
        'Lattice="4 0 0 0 4 0 0 0 4" title="a b energy=-3 pbc="T T T"',
        'properties=species:S:1:pos:R:3 title="a',
        r'LATTICE = "4 0 0 0 4 0 0 0 4\" energy=-3',
    ],
)
def test_a_quote_without_its_end_would_swallow_labels(line: str) -> None:
    with pytest.raises(ValueError, match="a quote at the end"):
        parse_comment(line)


def test_quotes_in_prose_are_free() -> None:
    assert parse_comment('d = 3.2" of energy=-3') == {"d": '3.2"', "energy": "-3"}
    assert parse_comment('energy=-3 " d=2') == {"energy": "-3"}


def test_a_key_twice_with_two_values() -> None:
    with pytest.raises(ValueError, match="the key energy once"):
        parse_comment("energy=-3 a=1 energy=-4")


@pytest.mark.parametrize(
    "line",
    [
        *("=" + '"\\' * 100_000, "=" + '"a' * 100_001, "x=" + "[" * 200_000, "x=" + "[a" * 100_000, "x={" * 100_000),
        *("= " + "a" * 200_000, "= " + "a " * 100_000, "=" + " " * 200_000 + "a", "x = " * 100_000),
        *("x='\\" * 100_000, r"x='\'" * 100_000, 'x="' * 100_001),
    ],
    ids=lambda line: line[:6],
)
def test_no_line_takes_long(line: str) -> None:
    """With time that grows with the square of their length, the tests would not end."""
    with contextlib.suppress(ValueError):
        parse_comment(line)


@pytest.mark.parametrize(
    ("line", "sure"),
    [("lattice = 4", True), ("a PROPERTIES=b", True), ("the lattice of Si, a = 5", False), ("energy=-3", False)],
)
def test_is_sure(line: str, sure: bool) -> None:
    assert is_sure(line) is sure


def test_columns() -> None:
    columns = parse_properties("id:I:1:species:S:1:pos:R:3:forces:R:3:fixed:L:1:spin:R:1")
    assert columns.width == 10
    assert (columns.positions, columns.species) == ("pos", "species")
    assert columns.others == ["id", "forces", "fixed", "spin"]
    assert columns.places["forces"] == (5, "R", 3)
    found = record_type(columns, ("pos", "species", "forces"))
    assert found == np.dtype(
        [("id", "U1"), ("species", "U8"), ("pos", "f8", 3), ("forces", "f8", 3), ("fixed", "U1"), ("spin", "U1")]
    )


@pytest.mark.parametrize(
    ("text", "positions", "species"),
    [
        ("pos:R:3", "pos", ""),
        ("Species:S:1:Pos:R:3", "Pos", "Species"),
        ("element:S:1:positions:R:3", "positions", "element"),
        ("pos:R:3:Z:I:1", "pos", "Z"),
        ("species:S:1:pos:R:3:Z:I:1", "pos", "Z"),
        ("species:S:1:pos:R:3:Z:R:1", "pos", "species"),
        ("species:I:1:pos:R:3", "pos", ""),
    ],
)
def test_what_atoms_are(text: str, positions: str, species: str) -> None:
    columns = parse_properties(text)
    assert (columns.positions, columns.species) == (positions, species)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "NAME:KIND:COLUMNS"),
        ("species:S:1:pos:R", "NAME:KIND:COLUMNS"),
        ("species:S:1:pos:X:3", "kind R, I, S or L of 'pos'"),
        ("species:S:1:pos:r:3", "kind R, I, S or L of 'pos'"),
        ("species:S:1:pos:R:0", "number of columns of 'pos'"),
        ("species:S:1:pos:R:-3", "number of columns of 'pos'"),
        ("species:S:1:pos:R:³", "number of columns of 'pos'"),
        ("species:S:1:pos:R:10000", "number of columns of 'pos'"),
        (f"species:S:1:pos:R:{'9' * 5000}", "number of columns of 'pos'"),
        ("species:S:1:pos:R:3:pos:R:3", "each once"),
        (":S:1:pos:R:3", "names of properties"),
        ("species:S:1", "positions, pos:R:3"),
        ("species:S:1:pos:R:2", "positions, pos:R:3"),
        ("species:S:1:pos:I:3", "positions, pos:R:3"),
    ],
)
def test_properties_that_say_nothing(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_properties(text)
