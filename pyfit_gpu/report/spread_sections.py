"""Sections about what a potential knows of its own errors: spread of the members, error bars, extrapolation grades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erf, sqrt

import numpy as np

from pyfit_gpu.report.contents import Cell, Plot, Section, Series, Table, Value
from pyfit_gpu.report.error_sections import MOST_POINTS, component_names, grouped_series
from pyfit_gpu.report.evaluated import Evaluated, Label
from pyfit_gpu.structures.cells import FloatArray

_N_HIGHEST = 20  # structures that are listed
EDGE = 1 + 1e-6  # grade above which an atom lies outside: that of one at the edge is 1 up to rounding
# Components that symmetry makes zero have errors and bars of rounding. Logarithmic plots leave out what is below this
# share of the largest.
_SMALLEST = 1e-6
_LEVELS = tuple(k / 20 for k in range(1, 20))  # shares that the calibration is drawn for


@dataclass(frozen=True, eq=False)
class _Bars:
    """Standard deviations that some components were predicted to have, and the errors that they have."""

    label: Label
    what: str  # "committee spread" or "error bars"
    sigma: tuple[FloatArray, ...]  # by structure, in the errors' unit

    @property
    def rows(self) -> list[int]:
        return [row for row, errors in enumerate(self.label.errors) if len(errors)]

    def pairs(self) -> tuple[FloatArray, FloatArray]:
        """Deviation and |error| of every component with a reference, where the deviation is a number."""
        sigma = np.concatenate([self.sigma[row] for row in self.rows])
        error = np.abs(np.concatenate([self.label.errors[row] for row in self.rows]))
        known = ~np.isnan(sigma)
        return sigma[known], error[known]


def _all_bars(found: Evaluated) -> list[_Bars]:
    bars = []
    for label in found.known_labels:
        for what, own in (("committee spread", label.spread), ("error bars", label.error_bars)):
            if own is not None:
                bars.append(_Bars(label, what, tuple(label.factor * part for part in own)))
    return [one for one in bars if len(one.pairs()[0])]


def share_within(sigma: FloatArray, error: FloatArray, count: float) -> float:
    """Share of errors within so many standard deviations."""
    return float(np.mean(error <= count * sigma))


def calibration_values(found: Evaluated) -> list[Value]:
    """Shares within one and two standard deviations, by label and kind of bar."""
    values = []
    for bars in _all_bars(found):
        stem = f"{bars.label.name}-{'spread' if bars.what == 'committee spread' else 'error-bar'}"
        sigma, error = bars.pairs()
        values.append(Value(f"{stem}-mean", float(sigma.mean()), bars.label.error_unit))
        values += [Value(f"{stem}-within-{count}", share_within(sigma, error, count), "share") for count in (1, 2)]
    return values


def calibration_section(found: Evaluated) -> Section | None:
    """Make the section of spreads and error bars: how large they are, and whether errors are as large."""
    every = _all_bars(found)
    if not every:
        return None
    rows: list[tuple[Cell, ...]] = []
    for bars in every:
        sigma, error = bars.pairs()
        shares = [100 * share_within(sigma, error, count) for count in (1, 2)]
        rms = float(np.sqrt(np.mean(error**2)))
        rows.append((bars.label.name, bars.what, len(sigma), float(sigma.mean()), float(sigma.max()), rms,
                     bars.label.error_unit, *shares))  # fmt: skip
    columns = ("label", "bar", "components", "mean", "largest", "RMSE", "unit", "within 1 σ (%)", "within 2 σ (%)")
    text = ("Of well calibrated error bars, 68 % of the errors are within one and 95 % within two. The spread of a "
            "committee is the disagreement of its members: more errors than these lie outside of it.",)  # fmt: skip
    plots = [_error_against_bar(found, bars) for bars in every]
    plots.append(_calibration_plot(every))
    table = Table("Spread and calibration", columns, tuple(rows))
    return Section("Calibration", text, (table,), tuple(plots))


def _error_against_bar(found: Evaluated, bars: _Bars) -> Plot:
    label = bars.label
    legend = found.legend
    sigma, error = bars.pairs()
    least = (_SMALLEST * sigma.max(), _SMALLEST * error.max())
    series = []
    for look, groups in legend.gathered().items():
        xs, ys, names = [], [], []
        for row in bars.rows:
            if legend.looks[found.groups[row]] == look:
                x, y = bars.sigma[row], np.abs(label.errors[row])
                kept = (x > least[0]) & (y > least[1])
                own = component_names(found.names[row], len(kept), of_atoms=label.name == "forces")
                xs += x[kept].tolist()
                ys += y[kept].tolist()
                names += [name for name, is_kept in zip(own, kept, strict=True) if is_kept]
        if xs:
            series.append(Series(legend.label(groups[0]), tuple(xs), tuple(ys), tuple(names), look=look))
    return Plot(
        f"{bars.what.replace(' ', '_')}_{label.name}",
        f"{label.name.capitalize()}: error against {bars.what}",
        f"{bars.what} ({label.error_unit})",
        f"|error| ({label.error_unit})",
        tuple(series),
        log_x=True,
        log_y=True,
        diagonal=True,
        note="Points above the line have a larger error than their bar.",
    ).thinned(MOST_POINTS)


def _calibration_plot(every: Sequence[_Bars]) -> Plot:
    """Plot the share of errors within k standard deviations against that of a normal distribution."""
    counts = [_normal_quantile(level) for level in _LEVELS]
    series = []
    for look, bars in enumerate(every):
        sigma, error = bars.pairs()
        shares = (0.0, *(share_within(sigma, error, count) for count in counts), 1.0)
        series.append(Series(f"{bars.label.name}, {bars.what}", (0.0, *_LEVELS, 1.0), shares, line=True, look=look))
    return Plot(
        "calibration",
        "Calibration",
        "expected share of errors",
        "share found",
        tuple(series),
        diagonal=True,
        note="Below the line: bars are too small, the potential is too sure of itself.",
    )


def _normal_quantile(level: float) -> float:
    """Number of standard deviations within which so large a share of a normal distribution lies, by bisection."""
    low, high = 0.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if erf(middle / sqrt(2)) < level else (low, middle)
    return (low + high) / 2


def grade_values(found: Evaluated) -> list[Value]:
    highest = found.highest_grades
    if highest is None:
        return []
    outside = float(np.mean(highest > EDGE))
    return [Value("highest-grade", float(highest.max()), ""), Value("share-outside", outside, "share")]


def grade_section(found: Evaluated) -> Section | None:
    """Make the section of extrapolation grades: which structures lie outside, and whether errors grow with them."""
    highest = found.highest_grades
    if highest is None:
        return None
    order = np.argsort(-highest, kind="stable")[:_N_HIGHEST].tolist()
    rows = tuple((found.names[row], found.groups[row], float(highest[row])) for row in order)
    n_outside = int((highest > EDGE).sum())
    text = (f"The grade of an atom says how far it lies outside of the training set, 1 at its edge. {n_outside} of "
            f"{len(found)} structures have an atom above 1.",)  # fmt: skip
    table = Table("Highest grades", ("structure", "group", "highest grade"), rows)
    plots = []
    for label in found.known_labels[:2]:
        worst = [np.array([np.abs(own).max()]) if len(own) else own for own in label.errors]
        least = _SMALLEST * max((float(own[0]) for own in worst if len(own)), default=0.0)
        keep = [len(own) > 0 and bool(own[0] > least) and grade > 0 for own, grade in zip(worst, highest, strict=True)]
        series = grouped_series(found, [np.array([grade]) for grade in highest], worst, keep=keep)
        title = f"Largest error of {'an energy' if label.name == 'energy' else label.name} against the grade"
        plot = Plot(f"grade_{label.name}", title, "highest grade of the structure's atoms",
                    f"largest |error| ({label.error_unit})", series, log_x=True, log_y=True)  # fmt: skip
        plots.append(plot.thinned(MOST_POINTS))
    return Section("Extrapolation", text, (table,), tuple(plots))
