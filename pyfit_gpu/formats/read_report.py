"""Reports on files of structures that were read: labels by file, names that are not read, and doubts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from pyfit_gpu.datasets.summary import LabelCounts
from pyfit_gpu.errors import InputError, Remedy, how_many, shortened
from pyfit_gpu.formats.read_options import LABEL_KEYS, LEFT_OPEN, ReadOptions
from pyfit_gpu.formats.text_lines import is_unlabelled
from pyfit_gpu.log import log
from pyfit_gpu.structures.doubts import Doubts, describe_findings
from pyfit_gpu.structures.frames import Frame, StructureSummary

_Structure = TypeVar("_Structure", bound="Frame | StructureSummary")


@dataclass(eq=False)
class _Tally:
    """Counts of one file so far."""

    n_structures: int = 0
    n_without_energy: int = 0  # structures that are not for predictions only
    labels: LabelCounts = field(default_factory=LabelCounts)
    unread: Counter[str] = field(default_factory=Counter)
    chosen: Counter[str] = field(default_factory=Counter)

    def add(self, structure: Frame | StructureSummary) -> None:
        self.n_structures += 1
        self.n_without_energy += structure.energy is None and not is_unlabelled(structure.group)
        self.labels += LabelCounts.of_structure(structure)
        self.unread.update(structure.unread)
        self.chosen.update(structure.chosen)


class ReadReport:
    """Collects what readers give, and says what a user should know about each file."""

    def __init__(self, options: ReadOptions | None = None) -> None:
        self._options = options or ReadOptions()
        self._tallies: dict[str, _Tally] = {}
        self._doubts = Doubts()

    def watch(self, path: str, structures: Iterable[_Structure]) -> Iterator[_Structure]:
        """Yield the structures of a file as they come, and count each; doubts are left to `doubt`."""
        tally = self._tallies.setdefault(path, _Tally())
        for structure in structures:
            tally.add(structure)
            yield structure

    def doubt(self, path: str, number: int, structure: Frame | StructureSummary) -> None:
        """Look for what is doubtful in the structure with this number in the file, from 1."""
        self._doubts.add(path, number, structure)

    def log_labels(self, *, training: bool) -> None:
        """Log a line for each file about labels that it lacks and names that are not read.

        Args:
            training: whether structures without an energy are of no use.

        Raises:
            InputError: see `require_used`.
        """
        self.require_used()
        some_have_forces = any(tally.labels.forces for tally in self._tallies.values())
        for path, tally in self._tallies.items():
            lacking = (
                [_how_many(tally.n_without_energy, tally.n_structures, "energy")] if tally.n_without_energy else []
            )
            n_without_forces = tally.n_structures - tally.labels.forces
            if some_have_forces and n_without_forces:
                lacking.append(_how_many(n_without_forces, tally.n_structures, "forces"))
            if lacking or tally.unread:
                verb = "is" if len(tally.unread) == 1 else "are"
                text = "; ".join([*lacking, *(f"{names} {verb} not read" for names in self.unread(path))])
                if lacking and training and tally.unread:
                    log.warning("%s: %s (%s)", path, text, Remedy.OTHER_NAMES)
                else:
                    log.log(logging.WARNING if lacking and training else logging.INFO, "%s: %s", path, text)
            if len(self._tallies) > 1:
                log.info("%s: %s, %s", path, how_many(tally.n_structures), tally.labels)

    def log_doubts(self) -> None:
        """Log a warning for each file and kind of doubt, a few of each kind where there are many files."""
        for line in describe_findings(self._doubts.findings()):
            log.warning("%s", line)

    def unread(self, path: str) -> list[str]:
        """List in one text what a file holds and is not read; none if everything is."""
        names = list(self._tallies[path].unread)
        return [shortened(names)] if names else []

    def require_used(self) -> None:
        """Refuse an option that no file has a use for: a label or a unit would be lost without a word.

        Raises:
            InputError: with the names that are there and not read.
        """
        chosen = {key for tally in self._tallies.values() for key in tally.chosen}
        names = list(dict.fromkeys(name for tally in self._tallies.values() for name in tally.unread))
        for key in LABEL_KEYS:
            name = getattr(self._options, key)
            if name and key not in chosen:
                there = f"; not read: {shortened(names)}" if names else ""
                raise InputError(f"{key}: no structure of {shortened(self._tallies)} has {name!r}{there}", setting=key)
        for key in LEFT_OPEN:
            if getattr(self._options, key) and key not in chosen:
                raise InputError(
                    f"{key}: expected for files that leave their {key} open: none of {shortened(self._tallies)} does",
                    setting=key,
                )


def _how_many(n: int, of: int, label: str) -> str:
    have = "has" if n == 1 else "have"
    return f"{n} of {how_many(of)} {have} no {label}"
