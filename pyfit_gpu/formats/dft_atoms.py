"""The lines of atoms in the classic DFT text, parsed for a whole structure at once where they are alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase.data import atomic_numbers as ATOMIC_NUMBERS
from numpy.typing import NDArray

from pyfit_gpu.formats.text_lines import parse_columns
from pyfit_gpu.structures.cells import FloatArray

_SYMBOL_LENGTH = 8  # longer words are cut off
_POSITION, _FORCES = ("position", np.float64, 3), ("forces", np.float64, 3)
_SYMBOL = ("symbol", f"U{_SYMBOL_LENGTH}")
_COLUMNS = {  # by the number of cells
    3: np.dtype([_POSITION]),
    4: np.dtype([_POSITION, _SYMBOL]),
    6: np.dtype([_POSITION, _FORCES]),
    7: np.dtype([_POSITION, _SYMBOL, _FORCES]),
}


class Atoms(NamedTuple):
    """Coordinates, elements and forces that the lines of a structure's atoms give."""

    coordinates: FloatArray  # (n, 3)
    elements: NDArray[np.int64] | None  # (n,) atomic numbers, 0 where a line names none; None: no line does
    forces: FloatArray | None  # (n, 3) eV/Å; None unless all lines give them


def parse_atoms(lines: Sequence[str]) -> Atoms | None:
    """Parse `x y z [symbol] [fx fy fz]`, the same cells on all lines; None for anything else, right or wrong."""
    width = len(lines[0].split())
    table = parse_columns(lines, _COLUMNS[width]) if width in _COLUMNS else None
    if table is None:
        return None
    elements = forces = None
    if width in (4, 7):
        symbols = table["symbol"].tolist()
        elements = parse_elements(symbols)
        if elements is None or max(map(len, set(symbols))) == _SYMBOL_LENGTH:  # quotes, and perhaps half a word
            return None
    if width in (6, 7):
        forces = np.ascontiguousarray(table["forces"])
    coordinates = np.ascontiguousarray(table["position"])
    if not np.isfinite(coordinates).all() or (forces is not None and not np.isfinite(forces).all()):
        return None
    return Atoms(coordinates, None if elements is None else np.array(elements, dtype=np.int64), forces)


def count_elements(lines: Sequence[str]) -> dict[int, int] | None:
    """Count atoms by atomic number (0: the line names no element) without parsing numbers; None: not possible.

    Without digits, signs and points, good lines consist of their symbols and of the letters of exponents, which are no
    element's symbol.
    """
    left = " ".join(lines).encode().translate(None, b"0123456789+-.").split()
    if not left:
        return {0: len(lines)}
    counts = {0: len(lines)}
    for symbol, count in Counter(left).items():
        if symbol in (b"e", b"E"):
            continue
        element = parse_element(symbol.decode())
        counts[0] -= count
        if element == 0 or counts[0] < 0:  # at most one on every line
            return None
        counts[element] = counts.get(element, 0) + count
    return {element: count for element, count in counts.items() if count}


def parse_element(symbol: str) -> int:
    """Atomic number of a symbol; 0: it is no element."""
    return ATOMIC_NUMBERS.get(symbol.strip("'\""), 0)


def parse_elements(symbols: Sequence[str]) -> list[int] | None:
    """Atomic numbers; None if one of the symbols is no element."""
    known = {symbol: parse_element(symbol) for symbol in set(symbols)}
    return [known[symbol] for symbol in symbols] if all(known.values()) else None
