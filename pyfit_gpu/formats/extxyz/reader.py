"""Reading extended XYZ (docs/formats/extxyz.md): one structure after the other, the lines of its atoms together.

What ASE passes over is an error here: too many cells, names of keys in another case, zero bytes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
from ase.data import atomic_numbers as ATOMIC_NUMBERS
from numpy.typing import NDArray

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.compressed import is_compressed, plain_name, reading
from pyfit_gpu.formats.extxyz.comment import Columns, is_sure, parse_comment, parse_properties, record_type
from pyfit_gpu.formats.extxyz.declared_units import DeclaredUnits
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.label_values import finite, parsed
from pyfit_gpu.formats.labels import LabelFinder
from pyfit_gpu.formats.read_options import ReadOptions, Wanted
from pyfit_gpu.formats.text_lines import NO_LINE_END, Lines, is_count, may_be_cut, parse_columns, parse_number
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.frames import Frame, StructureSummary

_PLAIN = parse_properties("species:S:1:pos:R:3")  # a file without Properties
_OTHER_CELLS = ("cell", "unit_cell", "unitcell", "box", "lattice_vectors")
_TRUTH = {**dict.fromkeys(("t", "true", "1"), True), **dict.fromkeys(("f", "false", "0"), False)}
_BYTES_PER_CELL = 2  # at least: a letter or digit and a blank


def looks_like_extxyz(head: Head) -> bool:
    """Whether the name or the first two lines say so."""
    name = plain_name(head.path)
    if name.lower().endswith((".xyz", ".extxyz")):
        return True
    count, comment = [*head.lines[:2], "", ""][:2]
    return is_count(count) and is_sure(comment)


def read_extxyz(
    path: str | os.PathLike[str], options: ReadOptions | None = None, wanted: Wanted | None = None
) -> Iterator[Frame | StructureSummary]:
    """Read the structures one by one; the file is never held as a whole.

    Args:
        wanted: as for `read_frames`; the lines of the other structures' atoms are not parsed.

    Raises:
        InputError: with file, line, structure, what was expected and what was found.
    """
    name = os.fspath(path)
    with reading(name) as file:
        size = None if is_compressed(name) else os.path.getsize(name)
        reader = _Reader(name, Lines(file), size, options or ReadOptions())
        while (structure := reader.next_structure(wanted)) is not None:
            yield structure
    if reader.n_read == 0:
        raise InputError(f"{name}: expected at least one structure, the file holds none")


class _Reader:
    """Reads one structure after the other; every message says where in the file."""

    def __init__(self, path: str, lines: Lines, size: int | None, options: ReadOptions) -> None:
        self.path = path
        self.lines = lines
        self.size = size  # bytes of the file; None: not known
        self.options = options
        self.n_read = 0
        self.comment_line = 0

    @property
    def source(self) -> str:
        return f"{self.path}, structure {self.n_read + 1}"

    def fail(self, expected: str, found: str | None, line_number: int | None = None) -> NoReturn:
        shown = "the end of the file" if found is None else f"'{found.strip()[:80]}'"
        place = f"{self.path}, line {line_number or self.lines.number}, structure {self.n_read + 1}"
        raise InputError(f"{place}: expected {expected}, found {shown}")

    def next_structure(self, wanted: Wanted | None) -> Frame | StructureSummary | None:
        text = self.lines.next()
        while text is not None and not text.strip():
            text = self.lines.next()
        if text is None:
            return None
        count = text.strip()
        if not is_count(count) or count == "0" * len(count):
            self.fail("a number of atoms", text)
        comment = self.lines.next()
        if comment is None:
            self.fail("a line with keys and values, or a comment", comment)
        structure = self._structure(int(count), comment, wanted is None or wanted(self.n_read))
        self.n_read += 1
        return structure

    def _structure(self, n_atoms: int, comment: str, full: bool) -> Frame | StructureSummary:
        self.comment_line = self.lines.number
        values = self._values(comment)
        columns = self._columns(values, n_atoms)
        cell, pbc = self._cell(values)
        units = DeclaredUnits.of(values, self.source)
        for key in units.keys:
            del values[key]
        lines = self._lines(n_atoms)
        columns = columns or _with_extra_cells(lines[0])
        if self.lines.at_open_end:
            self._check_end(columns, lines)
        finder = LabelFinder(values, columns.others, self.options, self.source)
        units.require(self.source, finder)
        cell *= units.length
        if not full:
            labels = finder.labels(values, None, n_atoms, cell, self.path, units.scale)
            numbers = self._elements(columns, lambda place: self._cells(columns, lines, place), n_atoms)
            return StructureSummary(
                Counter(numbers), labels.group, self.source, labels.energy, bool(finder.forces),
                labels.stress is not None, labels.unread, labels.chosen,
            )  # fmt: skip
        table = self._table(columns, (columns.positions, columns.species, *finder.forces), lines)
        labels = finder.labels(values, table, n_atoms, cell, self.path, units.scale)
        numbers = self._elements(columns, lambda _: table[columns.species].tolist(), n_atoms)
        return Frame(
            positions=finite(table[columns.positions], (n_atoms, 3), "positions", self.source) * units.length,
            cell=cell,
            pbc=pbc,
            atomic_numbers=np.array(numbers, dtype=np.int64),
            source=self.source,
            **vars(labels),
        )

    def _values(self, comment: str) -> dict[str, str]:
        try:
            return parse_comment(comment)
        except ValueError as error:
            self.fail(str(error), comment, self.comment_line)

    def _take(self, values: dict[str, str], name: str) -> str | None:
        """Take the value of a key, in any case, out of the values."""
        keys = [key for key in values if key.lower() == name]
        found = [values.pop(key) for key in keys]
        if len(set(found)) > 1:
            self.fail(f"one of the keys {', '.join(keys)}", found[1], self.comment_line)
        return found[0] if found else None

    def _columns(self, values: dict[str, str], n_atoms: int) -> Columns | None:
        """Take the meaning of the columns out of the values; None: a plain file."""
        given = self._take(values, "properties")
        try:
            columns = None if given is None else parse_properties(given)
        except ValueError as error:
            self.fail(f"{error} in Properties", given, self.comment_line)
        bytes_per_atom = _BYTES_PER_CELL * (columns or _PLAIN).width
        if self.size is not None and n_atoms * bytes_per_atom > self.size:
            most = self.size // bytes_per_atom
            self.fail(f"at most {most} atoms in a file of this size", str(n_atoms), self.comment_line - 1)
        return columns

    def _cell(self, values: dict[str, str]) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Take (3, 3) cell and (3,) pbc out of the values."""
        lattice, periodic = self._take(values, "lattice"), self._take(values, "pbc")
        cell = np.zeros((3, 3))
        if lattice is not None:
            cell = finite(lattice, (9,), "Lattice", self.source).reshape(3, 3)
        else:
            for key in values:
                if key.lower() in _OTHER_CELLS and np.size(parsed(values[key])) in (3, 6, 9):
                    found = f"{key}={values[key]}"
                    self.fail("the cell under the name Lattice, nine numbers", found, self.comment_line)
        pbc = [lattice is not None] * 3
        if periodic is not None:
            words = periodic.replace(",", " ").split()
            pbc = [_TRUTH[word.lower()] for word in words if word.lower() in _TRUTH]
            if len(pbc) != len(words) or len(pbc) not in (1, 3):
                self.fail("T or F, three times, for pbc", periodic, self.comment_line)
            pbc *= 3 // len(pbc)
        return cell, np.array(pbc)

    def _lines(self, n_atoms: int) -> list[str]:
        lines = self.lines.take(n_atoms)
        if len(lines) < n_atoms:
            self.fail(f"{n_atoms} lines of atoms, here number {len(lines) + 1}", None)
        return lines

    def _check_end(self, columns: Columns, lines: list[str]) -> None:
        """Refuse a last line without a line end that may have lost cells or digits."""
        cells = [line.split() for line in lines]
        if len(cells[-1]) != columns.width:
            self._blame(columns, (), lines)
        count = next(reversed(columns.places.values()))[2]
        others = [cell for line in cells for cell in line[columns.width - count :]][:-1]
        if may_be_cut(cells[-1][-1], others):
            self.fail(NO_LINE_END, lines[-1])

    def _table(self, columns: Columns, wanted: tuple[str, ...], lines: list[str]) -> Any:
        """Parse the wanted columns of all atoms."""
        table = parse_columns(lines, record_type(columns, wanted))
        return self._blame(columns, wanted, lines) if table is None else table

    def _cells(self, columns: Columns, lines: list[str], place: int) -> list[str]:
        """Cells of one column, the others are not looked at."""
        try:
            return [line.split(None, place + 1)[place] for line in lines]
        except IndexError:
            self._blame(columns, (), lines)

    def _blame(self, columns: Columns, wanted: Sequence[str], lines: list[str]) -> NoReturn:
        """Find the line that is wrong."""
        for number, line in enumerate(lines, start=self.comment_line + 1):
            cells = line.split()
            if len(cells) != columns.width:
                self.fail(f"{columns.width} cells: {', '.join(columns.places)}", line, number)
            for name in filter(None, wanted):
                place, kind, count = columns.places[name]
                if kind in "RI" and not all(_is_number(cell, kind) for cell in cells[place : place + count]):
                    self.fail(f"{'whole ' if kind == 'I' else ''}numbers in the columns of {name}", line, number)
        self.fail("lines of atoms", lines[0], self.comment_line + 1)

    def _elements(self, columns: Columns, words: Callable[[int], list[Any]], n_atoms: int) -> list[int]:
        """Atomic numbers, 0 where the file names no element.

        Args:
            words: gives the cells of all atoms in a column.
        """
        if not columns.species:
            return [0] * n_atoms
        place, kind, _ = columns.places[columns.species]
        found = words(place)
        known = {word: _atomic_number(word, kind) for word in set(found)}
        wrong = {word for word, number in known.items() if number is None}
        if wrong:
            row = next(row for row, word in enumerate(found) if word in wrong)
            expected = "an atomic number from 0 to 118" if kind == "I" else "a chemical symbol"
            self.fail(expected, str(found[row]), self.comment_line + 1 + row)
        return [known[word] or 0 for word in found]


def _with_extra_cells(line: str) -> Columns:
    """Columns of a file without Properties, by its first atom: cells after the position are named and not read."""
    extra = len(line.split()) - _PLAIN.width
    return _PLAIN if extra <= 0 else parse_properties(f"species:S:1:pos:R:3:5 and more:S:{extra}")


def _is_number(cell: str, kind: str) -> bool:
    return is_count(cell.lstrip("+-")) if kind == "I" else cell.isascii() and parse_number(cell) is not None


def _atomic_number(word: str | int, kind: str) -> int | None:
    if kind == "I":
        return int(word) if is_count(str(word).removeprefix("+")) and int(word) <= 118 else None
    return ATOMIC_NUMBERS.get(str(word).capitalize())
