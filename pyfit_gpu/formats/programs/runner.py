"""Data of n2p2 and RuNNer, `input.data`: blocks from `begin` to `end` in units that the file does not say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.formats.compressed import reading
from pyfit_gpu.formats.groups import name_group
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.programs.assembly import Found, make_frame, numbers_of_symbols
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.text_lines import Lines, NumberedLines
from pyfit_gpu.formats.units import UnitSystem, parse_unit_system
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.frames import Frame

_WORDS = ("comment", "lattice", "atom", "energy", "charge", "end")


def looks_like_runner(head: Head) -> bool:
    """Whether the file begins with a block of atoms."""
    lines = [line for line in head.lines if not line.startswith(("#", "comment"))][:2]
    return len(lines) == 2 and lines[0].split()[0] == "begin" and lines[1].split()[0] in _WORDS


def read_runner(path: str, options: ReadOptions) -> Iterator[Frame]:
    """Read all structures, in the units that the options give.

    Raises:
        InputError: no units are given, a line that does not belong, or a block that does not end.
    """
    if not options.units:
        raise InputError(
            f"{path}: n2p2 and RuNNer write energies and lengths in any units and do not say which",
            setting="units",
            where=path,
            remedy=Remedy.UNITS,
        )
    units = parse_unit_system(options.units)
    with reading(path) as file:
        lines = NumberedLines(Lines(file).numbered(), path, "text")
        number = 0
        while lines.advance():
            if lines.text.lstrip().startswith("#"):
                continue
            if lines.text.split() != ["begin"]:
                raise lines.error("a line 'begin' alone (columns in another order are not read)")
            number += 1
            yield _block(lines, f"{path}, structure {number} (line {lines.number})", name_group(path), units)


def _block(lines: NumberedLines, source: str, group: str, units: UnitSystem) -> Frame:
    """Read the lines up to `end`."""
    lattice: list[list[float]] = []
    atoms: list[list[float]] = []  # x y z, and charge, unused and forces
    symbols: list[str] = []
    energy = None
    while (words := lines.next("a line 'end'").split()) != ["end"]:
        if words[0] == "lattice":
            lattice.append(lines.numbers(words[1:], 3))
        elif words[0] == "atom" and len(words) in (5, 10):
            atoms.append(lines.numbers(words[1:4] + words[5:], len(words) - 2))
            symbols.append(words[4])
        elif words[0] == "energy":
            energy = lines.numbers(words[1:], 1)[0]
        elif words[0] not in ("comment", "charge"):
            raise lines.error("lattice, atom (x y z element, and charge, n and forces on all or none), energy or end")
    if len(lattice) not in (0, 3) or len(set(map(len, atoms))) > 1:
        raise InputError(f"{source}: expected 3 lattice vectors or none, and as many cells for all atoms")
    return make_frame(
        Found(
            source=source,
            group=group,
            positions=_scaled([atom[:3] for atom in atoms], units.length),
            atomic_numbers=numbers_of_symbols(symbols, source),
            cell=_scaled(lattice, units.length) if lattice else None,
            energy=None if energy is None else energy * units.energy,
            forces=_scaled([atom[5:] for atom in atoms], units.force) if atoms and len(atoms[0]) == 8 else None,
            chosen=("units",),
        )
    )


def _scaled(rows: list[list[float]], unit: float) -> FloatArray:
    return np.array(rows, dtype=np.float64) * unit
