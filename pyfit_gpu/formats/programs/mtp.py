"""Data of MLIP (moment tensor potentials), `.cfg`: blocks from `BEGIN_CFG` to `END_CFG`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.compressed import reading
from pyfit_gpu.formats.groups import name_group
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.programs.assembly import (
    Found,
    make_frame,
    numbers_of_symbols,
    numbers_of_types,
)
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.text_lines import Lines, NumberedLines, is_count
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.frames import Frame

_CARTESIAN = ("cartes_x", "cartes_y", "cartes_z")
_DIRECT = ("direct_x", "direct_y", "direct_z")
_FORCES = ("fx", "fy", "fz")
_STRESS = ("xx", "yy", "zz", "yz", "xz", "xy")
_MOST_ATOMS = 10_000_000
_UNCONVERGED = re.compile("not[ _]converged", re.IGNORECASE)


def looks_like_mtp(head: Head) -> bool:
    """Whether the file begins with a block."""
    return head.begins_with("BEGIN_CFG")


def read_mtp(path: str, options: ReadOptions) -> Iterator[Frame]:
    """Read all structures (eV and Å unless the options say otherwise); PlusStress is the virial.

    Raises:
        InputError: a line that does not belong, columns that are missing, types without elements, or a structure that
            was marked as not converged.
    """
    with reading(path) as file:
        lines = NumberedLines(Lines(file).numbered(), path, "text")
        number = 0
        while lines.advance():
            if lines.text.split() != ["BEGIN_CFG"]:
                raise lines.error("BEGIN_CFG")
            number += 1
            block = _Block(lines, f"{path}, structure {number} (line {lines.number})")
            block.read()
            yield block.frame(name_group(path), options)


class _Block:
    """Numbers of one block."""

    def __init__(self, lines: NumberedLines, source: str) -> None:
        self.lines = lines
        self.source = source
        self.size = 0
        self.cell: list[list[float]] = []
        self.columns: dict[str, FloatArray] = {}  # (n,) each, by name
        self.energy: float | None = None
        self.virial: list[float] | None = None

    def read(self) -> None:
        """Read the lines up to END_CFG."""
        while (words := self.lines.next("END_CFG").split()) != ["END_CFG"]:
            if words == ["Size"]:
                self.size = self._read_size()
            elif words[0].lower() == "supercell":
                self.cell = [self._numbers(3) for _ in range(3)]
            elif words[0] == "AtomData:":
                self.columns = self._read_columns(words[1:])
            elif words == ["Energy"]:
                self.energy = self._numbers(1)[0]
            elif words[0] == "PlusStress:" and sorted(words[1:]) == sorted(_STRESS):
                values = dict(zip(words[1:], self._numbers(6), strict=True))
                self.virial = [values[name] for name in _STRESS]
            elif words[0] != "Feature":
                raise self.lines.error("Size, Supercell, AtomData:, Energy, PlusStress: xx yy zz yz xz xy or Feature")
            elif _UNCONVERGED.search(" ".join(words)):
                raise self.lines.error("a structure whose calculation converged")

    def frame(self, group: str, options: ReadOptions) -> Frame:
        cell = np.array(self.cell) if self.cell else None
        positions, forces = self._vectors(_CARTESIAN), self._vectors(_FORCES)
        if positions is None:
            direct = self._vectors(_DIRECT)
            if direct is None or cell is None:
                raise InputError(f"{self.source}: expected AtomData with {', '.join(_CARTESIAN)}, or direct_x, .. "
                                 "and a Supercell")  # fmt: skip
            positions = direct @ cell
        types = self.columns.get("type", np.zeros(self.size))
        if np.any(types != np.floor(types)):
            raise InputError(f"{self.source}: expected types 0, 1, .., found other numbers")
        elements = numbers_of_symbols(options.elements, self.source) if options.elements else None
        known = {"id", "type", *_CARTESIAN, *_DIRECT, *_FORCES}
        return make_frame(
            Found(
                source=self.source,
                group=group,
                positions=positions,
                atomic_numbers=numbers_of_types(types, elements, self.source, "types are numbers"),
                cell=cell,
                energy=self.energy,
                forces=forces,
                virial=None if self.virial is None else np.array(self.virial),
                unread=tuple(f"column {name}" for name in self.columns if name not in known),
                chosen=("elements",),
            )
        )

    def _read_size(self) -> int:
        word = self.lines.next("the number of atoms").strip()
        if not is_count(word) or not 0 < int(word) <= _MOST_ATOMS:
            raise self.lines.error("the number of atoms")
        return int(word)

    def _read_columns(self, names: Sequence[str]) -> dict[str, FloatArray]:
        if len(set(names)) != len(names):
            raise self.lines.error("AtomData with columns of different names")
        rows = [self._numbers(len(names)) for _ in range(self.size)]
        return dict(zip(names, np.array(rows).reshape(-1, len(names)).T, strict=True))

    def _vectors(self, names: Sequence[str]) -> FloatArray | None:
        """Three columns as vectors (n, 3); None if one is missing."""
        if not all(name in self.columns for name in names):
            return None
        return np.stack([self.columns[name] for name in names], axis=1)

    def _numbers(self, count: int) -> list[float]:
        return self.lines.numbers(self.lines.next(f"{count} numbers").split(), count)
