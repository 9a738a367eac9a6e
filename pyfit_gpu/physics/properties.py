"""Physical properties as they are reported: single values, curves, and all of them together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyfit_gpu.structures.cells import FloatArray


@dataclass(frozen=True)
class Property:
    """One value of a phase, the mean over the members of a committee, with what it can be compared with."""

    name: str  # as in the records of the NIST interatomic potentials repository where they have it: docs/physics.md
    phase: str
    value: float  # the mean over members; NaN: not known for one of them
    unit: str
    members: tuple[float, ...] = ()  # of each member; their standard deviation is the spread
    reference: float | None = None  # from the data; None: not known
    grade: float | None = None  # highest extrapolation grade of the structures behind it; None: no uncertainty given
    note: str = ""  # why there is no value, or what is special about it

    @classmethod
    def of_members(
        cls,
        name: str,
        phase: str,
        unit: str,
        members: Sequence[float] | FloatArray,
        *,
        reference: float | None = None,
        grade: float | None = None,
        note: str = "",
    ) -> Property:
        """Take the mean over members; `note` is kept where it was given."""
        values = tuple(float(value) for value in members)
        mean = float(np.mean(values)) if values else math.nan
        return cls(name, phase, mean, unit, values, reference, grade, note)

    @property
    def spread(self) -> float:
        """Sample standard deviation over members; NaN for a single one."""
        return float(np.std(self.members, ddof=1)) if len(self.members) > 1 else math.nan


@dataclass(frozen=True)
class Curve:
    """Lines over common abscissas: one per member, or one per phonon branch."""

    name: str
    phase: str
    x_label: str
    y_label: str
    x: tuple[float, ...]
    y: tuple[tuple[float, ...], ...]
    ticks: tuple[tuple[float, str], ...] = ()  # places on the x axis that have a name


@dataclass(frozen=True)
class Findings:
    """Properties and curves that a part has found."""

    properties: tuple[Property, ...]
    curves: tuple[Curve, ...]

    @classmethod
    def empty(cls) -> Findings:
        return cls((), ())

    @classmethod
    def unknown(
        cls, name: str, unit: str, phase: str = "", note: str = "no crystal at rest by all members"
    ) -> Findings:
        """A property without a value, and why."""
        return cls((Property(name, phase, math.nan, unit, note=note),), ())

    def __add__(self, other: Findings) -> Findings:
        return Findings(self.properties + other.properties, self.curves + other.curves)


@dataclass(frozen=True)
class Physics:
    """Everything that was computed, and the time that each part took."""

    properties: tuple[Property, ...]
    curves: tuple[Curve, ...]
    seconds: dict[str, float]
    stable: tuple[str, ...] = ()  # phases that should be stable: the ground states, on which most parts were computed

    def find(self, name: str, phase: str | None = None) -> Property:
        """The property of a name, and of a phase where several have it.

        Raises:
            KeyError: there is none, or several.
        """
        found = [one for one in self.properties if one.name == name and phase in (None, one.phase)]
        if len(found) != 1:
            raise KeyError(f"{name} of {phase or 'the only phase'}: expected one property, found {len(found)}")
        return found[0]
