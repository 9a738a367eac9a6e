"""Structures to begin a simulation with: a simple crystal of some elements, and boxes large enough to simulate."""

from __future__ import annotations

import contextlib

import numpy as np
from ase.build import bulk
from ase.data import atomic_numbers as ATOMIC_NUMBERS
from ase.data import covalent_radii as RADII

from pyfit_gpu.interfaces.lammps.cells import Box
from pyfit_gpu.structures.frames import Frame

_SKIN = 2.0  # Å, LAMMPS' own


def simple_crystal(elements: tuple[str, ...]) -> Frame:
    """One element in its own structure at room temperature, where ASE knows it; else sites of a cubic lattice in turn.

    Two elements in turn are rock salt.
    """
    if len(elements) == 1:
        for is_cubic in (True, False):
            with contextlib.suppress(ValueError, RuntimeError, KeyError):  # no cubic cell; a structure ASE lacks
                atoms = bulk(elements[0], cubic=is_cubic)
                return _frame(atoms.numbers, atoms.positions, atoms.cell.array, f"{elements[0]} crystal")
    n = len(elements)
    numbers = np.array([ATOMIC_NUMBERS[symbol] for symbol in elements])
    spacing = 2 * float(RADII[numbers].max()) if n == 1 else float(np.sort(RADII[numbers])[-2:].sum())
    sites = np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    name = f"{' '.join(elements)} on a cubic lattice"
    return _frame(numbers[sites.sum(axis=1) % n], spacing * sites, spacing * n * np.eye(3), name)


def _frame(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, source: str) -> Frame:
    return Frame(
        positions=np.array(positions, dtype=np.float64),
        cell=np.array(cell, dtype=np.float64),
        pbc=np.ones(3, dtype=np.bool_),
        atomic_numbers=np.array(numbers, dtype=np.int64),
        group="",
        source=source,
    )


def copies_for(box: Box, cutoff: float) -> tuple[int, int, int]:
    """Copies along each axis that make a box in which no atom sees its own image, neither now nor within the skin."""
    volume = float(np.linalg.det(box.cell))
    normals = np.linalg.norm(np.cross(box.cell[[1, 2, 0]], box.cell[[2, 0, 1]]), axis=1)
    needed = np.ceil(2 * (cutoff + _SKIN) * normals / volume - 1e-9).astype(int)
    counts = np.where(box.pbc, np.maximum(1, needed), 1)
    return int(counts[0]), int(counts[1]), int(counts[2])
