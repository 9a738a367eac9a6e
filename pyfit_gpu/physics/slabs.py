"""Slabs: crystals cut along lattice planes, with the smallest cell in the plane, and without periodicity across it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from numpy.typing import NDArray

from pyfit_gpu.physics.crystals import Crystal
from pyfit_gpu.structures.cells import FloatArray

Plane = tuple[int, int, int]

_SEARCHED = 4  # multiples of lattice vectors among which those of a slab are found
_SAME_HEIGHT = 1e-3  # Å


@dataclass(frozen=True, eq=False)
class Slab:
    """A slab whose surfaces lie in the widest gaps between atomic planes."""

    atoms: Atoms  # in the crystal's own orientation, periodic along the first two vectors
    normal: FloatArray  # (3,) unit vector

    @property
    def area(self) -> float:
        """Å^2, of one surface."""
        return float(np.linalg.norm(np.cross(*self.atoms.cell.array[:2])))

    @property
    def heights(self) -> FloatArray:
        """(n,) Å, of the atoms along the normal."""
        return np.asarray(self.atoms.positions @ self.normal)


def cut_slab(crystal: Crystal, atoms: Atoms, plane: Plane, thickness: float) -> Slab:
    """Cut a slab from a relaxed primitive cell.

    Args:
        plane: Miller indices in the conventional cell.
        thickness: Å, at least.
    """
    first, second, across = _slab_vectors(_primitive_indices(crystal, plane), atoms.cell.array)
    normal = np.cross(first @ atoms.cell.array, second @ atoms.cell.array)
    normal /= np.linalg.norm(normal)
    spacing = float(across @ atoms.cell.array @ normal)
    if spacing < 0:
        normal, spacing = -normal, -spacing
    n_planes = math.ceil(thickness / spacing - 1e-6)
    slab = make_supercell(atoms, np.stack([first, second, n_planes * across]))
    _cut_in_widest_gap(slab, normal)
    slab.pbc = (True, True, False)
    return Slab(slab, normal)


def _primitive_indices(crystal: Crystal, plane: Plane) -> NDArray[np.int64]:
    """Indices of the plane by the primitive vectors, without a common factor."""
    indices = np.linalg.solve(crystal.conventional_vectors.astype(np.float64), np.array(plane, dtype=np.float64))
    whole = np.rint(12 * indices).astype(np.int64)  # conventional cells hold 1, 2 or 4 primitive ones
    return whole // math.gcd(*whole.tolist())


def _slab_vectors(indices: NDArray[np.int64], cell: FloatArray) -> Sequence[NDArray[np.int64]]:
    """Whole numbers of primitive vectors: the two shortest in the plane, and the shortest to the next plane."""
    span = range(-_SEARCHED, _SEARCHED + 1)
    vectors = np.array([vector for vector in product(span, span, span) if any(vector)])
    vectors = vectors[np.argsort(np.linalg.norm(vectors @ cell, axis=1), kind="stable")]
    planes = vectors @ indices
    inside = vectors[planes == 0]
    first = inside[0]
    second = next(vector for vector in inside if np.cross(first, vector).any())
    return first, second, vectors[planes == 1][0]


def _cut_in_widest_gap(atoms: Atoms, normal: FloatArray) -> None:
    """Move the lowest planes to the top, until the cell's boundary is in the widest gap."""
    across = atoms.cell.array[2]
    period = float(across @ normal)
    heights = (atoms.positions @ normal) % period
    atoms.positions += ((heights - atoms.positions @ normal) / period)[:, None] * across
    order = np.sort(heights)
    gaps = np.diff(order, prepend=order[-1] - period)  # below each atom
    floor = order[int(np.flatnonzero(gaps > gaps.max() - _SAME_HEIGHT)[0])]
    atoms.positions[heights < floor - _SAME_HEIGHT] += across
