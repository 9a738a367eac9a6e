"""Sections about physical properties: values and curves of phases, and which phases are unstable."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from pyfit_gpu.errors import shortened
from pyfit_gpu.physics.properties import Curve, Physics, Property
from pyfit_gpu.report.contents import Cell, Plot, Section, Series, Table, Value, number
from pyfit_gpu.report.looks import line_look

_LONGEST_NAME = 60  # of a picture's file
_MOST_NAMED = 8  # lines of a single curve that the legend names
_POSITIVE = re.compile(r"C(\d)\1|bulk-modulus|lowest-elastic-eigenvalue")  # in a stable crystal
_AT_REST = re.compile(rf"potential-energy|{_POSITIVE.pattern}")  # known of every crystal at rest
_IMAGINARY = -0.1  # THz; sound at Γ has 0 but for rounding and finite displacements


def physics_values(physics: Physics) -> list[Value]:
    return [
        Value(one.name, one.value, one.unit, one.phase, _spread(one), one.reference, one.grade, one.note)
        for one in physics.properties
    ]


def _spread(one: Property) -> float | None:
    return one.spread if math.isfinite(one.spread) else None


def physics_section(physics: Physics, stable: Sequence[str] = (), unstable: Sequence[str] = ()) -> Section:
    """Make the section of physical properties: curves, and a table for each phase, from the lowest energy up.

    Args:
        stable: phases that should be stable.
        unstable: lines of `instabilities`.
    """
    if not any(one.phase for one in physics.properties):
        return Section("Physics", ("The data have no crystal whose properties could be computed.",))
    text = [*unstable]
    if stable and not unstable:
        text.append(f"No negative elastic constant or imaginary phonon was found for {shortened(stable)}.")
    text.append(
        "References are from the structures of the data. A grade above 1 says that a value is extrapolated. "
        f"Computed in {number(sum(physics.seconds.values()), 3)} s."
    )
    energies = {one.phase: one.value for one in physics.properties if one.name == "potential-energy"}
    named = dict.fromkeys(one.phase for one in physics.properties)
    phases = sorted(named, key=lambda phase: _last_if_unknown(energies.get(phase)))
    tables = tuple(_phase_table(phase, physics) for phase in phases)
    plots = [_curve_plot(curves) for curves in _together(physics.curves)]
    return Section("Physics", tuple(text), tables, tuple(_with_own_names(plots)))


def _with_own_names(plots: Sequence[Plot]) -> list[Plot]:
    """Number the names that several plots have: what phases are called may be the same but for odd characters."""
    found: dict[str, Plot] = {}
    for plot in plots:
        names = (plot.name, *(f"{plot.name}_{k}" for k in range(2, len(plots) + 1)))
        own = next(name for name in names if name not in found)
        found[own] = replace(plot, name=own)
    return list(found.values())


def _last_if_unknown(energy: float | None) -> float:
    return math.inf if energy is None or math.isnan(energy) else energy


def _phase_table(phase: str, physics: Physics) -> Table:
    rows: list[tuple[Cell, ...]] = []
    own = [one for one in physics.properties if one.phase == phase]
    if phase and all(math.isnan(one.value) for one in own):  # all for one reason: it is said once
        own = [one for one in own if one.reference is not None] or own[:1]
    for one in own:
        difference = None if one.reference is None else one.value - one.reference
        rows.append((one.name, one.value, _raised(one.unit), _spread(one), one.reference, difference, one.grade,
                     one.note or None))  # fmt: skip
    columns = ("property", "value", "unit", "spread", "reference", "difference", "grade", "note")
    kept = [k for k in range(len(columns)) if k < 3 or any(row[k] is not None for row in rows)]
    cells = tuple(tuple(row[k] for k in kept) for row in rows)
    return Table(phase or "Properties", tuple(columns[k] for k in kept), cells)


def _raised(unit: str) -> str:
    return unit.replace("^2", "²").replace("^3", "³").replace("2 pi", "2π")


def _together(curves: Sequence[Curve]) -> list[list[Curve]]:
    """Curves that share a plot: those with equal names and axes, unless their abscissas have marks of their own."""
    found: dict[tuple[str, ...], list[Curve]] = {}
    for curve in curves:
        own = (curve.name, curve.x_label, curve.y_label, curve.phase if curve.ticks else "")
        found.setdefault(own, []).append(curve)
    return list(found.values())


def _curve_plot(curves: Sequence[Curve]) -> Plot:
    first, alone = curves[0], len(curves) == 1
    series = []
    for k, curve in enumerate(curves):
        for line, y in enumerate(curve.y):
            if alone:
                named = not first.ticks and 1 < len(curve.y) <= _MOST_NAMED
                label, look = (f"member {line}", line) if named else ("", 0)
            else:
                label, look = ("" if line else curve.phase), k
            series.append(Series(label, curve.x, y, line=True, look=line_look(look)))
    title = first.name.replace("-", " ")
    title = title[:1].upper() + title[1:] + (f", {first.phase}" if alone and first.phase else "")
    name = re.sub(r"\W+", "_", f"{first.name} {first.phase}" if alone else first.name, flags=re.ASCII)
    name = name[:_LONGEST_NAME].strip("_")
    return Plot(f"physics_{name}", title, _raised(first.x_label), _raised(first.y_label), tuple(series),
                ticks=_marks(first))  # fmt: skip


def _marks(curve: Curve) -> tuple[tuple[float, str], ...]:
    """Marks along the axis; where a path of wave vectors jumps, two share a place."""
    labels: dict[float, str] = {}
    for place, text in curve.ticks:
        text = {"G": "Γ"}.get(text, text)
        labels[place] = f"{labels[place]}|{text}" if labels.get(place, text) != text else text
    return tuple(labels.items())


def instabilities(physics: Physics, phases: Sequence[str] | None = None) -> list[str]:
    """Lines about phases that cannot be stable: negative elastic constants, imaginary modes, not even at rest.

    Args:
        phases: phases that should be stable; None: the ground states.
    """
    named = [one.phase for one in physics.properties] + [one.phase for one in physics.curves]
    there = dict.fromkeys(filter(None, named))
    missing = f"the report has no phase of this name (there is {shortened(there) or 'none'})"
    if phases is None:
        phases, missing = physics.stable, "not at rest by all members"
        if there and not phases:
            return ["no crystal came to rest by all members"]
    found = [f"{phase}: {missing}" for phase in phases if phase not in there]
    unknown = {
        one.phase: one.note
        for one in reversed(physics.properties)
        if one.phase in phases and math.isnan(one.value) and _AT_REST.fullmatch(one.name)
    }
    found += [f"{phase}: {note or 'not known to be stable'}" for phase, note in unknown.items()]
    found += [
        f"{one.name} of {one.phase}: {number(one.value)} {one.unit}: a stable crystal has a positive one"
        for one in physics.properties
        if one.phase in phases and _POSITIVE.fullmatch(one.name) and one.value <= 0
    ]
    for curve in physics.curves:
        if curve.phase in phases and curve.name.startswith("phonon") and "THz" in curve.y_label:
            lowest = min((value for branch in curve.y for value in branch if math.isfinite(value)), default=0.0)
            if lowest < _IMAGINARY and "density" not in curve.name:
                found.append(f"phonons of {curve.phase}: imaginary modes, the lowest at {number(lowest)} THz")
    return found
