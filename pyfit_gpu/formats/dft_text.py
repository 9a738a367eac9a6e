"""The classic DFT input: POSCAR structures with energies, one after the other (docs/formats/dft_text.md).

The lines of a structure's atoms are parsed together; only where that fails line by line, to find the faulty one.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, NoReturn, overload

import numpy as np
from ase.data import chemical_symbols as CHEMICAL_SYMBOLS
from numpy.typing import NDArray

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.compressed import is_compressed, reading
from pyfit_gpu.formats.dft_atoms import Atoms, count_elements, parse_atoms, parse_element
from pyfit_gpu.formats.text_lines import (
    NO_LINE_END,
    WITNESSES,
    Lines,
    is_count,
    is_unlabelled,
    may_be_cut,
    parse_number,
    parse_numbers,
)
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.frames import Frame, StructureSummary

_SHORTEST_ATOM = 6  # bytes of `0 0 0` and its line end


@overload
def read_dft_text(path: str | os.PathLike[str], wanted: None = None) -> Iterator[Frame]: ...
@overload
def read_dft_text(
    path: str | os.PathLike[str], wanted: Callable[[int], bool]
) -> Iterator[Frame | StructureSummary]: ...
def read_dft_text(
    path: str | os.PathLike[str], wanted: Callable[[int], bool] | None = None
) -> Iterator[Frame | StructureSummary]:
    """Read the structures one by one; the file is never held as a whole.

    Args:
        wanted: whether to read the structure with this number in the file (0, 1, ..). The others come as
            `StructureSummary`, much faster: their cells and coordinates are skipped, and faults there may go unnoticed.

    Raises:
        InputError: with file, line, structure, what was expected and what was found.
    """
    with reading(path) as file:
        n_bytes = None if is_compressed(path) else os.path.getsize(path)
        reader = _StructureReader(os.fspath(path), Lines(file), n_bytes)
        while (structure := reader.next_structure(wanted)) is not None:
            yield structure
    if reader.n_read == 0:
        raise InputError(f"{os.fspath(path)}: expected at least one structure, the file holds none")


class _Table(NamedTuple):
    """The lines of a structure's atoms, and the composition and coordinate type that the lines before them give."""

    elements: list[int]  # atomic numbers; 0 where the file gives only a number of atoms
    counts: list[int]  # number of atoms of each element
    selective: bool
    direct: bool
    lines: list[str]
    first: int  # number of the first line


