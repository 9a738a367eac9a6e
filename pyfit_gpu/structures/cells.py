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
    is_full = torch.linalg.det(directions).abs() >= FLAT
    return torch.where(is_full, torch.linalg.det(cell).abs(), 0.0)


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
