"""The vasprun.xml of VASP, read as it comes: every ionic step, with the energies of its electronic steps."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from xml.parsers import expat

import numpy as np

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.compressed import open_bytes, plain_name, read_faults, unreadable
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.text_lines import is_count, parse_number, parse_numbers
from pyfit_gpu.formats.vasp.steps import Electronic, Step, frame_of_step, take_steps
from pyfit_gpu.formats.vasp.vasprun_xml import Calculation, VasprunXML
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.frames import Frame

_CHUNK_BYTES = 1 << 16
_KILOBAR_OF_VASP = 1e-22 / 1.60217733e-19  # eV/Å^3, with the charge of the electron by which VASP added P V
_OTHER_FILE = "the OUTCAR of the run may have them"


def looks_like_vasprun(head: Head) -> bool:
    """Whether the first bytes are those of a vasprun.xml, or of some XML whose name says so."""
    is_named = "vasprun" in plain_name(head.path) and head.raw.lstrip().startswith(b"<")
    return b"<modeling" in head.raw or is_named


def read_vasprun(path: str | os.PathLike[str], options: ReadOptions) -> Iterator[Frame]:
    """Read the ionic steps of a VASP run (Å, eV, eV/Å, eV/Å^3), with the free energy `e_fr_energy`.

    Raises:
        InputError: see `take_steps`, and a file that is no XML, lacks rows or contradicts itself.
    """
    path = os.fspath(path)
    try:
        yield from take_steps(path, _steps(path), options)
    except read_faults() as error:
        raise unreadable(path, error) from error


def _steps(path: str) -> Iterator[Step]:
    """Yield all ionic steps."""
    parser = expat.ParserCreate("iso-8859-1")  # whatever the file declares: beyond ASCII there are only titles
    xml = VasprunXML(parser)
    run = _Run(path, xml)
    with open_bytes(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            try:
                parser.Parse(chunk, False)
            except expat.ExpatError as error:
                raise InputError(f"{path}: not valid XML: {error}", where=path) from error
            for calculation in xml.calculations:
                yield from run.steps(calculation)
            xml.calculations.clear()
    try:
        parser.Parse(b"", True)
    except expat.ExpatError:
        yield Step(None, fault=f"truncated after {run.done} ionic steps: no final </modeling>")
        if xml.open is not None:
            yield Step(run.done + 1, fault="incomplete")


class _Run:
    """Ionic steps out of the calculations of a file."""

    def __init__(self, path: str, xml: VasprunXML) -> None:
        self.path = path
        self.xml = xml
        self.done = 0
        self.numbers: list[int] = []

    def steps(self, calculation: Calculation | None) -> Iterator[Step]:
        """Yield what a calculation is: an ionic step, or nothing if it is of linear response."""
        if calculation is None or (not calculation.count and self.xml.has_learned):
            yield Step(self.done, is_dft=False)
        elif calculation.energy or not self.xml.has_response:
            self.done += 1
            yield self.step(calculation)

    def step(self, calculation: Calculation) -> Step:
        energy = parse_number(calculation.energy.get("e_fr_energy", ""))
        tables, unreadable = self.tables(calculation)
        if calculation.energy and energy is None:
            unreadable = unreadable or calculation.energy.get("e_fr_energy", "no e_fr_energy")
        fault = self.electronic(calculation).fault_by_energies()
        if not calculation.count:
            fault = "no electronic steps: not a DFT calculation, or incomplete"
        elif unreadable:
            fault = f"numbers that cannot be read, {unreadable[:60]!r}; {_OTHER_FILE}"
        elif energy is None or not {"basis", "positions"} <= set(tables):
            fault = f"incomplete, it has no {'final energy' if energy is None else 'structure'}"
        if fault or energy is None:
            return Step(self.done, fault=fault)
        return Step(self.done, self.frame(tables, energy))

    def frame(self, tables: dict[str, FloatArray], energy: float) -> Frame:
        cell, stress = tables["basis"], tables.get("stress")
        # The energy of a run under pressure is an enthalpy here, unlike in the OUTCAR.
        pressure = parse_number(self.xml.settings.get("PSTRESS", "")) or 0.0
        if self.xml.whole("ISIF") in (0, 1):  # not computed, or its trace alone
            stress = None
        return frame_of_step(
            self.path,
            f"ionic step {self.done}",
            self.numbers,
            cell,
            tables["positions"] @ cell,
            energy - pressure * _KILOBAR_OF_VASP * abs(np.linalg.det(cell)),
            tables.get("forces"),
            stress,
        )

    def tables(self, calculation: Calculation) -> tuple[dict[str, FloatArray], str]:
        """The numbers of a calculation, and the first row that cannot be read.

        Raises:
            InputError: rows are missing.
        """
        if not self.numbers:
            self.numbers = self.xml.atom_info.atomic_numbers(self.path)
        tables = {}
        for name, texts in calculation.rows.items():
            expected = 3 if name in ("basis", "stress") else len(self.numbers)
            if len(texts) != expected:
                where = f"{self.path}, ionic step {self.done}"
                raise InputError(f"{where}: expected {expected} rows of {name}, found {len(texts)}", where=where)
            rows = [parse_numbers(text.split()) for text in texts]
            for row, text in zip(rows, texts, strict=True):
                if row is None or len(row) != 3:
                    return {}, text or "an empty row"
            tables[name] = np.array(rows, dtype=np.float64)
        return tables, ""

    def electronic(self, calculation: Calculation) -> Electronic:
        nelm, energies = self.xml.settings.get("NELM"), calculation.energies
        if nelm is not None and not is_count(nelm):
            raise InputError(f"{self.path}: NELM must be a whole number, got {nelm!r}", where=self.path)
        changes = [abs(after - before) for before, after in itertools.pairwise(energies)]
        change = changes[-1] if changes else None
        if changes and calculation.parts is not None:
            # What is added to the last energy (of dispersion, say) may not be in the one before.
            change = min(changes[-1], abs(calculation.parts - energies[-2]))
        if changes and self.xml.has_response:  # whose steps may follow those of the ground state
            change = min(changes)
        ediff = parse_number(self.xml.settings.get("EDIFF", ""))
        return Electronic(calculation.count, None if nelm is None else int(nelm), ediff, change)
