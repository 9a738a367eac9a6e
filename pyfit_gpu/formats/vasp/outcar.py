"""OUTCAR of VASP, read line by line: every ionic step with what VASP says about its convergence."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.compressed import plain_name, reading
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.text_lines import parse_number, parse_numbers
from pyfit_gpu.formats.vasp.outcar_header import OutcarHeader
from pyfit_gpu.formats.vasp.steps import Electronic, Step, frame_of_step, take_steps
from pyfit_gpu.structures.frames import Frame

_BEGINNING = re.compile(r"\s*vasp\.\d")
_OTHER_ENDINGS = (".xyz", ".extxyz", ".db", ".traj", ".json", ".cif", ".h5", ".hdf5", ".dat", ".xml")
_ITERATION = re.compile(r"Iteration\s*(\d{1,9}|\*+)\(\s*(\d{1,9})\)")
_ENERGY = re.compile(r"TOTEN\s*=\s*(\S+)\s+eV")
_CHANGE = re.compile(r":\s*(\S+)")
_TABLE = re.compile(r"\s*POSITION\s+TOTAL-FORCE \(eV/Angst\)")
_GLUED = re.compile(r"(?<=\d)-")
_VOIGT = (0, 1, 2, 4, 5, 3)  # xx yy zz yz xz xy among VASP's xx yy zz xy yz zx
_MOST = 10**9  # atoms; a damaged count may be beyond all integers
_OTHER_FILE = "the vasprun.xml of the run has wider columns"


def looks_like_outcar(head: Head) -> bool:
    """Whether the first bytes are those of an OUTCAR, or the name is and nothing speaks against it."""
    text = head.raw.decode("latin-1")
    if _BEGINNING.match(text) and "executed on" in text:
        return True
    name = plain_name(head.path)
    is_other = name.lower().endswith(_OTHER_ENDINGS) or text.lstrip().startswith("<")
    return "OUTCAR" in name and head.is_text and not is_other


def read_outcar(path: str | os.PathLike[str], options: ReadOptions) -> Iterator[Frame]:
    """Read the ionic steps of a VASP run (Å, eV, eV/Å, eV/Å^3), with the free energy TOTEN.

    Raises:
        InputError: see `take_steps`, and a file that contradicts itself.
    """
    path = os.fspath(path)
    # Only ASCII counts; titles are in whatever encoding the user has.
    with reading(path, encoding="latin-1") as text:
        yield from take_steps(path, _Outcar(path, text).steps(), options)


@dataclass
class _Open:
    """The ionic step that is being read."""

    number: int  # VASP's
    count: int = 0  # electronic steps
    verdict: str = ""  # VASP's words at their end
    energies: list[float] = field(default_factory=list)  # eV, of the last two electronic steps
    change: float | None = None  # eV, as VASP prints it
    cell: list[list[float]] | None = None
    rows: list[list[float]] | None = None  # x y z fx fy fz
    kilobars: list[float] | None = None
    unreadable: str = ""  # the first line that cannot be read

    @property
    def last_change(self) -> float | None:
        return self.energies[1] - self.energies[0] if self.change is None and self.energies[1:] else self.change


class _Outcar:
    """Reader of one file: the header of its present run, the step that is open, the steps found."""

    def __init__(self, path: str, lines: Iterable[str]) -> None:
        self.path = path
        self.lines = iter(lines)
        self.run = 0  # 0: the only one
        self.found: list[Step] = []
        # By the first character of a line: most lines (eigenvalues, occupations) have another.
        self.marks: dict[str, tuple[tuple[str, Callable[[str], None]], ...]] = {
            "-": (("Iteration", self.iteration), ("aborting loop", self.verdict)),
            "t": (("total energy-change", self.energy_change),),
            "f": (("TOTEN", self.energy),),
            "F": (("FORCE on cell", self.force_on_cell), ("FREE ENERGIE OF THE ION-ELECTRON", self.final_energy)),
            "M": (("ML FORCE on cell", self.force_on_cell), ("ML FREE ENERGIE", self.force_field)),
            "i": (("in kB ", self.stress),),
            "d": (("direct lattice vectors", self.lattice),),
            "P": (("POSITION ", self.table),),
            "G": (("General timing and accounting", self.ending),),
            "T": (("Total CPU time used", self.ending),),
            "v": (("vasp.", self.next_run),),
        }
        self.begin()

    def begin(self) -> None:
        """Begin a run."""
        self.header = OutcarHeader()
        self.species: list[tuple[int, int]] = []  # and their atoms; none before the first electronic step
        self.step: _Open | None = None
        self.bare: list[int] = []  # steps without a structure so far: linear response, or lost ones
        self.done = 0
        self.last_energy: float | None = None
        self.is_final = False  # the next energy is that of the ionic step
        self.is_learned = False  # stress and cell are a force field's
        self.has_learned = False  # a force field's step, unless electronic steps follow
        self.has_ended = False

    def steps(self) -> Iterator[Step]:
        """Yield all ionic steps."""
        for line in self.lines:
            for mark, act in self.marks.get(line.lstrip()[:1], ()):
                if mark in line:
                    act(line)
                    if self.found:
                        yield from self.found
                        self.found.clear()
                    break
            if not self.species:
                self.header.read(line)
        self.end()
        yield from self.found

    def next_run(self, line: str) -> None:
        """Begin another run at the first line of an OUTCAR that is not the first line of the file."""
        if _BEGINNING.match(line) and (self.header.settings or self.has_ended):
            self.run = self.run or 1
            self.end()
            self.run += 1
            self.begin()

    def iteration(self, line: str) -> None:
        if not (match := _ITERATION.search(line)):
            return
        if not self.species:
            self.species = self.header.species(self.path)
        if self.step is None or match[2] == "1":
            self.leave_open()
            self.has_learned = self.is_learned = False
            self.step = _Open(int(match[1]) if match[1].isdigit() else self.done + 1)
        self.step.count = int(match[2])

    def leave_open(self) -> None:
        """Note that the open step ends without an energy."""
        if self.step is not None and (self.step.rows or self.step.cell):
            self.add(self.step.number, fault="incomplete, it has no final energy")
        elif self.step is not None:
            self.bare.append(self.step.number)
        self.step = None

    def verdict(self, line: str) -> None:
        if self.step:
            self.step.verdict = line.strip(" -\r\n")

    def energy_change(self, line: str) -> None:
        if self.step and (match := _CHANGE.search(line)):
            self.step.change = parse_number(match[1])

    def force_on_cell(self, line: str) -> None:
        self.is_learned = "ML" in line

    def stress(self, line: str) -> None:
        if self.step and not self.is_learned:
            values = self.values(line.partition("in kB")[2], 6)
            self.step.kilobars = values and [values[k] for k in _VOIGT]

    def lattice(self, line: str) -> None:
        if self.step and not self.is_learned:
            rows = [self.values(row, 3) for row in itertools.islice(self.lines, 3)]
            self.step.cell = [row for row in rows if row is not None]

    def table(self, line: str) -> None:
        """Positions and total forces; beside them may stand the forces without dispersion."""
        if self.step is None or not _TABLE.match(line) or "(ML)" in line:
            return
        n_atoms = sum(count for _, count in self.species)
        rows = list(itertools.takewhile(_is_row, itertools.islice(self.lines, 1, min(n_atoms, _MOST) + 2)))
        if len(rows) != n_atoms:
            self.step.unreadable = self.step.unreadable or f"{len(rows)} rows for {n_atoms} atoms"
        self.step.rows = [row for row in (self.values(text, 6) for text in rows) if row is not None]

    def values(self, text: str, count: int) -> list[float] | None:
        """The first numbers of a line, also where one with a minus sign follows without a blank."""
        values = parse_numbers(text.split()[:count])
        if values is None or len(values) < count:
            values = parse_numbers(_GLUED.sub(" -", text).split()[:count])
        if values is None or len(values) < count:
            if self.step is not None:
                self.step.unreadable = self.step.unreadable or text.strip()[:60]
            return None
        return values

    def final_energy(self, line: str) -> None:
        self.is_final = True

    def energy(self, line: str) -> None:
        if " ML " in line or not line.endswith("\n"):  # a force field's, or perhaps cut
            return
        match = _ENERGY.search(line)
        energy = parse_number(match[1]) if match else None
        if not self.is_final:
            if self.step and energy is not None:
                self.step.energies = [*self.step.energies[-1:], energy]
            return
        self.is_final = False
        if self.step is not None:
            if energy is None:
                self.step.unreadable = self.step.unreadable or line.strip()[:60]
            self.finish(self.step, energy or 0.0)
            self.last_energy = energy
        elif energy != self.last_energy:
            where = f"{self.path}, after ionic step {self.done}"
            raise InputError(f"{where}: another final energy without electronic steps; {_OTHER_FILE}", where=where)

    def finish(self, step: _Open, energy: float) -> None:
        """Find an ionic step that has its energy."""
        if not self.header.has_response:
            for number in self.bare:  # not of linear response, which would come last
                self.add(number, fault="incomplete, it has no final energy")
        self.bare.clear()
        self.step = None
        self.done += 1
        electronic = Electronic(step.count, self.header.whole("NELM"), self.header.ediff, step.last_change)
        fault = electronic.fault_by_verdict(step.verdict)
        if step.unreadable:
            fault = f"numbers that cannot be read, {step.unreadable!r}; {_OTHER_FILE}"
        elif step.cell is None or step.rows is None:
            fault = f"incomplete, it has no {'cell' if step.cell is None else 'table of positions and forces'}"
        if fault:
            self.add(step.number, fault=fault)
            return
        has_stress = self.header.whole("ISIF") not in (0, 1)  # not computed, or its trace alone
        rows, cell = step.rows or [], step.cell or []
        frame = frame_of_step(
            self.path,
            f"run {self.run}, ionic step {step.number}" if self.run else f"ionic step {step.number}",
            [number for number, count in self.species for _ in range(count)],
            cell,
            [row[:3] for row in rows],
            energy,
            [row[3:] for row in rows],
            step.kilobars if has_stress else None,
        )
        self.add(step.number, frame)

    def force_field(self, line: str) -> None:
        if self.has_learned:
            self.found.append(Step(self.done, is_dft=False))
        self.has_learned = True

    def ending(self, line: str) -> None:
        self.has_ended = True

    def end(self) -> None:
        """End a run: tell whether VASP ended it, and what of it is incomplete."""
        if self.has_learned:
            self.found.append(Step(self.done, is_dft=False))
        is_open = self.step is not None and not (self.has_ended or self.header.has_response)
        number = self.step.number if self.step is not None else 0
        if not self.has_ended:
            self.add(None, fault=f"truncated after {self.done} ionic steps: no closing timing section")
        found = len(self.found)
        self.leave_open()
        if is_open and len(self.found) == found:
            self.add(number, fault="incomplete, it has no final energy")

    def add(self, number: int | None, frame: Frame | None = None, fault: str = "") -> None:
        self.found.append(Step(number, frame, fault, self.run))


def _is_row(line: str) -> bool:
    return not line.lstrip().startswith("--")
