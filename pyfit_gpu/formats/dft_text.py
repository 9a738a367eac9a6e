"""The classic DFT input: POSCAR structures with energies, one after the other (docs/formats/dft_text.md)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NoReturn, TextIO

import numpy as np
from ase.data import atomic_numbers as ATOMIC_NUMBERS
from ase.data import chemical_symbols as CHEMICAL_SYMBOLS

from pyfit_gpu.errors import InputError
from pyfit_gpu.structures import NO_ENERGY_PREFIX, FloatArray, Frame, is_unlabelled


def read_dft_text(path: str | os.PathLike[str]) -> Iterator[Frame]:
    """Read the structures one by one; the file is never held as a whole.

    Raises:
        InputError: with file, line, structure, what was expected and what was found.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            reader = _Reader(os.fspath(path), file)
            while (frame := reader.next_frame()) is not None:
                yield frame
    except UnicodeDecodeError as error:
        raise InputError(f"{os.fspath(path)}: expected text, found binary data ({error.reason})") from error
    if reader.n_read == 0:
        raise InputError(f"{os.fspath(path)}: expected at least one structure, the file holds none")


class _Reader:
    """Where in the file we are, so that every message can say it."""

    def __init__(self, path: str, file: TextIO) -> None:
        self.path = path
        self.file = file
        self.line_number = 0
        self.n_read = 0
        self.group = ""

    def fail(self, expected: str, found: str, line_number: int | None = None) -> NoReturn:
        shown = found.strip()
        if "\0" in shown:
            raise InputError(f"{self.path}: expected text, found binary data")
        shown = f"'{shown[:80]}'" if shown else "an empty line"
        raise InputError(
            f"{self.path}, line {line_number or self.line_number}, structure {self.n_read + 1}"
            f"{f' ({self.group})' if self.group else ''}: expected {expected}, found {shown}"
        )

    def fail_at_end(self, expected: str) -> NoReturn:
        raise InputError(
            f"{self.path}, line {self.line_number}, structure {self.n_read + 1}"
            f"{f' ({self.group})' if self.group else ''}: expected {expected}, found the end of the file"
        )

    def line(self, expected: str) -> str:
        text = self.file.readline()
        if not text:
            self.fail_at_end(expected)
        self.line_number += 1
        return text

    def next_frame(self) -> Frame | None:
        self.group = ""
        text = self.file.readline()
        while text and not text.strip():
            self.line_number += 1
            text = self.file.readline()
        if not text:
            return None
        self.line_number += 1
        start = self.line_number
        weight = self._label(text)
        scale = self._scale()
        cell = np.array([self._numbers(3, "a cell vector of three numbers") for _ in range(3)])
        scale_factor = self._scale_factor(scale, cell)
        cell *= scale_factor
        composition = self._composition()
        text = self.line("'direct' or 'cartesian'")
        selective = text.strip()[:1] in ("s", "S")
        if selective:
            text = self.line("'direct' or 'cartesian'")
        letter = text.strip()[:1]
        if letter not in ("c", "C", "k", "K", "d", "D"):
            self.fail("a line that begins with c or k (cartesian) or d (direct)", text)
        positions, numbers, forces = self._atoms(composition, selective)
        energy = self._energy()
        self.n_read += 1
        return Frame(
            positions=positions @ cell if letter in ("d", "D") else positions * scale_factor,
            cell=cell,
            pbc=np.ones(3, dtype=np.bool_),
            atomic_numbers=numbers,
            group=self.group,
            source=f"{self.path}, structure {self.n_read} (line {start})",
            energy=energy,
            forces=forces,
            weight=weight,
        )

    def _label(self, text: str) -> float:
        if "\0" in text:
            raise InputError(f"{self.path}: expected text, found binary data")
        words = text.split()
        self.group = words[0]
        weights = [word for word in words[1:] if word.startswith("weight=")]
        if not weights:
            return 1.0
        weight = self._number(weights[-1].removeprefix("weight="), "weight=W with a number W >= 0", text)
        if weight < 0:
            self.fail("weight=W with a number W >= 0", text)
        return weight

    def _number(self, cell: str, expected: str, text: str) -> float:
        value = _parse_number(cell)
        if value is None:
            self.fail(expected, text)
        return value

    def _numbers(self, count: int, expected: str) -> list[float]:
        text = self.line(expected)
        cells = text.split()
        if len(cells) != count:
            self.fail(expected, text)
        return [self._number(cell, expected, text) for cell in cells]

    def _scale(self) -> float:
        (scale,) = self._numbers(1, "the scale factor, one number")
        if scale == 0:
            self.fail("a scale factor other than zero", "0")
        return scale

    def _scale_factor(self, scale: float, cell: FloatArray) -> float:
        if scale > 0:
            return scale
        volume = abs(float(np.linalg.det(cell)))
        if volume == 0:
            self.fail("cell vectors that span a volume", "a singular cell")
        return float((-scale / volume) ** (1 / 3))

    def _composition(self) -> list[tuple[str, int]]:
        """Symbols and how many atoms of each; the symbol is empty where the file gives only a number."""
        text = self.line("the number of atoms")
        cells = text.split()
        if len(cells) == 1 and _parse_count(cells[0]) is not None:
            return [("", self._count(cells[0], text))]
        if not cells or _parse_number(cells[0]) is not None:
            self.fail("the number of atoms, one whole number above 0, or a line of element symbols", text)
        symbols = [self._symbol(cell.split("_")[0].split("/")[0], text) for cell in cells]
        text = self.line("one number of atoms per element")
        counts = text.split()
        if len(counts) != len(symbols):
            self.fail(f"{len(symbols)} numbers of atoms, one per element", text)
        return [(symbol, self._count(count, text)) for symbol, count in zip(symbols, counts, strict=True)]

    def _count(self, cell: str, text: str) -> int:
        count = _parse_count(cell)
        if count is None or not 1 <= count < 2**63:
            self.fail("a number of atoms, a whole number above 0", text)
        return count

    def _symbol(self, cell: str, text: str, line_number: int | None = None) -> str:
        symbol = cell.strip("'\"")
        if ATOMIC_NUMBERS.get(symbol, 0) == 0:
            self.fail("an element symbol", text, line_number)
        return symbol

    def _atoms(
        self, composition: list[tuple[str, int]], selective: bool
    ) -> tuple[FloatArray, np.ndarray, FloatArray | None]:
        n_atoms = sum(count for _, count in composition)
        lines = list(islice(self.file, n_atoms))
        first = self.line_number + 1
        self.line_number += len(lines)
        if len(lines) < n_atoms:
            self.fail_at_end(f"{n_atoms} lines of coordinates")
        rows = [line.split() for line in lines]
        symbols = [symbol for symbol, count in composition for _ in range(count)]
        named = symbols
        forces: FloatArray | None = None
        coordinates = None
        if not selective and all(len(row) == 3 for row in rows):
            coordinates = _parse_rows(rows)
        if coordinates is None:
            parsed = [self._atom(line, first + k, selective) for k, line in enumerate(lines)]
            coordinates = np.array([xyz for xyz, _, _ in parsed])
            named = [self._same_symbol(symbols[k], parsed[k][1], lines[k], first + k) for k in range(n_atoms)]
            if all(force for _, _, force in parsed):
                forces = np.array([force for _, _, force in parsed])
        numbers = np.array([ATOMIC_NUMBERS[name] if name else 0 for name in named], dtype=np.int64)
        return coordinates, numbers, forces

    def _atom(self, text: str, line_number: int, selective: bool) -> tuple[list[float], str, list[float]]:
        expected = "x y z, then optionally an element symbol and three force components"
        cells = text.split()
        position, rest = cells[:3], cells[3:]
        if selective:
            if len(rest) < 3 or any(flag.upper() not in ("T", "F", ".TRUE.", ".FALSE.") for flag in rest[:3]):
                self.fail("x y z and three cells T or F (Selective dynamics)", text, line_number)
            rest = rest[3:]
        symbol = ""
        if len(rest) in (1, 4):
            symbol, rest = self._symbol(rest[0], text, line_number), rest[1:]
        values = [_parse_number(cell) for cell in position + rest]
        numbers = [value for value in values if value is not None]
        if len(numbers) != len(values) or len(numbers) not in (3, 6):
            self.fail(expected, text, line_number)
        return numbers[:3], symbol, numbers[3:]

    def _same_symbol(self, header: str, own: str, text: str, line_number: int) -> str:
        if header and own and header != own:
            self.fail(f"the element {header} that the header gives this atom", text, line_number)
        return own or header

    def _energy(self) -> float | None:
        expected = "the total energy in eV, one number (is the number of atoms right?)"
        text = self.line(expected)
        cells = text.split()
        if len(cells) != 1:
            self.fail(expected, text)
        if is_unlabelled(self.group):
            return None
        return self._number(cells[0], expected, text)


