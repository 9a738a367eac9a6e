"""Uncertainty files, `.uncertainty.txt`, beside a potential (docs/formats/uncertainty.md): head and sections."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from pyfit_gpu.errors import InputError
from pyfit_gpu.files import atomic_text
from pyfit_gpu.formats.compressed import reading
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.text_lines import Lines
from pyfit_gpu.formats.uncertainty_error_bars import error_bar_lines, read_error_bars
from pyfit_gpu.formats.uncertainty_grade import grade_lines, read_grade
from pyfit_gpu.formats.uncertainty_lines import UncertaintyLines
from pyfit_gpu.log import log
from pyfit_gpu.models.error_bars import ErrorBars
from pyfit_gpu.models.extrapolation import ExtrapolationGrade
from pyfit_gpu.models.uncertainty import Uncertainty

FORMAT = "pyfit-gpu-uncertainty"
VERSION = 1
ENDING = ".uncertainty.txt"

_CHECKSUM = re.compile(r"[0-9a-f]{8}")
_NEXT = "'begin' and the name of a section, or 'end' and a checksum of 8 hexadecimal digits"
_MAX_INPUTS = 10**7  # beyond any memory, and a typing error


def uncertainty_path(potential: str | os.PathLike[str]) -> Path:
    """Name of the uncertainty file beside a potential's: `fit.nn.dat` and `fit.run.h5` have `fit.uncertainty.txt`."""
    path = Path(potential)
    stem = next((path.name.removesuffix(end) for end in (".nn.dat", ".run.h5") if path.name.endswith(end)), path.stem)
    return path.with_name((stem or path.name) + ENDING)


def looks_like_uncertainty(head: Head) -> bool:
    return head.begins_with(FORMAT)


def save_uncertainty(uncertainty: Uncertainty, path: str | os.PathLike[str]) -> None:
    """Write an uncertainty file, whole or not at all; its numbers come back with the same bits."""
    checksum = 0
    with atomic_text(path) as file:
        for line in _lines(uncertainty):
            checksum = zlib.crc32(line.encode(), checksum)
            file.write(line)
        file.write(f"end {checksum:08x}\n")


def _lines(uncertainty: Uncertainty) -> Iterator[str]:
    yield f"{FORMAT} {VERSION}\n"
    yield f"potential {uncertainty.checksum:08x}\n"
    yield f"elements {' '.join(uncertainty.elements)}\n"
    yield f"inputs {uncertainty.grade.n_inputs}\n"
    yield from _section("grade", grade_lines(uncertainty.grade, uncertainty.elements))
    if uncertainty.error_bars is not None:
        yield from _section("error-bars", error_bar_lines(uncertainty.error_bars))


def _section(name: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"begin {name}\n"
    yield from lines
    yield f"end {name}\n"


def load_uncertainty(path: str | os.PathLike[str]) -> Uncertainty:
    """Read an uncertainty file; `Uncertainty.check` compares it with a potential.

    Raises:
        InputError: with file, line, what was expected and what was found.
    """
    with reading(path, kind="an uncertainty file", decompress=False) as file:
        return _parse(UncertaintyLines(Lines(file).numbered(), os.fspath(path)))


def _parse(lines: UncertaintyLines) -> Uncertainty:
    _read_version(lines)
    (checksum, *more) = lines.words("potential", "a checksum") or [""]
    if not _CHECKSUM.fullmatch(checksum) or more:
        raise lines.error("'potential' and a checksum of 8 hexadecimal digits")
    elements = tuple(lines.words("elements", "chemical symbols"))
    if not elements or len(set(elements)) < len(elements):
        raise lines.error("'elements' and different chemical symbols")
    (n_inputs,) = lines.counts(lines.words("inputs", "their number"), 1, "'inputs' and their number")
    if not 0 < n_inputs <= _MAX_INPUTS:
        raise lines.error(f"'inputs' and their number, from 1 to {_MAX_INPUTS}")
    grade: ExtrapolationGrade | None = None
    error_bars: ErrorBars | None = None
    found: set[str] = set()
    while (name := _next_section(lines)) is not None:
        if name in found:
            raise lines.error("one section of this name")
        found.add(name)
        if name == "grade":
            grade = read_grade(lines, elements, n_inputs)
        elif name == "error-bars":
            error_bars = read_error_bars(lines)
        else:
            _skip_section(lines, name)
    if grade is None:
        raise lines.error("a section 'grade' before the end")
    if lines.advance():
        raise lines.error("the end of the file after 'end'")
    return Uncertainty(int(checksum, 16), elements, grade, error_bars)


def _read_version(lines: UncertaintyLines) -> None:
    words = lines.next(f"'{FORMAT} {VERSION}'").split()
    if words[0] != FORMAT:
        raise lines.error(f"an uncertainty file, which begins with '{FORMAT} {VERSION}'")
    if words[1:] != [str(VERSION)]:
        raise lines.error(f"version {VERSION} of the format")


def _next_section(lines: UncertaintyLines) -> str | None:
    """Name of the section that begins on the next line; None at the last line, whose checksum is that of the others."""
    keyword, *words = lines.next(_NEXT).split()
    if keyword == "begin" and len(words) == 1:
        return words[0]
    if keyword != "end" or len(words) != 1 or not _CHECKSUM.fullmatch(words[0]):
        raise lines.error(_NEXT)
    if int(words[0], 16) != lines.checksum_before:
        fault = "damaged: its content does not have the checksum that was written with it"
        raise InputError(f"{lines.name}: {fault}", where=lines.name)
    return None


def _skip_section(lines: UncertaintyLines, name: str) -> None:
    """Pass over a section that a later version has added."""
    log.info("%s, line %d: the section %s is not known and passed over", lines.name, lines.number, name)
    while lines.next(f"'end {name}'").split() != ["end", name]:
        pass
