"""ML_AB of VASP: the DFT data that its machine-learned force fields are made from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.compressed import reading
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.text_lines import NO_LINE_END, is_count, parse_numbers
from pyfit_gpu.formats.vasp.elements import number_of
from pyfit_gpu.formats.vasp.steps import frame_of_step
from pyfit_gpu.structures.frames import Frame

_COUNT = "The number of configurations"
_CONFIGURATION = "Configuration num."
_POSITIONS = "Atomic positions (ang.)"
_STRESS = ("XX YY ZZ", "XY YZ ZX")
_RULE = re.compile(r"([-=*])\1{9,}")

Sections = dict[str, list[str]]


def looks_like_ml_ab(head: Head) -> bool:
    """Whether the first bytes are those of an ML_AB."""
    text = head.raw.decode("latin-1")
    return "Version" in text[:80] and _COUNT in text


def read_ml_ab(path: str | os.PathLike[str], options: ReadOptions) -> Iterator[Frame]:
    """Read all configurations (Å, eV, eV/Å, eV/Å^3). The group is the name of the system.

    Raises:
        InputError: another number of configurations than the file says, or one that is incomplete.
    """
    path = os.fspath(path)
    with reading(path, encoding="latin-1") as text:
        blocks = _blocks(path, text)
        counted = next(blocks, {}).get(_COUNT, [])
        if len(counted) != 1 or not is_count(counted[0]):
            raise InputError(f"{path}: expected {_COUNT.lower()}, found {' '.join(counted)!r}", where=path)
        number = 0
        for number, sections in enumerate(blocks, start=1):
            yield _frame(path, number, sections)
        if number != int(counted[0]):
            raise InputError(
                f"{path}: expected {counted[0]} configurations, found {number}: the file is cut", where=path
            )
        if not number:
            raise InputError(f"{path}: no configurations in it", where=path)


def _blocks(path: str, lines: Iterable[str]) -> Iterator[Sections]:
    """Yield the sections of the header and of each configuration, by their titles."""
    sections: Sections = {}
    title = ""
    after_rule = False
    for line in lines:
        text = line.strip()
        if match := _RULE.fullmatch(text):
            after_rule = match[1] != "-"
        elif after_rule or text in _STRESS:  # the lines of the stress stand between thin rules
            title = text
            after_rule = False
            if title.startswith(_CONFIGURATION):
                yield sections
                sections = {}
            sections[title] = []
        elif text and title:
            if not line.endswith("\n"):
                raise InputError(f"{path}: expected {NO_LINE_END}, found {text[:60]!r}", where=path)
            sections[title].append(text)
    yield sections


def _frame(path: str, number: int, sections: Sections) -> Frame:
    where = f"{path}, configuration {number}"

    def rows(title: str, count: int) -> list[list[float]]:
        """The numbers of a section, three on a line."""
        lines = sections.get(title, [])
        if len(lines) != count:
            raise InputError(f"{where}: expected {count} lines of {title!r}, found {len(lines)}", where=where)
        values = [parse_numbers(line.split()) for line in lines]
        for value, line in zip(values, lines, strict=True):
            if value is None or len(value) != (1 if title.startswith("Total energy") else 3):
                raise InputError(f"{where}: {title}: cannot read {line[:80]!r}", where=where)
        return [value for value in values if value is not None]

    numbers = _elements(where, sections)
    (diagonal,), (others,) = (rows(title, 1) for title in _STRESS)
    return frame_of_step(
        path,
        f"configuration {number}",
        numbers,
        rows("Primitive lattice vectors (ang.)", 3),
        rows(_POSITIONS, len(numbers)),
        rows("Total energy (eV)", 1)[0][0],
        rows("Forces (eV ang.^-1)", len(numbers)),
        [*diagonal, others[1], others[2], others[0]],
        group=" ".join(sections.get("System name", [])),
    )


def _elements(where: str, sections: Sections) -> list[int]:
    species = []
    for line in sections.get("Atom types and atom numbers", []):
        symbol, count = [*line.split(), "", ""][:2]
        if not number_of(symbol) or not is_count(count):
            raise InputError(f"{where}: expected an element and a number of atoms, found {line!r}", where=where)
        species.append((number_of(symbol), int(count)))
    said = "".join(sections.get("The number of atoms", []))
    n_atoms = sum(count for _, count in species)
    if not n_atoms or said != str(n_atoms):
        raise InputError(f"{where}: expected {said or 'some'} atoms, found {n_atoms} by their types", where=where)
    if n_atoms != (found := len(sections.get(_POSITIONS, []))):
        raise InputError(f"{where}: expected {n_atoms} lines of {_POSITIONS!r}, found {found}", where=where)
    return [number for number, count in species for _ in range(count)]
