"""Energies against forces and stress: along a step between two structures, work and energy change must agree.

For a step dx at fixed cell, with the forces F1 and F2 at its ends, E2 - E1 = -(F1 + F2) . dx / 2 up to the change of
the curvature; for a strain e at fixed scaled positions, E2 - E1 = (V1 s1 + V2 s2) : e / 2. Where the slope is monotonic
along the step, the energy change lies between the work of the first and of the second slope, so it differs from their
mean by half of their difference at most: that is the tolerance, summed over atoms without regard to signs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyfit_gpu.doctor.records import Records, Rows
from pyfit_gpu.structures.cells import FloatArray, complete_cell
from pyfit_gpu.structures.copies import hash_parts, rounded

_LONGEST = 0.3  # Å that an atom may move in a step; along longer ones forces may rise and fall, as when a bond breaks
_LARGEST_STRAIN = 0.1
_LEAST = 1e-6  # Å, or strain: shorter steps are rounding
_SCALED_DECIMALS = 4
_ENERGY = 1e-3  # eV, and per atom ..
_ENERGY_PER_ATOM = 2e-4  # .. eV: energies of a self-consistent calculation agree no better
_PULAY = 0.01  # eV/Å^3: error of a stress whose plane waves are kept
_DIRECTIONS = 2
_ATOMS_AT_ONCE = 1_000_000
_NO_EDGE = 3.3e-5  # no usual fraction of a cell lies where rounding to `_SCALED_DECIMALS` changes
_BOTH = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])  # how often a component of Voigt's occurs in the matrix


@dataclass(frozen=True, eq=False)
class Steps:
    """Pairs of structures, and what energies and other labels say of the way between them."""

    first: Rows  # (P,) rows
    second: Rows
    change: FloatArray  # (P,) eV, of the energy
    work: FloatArray  # (P,) eV, from forces or stress
    tolerance: FloatArray  # (P,) eV

    @property
    def fails(self) -> NDArray[np.bool_]:
        """(P,) bool, whether energy and work disagree."""
        return np.asarray(np.abs(self.change - self.work) > self.tolerance)

    @property
    def tells(self) -> NDArray[np.bool_]:
        """(P,) bool, whether a wrong sign would be noticed."""
        return np.asarray(np.maximum(np.abs(self.change), np.abs(self.work)) > self.tolerance)

    def select(self, which: NDArray[np.bool_]) -> Steps:
        """Some of the steps."""
        return Steps(*(getattr(self, name)[which] for name in ("first", "second", "change", "work", "tolerance")))


def displaced(records: Records) -> Steps:
    """Find steps between structures with the same cell and order of atoms."""
    usable = records.has_forces & records.has_positions & ~np.isnan(records.energy)
    cells = rounded(records.cell)

    def key(row: int) -> bytes:
        numbers = records.atomic_numbers[records.atoms_of(row)]
        return hash_parts(numbers.tobytes(), records.pbc[row].tobytes(), cells[row].tobytes())

    return _steps(records, [_displacements(records, rows) for rows in _groups(usable, key)])


def strained(records: Records) -> Steps:
    """Find steps between structures with the same scaled positions in cells that differ a little."""
    usable = records.has_stress & records.has_positions & ~np.isnan(records.energy) & records.pbc.all(axis=1)
    inverse = np.linalg.inv(np.where(usable[:, None, None], records.cell, np.eye(3)))
    scaled = np.einsum("ij,ijk->ik", records.positions, inverse[records.owner])
    scaled = (scaled - scaled[records.starts][records.owner]) % 1.0 + _NO_EDGE
    places = np.round(scaled, _SCALED_DECIMALS) % 1.0 + 0.0

    def key(row: int) -> bytes:
        atoms = records.atoms_of(row)
        return hash_parts(records.atomic_numbers[atoms].tobytes(), places[atoms].tobytes())

    return _steps(records, [_strains(records, rows) for rows in _groups(usable, key)])


def _groups(usable: NDArray[np.bool_], key: Callable[[int], bytes]) -> Iterator[Rows]:
    """Yield rows of structures with the same key, two at least."""
    by_key: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(usable).tolist():
        by_key.setdefault(key(row), []).append(row)
    yield from (np.array(rows) for rows in by_key.values() if len(rows) > 1)


def _steps(records: Records, parts: list[FloatArray]) -> Steps:
    """Steps from tables of first and second row, work and half of the difference of the slopes."""
    table = np.concatenate(parts) if parts else np.zeros((0, 4))
    first, second = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    noise = np.maximum(_ENERGY, _ENERGY_PER_ATOM * records.sizes[first])
    return Steps(first, second, records.energy[second] - records.energy[first], table[:, 2], table[:, 3] + noise)


def _displacements(records: Records, rows: Rows) -> FloatArray:
    """(P, 4) first and second row, work and half of the difference of the forces' work, of steps in one cell."""
    cell = complete_cell(records.cell[rows[0]], records.pbc[rows[0]])
    inverse, pbc = np.linalg.inv(cell), records.pbc[rows[0]]

    def nearest_image(vectors: FloatArray) -> FloatArray:
        return np.asarray(vectors - np.round(vectors @ inverse) * pbc @ cell)

    atoms = records.starts[rows][:, None] + np.arange(records.sizes[rows[0]])
    positions, forces = records.positions[atoms], records.forces[atoms]
    pairs = _neighbors(nearest_image(positions - positions[0]).reshape(len(rows), -1))
    found = []
    for some in np.array_split(pairs, 1 + len(pairs) * atoms.shape[1] // _ATOMS_AT_ONCE):
        i, j = some.T
        step = nearest_image(positions[j] - positions[i])
        lengths = np.linalg.norm(step, axis=2)
        work = -0.5 * np.einsum("pak,pak->p", forces[i] + forces[j], step)
        bend = 0.5 * (np.linalg.norm(forces[j] - forces[i], axis=2) * lengths).sum(axis=1)
        is_step = (lengths.max(axis=1) > _LEAST) & (lengths.max(axis=1) <= _LONGEST)
        found.append(np.stack((rows[i], rows[j], work, bend), axis=1)[is_step])
    return np.concatenate(found)


def _strains(records: Records, rows: Rows) -> FloatArray:
    """(P, 4) as `_displacements`, of strains at fixed scaled positions."""
    cells, volumes = records.cell[rows], records.volume[rows]
    slopes = volumes[:, None] * records.stress[rows]  # eV, of the energy by the strain
    i, j = _neighbors(cells.reshape(len(rows), -1), volumes).T
    gradient = np.linalg.inv(cells[i]) @ cells[j]
    turned = np.abs(gradient - gradient.transpose(0, 2, 1)).max(axis=(1, 2))
    values, axes = np.linalg.eigh(gradient @ gradient.transpose(0, 2, 1))
    strain = (axes * (0.5 * np.log(values))[:, None, :]) @ axes.transpose(0, 2, 1)  # logarithmic
    voigt = strain[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] * _BOTH
    work = 0.5 * ((slopes[i] + slopes[j]) * voigt).sum(axis=1)
    bend = 0.5 * np.linalg.norm((slopes[j] - slopes[i]) * np.sqrt(_BOTH), axis=1) * np.linalg.norm(strain, axis=(1, 2))
    pulay = _PULAY * 0.5 * (volumes[i] + volumes[j]) * np.abs(strain).sum(axis=(1, 2))
    largest = np.abs(strain).max(axis=(1, 2))
    is_step = (largest > _LEAST) & (largest <= _LARGEST_STRAIN) & (turned <= _LARGEST_STRAIN)
    return np.stack((rows[i], rows[j], work, bend + pulay), axis=1)[is_step]


def _neighbors(vectors: FloatArray, *along: FloatArray) -> Rows:
    """(P, 2) rows that follow one another in the file, or along random or given directions: a few each, never all."""
    random = np.random.RandomState(1)
    directions = [np.arange(len(vectors)), *along]
    directions += [vectors @ random.standard_normal(vectors.shape[1]) for _ in range(_DIRECTIONS)]
    orders = [np.argsort(values, kind="stable") for values in directions]
    pairs = np.concatenate([np.sort(np.stack((order[:-1], order[1:]), axis=1), axis=1) for order in orders])
    return np.unique(pairs, axis=0)
