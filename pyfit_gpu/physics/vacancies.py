"""Formation energies of relaxed vacancies, in a supercell of fixed shape and volume.

    E_f = E(supercell without an atom) - E(supercell) + mu

mu is the energy per atom of the removed element's own ground state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from pyfit_gpu.physics.equilibrium import Solid
from pyfit_gpu.physics.ground_states import elementary_energies, ground_states, supercell
from pyfit_gpu.physics.members import Members, highest_grade
from pyfit_gpu.physics.properties import Findings, Property
from pyfit_gpu.physics.relaxation import NOT_AT_REST, Relaxed, Start, relax
from pyfit_gpu.structures.cells import FloatArray

_NAME = "defect-formation-energy vacancy"


def vacancies(members: Members, solids: Sequence[Solid]) -> Findings:
    """Remove an atom of each element from each ground state, by all members, in one relaxation."""
    stable = ground_states(solids)
    if not stable:
        return Findings.unknown(_NAME, "eV")
    energies = elementary_energies(solids)
    places = [(solid, symbol) for solid in stable for symbol in dict.fromkeys(solid.crystal.atoms.symbols)]
    starts = [
        Start(number, _without(supercell(solid, state.atoms), symbol))
        for solid, symbol in places
        for number, state in solid.known
    ]
    relaxed = relax(members, starts)
    properties = []
    for row, (solid, symbol) in enumerate(places):
        own = relaxed[row * len(members) : (row + 1) * len(members)]
        properties.append(_formation_energy(solid, symbol, own, energies.get(symbol)))
    return Findings(tuple(properties), ())


def _without(atoms: Atoms, symbol: str) -> Atoms:
    del atoms[atoms.symbols.indices()[symbol][0]]
    return atoms


def _formation_energy(solid: Solid, symbol: str, relaxed: Sequence[Relaxed], mu: FloatArray | None) -> Property:
    several = len(set(solid.crystal.atoms.symbols)) > 1
    name = f"{_NAME} {symbol}" if several else _NAME
    note = "" if all(one.at_rest for one in relaxed) else NOT_AT_REST
    if mu is None:
        mu, note = np.full(len(relaxed), np.nan), f"no crystal of {symbol} to put the atom into"
    values = [
        one.evaluated.energy - (len(one.atoms) + 1) * state.energy + own
        for one, (_, state), own in zip(relaxed, solid.known, mu, strict=True)
    ]
    grade = highest_grade([[one.evaluated for one in relaxed]])
    return Property.of_members(name, solid.phase, "eV", values, grade=grade, note=note)
