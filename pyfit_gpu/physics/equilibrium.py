"""Crystals at rest: the volume of least energy, then cell and atoms by Newton's method, for all members at once.

With strain e and displacements u at fixed fractional coordinates, the energy's second derivatives by differences of
stress and forces of 2 (6 + 3 n) cells are

    H = d^2 E / d(e, u)^2        (e, u) <- (e, u) - H^+ (V stress, -forces)

Newton's method goes to a point without forces that is no minimum too, so a phase that is not stable keeps the symmetry
it is known for; a search for the minimum would leave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from pyfit_gpu.physics.crystals import Crystal, bond_length, scaled, strained, volume_per_atom
from pyfit_gpu.physics.data_cells import Reference
from pyfit_gpu.physics.members import Evaluated, Group, Members
from pyfit_gpu.physics.voigt import strain_tensor
from pyfit_gpu.structures.cells import FloatArray

# Nearest neighbours in the scan, relative to the sum of covalent radii: first, last, and how many.
_SCAN = (0.75, 1.6, 52)
_LEAST_VOLUME = 3.0  # Å^3 per atom; diamond, the densest solid, has 5.7, and what is denser takes long to compute
_STRAIN_STEP = 1e-3
_DISPLACEMENT_STEP = 5e-3  # Å
_MOST_STRAIN = 0.03  # of one step
_MOST_DISPLACEMENT = 0.1  # Å, of one step
_MOST_STEPS = 25
_FORCE_TOLERANCE = 1e-6  # eV/Å
_STRESS_TOLERANCE = 1e-7  # eV/Å^3
_RANK_TOLERANCE = 1e-6  # of eigenvalues: those of translations are zero


@dataclass(frozen=True, eq=False)
class State:
    """A crystal at rest by one member."""

    atoms: Atoms
    energy: float  # eV per atom
    hessian: FloatArray  # (6 + 3 n, 6 + 3 n) by strain (Voigt) and displacements, eV and Å

    @property
    def volume(self) -> float:
        """Å^3 per atom."""
        return volume_per_atom(self.atoms)


@dataclass(frozen=True, eq=False)
class Solid:
    """A crystal at rest by every member."""

    crystal: Crystal
    states: tuple[State | None, ...]  # None: this member has no such crystal
    reference: Reference  # of the data
    grade: float | None
    note: str = ""  # why a member has none

    @property
    def phase(self) -> str:
        return self.crystal.name

    @property
    def is_complete(self) -> bool:
        return None not in self.states

    @property
    def is_in_data(self) -> bool:
        return not np.isnan(self.reference.equation.energy)

    @property
    def known(self) -> list[tuple[int, State]]:
        """Numbers of the members that have it, with their states."""
        return [(number, state) for number, state in enumerate(self.states) if state is not None]

    @property
    def energy(self) -> float:
        """Energy (eV per atom), the mean over the members; NaN without one of them."""
        return float(np.mean([state.energy if state else np.nan for state in self.states]))


def find_solids(members: Members, crystals: Sequence[Crystal], references: Sequence[Reference]) -> list[Solid]:
    """Bring all crystals, with their references from the data, to rest by all members."""
    jobs = [(crystal, number) for crystal in crystals for number in range(len(members))]
    starts = _scan(members, jobs)
    rests = _Newton(members).run([(number, atoms) for (_, number), atoms in zip(jobs, starts, strict=True)])
    solids = []
    for row, (crystal, reference) in enumerate(zip(crystals, references, strict=True)):
        own = slice(row * len(members), (row + 1) * len(members))
        states, grades = zip(*rests[own], strict=True)
        note = ""
        if any(atoms is None for atoms in starts[own]):
            note = "no minimum of the energy against volume"
        elif None in states:
            note = "no cell without stress and forces found near the minimum of the energy against volume"
        known = [grade for grade in grades if grade is not None]
        solids.append(Solid(crystal, states, reference, max(known) if known and members.has_grades else None, note))
    return solids


def _scan(members: Members, jobs: Sequence[tuple[Crystal, int]]) -> list[Atoms | None]:
    """The cell at the lowest inner minimum of the energy against volume, for each crystal and member."""
    cells = {crystal.name: _scan_cells(crystal) for crystal, _ in jobs}
    groups = [(number, cells[crystal.name]) for crystal, number in jobs]
    found = members.evaluate(groups, derivatives=False, grades=False)
    starts: list[Atoms | None] = []
    for (_, own), evaluated in zip(groups, found, strict=True):
        energies = np.array([one.energy for one in evaluated])
        inner = np.flatnonzero((energies[1:-1] <= energies[:-2]) & (energies[1:-1] < energies[2:])) + 1
        starts.append(own[inner[energies[inner].argmin()]] if len(inner) else None)
    return starts


def _scan_cells(crystal: Crystal) -> list[Atoms]:
    """Cells of rising volume."""
    first, last, count = _SCAN
    bond = bond_length(crystal.atoms)
    lengths = np.geomspace(first * bond, last * bond, count)
    distances = crystal.atoms.repeat(3).get_all_distances(mic=True)
    nearest = distances[distances > 0].min()
    volumes = crystal.volume * (lengths / nearest) ** 3
    return [scaled(crystal.atoms, volume) for volume in volumes[volumes > _LEAST_VOLUME]]


class _Newton:
    """Newton's method for many cells side by side."""

    def __init__(self, members: Members) -> None:
        self.members = members

    def run(self, starts: Sequence[tuple[int, Atoms | None]]) -> list[tuple[State | None, float | None]]:
        """State and grade of every cell; None where there is none."""
        found: list[tuple[State | None, float | None]] = [(None, None)] * len(starts)
        active = {row: atoms for row, (_, atoms) in enumerate(starts) if atoms is not None}
        volumes = {row: atoms.get_volume() for row, atoms in active.items()}
        for _ in range(_MOST_STEPS):
            if not active:
                break
            groups: list[Group] = [(starts[row][0], [atoms, *_displaced(atoms)]) for row, atoms in active.items()]
            evaluated = self.members.evaluate(groups)
            for (row, atoms), (base, *others) in zip(list(active.items()), evaluated, strict=True):
                hessian = _hessian(atoms, others)
                if not np.isfinite(hessian).all():
                    del active[row]
                    continue
                if abs(base.forces).max() < _FORCE_TOLERANCE and abs(base.stress).max() < _STRESS_TOLERANCE:
                    found[row] = State(atoms, base.energy / len(atoms), hessian), base.grade
                    del active[row]
                    continue
                active[row] = _step(atoms, base, hessian)
                if not 0.6 < active[row].get_volume() / volumes[row] < 1.6:  # this is another crystal
                    del active[row]
        return found


