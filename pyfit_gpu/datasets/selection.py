"""Choosing rows, one for each structure of a pool, that add most to those that are known.

The row of a structure b, see `pool.structure_rows`, is r_b = [sum over atoms of element s of x_i / n_b, n_bs / n_b],
for each element s of the potential, with x the network inputs. A model that is linear in x has energies per atom linear
in r: the row is what its fit sees of the structure. It needs no trained potential, and no labels.

    determinant   the row with the largest leverage d_b = z_b' A^-1 z_b, A = lambda I + sum of z z' over what is known
                  or chosen: each choice multiplies det A by 1 + d_b, as no other structure would
    farthest      the row whose nearest known or chosen one is farthest away
    uncertainty   the largest of scores that are given
    random        any

z are the rows with the inputs' parts shifted and scaled to mean 0 and standard deviation 1 over pool and known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.datasets.selection_methods import METHODS, Method
from pyfit_gpu.errors import InputError

# Prior information on each direction, in units of one structure that lies a standard deviation from the mean: small, so
# that it decides only where nothing else does.
_PRIOR = 1e-2
_TIE = 1e-9  # scores that differ by less, relative to the larger, are equal: rounding must not decide
_ROUNDING = 1e-9  # spread beside the mean below which an input is the same in all structures
_DISTANCES_AT_ONCE = 2**22


@dataclass(frozen=True, eq=False)
class Selection:
    """Structures that were chosen, in the order of the choice."""

    method: Method
    rows: tuple[int, ...]  # in the pool
    scores: tuple[float, ...]  # leverage, distance or uncertainty of each when it was chosen; NaN: it had none
    log_det: tuple[float, float]  # log det (A / lambda) of what was known, and with what was chosen
    distance: tuple[float, float]  # of a structure of the pool from the nearest such one, the largest; infinite: none


def choose(
    pool: Tensor,
    n: int,
    method: Method,
    *,
    n_elements: int,
    known: Tensor | None = None,
    free: Tensor | None = None,
    scores: Tensor | None = None,
    seed: int = 0,
) -> Selection:
    """Choose n rows of a pool; of equal ones the first.

    Args:
        pool: (B, S (n_features + 1)), see `pool.structure_rows`.
        n_elements: S.
        known: (m, S (n_features + 1)) of structures that are there already.
        free: (B,) bool, whether a row may be chosen; None: all may.
        scores: (B,) for the method "uncertainty".
        seed: of the method "random".

    Raises:
        InputError: an unknown method, a number that is not between 1 and that of the rows that may be chosen, or no
            scores where they are needed.
    """
    if method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}, got {method!r}", setting="method")
    free = torch.ones(len(pool), dtype=torch.bool) if free is None else free.clone()
    n_free = int(free.sum())
    if not 1 <= n <= n_free:
        raise InputError(f"n: expected a number from 1 to {n_free}, of the structures to choose from, got {n}")
    both = standardized(torch.cat((pool, pool[:0] if known is None else known)), n_elements)
    rows, known = both[: len(pool)], both[len(pool) :]
    leverage, distance = _Leverage(rows, known), _Distance(rows, known)
    before = leverage.log_det, distance.largest()
    used: _Measure | None = None
    if method == "random":
        drawn = np.random.default_rng(seed).permutation(free.nonzero()[:, 0].numpy())[:n]
        found = [(row, math.nan) for row in drawn.tolist()]
    else:
        used = {"determinant": leverage, "farthest": distance}.get(method) or _Given(scores, len(pool))
        found = _greedy(n, free, used)
    chosen, values = zip(*found, strict=True)
    for measure in (leverage, distance):
        if measure is not used:
            for row in chosen:
                measure.add(row)
    after = leverage.log_det, distance.largest()
    return Selection(method, chosen, values, (before[0], after[0]), (before[1], after[1]))


def standardized(rows: Tensor, n_elements: int) -> Tensor:
    """Shift and scale the parts of the inputs to mean 0 and standard deviation 1, weighted by an element's share.

    Parts that are the same in all rows become 0. Shares of elements stay.

    Args:
        rows: (B, S (n_features + 1)).
    """
    parts = rows.unflatten(1, (n_elements, -1)).clone()
    shares = parts[:, :, -1:]
    inputs = parts[:, :, :-1]
    mean = inputs.sum(dim=0) / shares.sum(dim=0).clamp(min=1e-300)
    inputs -= shares * mean
    deviation = inputs.square().mean(dim=0).sqrt()
    varies = deviation > _ROUNDING * mean.abs()
    inputs *= torch.where(varies, 1 / torch.where(varies, deviation, 1.0), 0.0)
    return parts.flatten(1)


class _Measure(Protocol):
    """Scores of the rows of a pool, which follow what is added to the known ones."""

    scores: Tensor  # (B,)

    def ranking(self) -> Tensor:
        """(B,) numbers, the next row has the largest."""

    def add(self, row: int) -> None:
        """Count a row of the pool as known."""


def _greedy(n: int, free: Tensor, measure: _Measure) -> list[tuple[int, float]]:
    """Rows that rank highest, one after the other, each with its score."""
    found = []
    for _ in range(n):
        now = torch.where(free, measure.ranking(), -math.inf)
        largest = now.max()
        row = int((now >= largest - _TIE * largest.abs()).byte().argmax())
        found.append((row, float(measure.scores[row])))
        free[row] = False
        measure.add(row)
    return found


class _Leverage:
    """Leverages z_b' A^-1 z_b of all rows, kept up to date by rank-one changes of A^-1."""

    def __init__(self, rows: Tensor, known: Tensor) -> None:
        identity = torch.eye(rows.shape[1], dtype=rows.dtype)
        factor = torch.linalg.cholesky(identity + known.T @ known / _PRIOR)
        self.log_det = 2 * float(factor.diagonal().log().sum())
        self._rows = rows
        self._inverse = torch.cholesky_inverse(factor) / _PRIOR
        self.scores = ((rows @ self._inverse) * rows).sum(dim=1)

    def ranking(self) -> Tensor:
        return self.scores

    def add(self, row: int) -> None:
        direction = self._inverse @ self._rows[row]
        along = self._rows @ direction
        leverage = float(along[row])
        self._inverse = self._inverse - torch.outer(direction, direction) / (1 + leverage)
        self.scores = self.scores - along.square() / (1 + leverage)
        self.log_det += math.log1p(leverage)


