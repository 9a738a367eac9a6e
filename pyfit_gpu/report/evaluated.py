"""Predictions beside their references: errors by label, structure and group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from pyfit_gpu.report.looks import Legend
from pyfit_gpu.structures.cells import FloatArray


@dataclass(frozen=True, eq=False)
class Label:
    """Values of a label that were predicted for structures, and those that are known.

    Everything is a flat array of components per structure; `known` is empty where there is no reference.
    """

    name: str  # "energy"
    unit: str  # "eV/atom"
    error_unit: str  # "meV/atom"
    factor: float  # from the one unit to the other
    found: tuple[FloatArray, ...]
    known: tuple[FloatArray, ...]
    spread: tuple[FloatArray, ...] | None = None  # of the members; None: there is only one
    error_bars: tuple[FloatArray, ...] | None = None  # None: there are none

    @cached_property
    def errors(self) -> tuple[FloatArray, ...]:
        """Predicted minus known, in `error_unit`, and empty where unknown."""
        pairs = zip(self.found, self.known, strict=True)
        return tuple(self.factor * (found - known) if len(known) else known for found, known in pairs)

    @property
    def is_known(self) -> bool:
        return any(len(known) for known in self.known)

    def joined(self, other: Label) -> Label:
        def both(name: str) -> tuple[FloatArray, ...] | None:
            mine, theirs = getattr(self, name), getattr(other, name)
            return None if mine is None or theirs is None else (*mine, *theirs)

        return replace(self, **{name: both(name) for name in ("found", "known", "spread", "error_bars")})  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Structures, and the labels that a potential predicts for them."""

    names: tuple[str, ...]  # of the structures: file and place
    groups: tuple[str, ...]
    parts: tuple[str, ...]  # what each did in training: "training", "validation", "test"; empty: not known
    n_atoms: FloatArray  # (B,)
    volume_per_atom: FloatArray  # (B,) Å^3; 0 without a full cell
    labels: tuple[Label, ...]
    grades: tuple[FloatArray, ...] | None = None  # of each structure's atoms; None: not known

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def legend(self) -> Legend:
        """Looks of the groups, the same in all plots."""
        return Legend.of(self.groups)

    def label(self, name: str) -> Label:
        return next(label for label in self.labels if label.name == name)

    @property
    def known_labels(self) -> list[Label]:
        return [label for label in self.labels if label.is_known]

    @property
    def highest_grades(self) -> FloatArray | None:
        return None if self.grades is None else np.array([own.max() for own in self.grades])

    def joined(self, other: Evaluated) -> Evaluated:
        return Evaluated(
            names=self.names + other.names,
            groups=self.groups + other.groups,
            parts=self.parts + other.parts,
            n_atoms=np.concatenate([self.n_atoms, other.n_atoms]),
            volume_per_atom=np.concatenate([self.volume_per_atom, other.volume_per_atom]),
            labels=tuple(mine.joined(theirs) for mine, theirs in zip(self.labels, other.labels, strict=True)),
            grades=None if self.grades is None or other.grades is None else self.grades + other.grades,
        )


@dataclass(frozen=True)
class Errors:
    """Summary of errors."""

    n_structures: int
    rmse: float
    mae: float
    largest: float

    @classmethod
    def of(cls, parts: Iterable[FloatArray]) -> Errors:
        """Sum up the errors of structures, leaving out those that have none.

        All numbers are NaN if none has one.
        """
        known = [part for part in parts if len(part)]
        if not known:
            return cls(0, *[float("nan")] * 3)
        every = np.concatenate(known)
        return cls(
            len(known), float(np.sqrt(np.mean(every**2))), float(np.abs(every).mean()), float(np.abs(every).max())
        )


def errors_by(keys: Sequence[str], errors: Sequence[FloatArray]) -> dict[str, Errors]:
    """Summaries of the errors of structures with the same key, in the order of the keys; none for keys without any."""
    found: dict[str, list[FloatArray]] = {}
    for key, error in zip(keys, errors, strict=True):
        if len(error):
            found.setdefault(key, []).append(error)
    return {key: Errors.of(found[key]) for key in sorted(found)}
