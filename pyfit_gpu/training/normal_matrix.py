"""J^T J, added up from rows of J, of which all are never there at once."""

from __future__ import annotations

import torch
from torch import Tensor

_PANEL = 512  # rows of the result that are multiplied at once: only the lower triangle is computed


class NormalMatrix:
    """Sum of J^T J over batches of rows of J, in float64."""

    def __init__(self, n_parameters: int, device: torch.device) -> None:
        # (P, P); what stands above the diagonal means nothing.
        self.lower = torch.zeros(n_parameters, n_parameters, dtype=torch.float64, device=device)

    def add(self, rows: Tensor) -> None:
        """Add rows (n, P) of J."""
        # Products in float32 would make matrices that are not positive definite within a weak penalty.
        rows = rows.double()
        transposed = rows.T
        for first in range(0, len(self.lower), _PANEL):
            end = min(first + _PANEL, len(self.lower))
            self.lower[first:end, :end].addmm_(transposed[first:end], rows[:, :end])


def symmetric(lower: Tensor) -> Tensor:
    """The matrix (P, P) whose lower triangle this is, in its place."""
    lower.tril_()
    return lower.add_(lower.tril(-1).T)
