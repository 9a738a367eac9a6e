"""Checks that a VASP run reached its end and every ionic step its electronic convergence.

ASE leaves out the incomplete steps of a file and takes unconverged ones. Both scans read a file once, from
the start, and keep nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import IO
from xml.parsers import expat

from pyfit_gpu.errors import InputError

_CHUNK_BYTES = 1 << 16
_ITERATION = re.compile(r"- Iteration\s+(\d+)\(\s*(\d+)\)")
_NELM = re.compile(r"\s*NELM\s*=\s*(\d+)")


def check_outcar(path: str, lines: Iterable[str]) -> None:
    """Refuse an OUTCAR that is truncated or has an unconverged or machine-learned ionic step (`InputError`)."""
    nelm: int | None = None
    started = electronic = done = 0  # the running ionic step, its electronic steps, finished ionic steps
    verdict = ""
    complete = False
    for line in lines:
        if "Iteration" in line:
            if match := _ITERATION.search(line):
                started, electronic = int(match[1]), int(match[2])
        elif not started:
            if match := _NELM.match(line):
                nelm = int(match[1])
        elif "aborting loop" in line:
            verdict = line.strip(" -\r\n")
        elif "FREE ENERGIE OF THE ION-ELECTRON SYSTEM" in line:
            if "ML FREE" in line:
                raise InputError(f"{path}: holds steps of a machine-learned force field, not only DFT")
            done += 1
            _check_outcar_step(f"{path}, ionic step {done}", verdict, electronic, nelm)
            verdict, electronic = "", 0
        elif "General timing and accounting" in line or "Total CPU time used" in line:
            complete = True
    if not complete:
        raise InputError(f"{path}: truncated after {done} ionic steps: no closing timing section")
    if started > done:
        raise InputError(f"{path}, ionic step {started}: incomplete, it has no final energy")


def _check_outcar_step(where: str, verdict: str, electronic: int, nelm: int | None) -> None:
    if "EDIFF is reached" not in verdict:
        says = f"VASP says {verdict!r}" if verdict else "no line 'aborting loop because EDIFF is reached'"
        raise InputError(f"{where}: electronic steps not converged: {says}")
    # VASP 5 writes "EDIFF is reached" also where it only ran out of steps.
    if nelm is not None and electronic >= nelm:
        raise InputError(f"{where}: electronic steps not converged: all NELM = {nelm} steps used")


def check_vasprun(path: str, file: IO[bytes]) -> None:
    """Refuse a vasprun.xml that is truncated or has an unconverged ionic step (`InputError`)."""
    parser = expat.ParserCreate()
    scan = _VasprunScan(path, parser)
    try:
        while chunk := file.read(_CHUNK_BYTES):
            parser.Parse(chunk, False)
    except expat.ExpatError as error:
        raise InputError(f"{path}: not valid XML: {error}") from error
    try:
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise InputError(f"{path}: truncated after {scan.done} ionic steps: no final </modeling>") from error


class _VasprunScan:
    """Counts the electronic steps (scstep) of each ionic step (calculation) against NELM."""

    def __init__(self, path: str, parser: expat.XMLParserType) -> None:
        self.path = path
        self.parser = parser
        self.done = self.electronic = 0
        self.nelm: int | None = None
        self.nelm_text: list[str] | None = None
        parser.StartElementHandler = self.start
        parser.EndElementHandler = self.end

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "calculation":
            self.electronic = 0
        elif tag == "scstep":
            self.electronic += 1
        elif tag == "i" and attributes.get("name") == "NELM":
            self.nelm_text = []
            self.parser.CharacterDataHandler = self.nelm_text.append  # text can come in pieces

    def end(self, tag: str) -> None:
        if tag == "calculation":
            self.done += 1
            self.check_step(f"{self.path}, ionic step {self.done}")
        elif tag == "i" and self.nelm_text is not None:
            text = "".join(self.nelm_text).strip()
            if not text.isdigit():
                raise InputError(f"{self.path}: NELM must be a whole number, got {text!r}")
            self.nelm = int(text)  # <parameters>, what VASP used, comes after <incar>, what it was told
            self.nelm_text = self.parser.CharacterDataHandler = None

    def check_step(self, where: str) -> None:
        if self.nelm is None:
            raise InputError(f"{where}: cannot tell whether it converged: the file does not give NELM")
        if self.electronic == 0:
            raise InputError(f"{where}: no electronic steps: not a DFT calculation, or incomplete")
        if self.electronic >= self.nelm:
            raise InputError(f"{where}: electronic steps not converged: all NELM = {self.nelm} steps used")