class _StructureReader:
    """Reads one structure after the other; every message says where in the file."""

    def __init__(self, path: str, lines: Lines, n_bytes: int | None) -> None:
        self.path = path
        self.lines = lines
        self.room = sys.maxsize if n_bytes is None else n_bytes // _SHORTEST_ATOM  # atoms, at most
        self.energies: deque[str] = deque(maxlen=WITNESSES)  # as they are written, of the structures before
        self.n_read = 0
        self.group = ""

    def fail(self, expected: str, found: str, line_number: int | None = None) -> NoReturn:
        shown = found.strip()
        shown = f"'{shown[:80]}'" if shown else "an empty line"
        raise InputError(f"{self._place(line_number or self.lines.number)}: expected {expected}, found {shown}")

    def fail_at_end(self, expected: str) -> NoReturn:
        raise InputError(f"{self._place(self.lines.number)}: expected {expected}, found the end of the file")

    def _place(self, line_number: int) -> str:
        group = f" ({self.group})" if self.group else ""
        return f"{self.path}, line {line_number}, structure {self.n_read + 1}{group}"

    def line(self, expected: str) -> str:
        text = self.lines.next()
        if text is None:
            self.fail_at_end(expected)
        return text

    def next_structure(self, wanted: Callable[[int], bool] | None) -> Frame | StructureSummary | None:
        self.group = ""
        text = self.lines.next()
        while text is not None and not text.strip():
            text = self.lines.next()
        if text is None:
            return None
        source = f"{self.path}, structure {self.n_read + 1} (line {self.lines.number})"
        weight = self._label(text)
        full = wanted is None or wanted(self.n_read)
        structure = self._frame(source, weight) if full else self._summary(source)
        self.n_read += 1
        return structure

    def _frame(self, source: str, weight: float) -> Frame:
        scale, cell = self._scale_and_cell()
        table = self._table()
        atoms = self._atoms(table)
        return Frame(
            positions=atoms.coordinates @ cell if table.direct else atoms.coordinates * scale,
            cell=cell,
            pbc=np.array([True, True, True]),
            atomic_numbers=self._atomic_numbers(table, atoms),
            group=self.group,
            source=source,
            energy=self._energy(),
            forces=atoms.forces,
            weight=weight,
        )

    def _summary(self, source: str) -> StructureSummary:
        self.lines.take(4)  # scale factor and cell
        table = self._table()
        has_forces = len(table.lines[0].split()) >= 6
        return StructureSummary(self._element_counts(table), self.group, source, self._energy(), has_forces)

    def _label(self, text: str) -> float:
        """Set the group from a structure's first line, and return its weight."""
        words = text.split()
        self.group = words[0]
        weights = [word for word in words[1:] if word.startswith("weight=")] if len(words) > 1 else ()
        if not weights:
            return 1.0
        weight = parse_number(weights[-1].removeprefix("weight="))
        if weight is None or weight < 0:
            self.fail("weight=W with a number W >= 0", text)
        return weight

    def _scale_and_cell(self) -> tuple[float, FloatArray]:
        """Scale factor of lengths, and the (3, 3) cell multiplied by it."""
        lines = self.lines.take(4)
        cells = " | ".join(lines).split()
        numbers = None
        if len(cells) == 13 and cells[1::4] == ["|", "|", "|"]:  # one cell, then three on each line
            del cells[1::4]
            numbers = parse_numbers(cells)
        if numbers is None or numbers[0] == 0:
            self._blame_cell(lines)
        scale, cell = numbers[0], np.array(numbers[1:]).reshape(3, 3)
        if scale < 0:
            volume = abs(float(np.linalg.det(cell)))
            if volume == 0:
                self.fail("cell vectors that span a volume", "a singular cell")
            scale = float((-scale / volume) ** (1 / 3))
        return scale, cell * scale

    def _blame_cell(self, lines: Sequence[str]) -> NoReturn:
        """Check scale factor and cell vectors line by line: one of them is wrong or missing."""
        expected = "the scale factor, one number"
        if self.group.startswith(("#", "!", "%")):
            expected += " (the line before is taken as the label: there are no comments in this format)"
        elif self.n_read == 0:
            expected += " (text that is of no other format is taken as classic text, where it follows the label)"
        for k, line in enumerate(lines):
            cells, line_number = line.split(), self.lines.number - len(lines) + 1 + k
            numbers = parse_numbers(cells)
            if numbers is None or len(numbers) != (3 if k else 1):
                self.fail(expected, line, line_number)
            if k == 0 and numbers[0] == 0:
                self.fail("a scale factor other than zero", "0", line_number)
            expected = "a cell vector of three numbers"
        self.fail_at_end(expected)

    def _table(self) -> _Table:
        elements, counts = self._composition()
        text = self.line("'direct' or 'cartesian'")
        selective = text.strip()[:1] in ("s", "S")
        if selective:
            text = self.line("'direct' or 'cartesian'")
        letter = text.strip()[:1]
        if letter not in ("c", "C", "k", "K", "d", "D"):
            self.fail("a line that begins with c or k (cartesian) or d (direct)", text)
        n_atoms, first = sum(counts), self.lines.number + 1
        lines = self.lines.take(n_atoms)
        if len(lines) < n_atoms:
            self.fail_at_end(f"{n_atoms} lines of coordinates")
        return _Table(elements, counts, selective, letter in ("d", "D"), lines, first)

    def _composition(self) -> tuple[list[int], list[int]]:
        """Atomic numbers and numbers of atoms; the atomic number is 0 where the file gives only how many atoms."""
        text = self.line("the number of atoms")
        cells = text.split()
        if len(cells) == 1 and is_count(cells[0]):
            return [0], [self._count(cells[0], text)]
        if not cells or parse_number(cells[0]) is not None:
            self.fail("the number of atoms, one whole number above 0, or a line of element symbols", text)
        elements = [parse_element(cell.split("_")[0].split("/")[0]) for cell in cells]
        if not all(elements):
            self.fail("an element symbol", text)
        text = self.line("one number of atoms per element")
        counts = text.split()
        if len(counts) != len(elements):
            self.fail(f"{len(elements)} numbers of atoms, one per element", text)
        return elements, [self._count(count, text) for count in counts]

    def _count(self, cell: str, text: str) -> int:
        count = int(cell) if is_count(cell) else 0
        if not 1 <= count < 2**63:
            self.fail("a number of atoms, a whole number above 0", text)
        if count > self.room:
            self.fail(f"at most {self.room} atoms, as many as the file has room for", text)
        return count

    def _atoms(self, table: _Table) -> Atoms:
        atoms = None if table.selective else parse_atoms(table.lines)
        if atoms is not None:
            return atoms
        parsed = [self._atom(line, table.first + k, table.selective) for k, line in enumerate(table.lines)]
        return Atoms(
            coordinates=np.array([position for position, _, _ in parsed]),
            elements=np.array([element for _, element, _ in parsed], dtype=np.int64),
            forces=np.array([force for _, _, force in parsed]) if all(force for _, _, force in parsed) else None,
        )

    def _atom(self, text: str, line_number: int, selective: bool) -> tuple[list[float], int, list[float]]:
        """Parse one line: coordinates, element or 0, forces or nothing."""
        expected = "x y z, then optionally an element symbol and three force components"
        cells = text.split()
        position, rest = cells[:3], cells[3:]
        if selective:
            if len(rest) < 3 or any(flag.upper() not in ("T", "F", ".TRUE.", ".FALSE.") for flag in rest[:3]):
                self.fail("x y z and three cells T or F (Selective dynamics)", text, line_number)
            rest = rest[3:]
        element = 0
        if len(rest) in (1, 4):
            element, rest = parse_element(rest[0]), rest[1:]
            if element == 0:
                self.fail("an element symbol", text, line_number)
        numbers = parse_numbers(position + rest)
        if numbers is None or len(numbers) not in (3, 6):
            self.fail(expected, text, line_number)
        return numbers[:3], element, numbers[3:]

    def _atomic_numbers(self, table: _Table, atoms: Atoms) -> NDArray[np.int64]:
        """(n,) atomic numbers from the header and the atoms' own lines together."""
        if not any(table.elements):
            return np.zeros(len(table.lines), dtype=np.int64) if atoms.elements is None else atoms.elements
        header = np.repeat(np.array(table.elements, dtype=np.int64), table.counts)
        if atoms.elements is None:
            return header
        differ = (header > 0) & (atoms.elements > 0) & (header != atoms.elements)
        if differ.any():
            atom = int(differ.argmax())
            expected = f"the element {CHEMICAL_SYMBOLS[header[atom]]} that the header gives this atom"
            self.fail(expected, table.lines[atom], table.first + atom)
        return np.where(atoms.elements > 0, atoms.elements, header)

    def _element_counts(self, table: _Table) -> dict[int, int]:
        """Count atoms by atomic number; coordinates are parsed only if there is no other way."""
        if 0 not in table.elements:
            counts: Counter[int] = Counter()
            for element, count in zip(table.elements, table.counts, strict=True):
                counts[element] += count
            return dict(counts)
        return count_elements(table.lines) or dict(Counter(self._atomic_numbers(table, self._atoms(table)).tolist()))

    def _energy(self) -> float | None:
        expected = "the total energy in eV, one number (is the number of atoms right? a POSCAR alone has no energy)"
        text = self.line(expected)
        cells = text.split()
        if len(cells) != 1:
            self.fail(expected, text)
        if is_unlabelled(self.group):
            return None
        energy = parse_number(cells[0])
        if energy is None:
            self.fail(expected, text)
        if self.lines.at_open_end and not text[-1].isspace() and may_be_cut(cells[0], self.energies):
            self.fail(NO_LINE_END, text)
        self.energies.append(cells[0])
        return energy