def _parse_number(cell: str) -> float | None:
    """A finite decimal number, or None. Python's underscores between digits are not part of the format."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None


def _parse_count(cell: str) -> int | None:
    return int(cell) if cell.isascii() and cell.isdigit() else None


def _parse_rows(rows: list[list[str]]) -> FloatArray | None:
    """All coordinates at once; None sends the caller to the slow path, which finds the line to blame."""
    try:
        values = np.array(rows, dtype=np.float64)
    except ValueError:
        return None
    if not np.isfinite(values).all() or any("_" in cell for row in rows for cell in row):
        return None
    return values


def group_in_text(group: str, has_energy: bool) -> str:
    """The classic formats say that a structure has no energy by its group's name."""
    return group if has_energy or is_unlabelled(group) else f"{NO_ENERGY_PREFIX}_{group}"


def write_dft_text(file: TextIO, frames: Iterable[Frame]) -> None:
    """Write frames in the classic form, 17 significant digits; a structure without an energy becomes NO_DFT.

    Raises:
        InputError: a structure that is not periodic in all directions, which the format cannot say.
    """
    for frame in frames:
        if not frame.pbc.all():
            raise InputError(f"{frame.source}: the classic text holds periodic structures only, pbc is {frame.pbc}")
        if frame.group.split() != [frame.group] or (frame.energy is not None and is_unlabelled(frame.group)):
            raise InputError(
                f"{frame.source}: group: expected one word, not {NO_ENERGY_PREFIX}... for a structure with an energy, "
                f"found '{frame.group}'"
            )
        group = group_in_text(frame.group, frame.energy is not None)
        weight = "" if frame.weight == 1.0 else f" weight={float(frame.weight)!r}"
        file.write(f"{group}{weight}\n1.0\n")
        for vector in frame.cell:
            file.write(" ".join(f"{value:.17g}" for value in vector) + "\n")
        file.write(f"{frame.n_atoms}\ncartesian\n")
        for atom in range(frame.n_atoms):
            cells = [f"{value:.17g}" for value in frame.positions[atom]]
            if frame.atomic_numbers[atom] > 0:
                cells.append(CHEMICAL_SYMBOLS[frame.atomic_numbers[atom]])
            if frame.forces is not None:
                cells += [f"{value:.17g}" for value in frame.forces[atom]]
            file.write(" ".join(cells) + "\n")
        file.write("0.0\n" if frame.energy is None else f"{frame.energy:.17g}\n")