def _displaced(atoms: Atoms) -> list[Atoms]:
    """Cells with each strain and each displacement, there and back."""
    cells = []
    for place in range(6):
        for sign in (1, -1):
            cells.append(strained(atoms, strain_tensor(sign * _STRAIN_STEP * np.eye(6)[place])))
    for place in range(3 * len(atoms)):
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[divmod(place, 3)] += sign * _DISPLACEMENT_STEP
            cells.append(moved)
    return cells


def _gradient(volume: float, one: Evaluated) -> FloatArray:
    return np.concatenate([volume * one.stress, -one.forces.ravel()])


def _hessian(atoms: Atoms, displaced: Sequence[Evaluated]) -> FloatArray:
    volume = atoms.get_volume()
    rows: list[FloatArray] = []
    for plus, minus in zip(displaced[::2], displaced[1::2], strict=True):
        step = _STRAIN_STEP if len(rows) < 6 else _DISPLACEMENT_STEP
        rows.append((_gradient(volume, plus) - _gradient(volume, minus)) / (2 * step))
    hessian = np.stack(rows)
    return (hessian + hessian.T) / 2


def _step(atoms: Atoms, base: Evaluated, hessian: FloatArray) -> Atoms:
    step = -np.linalg.pinv(hessian, rcond=_RANK_TOLERANCE, hermitian=True) @ _gradient(atoms.get_volume(), base)
    strain, moves = step[:6], step[6:].reshape(-1, 3)
    largest = max(abs(strain).max() / _MOST_STRAIN, abs(moves).max() / _MOST_DISPLACEMENT, 1.0)
    moved = atoms.copy()
    moved.positions += moves / largest
    return strained(moved, strain_tensor(strain / largest))
