"""Contents of a report: sections of text, tables and plots, and its numbers by name. Nothing here knows a format."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

Cell = str | float | int | None
Tone = Literal["plain", "good", "bad"]


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns; the last rows may stay below the others when a reader sorts."""

    title: str
    columns: tuple[str, ...]  # with the unit
    rows: tuple[tuple[Cell, ...], ...]
    foot: tuple[tuple[Cell, ...], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Series:
    """Points, or a line, of a plot that share a look and a place in the legend."""

    label: str  # empty: not in the legend
    x: tuple[float, ...]
    y: tuple[float, ...]
    names: tuple[str, ...] = ()  # what each point is; empty: nothing that a reader could look up
    line: bool = False
    look: int = 0  # see `looks.py`

    def take(self, rows: Sequence[int]) -> Series:
        names = tuple(self.names[row] for row in rows) if self.names else ()
        return replace(self, x=tuple(self.x[row] for row in rows), y=tuple(self.y[row] for row in rows), names=names)


@dataclass(frozen=True)
class Plot:
    """Series over two axes."""

    name: str  # of its picture's file, without the ending
    title: str
    x_label: str  # with the unit
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = False
    diagonal: bool = False  # x and y have the same scale, and x = y is drawn
    ticks: tuple[tuple[float, str], ...] = ()  # along x, in place of numbers
    note: str = ""
    n_all: int = 0  # points before some were left out; 0: none were

    @property
    def notes(self) -> str:
        """The note, and how many points were left out."""
        if not self.n_all:
            return self.note
        count = sum(len(one.x) for one in self.series if not one.line)
        return f"{self.note} {count} of {self.n_all} points: the farthest out and every n-th of the others.".strip()

    @property
    def n_points(self) -> int:
        return sum(len(one.x) for one in self.series)

    def thinned(self, most: int) -> Plot:
        """Leave out points: the farthest out stay (a fifth of them), and of the others every n-th."""
        points = [one for one in self.series if not one.line]
        count = sum(len(one.x) for one in points)
        if count <= most:
            return self
        x, y = (np.array([value for one in points for value in getattr(one, axis)]) for axis in "xy")
        order = np.argsort(-np.abs(y - x if self.diagonal else y), kind="stable")
        n_far = most // 5
        rest = np.sort(order[n_far:])
        chosen = np.zeros(count, dtype=bool)
        chosen[order[:n_far]] = True
        chosen[rest[np.linspace(0, len(rest) - 1, most - n_far).round().astype(int)]] = True
        kept, start = [], 0
        for one in self.series:
            own = chosen[start : start + len(one.x)]
            kept.append(one if one.line else one.take(np.flatnonzero(own).tolist()))
            start += 0 if one.line else len(one.x)
        return replace(self, series=tuple(kept), n_all=self.n_all or count)


@dataclass(frozen=True)
class Section:
    """Part of a report under a title."""

    title: str
    text: tuple[str, ...] = ()  # paragraphs
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()


@dataclass(frozen=True)
class Value:
    """A number of the report that has a name: in its JSON, and for limits."""

    name: str  # "energy-rmse", "C11"
    value: float  # NaN where it is not known
    unit: str
    of: str = ""  # group of structures, or phase; empty: all of them
    spread: float | None = None  # over the members
    reference: float | None = None
    grade: float | None = None
    note: str = ""

    @property
    def full_name(self) -> str:
        return f"{self.name} of {self.of}" if self.of else self.name


@dataclass(frozen=True)
class Fact:
    """One of the few numbers at the top of a page."""

    label: str
    text: str
    tone: Tone = "plain"
    more: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that a page shows."""

    title: str
    subtitle: str = ""
    facts: tuple[Fact, ...] = ()
    sections: tuple[Section, ...] = ()
    values: tuple[Value, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)  # further entries of the JSON

    @property
    def plots(self) -> list[Plot]:
        return [plot for section in self.sections for plot in section.plots]

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON, in which numbers that are not finite are null."""
        return plain(
            {
                "format": "pyfit-gpu report",
                "version": 1,
                "title": self.title,
                "subtitle": self.subtitle,
                "values": [vars(value) for value in self.values],
                "sections": [
                    {
                        "title": section.title,
                        "text": section.text,
                        "tables": [vars(table) for table in section.tables],
                        "plots": [
                            {**vars(plot), "series": [vars(one) for one in plot.series]} for plot in section.plots
                        ],
                    }
                    for section in self.sections
                ],
                **self.details,
            }
        )


def plain(value: Any) -> Any:
    """Make a value of lists, dictionaries, text and finite numbers alone."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


_ROUNDING = 1e-10  # in the units of a report: forces that symmetry makes zero have less


def number(value: float, digits: int = 4) -> str:
    """Write a number for a reader: so many significant digits, and no exponent where it can be helped.

    Energies of a hundred eV and more per atom, as DFT programs give them, have their meV.
    """
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if size < _ROUNDING:
        return "0"
    if size < 1e-4 or size >= 1e7:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    decimals = 3 if digits > 3 and 100 <= size < 1000 else max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{value:.{decimals}f}".replace("-", "−")
