"""The lines of the atoms in the classic DFT text: all of a structure at once, where they are alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase.data import atomic_numbers as ATOMIC_NUMBERS
from numpy.typing import NDArray

from pyfit_gpu.formats.text_lines import parse_columns
from pyfit_gpu.structures import FloatArray

_IN_NUMBERS = b"0123456789+-.eE \t"  # no element is made of e and E

_POSITION, _SYMBOL, _FORCES = ("position", np.float64, 3), ("symbol", "U8"), ("forces", np.float64, 3)
_COLUMNS = {  # by the number of cells
    3: np.dtype([_POSITION]),
    4: np.dtype([_POSITION, _SYMBOL]),
    6: np.dtype([_POSITION, _FORCES]),
    7: np.dtype([_POSITION, _SYMBOL, _FORCES]),
}


class Atoms(NamedTuple):
    """What the lines say."""

    coordinates: FloatArray  # (n, 3)
    elements: NDArray[np.int64] | None  # (n,) atomic numbers, 0 where a line names none; None: no line does
    forces: FloatArray | None  # (n, 3) eV/Å; None unless all lines give them


def parse_atoms(lines: Sequence[str]) -> Atoms | None:
    """`x y z [symbol] [fx fy fz]`, the same cells on all lines; None for anything else, right or wrong."""
    width = len(lines[0].split())
    table = parse_columns(lines, _COLUMNS[width]) if width in _COLUMNS else None
    if table is None:
        return None
    elements = forces = None
    if width in (4, 7):
        elements = parse_elements(table["symbol"].tolist())
        if elements is None:
            return None
    if width in (6, 7):
        forces = np.ascontiguousarray(table["forces"])
    coordinates = np.ascontiguousarray(table["position"])
    if not np.isfinite(coordinates).all() or (forces is not None and not np.isfinite(forces).all()):
        return None
    return Atoms(coordinates, None if elements is None else np.array(elements, dtype=np.int64), forces)


def name_no_elements(lines: Sequence[str]) -> bool:
    """Whether nothing but numbers stands there."""
    return not "".join(lines).encode().translate(None, _IN_NUMBERS)


def named_elements(lines: Sequence[str]) -> list[int] | None:
    """Atomic numbers from lines that all name an element, all with forces or all without; None for any others.

    A line names one element at most, after three cells: as many symbols as lines, at equal distances, leave no choice.
    """
    cells = " ".join(lines).split()
    width, rest = divmod(len(cells), len(lines))
    return parse_elements(cells[3::width]) if rest == 0 and width in (4, 7) else None


def parse_element(symbol: str) -> int:
    """The atomic number; 0: this is no element."""
    return ATOMIC_NUMBERS.get(symbol.strip("'\""), 0)


def parse_elements(symbols: Sequence[str]) -> list[int] | None:
    """Atomic numbers; None if one of the symbols is no element."""
    known = {symbol: parse_element(symbol) for symbol in set(symbols)}
    return [known[symbol] for symbol in symbols] if all(known.values()) else None
