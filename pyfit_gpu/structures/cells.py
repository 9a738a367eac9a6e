"""Cells: volumes, and a cell that can be inverted for any periodic directions."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float64]

FLAT = 1e-6  # a cell whose volume, with its vectors scaled to length 1, is below this counts as flat


def cell_volumes(cell: Tensor) -> Tensor:
    """(...) Å^3 of cells (..., 3, 3); zero where the vectors span no volume, but for rounding."""
    lengths = torch.linalg.vector_norm(cell, dim=-1, keepdim=True)
    directions = cell / torch.where(lengths > 0, lengths, 1.0)
    is_full = _triple_product(directions).abs() >= FLAT
    return torch.where(is_full, _triple_product(cell).abs(), 0.0)


def _triple_product(cell: Tensor) -> Tensor:
    """(...) a . (b x c) of cells (..., 3, 3).

    One number after the other: bits of a decomposition could depend on where in memory a cell lies.
    """
    a, b, c = (row.unbind(-1) for row in cell.unbind(-2))
    return a[0] * (b[1] * c[2] - b[2] * c[1]) + a[1] * (b[2] * c[0] - b[0] * c[2]) + a[2] * (b[0] * c[1] - b[1] * c[0])


def inverse_cells(cell: Tensor) -> Tensor:
    """(..., 3, 3), the inverse of cells that span a volume; number by number, as `_triple_product`."""
    rows = [row.unbind(-1) for row in cell.unbind(-2)]
    cofactors = []
    for i in range(3):
        b, c = rows[(i + 1) % 3], rows[(i + 2) % 3]
        cross = [b[(j + 1) % 3] * c[(j + 2) % 3] - b[(j + 2) % 3] * c[(j + 1) % 3] for j in range(3)]
        cofactors.append(torch.stack(cross, dim=-1))
    return torch.stack(cofactors, dim=-1) / _triple_product(cell)[..., None, None]


def complete_cell(cell: FloatArray, pbc: NDArray[np.bool_]) -> FloatArray:
    """(..., 3, 3) cells whose non-periodic rows are unit vectors orthogonal to the other rows.

    Only periodic rows make images, so the others may be anything that keeps the cell invertible.
    """
    completed = np.array(cell, dtype=np.float64)
    completed[~pbc] = 0.0
    for axis in range(3):
        is_open = ~pbc[..., axis]
        if is_open.any():
            # The last right singular vector is orthogonal to every row: the rank is below 3 while a row is zero.
            completed[is_open, axis] = np.linalg.svd(completed[is_open])[2][..., -1, :]
    return completed


def flat_cells(cell: FloatArray, pbc: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(...) whether the periodic vectors of finite cells (..., 3, 3) are flat: in a plane, along a line, or zero.

    Nothing can be computed in such a cell.
    """
    completed = complete_cell(cell, pbc)
    lengths = np.linalg.norm(completed, axis=-1, keepdims=True)
    spans = np.abs(np.linalg.det(completed / np.where(lengths > 0, lengths, 1.0)))
    return np.asarray((lengths == 0).any(axis=(-1, -2)) | (spans < FLAT))