class _Distance:
    """Distances of all rows from the nearest known one, root mean square over their numbers; infinite: none is."""

    def __init__(self, rows: Tensor, known: Tensor) -> None:
        self._rows = rows
        self.scores = rows.new_full((len(rows),), math.inf)
        if len(known):
            for some in known.split(max(1, _DISTANCES_AT_ONCE // len(rows))):
                self._approach(some)

    def ranking(self) -> Tensor:
        """(B,). Where nothing is known, the row nearest the mean comes first: a typical structure."""
        return -self._rows.square().sum(dim=1) if math.isinf(self.largest()) else self.scores

    def add(self, row: int) -> None:
        self._approach(self._rows[row, None])

    def largest(self) -> float:
        return float(self.scores.max())

    def _approach(self, some: Tensor) -> None:
        # By differences: squares of norms would leave copies at a distance of rounding.
        found = torch.cdist(self._rows, some, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
        self.scores = torch.minimum(self.scores, found / math.sqrt(self._rows.shape[1]))


class _Given:
    """Scores that stay."""

    def __init__(self, scores: Tensor | None, n: int) -> None:
        if scores is None or scores.shape != (n,):
            found = "none" if scores is None else f"shape {tuple(scores.shape)}"
            raise InputError(f"scores: expected {n} numbers, one for each structure of the pool, got {found}")
        self.scores = scores.to("cpu", torch.float64)

    def ranking(self) -> Tensor:
        return self.scores

    def add(self, row: int) -> None:
        pass
