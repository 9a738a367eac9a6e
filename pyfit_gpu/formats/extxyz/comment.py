"""The second line of a structure: keys with values, among them the cell and what the columns of the atoms mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pyfit_gpu.formats.text_lines import is_count

_QUOTED = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_PAIR = re.compile(
    rf"""
    (?P<key> {_QUOTED} | [^\s="]+ )
    (?: \s*(?P<sign>=) (?:\s+ (?! [^\s="'{{\[] [^\s="]* \s*=))? (?P<value>
        {_QUOTED} | '(?:[^'\\]|\\.)*' | \{{[^{{}}]*\}} | \[(?:[^\[\]]|\[[^\[\]]*\])*\] | (?!")(?:[^\s\\]|\\.)*
    ) )?
    | (?P<unclosed> ".* )
    """,
    re.VERBOSE,
)
_CLOSING = {'"': '"', "'": "'", "{": "}", "[": "]"}
_SURE_KEY = re.compile(r"(lattice|properties)\s*=", re.IGNORECASE)
_ESCAPED = re.compile(r"\\(.)")
SYMBOL_LENGTH = 8  # longer symbols are cut off


def is_sure(line: str) -> bool:
    """Whether a line holds keys and values, not the prose of a plain XYZ file."""
    return _SURE_KEY.search(line) is not None


def parse_comment(line: str) -> dict[str, str]:
    """Split `key=value key="a value" ..` into its texts; words without a value, as of a plain XYZ file, are left out.

    Blanks may stand around the sign; values may be quoted, in braces or in brackets, with a backslash before a quote.

    Raises:
        ValueError: a key twice with different values, or a quote without its end, unless it is in prose.
    """
    if "=" not in line:
        return {}
    pairs: dict[str, str] = {}
    for key, sign, value, unclosed in _PAIR.findall(line):
        if sign:
            key, value = _unquoted(key), _unquoted(value)
            if pairs.setdefault(key, value) != value:
                raise ValueError(f"the key {key} once")
        elif unclosed and is_sure(line):
            raise ValueError("a quote at the end of each value that begins with one")
    return pairs


def _unquoted(word: str) -> str:
    if len(word) > 1 and _CLOSING.get(word[0]) == word[-1]:
        word = word[1:-1]
    return _ESCAPED.sub(r"\1", word) if "\\" in word else word


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of the atoms' lines: where each property stands, and which of them say what the atoms are."""

    places: dict[str, tuple[int, str, int]]  # by name: first column; R, I, S or L; number of columns
    width: int
    positions: str  # name of the property
    species: str  # symbols or atomic numbers; empty: the file names no element

    @property
    def others(self) -> list[str]:
        """Properties that say something else: labels, or what is not read."""
        return [name for name in self.places if name not in (self.positions, self.species)]


@lru_cache(maxsize=256)
def record_type(columns: Columns, wanted: tuple[str, ...]) -> np.dtype:
    """Type of records that hold the wanted properties, and a letter of every other cell."""
    fields = []
    for name, (_, kind, count) in columns.places.items():
        known = {"R": "f8", "I": "i8"}.get(kind, f"U{SYMBOL_LENGTH}") if name in wanted else "U1"
        fields.append((name, known, (count,) if count > 1 else ()))
    return np.dtype(fields)


@lru_cache(maxsize=256)
def parse_properties(text: str) -> Columns:
    """Read `species:S:1:pos:R:3`.

    Raises:
        ValueError: not triples of name, kind and number, a name twice, or no positions; says what was expected.
    """
    cells = text.split(":")
    if len(cells) % 3:
        raise ValueError("NAME:KIND:COLUMNS, triple after triple")
    places: dict[str, tuple[int, str, int]] = {}
    width = 0
    for name, kind, count in zip(cells[::3], cells[1::3], cells[2::3], strict=True):
        if kind not in ("R", "I", "S", "L"):
            raise ValueError(f"the kind R, I, S or L of {name!r}")
        if not (is_count(count) and 0 < int(count) < 10_000):
            raise ValueError(f"the number of columns of {name!r}")
        if not name or name in places:
            raise ValueError("names of properties, each once")
        places[name] = (width, kind, int(count))
        width += int(count)
    positions = _role(places, ("pos", "positions"), ("R", 3))
    if not positions:
        raise ValueError("positions, pos:R:3")
    species = _role(places, ("z", "numbers", "atomic_numbers"), ("I", 1)) or _role(
        places, ("species", "symbols", "symbol", "element"), ("S", 1)
    )
    return Columns(places, width, positions, species)


def _role(places: dict[str, tuple[int, str, int]], names: tuple[str, ...], form: tuple[str, int]) -> str:
    """Find the property of one of these names, in any case, and this form; empty: there is none."""
    return next((name for name, place in places.items() if name.lower() in names and place[1:] == form), "")
