"""The cubic forms of four-body terms in the rows x of the kernels, by the coefficients of couplings.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from pyfit_gpu.descriptors.basis import Basis


@dataclass(frozen=True)
class Slope:
    """Derivative of one triple's term with respect to a row x: a sum of v times products of two rows."""

    triple: int
    row: int
    entries: tuple[tuple[int, int, float], ...]  # rows i <= j, and v


@dataclass(frozen=True)
class Forms:
    """All terms of some triples, by their derivatives T of invariants.py."""

    n_triples: int
    slopes: tuple[Slope, ...]  # ascending in triple and row

    @classmethod
    @lru_cache(maxsize=32)  # asked for at every call
    def of(cls, basis: Basis) -> Forms:
        """Bring the coefficients, which are made for rows A / r0, to rows with the roots of their weights."""
        if not basis.triples:
            return cls(0, ())
        roots = [math.sqrt(weight) for weight in basis.row_weights]
        start = basis.couplings.span.start
        slopes = []
        for gradient in basis.couplings.gradients:
            for part in gradient.parts:
                for row, own in zip(range(part.order.start, part.order.stop), gradient.entries[part.rows], strict=True):
                    pairs = [(i + start, j + start, value) for i, j, value in own]
                    entries = tuple((i, j, value / (roots[row] * roots[i] * roots[j])) for i, j, value in pairs)
                    slopes.append(Slope(part.triple, row, entries))
        return cls(len(basis.triples), tuple(sorted(slopes, key=lambda slope: (slope.triple, slope.row))))

    @property
    def rows(self) -> list[int]:
        """Rows that are in any term."""
        return sorted({slope.row for slope in self.slopes})

    @property
    def products(self) -> dict[tuple[int, int], list[tuple[int, float]]]:
        """For each product i j of two rows the slopes that it is in, by number, with its coefficients."""
        result: dict[tuple[int, int], list[tuple[int, float]]] = {}
        for number, slope in enumerate(self.slopes):
            for i, j, value in slope.entries:
                result.setdefault((i, j), []).append((number, value))
        return dict(sorted(result.items()))
