"""The cells of LAMMPS: a along x, b in the xy plane, right-handed, tilts of at most half a length.

A structure has its own orientation. It is rotated, never mirrored, and vectors are rotated back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyfit_gpu.errors import InputError
from pyfit_gpu.structures.cells import FloatArray, complete_cell
from pyfit_gpu.structures.frames import Frame, check_frame

_MARGIN = 1.0  # Å, from the outermost atoms to the ends of a box along an axis that is not periodic
_ROUNDING = 1e-14  # of a vector's length


@dataclass(frozen=True, eq=False)
class Box:
    """A structure in the cell that LAMMPS has for it."""

    cell: FloatArray  # (3, 3) Å, rows are the vectors: lower triangular, numbers above 0 on the diagonal
    origin: FloatArray  # (3,) Å, the corner at which the vectors begin
    pbc: NDArray[np.bool_]  # (3,), of the axes x, y and z
    positions: FloatArray  # (n, 3) Å, not wrapped
    rotation: FloatArray  # (3, 3): a row vector of the structure times it is one of the box

    @classmethod
    def of(cls, frame: Frame) -> Box:
        """Rotate a structure. Along an axis that is not periodic the box encloses the atoms.

        Raises:
            InputError: a cell whose periodic vectors are flat, or no atoms.
        """
        check_frame(frame)
        cell = complete_cell(frame.cell, frame.pbc)
        if np.linalg.det(cell) < 0:
            cell[2] *= -1  # the same lattice with the other hand
        # cell = lower @ rotation.T, from the QR decomposition of its transpose
        rotation, upper = np.linalg.qr(cell.T)
        signs = np.where(np.diagonal(upper) < 0, -1.0, 1.0)
        rotation, lower = rotation * signs, (upper * signs[:, None]).T
        # No tilt out of rounding: LAMMPS refuses one along an axis that is not periodic, and is slower with any.
        lower[np.abs(lower) < _ROUNDING * np.linalg.norm(lower, axis=1, keepdims=True)] = 0.0
        lower = _reduced(lower)
        positions = frame.positions @ rotation
        origin = np.zeros(3)
        for axis in np.flatnonzero(~frame.pbc):  # completed by unit vectors: they lie along the axes
            origin[axis] = positions[:, axis].min() - _MARGIN
            lower[axis, axis] = positions[:, axis].max() + _MARGIN - origin[axis]
        return cls(lower, origin, np.array(frame.pbc), positions, rotation)

    def vectors_back(self, vectors: FloatArray) -> FloatArray:
        """Rotate vectors (..., 3) of the box to the orientation of the structure."""
        return vectors @ self.rotation.T

    def tensor_back(self, tensor: FloatArray) -> FloatArray:
        """Rotate a tensor (3, 3) of the box to the orientation of the structure."""
        return self.rotation @ tensor @ self.rotation.T

    def repeated(self, counts: tuple[int, int, int]) -> Box:
        """So many copies along each axis.

        Raises:
            InputError: several along an axis that is not periodic.
        """
        if any(count > 1 for count, periodic in zip(counts, self.pbc, strict=True) if not periodic):
            raise InputError(f"repeated: expected 1 along axes that are not periodic, got {counts}")
        shifts = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1).reshape(-1, 1, 3)
        positions = (self.positions[None] + shifts @ self.cell).reshape(-1, 3)
        cell = self.cell * np.array(counts)[:, None]
        return Box(_reduced(cell), self.origin, self.pbc, positions, self.rotation)


def _reduced(lower: FloatArray) -> FloatArray:
    """Take whole vectors off the later ones, until tilts are at most half of the length along their axis."""
    a, b, c = np.array(lower)
    b -= np.round(b[0] / a[0]) * a
    c -= np.round(c[1] / b[1]) * b
    c -= np.round(c[0] / a[0]) * a
    return np.array([a, b, c])
