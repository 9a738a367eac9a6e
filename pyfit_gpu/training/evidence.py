"""Penalty and noise from the data: the evidence of MacKay [1], for networks by Foresee and Hagan [2].

With the squared loss L = r^T r, H = J^T J of it and the penalty sum_p a_p w_p^2, the data are taken for normally
distributed about the network with precision s L / 2, and the parameters of a group g about 0 with precision s a_g. The
evidence for s and a_g, with the posterior about the minimum, is greatest where

    gamma_g = P_g - a_g sum_{p in g} ((H + a)^-1)_pp         parameters of the group that the data determine
    s       = (N - sum_g gamma_g) / L                       N: number of residuals
    a_g     = gamma_g / (s sum_{p in g} w_p^2)

[1] D. J. C. MacKay, Neural Computation 4, 415 (1992). [2] F. D. Foresee, M. T. Hagan, ICNN 1997, 1930.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.sums import sum_runs


@dataclass(frozen=True, eq=False)
class Evidence:
    """Result of one estimate for one member."""

    strengths: Tensor  # (G,) eV^2/atom^2, prefactors a_g of the squares
    determined: Tensor  # (G,) gamma_g
    precision: float  # s, 1/(eV/atom)^2


def estimate(
    matrix: Tensor, strengths: Tensor, parameters: Tensor, groups: Tensor, square: float, n_residuals: float
) -> Evidence | None:
    """Estimate prefactors from those used so far; None where the matrix is not positive definite to rounding.

    Args:
        matrix: (P, P) J^T J of the squared loss and the penalty.
        strengths: (P,) prefactors in it.
        parameters: (P,).
        groups: (P,) int64 ascending, group of each parameter.
        square: squared loss, without penalty.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed):
        return None
    inverse = torch.cholesky_inverse(factor).diagonal()
    lengths = torch.bincount(groups)
    determined = sum_runs((1 - strengths * inverse).clamp(0, 1), lengths)
    sizes = sum_runs(parameters.square(), lengths)
    precision = max(n_residuals - float(determined.sum()), 1.0) / max(square, 1e-30)
    return Evidence(determined / (precision * sizes.clamp(min=1e-12)), determined, precision)
