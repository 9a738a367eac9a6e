"""Limits that a report's values must keep, read from a small JSON5 file (docs/report.md)."""

from __future__ import annotations

import difflib
import fnmatch
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyfit_gpu.errors import InputError
from pyfit_gpu.report.contents import Value, number
from pyfit_gpu.report.json5_files import kind_of, read_number, read_object


@dataclass(frozen=True)
class Limit:
    """Range of the values whose full name matches."""

    pattern: str  # full name of a value, perhaps with shell wildcards: "energy-rmse of group Surface*"
    low: float = -math.inf
    high: float = math.inf

    def violations(self, values: Sequence[Value]) -> list[str]:
        found = [one for one in values if self._matches(one.full_name)]
        if not found:
            near = difflib.get_close_matches(self.pattern, [value.full_name for value in values], n=3)
            hint = f" (there is {', '.join(near)})" if near else ""
            return [f"{self.pattern}: the report has no value of this name{hint}"]
        return [text for value in found if (text := self._violation(value))]

    def _matches(self, name: str) -> bool:
        return name == self.pattern or fnmatch.fnmatchcase(name, self.pattern)  # a name may hold brackets

    def _violation(self, value: Value) -> str:
        shown = f"{value.full_name}: {number(value.value)} {value.unit}".rstrip()
        if math.isnan(value.value):
            return f"{value.full_name}: not known{f' ({value.note})' if value.note else ''}"
        if value.value < self.low:
            return f"{shown} is below {self.low:g}"
        return f"{shown} is above {self.high:g}" if value.value > self.high else ""


@dataclass(frozen=True)
class Gate:
    """Limits of a report, and the phases that must be stable."""

    limits: tuple[Limit, ...] = ()
    stable: tuple[str, ...] | None = None  # None: the ground states

    def violations(self, values: Sequence[Value]) -> list[str]:
        """One line for each value that breaks a limit."""
        return [text for limit in self.limits for text in limit.violations(values)]


def load_gate(path: str | os.PathLike[str]) -> Gate:
    """Read a file of limits.

    Raises:
        InputError: it cannot be read, or something in it is no limit; with its name.
    """
    name, content = os.fspath(path), read_object(path)
    unknown = sorted(set(content) - {"limits", "stable"})
    if unknown:
        raise InputError(f"{name}: {unknown[0]}: expected limits or stable")
    limits, stable = content.get("limits", {}), content.get("stable")
    if not isinstance(limits, Mapping):
        raise InputError(f"{name}: limits: expected an object with a limit by name, found {kind_of(limits)}")
    if stable is not None and not (isinstance(stable, list) and all(isinstance(one, str) for one in stable)):
        found_kind = "a list of something else" if isinstance(stable, list) else kind_of(stable)
        raise InputError(f"{name}: stable: expected a list of phases, found {found_kind}")
    found = tuple(_limit(own, limit, f"{name}: limits: {own}") for own, limit in limits.items())
    return Gate(found, None if stable is None else tuple(stable))


def _limit(pattern: str, limit: Any, where: str) -> Limit:
    if not isinstance(limit, Mapping) or not limit or set(limit) - {"min", "max"}:
        raise InputError(f"{where}: expected min, max or both, as in {{max: 10}}, found {limit!r}"[:300])
    ends = {end: read_number(value, f"{where}: {end}") for end, value in limit.items()}
    low, high = ends.get("min", -math.inf), ends.get("max", math.inf)
    if low > high:
        raise InputError(f"{where}: expected min <= max, found {low:g} and {high:g}")
    return Limit(pattern, low, high)
