"""Ionic steps of a VASP run: which are whole and converged, and which are taken."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.formats.groups import name_group
from pyfit_gpu.formats.programs.assembly import Found, make_frame
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.units import KILOBAR
from pyfit_gpu.log import log
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.frames import Frame

NOT_CONVERGED = "electronic steps not converged"

_PRINTED = 1e-8  # eV, the last digit of the energies in both files
_STOPPED_BY_VASP = 10.0  # times EDIFF
_NAMED_STEPS = 5  # left-out steps that a message names one by one

Rows = Sequence[Sequence[float]] | FloatArray


@dataclass(frozen=True, eq=False)
class Step:
    """An ionic step as a reader found it, or the early end of a run."""

    number: int | None  # None: the end
    frame: Frame | None = None
    fault: str = ""  # why it cannot be taken; its kind ends with the first colon or comma
    run: int = 0  # number of its run, in a file with several
    is_dft: bool = True  # False: of a machine-learned force field


@dataclass(frozen=True)
class Electronic:
    """The electronic steps of an ionic step, and what VASP was told about them."""

    count: int
    allowed: int | None  # NELM; None: not in the file
    ediff: float | None  # eV
    change: float | None  # eV, last change of the energy; None: the file does not tell

    @property
    def used_all(self) -> bool:
        return self.allowed is not None and self.count >= self.allowed

    def is_within(self, times: float = 1.0) -> bool:
        """Whether the last change is known to be at most so many times EDIFF."""
        if self.change is None or self.ediff is None:
            return False
        return abs(self.change) <= times * self.ediff + _PRINTED

    @property
    def last_change(self) -> str:
        if self.change is None:
            return "last energy change not known"
        ediff = "" if self.ediff is None else f", EDIFF {self.ediff:.3g}"
        return f"last energy change {abs(self.change):.2g}{ediff}"

    def fault_by_verdict(self, verdict: str) -> str:
        """Tell what VASP's own words in an OUTCAR leave to object; empty: it converged."""
        if "EDIFF is reached" not in verdict:
            says = f"VASP says {verdict!r}" if verdict else "no line 'aborting loop because EDIFF is reached'"
            return f"{NOT_CONVERGED}: {says}; {self.last_change}"
        # VASP 5 writes "EDIFF is reached" also where it only ran out of steps.
        if self.used_all and not self.is_within():
            return f"{NOT_CONVERGED}: all NELM = {self.allowed} steps used, {self.last_change}"
        return ""

    def fault_by_energies(self) -> str:
        """Tell what the energies in a vasprun.xml, which has no such words, leave to object; empty: it converged."""
        if self.is_within():
            return ""
        if self.used_all:
            return f"{NOT_CONVERGED}: all NELM = {self.allowed} steps used, {self.last_change}"
        if self.allowed is None:
            return f"cannot tell whether it converged: the file does not give NELM; {self.last_change}"
        if self.change is None:
            return f"{NOT_CONVERGED}: {self.last_change} after {self.count} electronic steps (its OUTCAR says more)"
        # VASP stopped by itself, or was stopped. By itself it looks at other changes too (of the band energies, to
        # second order), and writes here what it added afterwards: the change may be somewhat larger than EDIFF.
        if self.ediff is not None and not self.is_within(_STOPPED_BY_VASP):
            return f"{NOT_CONVERGED}: {self.last_change}, stopped after {self.count} of {self.allowed} steps"
        return ""


def frame_of_step(
    path: str,
    place: str,
    numbers: Sequence[int],
    cell: Rows,
    positions: Rows,
    energy: float,
    forces: Rows | None,
    kilobars: Sequence[float] | FloatArray | None,
    group: str = "",
) -> Frame:
    """Make a frame of the numbers of one step.

    Args:
        place: of the structure in the file.
        positions: Cartesian, Å.
        energy: force-consistent, eV.
        kilobars: xx yy zz yz xz xy, or a matrix, with VASP's sign: positive under compression.
        group: name in the file, if it gives one.
    """
    found = Found(
        source=f"{path}, {place}",
        group=name_group(path, group),
        positions=positions,
        atomic_numbers=numbers,
        cell=cell,
        pbc=np.ones(3, dtype=np.bool_),
        energy=energy,
        forces=forces,
        stress=None if kilobars is None else -KILOBAR * np.array(kilobars, dtype=np.float64),
    )
    return make_frame(found)


def take_steps(path: str, steps: Iterable[Step], options: ReadOptions) -> Iterator[Frame]:
    """Yield the frames of the steps that are taken, and log what was left out.

    Raises:
        InputError: a step that is incomplete or not converged, unless `options` leaves these out; no step to take.
    """
    tally = _Tally()
    refused: Step | None = None
    for step in steps:
        tally.count(step)
        if step.fault and options.vasp_steps == "all":
            refused = refused or step  # the rest is read for the count
        elif step.frame is not None and refused is None:
            yield step.frame
    if refused is not None:
        raise tally.refusal(path, refused)
    if not tally.taken:
        raise InputError(f"{path}: no ionic step can be taken{tally.left_out('; ')}", where=path)
    if tally.is_worth_a_line:
        log.info("%s: %d of %d ionic steps taken%s", path, tally.taken, tally.total, tally.left_out("; "))


@dataclass
class _Tally:
    """Counts of the steps of a file."""

    taken: int = 0
    total: int = 0
    learned: int = 0  # of a force field
    kinds: Counter[str] = field(default_factory=Counter)  # left out, by the kind of their faults
    named: list[str] = field(default_factory=list)  # the first of them
    cut: str = ""  # how the file ends, if early

    def count(self, step: Step) -> None:
        if step.number is None:
            self.cut = self.cut or step.fault
            return
        self.total += 1
        self.taken += step.frame is not None
        self.learned += not step.is_dft
        if step.fault:
            fault = step.fault.removeprefix("electronic steps ")
            self.kinds[re.split("[:,]", fault)[0]] += 1
            if len(self.named) < _NAMED_STEPS:
                self.named.append(f"{_place(step)} ({fault})".removeprefix("ionic "))

    @property
    def is_worth_a_line(self) -> bool:
        return self.taken < self.total or bool(self.cut)

    def left_out(self, before: str) -> str:
        """Say what was left out and why, in one line."""
        faulty = sum(self.kinds.values())
        parts = self.named if faulty <= _NAMED_STEPS else [f"{n} {kind}" for kind, n in self.kinds.items()]
        if self.learned:
            parts = [*parts, f"{self.learned} of a machine-learned force field"]
        said = [f"left out: {', '.join(parts)}"] if parts else []
        return "".join(before + part for part in [*said, *([self.cut] if self.cut else [])])

    def refusal(self, path: str, step: Step) -> InputError:
        """The error for the first step that cannot be taken, with the way to take the others."""
        place = f", {place}" if (place := _place(step)) else ""
        if not self.taken:
            return InputError(f"{path}{place}: {step.fault}; no other ionic step is whole and converged", where=path)
        are = "is" if self.taken == 1 else "are"
        counts = f"{self.taken} of {self.total} ionic steps {are} whole and converged"
        return InputError(f"{path}{place}: {step.fault}; {counts}", where=path, remedy=Remedy.CONVERGED_STEPS)


def _place(step: Step) -> str:
    parts = [f"run {step.run}"] if step.run else []
    return ", ".join([*parts, f"ionic step {step.number}"] if step.number is not None else parts)
