"""The first part of an OUTCAR, before the first electronic step: elements, and what VASP was told."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.text_lines import is_count, parse_number
from pyfit_gpu.formats.vasp.elements import number_of, number_of_title

_SETTING = re.compile(r"\b(NIONS|NELM|EDIFF|ISIF|IBRION|LEPSILON|LCALCEPS|LCHIMAG)\s*=\s*([^\s;]+)")


@dataclass
class OutcarHeader:
    """Lines of a header as they come; the last of several values of a setting is the one that VASP used."""

    settings: dict[str, str] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)  # ions per type
    symbols: list[int] = field(default_factory=list)  # atomic numbers by VRHFIN
    titles: list[int] = field(default_factory=list)  # by TITEL
    potcars: list[int] = field(default_factory=list)  # by POTCAR, where each potential may stand twice
    counts_go_on: bool = False

    def read(self, line: str) -> None:
        """Take one line."""
        words = line.split()
        if self.counts_go_on and words and all(map(is_count, words)):  # more than ten species
            self.counts += map(int, words)
            return
        self.counts_go_on = False
        name, equals, value = line.partition("=")
        name = name.strip()
        if name == "ions per type":
            self.counts = [int(word) for word in value.split() if is_count(word)]
            self.counts_go_on = True
        elif name == "VRHFIN":
            self.symbols.append(number_of(value.split(":")[0].strip()))
        elif name == "TITEL":
            self.titles.append(number_of_title(value))
        elif line.lstrip().startswith("POTCAR:"):
            self.potcars.append(number_of_title(line.partition(":")[2]))
        elif equals:
            self.settings.update(_SETTING.findall(line))

    def species(self, path: str) -> list[tuple[int, int]]:
        """Atomic number and number of atoms of each species.

        Raises:
            InputError: elements or counts that the header does not give, or that contradict each other.
        """
        n_atoms, counts = self.whole("NIONS"), self.counts
        if not counts:
            raise _fault(path, "no line 'ions per type' before the first electronic step")
        if n_atoms is not None and sum(counts) != n_atoms:  # VASP prints no more than ten of them
            raise _fault(path, f"'ions per type' has {sum(counts)} atoms of {len(counts)} species, NIONS is {n_atoms}")
        half = self.potcars[: len(self.potcars) // 2]
        for found in (self.symbols, self.titles, half, self.potcars):
            if len(found) == len(counts) and all(found):
                return list(zip(found, counts, strict=True))
        found_counts = f"{len(self.symbols)} VRHFIN, {len(self.titles)} TITEL, {len(self.potcars)} POTCAR"
        raise _fault(path, f"expected the elements of {len(counts)} species, found those of {found_counts} lines")

    def whole(self, name: str) -> int | None:
        """A setting that is a whole number; None: not in the header."""
        return whole_number(self.settings.get(name, ""))

    @property
    def ediff(self) -> float | None:
        return parse_number(self.settings.get("EDIFF", "").upper().replace("D", "E"))

    @property
    def has_response(self) -> bool:
        """Whether the run has electronic steps of linear response, which end without an energy."""
        flags = (self.settings.get(name, "") for name in ("LEPSILON", "LCALCEPS", "LCHIMAG"))
        return is_response(self.whole("IBRION"), flags)


def whole_number(text: str) -> int | None:
    """A setting that is a whole number, or None."""
    return int(text) if re.fullmatch(r"-?\d{1,18}", text, re.ASCII) else None


def is_response(ibrion: int | None, flags: Iterable[str]) -> bool:
    """Whether IBRION or one of the flags, as VASP prints them, asks for linear response."""
    return ibrion in (7, 8) or any(flag.strip().lstrip(".").upper().startswith("T") for flag in flags)


def _fault(path: str, fault: str) -> InputError:
    return InputError(f"{path}: {fault}; the vasprun.xml of the run names the element of every atom", where=path)
