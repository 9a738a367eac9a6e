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
# Properties that a crystal which is not stable betrays itself by, and what they tell of.
_SIGNS = (
    (re.compile(r"C(\d)\1|lowest-elastic-eigenvalue"), "elastic constants"),
    (re.compile("bulk-modulus"), "bulk modulus"),
    (re.compile("phonon-frequency-minimum"), "phonons"),
)
_AT_REST = re.compile(rf"potential-energy|{_SIGNS[0][0].pattern}|bulk-modulus")  # known of every crystal at rest
_IMAGINARY = -0.1  # THz; sound at Γ has 0 but for rounding and finite displacements


def physics_values(physics: Physics) -> list[Value]:
    return [
        Value(one.name, one.value, one.unit, one.phase, _spread(one), one.reference, one.grade, one.note)
        for one in physics.properties
    ]


def _spread(one: Property) -> float | None:
    return one.spread if math.isfinite(one.spread) else None


def physics_section(physics: Physics, stable: Sequence[str] = (), doubts: Sequence[str] = ()) -> Section:
    """Make the section of physical properties: curves, and a table for each phase, from the lowest energy up.

    Args:
        stable: phases that should be stable.
        doubts: lines of `instabilities` and `unknown_stability`.
    """
    if not any(one.phase for one in physics.properties):
        return Section("Physics", ("The data have no crystal whose properties could be computed.",))
    text = [*doubts]
    if stable and not doubts:
        signs = dict.fromkeys(_sign(one) for one in physics.properties if one.phase in stable)
        looked_at = ", ".join(sign for sign in signs if sign)
        text.append(f"Nothing speaks against the stability of {shortened(stable)} (looked at: {looked_at}).")
    text.append(
        "References are from the structures of the data, or from a file. A grade above 1 says that a value is "
        "extrapolated. "
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


def has_signs(physics: Physics, phase: str) -> bool:
    """Whether something was computed that a crystal which is not stable would betray itself by."""
    return any(one.phase == phase and _sign(one) for one in physics.properties)


def _sign(one: Property) -> str:
    """Name what a property tells of a crystal's stability; empty: nothing."""
    return next((what for name, what in _SIGNS if name.fullmatch(one.name)), "")


def _phases(physics: Physics) -> list[str]:
    named = [one.phase for one in physics.properties] + [one.phase for one in physics.curves]
    return list(dict.fromkeys(filter(None, named)))


def _moving(physics: Physics, phases: Sequence[str]) -> dict[str, str]:
    """Phases that are not at rest by all members, and the notes that say why."""
    return {
        one.phase: one.note
        for one in reversed(physics.properties)
        if one.phase in phases and math.isnan(one.value) and _AT_REST.fullmatch(one.name)
    }


def instabilities(physics: Physics, phases: Sequence[str] | None = None) -> list[str]:
    """Lines about phases that cannot be stable: not even at rest, negative elastic constants, imaginary modes.

    Args:
        phases: phases that should be stable; None: the ground states.
    """
    found = []
    if phases is None:
        named, phases = _phases(physics), physics.stable
        if named and not phases:
            return ["no crystal came to rest by all members"]
        found = [f"{phase}: not at rest by all members" for phase in phases if phase not in named]
    found += [f"{phase}: {note or 'not at rest by all members'}" for phase, note in _moving(physics, phases).items()]
    for one in physics.properties:
        sign = _sign(one) if one.phase in phases else ""
        if sign == "phonons" and one.value < _IMAGINARY:
            found.append(f"phonons of {one.phase}: imaginary modes, the lowest at {number(one.value)} THz")
        elif sign and sign != "phonons" and one.value <= 0:
            found.append(
                f"{one.name} of {one.phase}: {number(one.value)} {one.unit}: a stable crystal has a positive one"
            )
    return found


def unknown_stability(physics: Physics | None, phases: Sequence[str]) -> list[str]:
    """Lines about phases that should be stable, where that is not known."""
    if physics is None:
        return [f"{phase}: the report has no physical properties" for phase in phases]
    named, moving = _phases(physics), _moving(physics, phases)
    found = []
    for phase in phases:
        signs = [one for one in physics.properties if one.phase == phase and _sign(one)]
        if phase not in named:
            found.append(f"{phase}: the report has no phase of this name (there is {shortened(named) or 'none'})")
        elif not signs:
            found.append(f"{phase}: neither elastic constants nor phonons of it were computed")
        for one in signs:
            if math.isnan(one.value) and phase not in moving:
                found.append(f"{one.name} of {phase}: not known{f' ({one.note})' if one.note else ''}")
    return found
