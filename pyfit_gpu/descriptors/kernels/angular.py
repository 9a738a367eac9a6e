"""Straight-line code of the angular functions of harmonics.py: sums over them, tangents of these, and gradients.

With c + is = (x + iy)^m and p_lm polynomials in z, rows are c p and s p. Lines go through m = 0, 1, .., so that few
numbers are held at once. Names in the code: x y z, unit vector; c s, powers; c_ s_, those of m - 1; p_k and q_k, the
polynomials of degree k for m and for m + 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyfit_gpu.descriptors.harmonics import polynomial_slope, recurrence_ratio, rows_of_orders


@dataclass(frozen=True)
class Row:
    """One of the angular functions, or the two of them that share l and m."""

    cosine: int  # number of the row c p
    sine: int | None  # and of s p; None: m is 0
    polynomial: str  # p
    above: str | None  # polynomial of m + 1 that dp/dz is a multiple of; None: p is 1
    slope: float  # which multiple


@dataclass(frozen=True)
class Level:
    """Everything of one m."""

    m: int
    lines: tuple[str, ...]  # that define c, s and the polynomials
    rows: tuple[Row, ...]


def levels(orders: Sequence[int], *, derivatives: bool = False) -> Iterator[Level]:
    """Yield the code of m = 0, 1, ..

    Args:
        derivatives: whether c_ and s_, and the polynomials of m + 1, are wanted.
    """
    highest = max(orders)
    starts = [own.start for own in rows_of_orders(orders)]
    for m in range(highest + 1):
        lines = [*_power(m, derivatives), *_polynomials("p", m, highest)]
        if derivatives:
            lines += _polynomials("q", m + 1, highest)
        rows = []
        for order, start in zip(orders, starts, strict=True):
            k = order - m
            if k < 0:
                continue
            first = start + max(2 * m - 1, 0)
            above, slope = (_name("q", k - 1), polynomial_slope(order, m)) if k else (None, 0.0)
            rows.append(Row(first, first + 1 if m else None, _name("p", k), above, slope))
        yield Level(m, tuple(lines), tuple(rows))


def _power(m: int, derivatives: bool) -> list[str]:
    """Lines for c and s, and for those of m - 1."""
    if m == 0:
        return []
    if m == 1:
        return ["c, s = x, y"]
    return [*(["c_, s_ = c, s"] if derivatives else []), "c, s = c * x - s * y, c * y + s * x"]


def _name(letter: str, k: int) -> str:
    return "1.0" if k == 0 else "z" if k == 1 else f"{letter}_{k}"


def _polynomials(letter: str, m: int, highest: int) -> list[str]:
    """Lines for the polynomials of degree 2 and more, by the recurrence of harmonics.py."""
    return [
        f"{letter}_{k} = {_name(letter, k - 2)} + {recurrence_ratio(k, m)!r} * z * {_name(letter, k - 1)}"
        for k in range(2, highest - m + 1)
    ]


def product(*factors: str) -> str:
    """The product of some expressions, without those that are 1."""
    return " * ".join(factor for factor in factors if factor != "1.0") or "1.0"


def add_rows(orders: Sequence[int], elements: int) -> Iterator[str]:
    """Lines that add f_e times each row to a_e_row, for each element e."""
    for level in levels(orders):
        yield from level.lines
        for e in range(elements):
            if level.m:
                yield f"t, u = f_{e} * c, f_{e} * s"
            for row in level.rows:
                if row.sine is None:
                    yield f"a_{e}_{row.cosine} += {product(f'f_{e}', row.polynomial)}"
                else:
                    yield f"a_{e}_{row.cosine} += {product('t', row.polynomial)}"
                    yield f"a_{e}_{row.sine} += {product('u', row.polynomial)}"
