"""Phonon dispersion from finite displacements in supercells, with phonopy (Togo, J. Phys. Soc. Jpn. 92, 012001 (2023)).

phonopy chooses the displacements by symmetry and makes frequencies of forces; ASE chooses the path of wave vectors.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.dft.kpoints import BandPath
from numpy.typing import NDArray

from pyfit_gpu.physics.equilibrium import Solid
from pyfit_gpu.physics.ground_states import ground_states, supercell_vectors
from pyfit_gpu.physics.members import Group, Members, highest_grade
from pyfit_gpu.physics.properties import Curve, Findings, Property
from pyfit_gpu.structures.cells import FloatArray

if TYPE_CHECKING:
    from phonopy import Phonopy

_DISPLACEMENT = 0.01  # Å
_LEAST_LENGTH = 9.5  # Å, of a supercell; or twice the cutoff, within which atoms feel each other's displacements
_N_POINTS = 120  # of a path
_LOWEST, _HIGHEST = "phonon-frequency-minimum", "phonon-frequency-maximum"
_MISSING = "phonopy is not installed: pip install phonopy, or pyfit-gpu with the extra report"


def phonons(members: Members, solids: Sequence[Solid]) -> Findings:
    """Displace atoms of each ground state, by all members, in one batch."""
    stable = ground_states(solids)
    if not stable:
        return Findings.unknown(_LOWEST, "THz")
    if importlib.util.find_spec("phonopy") is None:
        return Findings.unknown(_LOWEST, "THz", stable[0].phase, _MISSING)
    calculations = [
        [_calculation(state.atoms, supercell_vectors(solid, _least_length(members))) for _, state in solid.known]
        for solid in stable
    ]
    groups: list[Group] = [
        (number, _displaced(one)) for own in calculations for number, one in enumerate(own)
    ]
    evaluated = members.evaluate(groups)
    found = Findings.empty()
    for row, (solid, own) in enumerate(zip(stable, calculations, strict=True)):
        behind = evaluated[row * len(members) : (row + 1) * len(members)]
        path = solid.known[0][1].atoms.cell.bandpath(npoints=_N_POINTS)
        frequencies = [
            _frequencies(one, [cell.forces for cell in cells], path.kpts)
            for one, cells in zip(own, behind, strict=True)
        ]
        found += _dispersion(solid, path, np.stack(frequencies), highest_grade(behind))
    return found


def _least_length(members: Members) -> float:
    return max(_LEAST_LENGTH, 2 * members.cutoff)


def _calculation(atoms: Atoms, vectors: NDArray[np.int64]) -> Phonopy:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(numbers=atoms.numbers, cell=atoms.cell.array, scaled_positions=atoms.get_scaled_positions())
    # phonopy's matrices have vectors as columns.
    calculation = Phonopy(cell, supercell_matrix=vectors.T, primitive_matrix=np.eye(3))
    calculation.generate_displacements(distance=_DISPLACEMENT, is_plusminus=True)
    return calculation


def _displaced(calculation: Phonopy) -> list[Atoms]:
    cells = calculation.supercells_with_displacements or []
    return [Atoms(numbers=c.numbers, cell=c.cell, positions=c.positions, pbc=True) for c in cells if c is not None]


def _frequencies(calculation: Phonopy, forces: Sequence[FloatArray], wave_vectors: FloatArray) -> FloatArray:
    """(Q, branches) THz; an imaginary one as a negative number."""
    calculation.forces = np.stack(forces)
    calculation.produce_force_constants(show_drift=False)
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
    properties = (
        Property.of_members(name, solid.phase, "THz", own, grade=grade) for name, own in values.items()
    )
    return Findings(tuple(properties), (curve,))
