"""Energy against volume of crystals scaled around their rest, with an equation of state, and the values at rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyfit_gpu.physics.crystals import scaled
from pyfit_gpu.physics.equation_of_state import FITTED_RANGE, UNKNOWN, EquationOfState, fit_equation
from pyfit_gpu.physics.equilibrium import Solid
from pyfit_gpu.physics.members import Evaluated, Members, highest_grade
from pyfit_gpu.physics.properties import Curve, Findings, Property
from pyfit_gpu.structures.cells import FloatArray

_VOLUMES = np.round(np.arange(0.76, 1.2801, 0.02), 2)  # of a curve, relative to the volume at rest


def energy_volume(members: Members, solids: Sequence[Solid]) -> Findings:
    """Scale the cells of all solids by all members, in one batch, and fit the equations."""
    found = Findings.empty()
    places = [(row, number, state) for row, solid in enumerate(solids) for number, state in solid.known]
    groups = [(number, [scaled(state.atoms, v * state.volume) for v in _VOLUMES]) for _, number, state in places]
    evaluated = members.evaluate(groups, derivatives=False)
    for row, solid in enumerate(solids):
        own = {n: one for (r, n, _), one in zip(places, evaluated, strict=True) if r == row}
        found += _of_solid(solid, own)
    return found


def _of_solid(solid: Solid, evaluated: dict[int, Sequence[Evaluated]]) -> Findings:
    """Values and curve of a solid, from the scaled cells of those members that have it."""
    near = abs(_VOLUMES - 1) < FITTED_RANGE
    equations = [UNKNOWN] * len(solid.states)
    volumes, energies = np.full((2, len(solid.states), len(_VOLUMES)), np.nan)
    for number, state in solid.known:
        volumes[number] = _VOLUMES * state.volume
        energies[number] = [one.energy / len(state.atoms) for one in evaluated[number]]
        equations[number] = fit_equation(volumes[number][near], energies[number][near])
    behind = [[one for one, fits in zip(own, near, strict=True) if fits] for own in evaluated.values()]
    properties = (*_at_rest(solid), *_of_equations(solid, equations, highest_grade(behind)))
    curves = (_curve(solid, volumes, energies),) if solid.known else ()
    return Findings(properties, curves)


def _at_rest(solid: Solid) -> list[Property]:
    """Energy and lattice constants."""
    more = {"grade": solid.grade, "note": solid.note}
    energies = [state.energy if state else np.nan for state in solid.states]
    known = _known(solid.reference.equation.energy)
    found = [Property.of_members("potential-energy", solid.phase, "eV/atom", energies, reference=known, **more)]
    references = solid.reference.lattice_constants(solid.crystal)
    for name in solid.crystal.lattice_constants(solid.crystal.atoms):
        lengths = [solid.crystal.lattice_constants(s.atoms)[name] if s else np.nan for s in solid.states]
        found.append(
            Property.of_members(
                f"lattice-constant-{name}", solid.phase, "Å", lengths, reference=references.get(name), **more
            )
        )
    return found


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _of_equations(solid: Solid, equations: Sequence[EquationOfState], grade: float | None) -> list[Property]:
    note = solid.note
    if not note and any(np.isnan(one.volume) for one in equations):
        note = "the equation of state has no minimum"
    found = []
    for name, unit, attribute in (
        ("volume", "Å^3/atom", "volume"),
        ("bulk-modulus", "GPa", "bulk_modulus"),
        ("bulk-modulus-derivative", "", "derivative"),
    ):
        values = [getattr(one, attribute) for one in equations]
        known = _known(getattr(solid.reference.equation, attribute))
        found.append(Property.of_members(name, solid.phase, unit, values, reference=known, grade=grade, note=note))
    return found


def _curve(solid: Solid, volumes: FloatArray, energies: FloatArray) -> Curve:
    """One line for each member, over the volumes of all of them on average."""
    have = np.isfinite(volumes).all(axis=1)
    common = volumes[have].mean(axis=0)
    lines = [
        np.interp(common, own, line, left=np.nan, right=np.nan) if known else line
        for own, line, known in zip(volumes, energies, have, strict=True)
    ]
    y = tuple(tuple(line.tolist()) for line in lines)
    return Curve("energy-volume", solid.phase, "volume (Å^3/atom)", "energy (eV/atom)", tuple(common.tolist()), y)
