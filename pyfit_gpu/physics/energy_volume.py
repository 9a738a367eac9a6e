"""Energy against volume of crystals scaled around their rest, with an equation of state, and the values at rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from ase import Atoms

from pyfit_gpu.physics.crystals import scaled
from pyfit_gpu.physics.equation_of_state import FITTED_RANGE, UNKNOWN, EquationOfState, fit_equation
from pyfit_gpu.physics.equilibrium import Solid
from pyfit_gpu.physics.members import Evaluated, Members, highest_grade
from pyfit_gpu.physics.properties import Curve, Findings, Property
from pyfit_gpu.structures.cells import FloatArray

_VOLUMES = np.round(np.arange(0.76, 1.2801, 0.02), 2)  # of a curve, relative to the volume at rest


@dataclass(frozen=True, eq=False)
class Alone:
    """Isolated atoms, from which cohesive energies count."""

    by_symbol: dict[str, list[Evaluated]]  # by each member
    unless_known: str  # what to note of their energies where the data do not have them


def energy_volume(members: Members, solids: Sequence[Solid]) -> Findings:
    """Scale the cells of all solids by all members, in one batch, and fit the equations."""
    found = Findings.empty()
    places = [(row, number, state) for row, solid in enumerate(solids) for number, state in solid.known]
    groups = [(number, [scaled(state.atoms, v * state.volume) for v in _VOLUMES]) for _, number, state in places]
    evaluated = members.evaluate(groups, derivatives=False)
    alone = _isolated_atoms(members)
    for row, solid in enumerate(solids):
        own = {n: one for (r, n, _), one in zip(places, evaluated, strict=True) if r == row}
        found += _of_solid(solid, own, alone)
    return found


def _of_solid(solid: Solid, evaluated: Mapping[int, Sequence[Evaluated]], alone: Alone) -> Findings:
    """Values and curve of a solid, from the scaled cells of those members that have it."""
    near = abs(_VOLUMES - 1) < FITTED_RANGE
    equations = [UNKNOWN] * len(solid.states)
    volumes, energies = np.full((2, len(solid.states), len(_VOLUMES)), np.nan)
    for number, state in solid.known:
        volumes[number] = _VOLUMES * state.volume
        energies[number] = [one.energy / len(state.atoms) for one in evaluated[number]]
        equations[number] = fit_equation(volumes[number][near], energies[number][near])
    fitted = np.flatnonzero(near).tolist()
    behind = [[own[place] for place in fitted] for own in evaluated.values()]
    properties = (*_at_rest(solid, alone), *_of_equations(solid, equations, highest_grade(behind)))
    curves = (_curve(solid, volumes, energies),) if solid.known else ()
    return Findings(properties, curves)


def _at_rest(solid: Solid, alone: Alone) -> list[Property]:
    """Energy and lattice constants."""
    make = partial(Property.of_members, grade=solid.grade, note=solid.note)
    energies = [state.energy if state else np.nan for state in solid.states]
    known = _known(solid.reference.equation.energy)
    found = [make("potential-energy", solid.phase, "eV/atom", energies, reference=known)]
    found.append(_cohesive_energy(solid, energies, alone))
    references = solid.reference.lattice_constants(solid.crystal)
    for name in solid.crystal.lattice_constants(solid.crystal.atoms):
        lengths = [solid.crystal.lattice_constants(s.atoms)[name] if s else np.nan for s in solid.states]
        found.append(make(f"lattice-constant-{name}", solid.phase, "Å", lengths, reference=references.get(name)))
    return found


def _cohesive_energy(solid: Solid, energies: Sequence[float], alone: Alone) -> Property:
    """Energy relative to that of the atoms alone, below zero for a crystal that holds together."""
    symbols, note, known = list(solid.crystal.atoms.symbols), solid.note, None
    if solid.reference.alone is not None:
        known = _known(solid.reference.equation.energy - solid.reference.alone)
    elif not note:
        note = alone.unless_known
    apart = np.mean([[one.energy for one in alone.by_symbol[symbol]] for symbol in symbols], axis=0)
    gained = np.array(energies) - apart
    grade = solid.grade
    if grade is not None:
        grade = max(grade, *(one.grade for symbol in symbols for one in alone.by_symbol[symbol]))
    return Property.of_members(
        "cohesive-energy", solid.phase, "eV/atom", gained, reference=known, grade=grade, note=note
    )


def _isolated_atoms(members: Members) -> Alone:
    groups = [(number, [Atoms(symbol) for symbol in members.elements]) for number in range(len(members))]
    found = members.evaluate(groups, derivatives=False)
    note = "the data have no isolated atoms, so their energies are extrapolated"
    if members.potentials[0].is_physically_informed:  # nothing is extrapolated: without bonds there is no energy
        found = [[replace(one, grade=0.0) for one in own] for own in found]
        note = "the data have no isolated atoms, the potential's have no energy: this is as good as its e_shift"
    return Alone({symbol: [own[k] for own in found] for k, symbol in enumerate(members.elements)}, note)


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
    have = np.flatnonzero(np.isfinite(volumes).all(axis=1))
    common = volumes[have].mean(axis=0)
    lines = np.full_like(energies, np.nan)
    for row in have:
        lines[row] = np.interp(common, volumes[row], energies[row], left=np.nan, right=np.nan)
    y = tuple(tuple(line.tolist()) for line in lines)
    return Curve("energy-volume", solid.phase, "volume (Å^3/atom)", "energy (eV/atom)", tuple(common.tolist()), y)
