"""Small periodic cells of the data, and the values of a crystal that they give.

A cell belongs to a crystal if its atoms have the same distances to their nearest neighbours, in units of the cube root
of the volume per atom, to all and to those of their own element. This needs no symmetry and no choice of cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from pyfit_gpu.physics.crystals import Crystal, composition_of, scaled, volume_per_atom
from pyfit_gpu.physics.equation_of_state import FITTED_RANGE, UNKNOWN, EquationOfState, fit_equation
from pyfit_gpu.physics.members import as_frame
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.neighbors import find_neighbors

MOST_ATOMS = 16  # of a cell that is looked at
_N_ALL, _N_LIKE = 26, 12  # neighbours that are compared; the first 18 are the same in fcc and hcp
_RADIUS = 2.6  # in units of the cube root of the volume per atom: 73 neighbours on average
_SAME = 0.015  # relative difference of distances
_AT_REST = 0.05  # eV/Å, largest force in a cell that stands for a crystal
_FEWEST_FITTED = 5
_SAME_ANGLE = 1.0  # degrees


@dataclass(frozen=True, eq=False)
class DataCell:
    """A small periodic cell of the data, its atoms without forces."""

    atoms: Atoms
    energy: float  # eV per atom
    group: str
    fingerprint: FloatArray

    @property
    def volume(self) -> float:
        """Å^3 per atom."""
        return volume_per_atom(self.atoms)

    @property
    def composition(self) -> str:
        return composition_of(self.atoms)


def data_cells(structures: Structures | None, elements: Sequence[str], cutoff: float) -> list[DataCell]:
    """The small periodic cells of the data that have an energy, and no forces where forces are known.

    Args:
        cutoff: Å, within which atoms of a crystal have neighbours: a single atom in a large cell is none.
    """
    if structures is None:
        return []
    energies, cells = structures.energy.tolist(), structures.cell.double().cpu().numpy()
    periodic = (structures.pbc.all(dim=1) & (structures.volume > 0)).tolist()
    forces = structures.forces.nan_to_num(0.0).abs().flatten(1).amax(dim=1).tolist()
    rows = [
        row
        for row, size in enumerate(structures.sizes)
        if size <= MOST_ATOMS and periodic[row] and not np.isnan(energies[row]) and forces[row] <= _AT_REST
    ]
    rows = with_neighbors(structures, rows, cutoff)
    found = []
    for row in rows:
        size = structures.sizes[row]
        numbers = structures.atomic_numbers[row, :size].cpu().numpy()
        numbers = np.where(numbers == 0, atomic_numbers[elements[0]], numbers)  # no element named: the only one
        positions = structures.positions[row, :size].double().cpu().numpy()
        found.append(Atoms(numbers=numbers, positions=positions, cell=cells[row], pbc=True))
    return [
        DataCell(atoms, energies[row] / len(atoms), structures.groups[row], fingerprint)
        for row, atoms, fingerprint in zip(rows, found, fingerprints(found), strict=True)
    ]


def with_neighbors(structures: Structures, rows: list[int], cutoff: float) -> list[int]:
    """Rows of the structures in which every atom has a neighbour."""
    if not rows:
        return []
    own = structures.select(rows)
    counts = torch.split(find_neighbors(own, cutoff).counts, list(own.sizes))
    return [row for row, count in zip(rows, counts, strict=True) if bool(count.all())]


def energies_alone(structures: Structures | None, elements: Sequence[str], cutoff: float) -> dict[str, float]:
    """Energies (eV) of isolated atoms in the data, the lowest of each element.

    Args:
        cutoff: Å, within which an isolated atom has no neighbour.
    """
    if structures is None:
        return {}
    energies = structures.energy.tolist()
    single = [row for row, size in enumerate(structures.sizes) if size == 1 and not np.isnan(energies[row])]
    if not single:
        return {}
    own = structures.select(single)
    found: dict[str, float] = {}
    for row, count, number in zip(
        single, find_neighbors(own, cutoff).counts.tolist(), own.atomic_numbers[:, 0].tolist(), strict=True
    ):
        symbol = chemical_symbols[number] if number else elements[0]
        if count == 0:
            found[symbol] = min(energies[row], found.get(symbol, np.inf))
    return found


@dataclass(frozen=True, eq=False)
class Reference:
    """Values of a crystal by the data."""

    equation: EquationOfState  # NaN where it is not known
    atoms: Atoms | None = None  # the data's cell of lowest energy, scaled to the volume of the equation
    alone: float | None = None  # eV, mean energy of the crystal's atoms when isolated

    def lattice_constants(self, crystal: Crystal) -> dict[str, float]:
        """Lengths (Å) as `Crystal.lattice_constants`; empty where they are not known.

        Those of a cubic crystal follow from the volume; others only if the data's cell is set up as the crystal's.
        """
        if self.atoms is None:
            return {}
        if crystal.symmetry == "cubic":
            return crystal.lattice_constants(scaled(crystal.atoms, self.equation.volume))
        same_size = len(self.atoms) == len(crystal.atoms)
        if not same_size or abs(self.atoms.cell.angles() - crystal.atoms.cell.angles()).max() > _SAME_ANGLE:
            return {}
        return crystal.lattice_constants(self.atoms)


def find_reference(crystal: Crystal, cells: Sequence[DataCell], alone: dict[str, float]) -> Reference:
    """Equation of state through the data's cells of a crystal; where they are few, energy and volume of the lowest.

    Args:
        alone: eV, energies of isolated atoms where they are known.
    """
    symbols = list(crystal.atoms.symbols)
    mean_alone = float(np.mean([alone[symbol] for symbol in symbols])) if alone.keys() >= set(symbols) else None
    (own,) = fingerprints([crystal.atoms])
    composition = crystal.composition
    same = [cell for cell in cells if is_same(own, cell.fingerprint) and cell.composition == composition]
    if not same:
        return Reference(UNKNOWN, alone=mean_alone)
    lowest = min(same, key=lambda cell: cell.energy)
    near = [cell for cell in same if abs(cell.volume / lowest.volume - 1) < FITTED_RANGE]
    volumes, energies = (np.array([getattr(cell, name) for cell in near]) for name in ("volume", "energy"))
    equation = EquationOfState(lowest.energy, lowest.volume, np.nan, np.nan)
    if len(np.unique(volumes.round(4))) >= _FEWEST_FITTED:
        fitted = fit_equation(volumes, energies)
        equation = fitted if np.isfinite(fitted.volume) else equation
    return Reference(equation, scaled(lowest.atoms, equation.volume), mean_alone)


def fingerprints(cells: Sequence[Atoms]) -> list[FloatArray]:
    """(38,) of each cell: mean distances of nearest neighbours, all and those of the same element, sorted."""
    return list(_fingerprints(cells))


def _fingerprints(cells: Sequence[Atoms]) -> Iterator[FloatArray]:
    if not cells:
        return
    structures = Structures.from_frames([as_frame(scaled(atoms, 1.0)) for atoms in cells])
    neighbors = find_neighbors(structures, _RADIUS)
    numbers = structures.flatten(structures.atomic_numbers)
    like = (numbers[neighbors.index] == numbers[neighbors.centers]).numpy()
    distances, ends = neighbors.distances.numpy(), np.cumsum(neighbors.counts.numpy())
    end = 0
    for size in structures.sizes:
        rows = []
        for atom in range(end, end + size):
            own = slice(ends[atom - 1] if atom else 0, ends[atom])
            rows.append([*_first(distances[own], _N_ALL), *_first(distances[own][like[own]], _N_LIKE)])
        end += size
        yield np.mean(rows, axis=0)


def _first(distances: FloatArray, count: int) -> FloatArray:
    """The shortest distances; where there are not so many within the radius, the radius."""
    return np.sort(np.concatenate([distances, np.full(count, _RADIUS)]))[:count]


def is_same(first: FloatArray, second: FloatArray) -> bool:
    return bool((abs(first - second) < _SAME * first).all())
