"""Elastic constants from stress and from energy, with internal coordinates relaxed.

    from stress   C_ij = (stress_i(+d e_j) - stress_i(-d e_j)) / 2d                  averaged with C_ji
    from energy   C_ij = d^2 E / de_i de_j / V                                       by second differences

Atoms follow the strain by u = -K^+ L e, with the force constants K and the coupling L of the crystal's second
derivatives, and once more by K^+ times the forces that are left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from ase import Atoms
from ase.units import GPa

from pyfit_gpu.physics.crystals import strained
from pyfit_gpu.physics.equilibrium import Solid, State
from pyfit_gpu.physics.members import Evaluated, Members, highest_grade
from pyfit_gpu.physics.properties import Findings, Property
from pyfit_gpu.physics.voigt import strain_tensor
from pyfit_gpu.structures.cells import FloatArray

STRAIN = 0.002
CONSTANTS = {
    "cubic": ("11", "12", "44"),
    "hexagonal": ("11", "12", "13", "33", "44"),
    "other": ("11", "22", "33", "12", "13", "23", "44", "55", "66"),
}
_PAIRS = [(i, j) for i in range(6) for j in range(i)]
_RANK_TOLERANCE = 1e-6


def elastic_constants(members: Members, solids: Sequence[Solid]) -> Findings:
    """Strain the cells of all solids by all members, in two batches."""
    places = [(row, number, state) for row, solid in enumerate(solids) for number, state in solid.known]
    strains = _strains()
    cells = [[_followed(state, strain) for strain in strains] for _, _, state in places]
    numbers = [number for _, number, _ in places]
    evaluated = members.evaluate(list(zip(numbers, cells, strict=True)), grades=False)
    relaxed = [
        [_relaxed(state, atoms, one) for atoms, one in zip(own, found, strict=True)]
        for (_, _, state), own, found in zip(places, cells, evaluated, strict=True)
    ]
    evaluated = members.evaluate(list(zip(numbers, relaxed, strict=True)))
    properties: list[Property] = []
    for row, solid in enumerate(solids):
        own = {n: one for (r, n, _), one in zip(places, evaluated, strict=True) if r == row}
        properties += _of_solid(solid, own)
    return Findings(tuple(properties), ())


def _of_solid(solid: Solid, evaluated: Mapping[int, Sequence[Evaluated]]) -> list[Property]:
    stress, energy = np.full((2, len(solid.states), 6, 6), np.nan)
    lowest = np.full(len(solid.states), np.nan)
    for number, state in solid.known:
        stress[number] = _from_stress(evaluated[number])
        energy[number] = _from_energy(state, evaluated[number])
        lowest[number] = np.linalg.eigvalsh(stress[number])[0]
    make = partial(Property.of_members, grade=highest_grade(list(evaluated.values())), note=solid.note)
    found = []
    for suffix, constants in (("", stress), (" from energy", energy)):
        for name in CONSTANTS[solid.crystal.symmetry]:
            i, j = (int(digit) - 1 for digit in name)
            found.append(make(f"C{name}{suffix}", solid.phase, "GPa", constants[:, i, j]))
    found.append(make("lowest-elastic-eigenvalue", solid.phase, "GPa", lowest))
    return found


def _strains() -> list[FloatArray]:
    """Six strains there and back, then their sums in pairs, there and back."""
    units = STRAIN * np.eye(6)
    sums = [units[i] + units[j] for i, j in _PAIRS]
    return [sign * strain for strain in (*units, *sums) for sign in (1, -1)]


def _followed(state: State, strain: FloatArray) -> Atoms:
    """A strained cell with the atoms where the second derivatives put them."""
    hessian = state.hessian
    moves = -np.linalg.pinv(hessian[6:, 6:], rcond=_RANK_TOLERANCE, hermitian=True) @ (hessian[6:, :6] @ strain)
    moved = state.atoms.copy()
    moved.positions += moves.reshape(-1, 3)
    return strained(moved, strain_tensor(strain))


def _relaxed(state: State, atoms: Atoms, one: Evaluated) -> Atoms:
    """The same with a further step against the forces that are left."""
    moves = np.linalg.pinv(state.hessian[6:, 6:], rcond=_RANK_TOLERANCE, hermitian=True) @ one.forces.ravel()
    moved = atoms.copy()
    moved.positions += moves.reshape(-1, 3)
    return moved


def _from_stress(evaluated: Sequence[Evaluated]) -> FloatArray:
    stress = np.stack([one.stress for one in evaluated[:12]])
    constants = (stress[::2] - stress[1::2]) / (2 * STRAIN) / GPa
    return (constants + constants.T) / 2


def _from_energy(state: State, evaluated: Sequence[Evaluated]) -> FloatArray:
    n_atoms = len(state.atoms)
    gains = np.array([one.energy for one in evaluated]) - n_atoms * state.energy
    second = (gains[::2] + gains[1::2]) / STRAIN**2 / (n_atoms * state.volume) / GPa
    constants = np.diag(second[:6])
    for (i, j), both in zip(_PAIRS, second[6:], strict=True):
        constants[i, j] = constants[j, i] = (both - second[i] - second[j]) / 2
    return constants
