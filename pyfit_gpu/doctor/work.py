"""Energies against forces and stress: along a step between two structures, work and energy change must agree.

For a step dx at fixed cell, with the forces F1 and F2 at its ends, E2 - E1 = -(F1 + F2) . dx / 2 up to the change of
the curvature; for a strain e at fixed scaled positions, E2 - E1 = (V1 s1 + V2 s2) : e / 2. Where the slope is monotonic
along the step, the energy change lies between the work of the first and of the second slope, so it differs from their
mean by half of their difference at most: that is the tolerance, summed over atoms without regard to signs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pyfit_gpu.doctor.records import Records, Rows
from pyfit_gpu.structures.cells import FloatArray, complete_cell
from pyfit_gpu.structures.copies import hash_parts, rounded

_LONGEST = 0.5  # Å that an atom may move in a step
_LARGEST_STRAIN = 0.1
_SCALED_DECIMALS = 4
_ENERGY = 1e-3  # eV, and per atom ..
_ENERGY_PER_ATOM = 2e-4  # .. eV: energies of a self-consistent calculation agree no better
_PULAY = 0.01  # eV/Å^3: error of a stress whose plane waves are kept
_DIRECTIONS = 2


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
    found = [
        step for rows in _groups(usable, lambda row: _cell_key(records, row)) for step in _displacements(records, rows)
    ]
    return _steps(records, found)


def strained(records: Records) -> Steps:
    """Find steps between structures with the same scaled positions in cells that differ a little."""
    usable = records.has_stress & records.has_positions & ~np.isnan(records.energy) & records.pbc.all(axis=1)
    found = [
        step for rows in _groups(usable, lambda row: _scaled_key(records, row)) for step in _strains(records, rows)
    ]
    return _steps(records, found)


def _steps(records: Records, found: list[tuple[int, int, float, float]]) -> Steps:
    """Steps from first and second row, work and half of the slopes' difference."""
    table = np.array(found, dtype=np.float64).reshape(-1, 4)
    first, second = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    noise = np.maximum(_ENERGY, _ENERGY_PER_ATOM * records.sizes[first])
    return Steps(first, second, records.energy[second] - records.energy[first], table[:, 2], table[:, 3] + noise)


def _groups(usable: NDArray[np.bool_], key: object) -> Iterator[list[int]]:
    """Yield rows of distinct structures with the same key, two at least."""
    by_key: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(usable).tolist():
        by_key.setdefault(key(row), []).append(row)  # type: ignore[operator]
    yield from (rows for rows in by_key.values() if len(rows) > 1)


def _cell_key(records: Records, row: int) -> bytes:
    numbers = records.atomic_numbers[records.atoms_of(row)]
    return hash_parts(numbers.tobytes(), records.pbc[row].tobytes(), rounded(records.cell[row]).tobytes())


def _scaled_key(records: Records, row: int) -> bytes:
    atoms = records.atoms_of(row)
    scaled = records.positions[atoms] @ np.linalg.inv(records.cell[row])
    places = np.round((scaled - scaled[0]) % 1.0 + 3.3e-5, _SCALED_DECIMALS) % 1.0  # no usual fraction is at an edge
    return hash_parts(records.atomic_numbers[atoms].tobytes(), (places + 0.0).tobytes())


def _displacements(records: Records, rows: list[int]) -> Iterator[tuple[int, int, float, float]]:
    cell = complete_cell(records.cell[rows[0]], records.pbc[rows[0]])
    inverse, pbc = np.linalg.inv(cell), records.pbc[rows[0]]

    def nearest_image(vectors: FloatArray) -> FloatArray:
        return np.asarray(vectors - np.round(vectors @ inverse) * pbc @ cell)

    atoms = np.array([np.arange(records.starts[row], records.starts[row] + records.sizes[row]) for row in rows])
    positions, forces = records.positions[atoms], records.forces[atoms]
    from_first = nearest_image(positions - positions[0]).reshape(len(rows), -1)
    for i, j in _neighbors(from_first):
        step = nearest_image(positions[j] - positions[i])
        lengths = np.linalg.norm(step, axis=1)
        if 0 < lengths.max() <= _LONGEST:
            work = -0.5 * np.vdot(forces[i] + forces[j], step)
            bend = 0.5 * float(np.linalg.norm(forces[j] - forces[i], axis=1) @ lengths)
            yield rows[i], rows[j], float(work), bend


def _strains(records: Records, rows: list[int]) -> Iterator[tuple[int, int, float, float]]:
    cells, volumes = records.cell[rows], records.volume[rows]
    slopes = volumes[:, None] * records.stress[rows]  # eV, of the energy by the strain
    order = np.argsort(volumes, kind="stable").tolist()
    for i, j in {*pairwise(order), *_neighbors(cells.reshape(len(rows), -1))}:
        gradient = np.linalg.inv(cells[i]) @ cells[j]
        values, axes = np.linalg.eigh(gradient @ gradient.T)  # the strain in the middle, to third order
        strain = (axes * (0.5 * np.log(values))) @ axes.T
        if not 0 < np.abs(strain).max() <= _LARGEST_STRAIN or np.abs(gradient - gradient.T).max() > _LARGEST_STRAIN:
            continue
        voigt = strain[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] * [1, 1, 1, 2, 2, 2]
        bend = 0.5 * float(
            np.linalg.norm((slopes[j] - slopes[i]) * np.sqrt([1, 1, 1, 2, 2, 2])) * np.linalg.norm(strain)
        )
        pulay = _PULAY * volumes[[i, j]].mean() * float(np.abs(strain).sum())
        yield rows[i], rows[j], float(0.5 * (slopes[i] + slopes[j]) @ voigt), bend + pulay


def _neighbors(vectors: FloatArray) -> list[tuple[int, int]]:
    """Pairs of rows that follow one another in the file, or along a random direction: a few for each, never all."""
    pairs = set(pairwise(range(len(vectors))))
    random = np.random.RandomState(1)
    for _ in range(_DIRECTIONS):
        order = np.argsort(vectors @ random.standard_normal(vectors.shape[1]), kind="stable").tolist()
        pairs |= {(min(i, j), max(i, j)) for i, j in pairwise(order)}
    return sorted(pairs)
