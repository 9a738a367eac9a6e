"""Phonon dispersion from finite displacements in supercells, with phonopy (Togo, J. Phys. Soc. Jpn. 92, 012001 (2023)).

phonopy displaces each atom of the primitive cell along three axes, there and back, and makes frequencies of the forces;
ASE chooses the path of wave vectors.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.dft.kpoints import BandPath

from pyfit_gpu.physics.equilibrium import Solid, State
from pyfit_gpu.physics.ground_states import ground_states, supercell_vectors
from pyfit_gpu.physics.members import Members, highest_grade
from pyfit_gpu.physics.properties import Curve, Findings, Property
from pyfit_gpu.structures.cells import FloatArray

if TYPE_CHECKING:
    from phonopy import Phonopy

_DISPLACEMENT = 0.01  # Å
# Least length of a supercell, in units of the cutoff. Atoms feel each other's displacements within two cutoffs; what
# is left beyond 1.5 on either side is small, while with a supercell of two silicon has imaginary modes that are none.
_LEAST_LENGTH = 3.0
_N_POINTS = 120  # of a path
_LOWEST, _HIGHEST = "phonon-frequency-minimum", "phonon-frequency-maximum"
_MISSING = "phonopy is not installed: pip install phonopy, or pyfit-gpu with the extra report"


def phonons(members: Members, solids: Sequence[Solid]) -> Findings:
    """Displace atoms of each ground state, by all members, in one batch."""
    stable = ground_states(solids)
    if not stable:
        return Findings.unknown(_LOWEST, "THz")
    if importlib.util.find_spec("phonopy") is None:
        return sum((Findings.unknown(_LOWEST, "THz", one.phase, _MISSING) for one in stable), Findings.empty())
    calculations = [_calculation(solid, _LEAST_LENGTH * members.cutoff) for solid in stable]
    groups = [
        (number, _displaced(calculation, solid.known[0][1], state))
        for solid, calculation in zip(stable, calculations, strict=True)
        for number, state in solid.known
    ]
    evaluated = members.evaluate(groups)
    found = Findings.empty()
    for row, (solid, calculation) in enumerate(zip(stable, calculations, strict=True)):
        behind = evaluated[row * len(members) : (row + 1) * len(members)]
        path = solid.known[0][1].atoms.cell.bandpath(npoints=_N_POINTS)
        frequencies = [_frequencies(calculation, [one.forces for one in own], path.kpts) for own in behind]
        found += _dispersion(solid, path, np.stack(frequencies), highest_grade(behind))
    return found


def _calculation(solid: Solid, least_length: float) -> Phonopy:
    """The calculation of the first member's crystal, with displacements.

    The others' crystals differ in lengths, but not in symmetry, so their forces belong to the same displacements.
    """
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    atoms = solid.known[0][1].atoms
    cell = PhonopyAtoms(numbers=atoms.numbers, cell=atoms.cell.array, scaled_positions=atoms.get_scaled_positions())
    # phonopy's matrices have vectors as columns.
    vectors = supercell_vectors(solid, least_length).T
    # Without symmetries: those of a large supercell take longer to find than the forces of all displacements.
    calculation = Phonopy(cell, supercell_matrix=vectors, primitive_matrix=np.eye(3), is_symmetry=False)
    calculation.generate_displacements(distance=_DISPLACEMENT, is_plusminus=True)
    return calculation


def _displaced(calculation: Phonopy, first: State, state: State) -> list[Atoms]:
    """Supercells with displacements of a member's own crystal, from those of the first member's."""
    supercell = calculation.supercell
    change = np.linalg.solve(first.atoms.cell.array, state.atoms.cell.array)
    of_unit = [supercell.u2u_map[atom] for atom in supercell.s2u_map]
    moved = (state.atoms.positions - first.atoms.positions @ change)[of_unit]
    positions = supercell.positions @ change + moved
    cells = []
    for atom, *displacement in calculation.displacements:
        displaced = Atoms(numbers=supercell.numbers, cell=supercell.cell @ change, positions=positions, pbc=True)
        displaced.positions[int(atom)] += displacement
        cells.append(displaced)
    return cells


def _frequencies(calculation: Phonopy, forces: Sequence[FloatArray], wave_vectors: FloatArray) -> FloatArray:
    """(Q, branches) THz; an imaginary one as a negative number."""
    calculation.forces = np.stack(forces)
    calculation.produce_force_constants(calculate_full_force_constants=False, show_drift=False)
    calculation.symmetrize_force_constants(show_drift=False)  # a shift of the whole crystal costs nothing
    calculation.run_qpoints(wave_vectors)
    assert calculation.qpoints is not None
    return np.asarray(calculation.qpoints.frequencies, dtype=np.float64)


def _dispersion(solid: Solid, path: BandPath, frequencies: FloatArray, grade: float | None) -> Findings:
    """Properties of all members and the curve of their mean.

    Args:
        frequencies: (K, Q, branches) THz, in the order of size at each wave vector.
    """
    x, places, labels = path.get_linear_kpoint_axis()
    ticks = tuple((float(place), str(label)) for place, label in zip(places, labels, strict=True))
    branches = tuple(tuple(branch) for branch in frequencies.mean(axis=0).T.tolist())
    label = "wave vector (2 pi / Å)"
    curve = Curve("phonon-dispersion", solid.phase, label, "frequency (THz)", tuple(x.tolist()), branches, ticks)
    values = {_LOWEST: frequencies.min(axis=(1, 2)), _HIGHEST: frequencies.max(axis=(1, 2))}
    properties = (Property.of_members(name, solid.phase, "THz", own, grade=grade) for name, own in values.items())
    return Findings(tuple(properties), (curve,))
