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

    order: int  # number of l among the orders
    cosine: int  # number of the row c p; that of s p, if m is not 0, is the next
    polynomial: str  # p
    above: str | None  # polynomial of m + 1 that dp/dz is a multiple of; None: p is 1
    slope: float  # which multiple

    def number(self, part: str) -> int:
        """Number of the row with c or with s."""
        return self.cosine + "cs".index(part)


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
        for number, (order, start) in enumerate(zip(orders, starts, strict=True)):
            k = order - m
            if k < 0:
                continue
            above, slope = (_name("q", k - 1), polynomial_slope(order, m)) if k else (None, 0.0)
            rows.append(Row(number, start + max(2 * m - 1, 0), _name("p", k), above, slope))
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
                yield f"a_{e}_{row.cosine} += {product('t' if level.m else f'f_{e}', row.polynomial)}"
                if level.m:
                    yield f"a_{e}_{row.cosine + 1} += {product('u', row.polynomial)}"


def add_moved_rows(orders: Sequence[int], elements: int) -> Iterator[str]:
    """Lines that add the change of f_e times each row to a_e_row: d_e is that of f_e, dx dy dz that of x y z."""
    for level in levels(orders, derivatives=True):
        yield from level.lines
        yield from _moved_power(level.m)
        for e in range(elements):
            if level.m:
                yield f"t, u = d_{e} * c + f_{e} * dc, d_{e} * s + f_{e} * ds"
                yield f"v, w = f_{e} * dz * c, f_{e} * dz * s"
            else:
                yield f"t, v = d_{e}, f_{e} * dz"
            for row in level.rows:
                for part, still, moved in (("c", "t", "v"), ("s", "u", "w")) if level.m else (("c", "t", "v"),):
                    rise = f" + {product(moved, repr(row.slope), row.above)}" if row.above else ""
                    yield f"a_{e}_{row.number(part)} += {product(still, row.polynomial)}{rise}"


def _moved_power(m: int) -> list[str]:
    """Lines for the changes of c and s: d(c + is) = m (c_ + i s_) (dx + i dy)."""
    if m < 2:
        return ["dc, ds = dx, dy"] if m else []
    return [f"dc, ds = {m}.0 * (c_ * dx - s_ * dy), {m}.0 * (c_ * dy + s_ * dx)"]


def gradient_of_level(level: Level) -> Iterator[str]:
    """Lines that add to gx gy gz, the gradient with respect to x y z, from sums over the rows of one m.

    The sums are of weights times p, value_c and value_s for the rows c p and s p, and of weights times dp / dz, slope_c
    and slope_s.
    """
    if level.m == 0:
        yield "gz += slope_c"
        return
    yield "gz += c * slope_c + s * slope_s"
    if level.m == 1:
        yield "gx, gy = gx + value_c, gy + value_s"
    else:
        yield f"gx += {level.m}.0 * (c_ * value_c + s_ * value_s)"
        yield f"gy += {level.m}.0 * (c_ * value_s - s_ * value_c)"
