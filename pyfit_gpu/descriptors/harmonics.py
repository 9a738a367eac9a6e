"""Real functions on the sphere whose products sum to Legendre polynomials (the addition theorem).

With u a unit vector, c_m + i s_m = (u_x + i u_y)^m and D_lm the m-th derivative of P_l at u_z,

    P_l(u . v) = D_l0(u) D_l0(v) + sum_{m=1..l} 2 (l-m)! / (l+m)! D_lm(u) D_lm(v) [c_m(u) c_m(v) + s_m(u) s_m(v)].

`angular_rows` gives the factors, with D scaled so that a step of its recurrence is one operation, and
`addition_coefficients` the coefficients of the sum over their products. Rows are sorted by order, and within an order
by m: D_l0, D_l1 c_1, D_l1 s_1, D_l2 c_2, .. The theorem: Abramowitz and Stegun, Handbook of Mathematical Functions,
chapter 8; the split into (x + iy)^m and derivatives is the textbook form of the solid harmonics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor


def n_rows(orders: Sequence[int]) -> int:
    return sum(2 * order + 1 for order in orders)


def rows_of_orders(orders: Sequence[int]) -> list[slice]:
    ends = [n_rows(orders[: number + 1]) for number in range(len(orders))]
    return [slice(end - 2 * order - 1, end) for order, end in zip(orders, ends, strict=True)]


def addition_coefficients(orders: Sequence[int], *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(n_orders, n_rows) coefficients: times the products of `angular_rows` they give the Legendre polynomials."""
    coefficients = torch.zeros(n_rows(orders), len(orders), dtype=torch.float64)
    for number, (order, parts) in enumerate(_parts(coefficients, orders)):
        for m, own in enumerate(parts):
            # d^m P_l / dz^m begins with (2l)! / (2^l l! (l-m)!) z^(l-m).
            leading = math.factorial(2 * order) / (2**order * math.factorial(order) * math.factorial(order - m))
            norm = (2 if m else 1) * math.factorial(order - m) / math.factorial(order + m)
            own[:, number] = norm * (leading * _scale(order - m, m)) ** 2
    return coefficients.T.contiguous().to(device=device, dtype=dtype)


def angular_rows(unit: Tensor, orders: Sequence[int], out: Tensor) -> Tensor:
    """Fill `out` (n_rows, n_pairs) for the components (3, n_pairs) of unit vectors.

    `out` is written in place: this is the hot path of the features, and rows of pairs stay in cache.
    """
    by_order, highest = _parts(out, orders), max(orders)
    x, y, z = unit.unbind(0)
    one = z.new_ones(())
    power = None
    for m in range(highest + 1):
        if m:
            power = _Complex(unit[:2], x, y) if power is None else power.times(x, y)
        polynomials = _polynomials(z, m, highest, one)
        for order, parts in by_order:
            if order >= m:
                _set_product(parts[m], None if power is None else power.both, polynomials[order - m])
    return out


def angular_jvp(unit: Tensor, orders: Sequence[int], tangent: Tensor, out: Tensor) -> Tensor:
    """Fill `out` (n_rows, n_pairs) with the JVP of `angular_rows` along `tangent` (3, n_pairs).

    The rows are differentiated as polynomials in the three components; the caller projects out the radial part.
    """
    by_order, highest = _parts(out, orders), max(orders)
    (x, y, z), (dx, dy, dz) = unit.unbind(0), tangent.unbind(0)
    one = z.new_ones(())
    power, moved, rise = None, None, dz  # (x + iy)^m, its change, and (x + iy)^m dz
    polynomials = _polynomials(z, 0, highest, one)
    for m in range(highest + 1):
        if m:
            # d(x + iy)^m = m (x + iy)^(m-1) (dx + i dy)
            moved = tangent[:2] if power is None else power.times(dx, dy).both.mul_(m)
            power = _Complex(unit[:2], x, y) if power is None else power.times(x, y)
            rise = power.both * dz
        above = _polynomials(z, m + 1, highest, one)
        for order, parts in by_order:
            if order < m:
                continue
            if moved is None:
                parts[m].zero_()
            else:
                _set_product(parts[m], moved, polynomials[order - m])
            if order > m:
                _add_product(parts[m], rise, above[order - m - 1], polynomial_slope(order, m))
        polynomials = above
    return out


def angular_vjp(unit: Tensor, orders: Sequence[int], grad: Tensor) -> Tensor:
    """(3, n_pairs): the VJP of `angular_rows`, the transpose of `angular_jvp` applied to `grad` (n_rows, n_pairs).

    The rows of one m are (x + iy)^m times polynomials in z, so their sums over the orders are added up by Horner's
    rule in x - iy: no derivative is ever written out.
    """
    by_order, highest = _parts(grad, orders), max(orders)
    x, y, z = unit.unbind(0)
    one = z.new_ones(())
    sums = _Complex.of(unit.new_zeros(2, 2, len(z)))  # sums of p grad and of p' grad, for c_m and s_m
    above: list[Tensor | None] = []
    for m in range(highest, 0, -1):
        if m < highest:
            sums = sums.times(x, y, sign=-1)
        value_sums, slope_sums = sums.both.unbind(0)
        polynomials = _polynomials(z, m, highest, one)
        for order, parts in by_order:
            if order >= m:
                _add_product(value_sums, parts[m], polynomials[order - m], m)
            if order > m:
                _add_product(slope_sums, parts[m], above[order - m - 1], polynomial_slope(order, m))
        above = polynomials
    grad_z = (x * sums.real[1]).addcmul_(y, sums.imaginary[1])
    for order, parts in by_order:
        if order:
            _add_product(grad_z, parts[0][0], above[order - 1], polynomial_slope(order, 0))
    return torch.cat((sums.both[0], grad_z[None]))


class _Complex(NamedTuple):
    """Complex numbers with views of their parts, made once: small operations are much of the cost."""

    both: Tensor  # (.., 2, n_pairs)
    real: Tensor  # (.., n_pairs)
    imaginary: Tensor  # (.., n_pairs)

    @classmethod
    def of(cls, both: Tensor) -> _Complex:
        return cls(both, *both.unbind(-2))

    def times(self, x: Tensor, y: Tensor, sign: int = 1) -> _Complex:
        """Multiply by x + iy, or with `sign` -1 by x - iy."""
        product = _Complex.of(self.both * x)
        product.real.addcmul_(self.imaginary, y, value=-sign)
        product.imaginary.addcmul_(self.real, y, value=sign)
        return product


def _parts(rows: Tensor, orders: Sequence[int]) -> list[tuple[int, list[Tensor]]]:
    """Each order with its rows for m = 0, 1, ..: one row for m = 0, two for every other m."""
    parts = iter(rows.split([2 if m else 1 for order in orders for m in range(order + 1)]))
    return [(order, list(islice(parts, order + 1))) for order in orders]


def _set_product(out: Tensor, first: Tensor | None, second: Tensor | None) -> None:
    """Compute out = first * second, where None stands for 1."""
    if first is not None and second is not None:
        torch.mul(first, second, out=out)
    elif first is not None:
        out.copy_(first)
    elif second is not None:
        out.copy_(second)
    else:
        out.fill_(1.0)


def _add_product(total: Tensor, factor: Tensor, polynomial: Tensor | None, value: float) -> None:
    """Add value * factor * polynomial to `total`, where None stands for 1."""
    if polynomial is None:
        total.add_(factor, alpha=value)
    else:
        total.addcmul_(factor, polynomial, value=value)


def _polynomials(z: Tensor, m: int, highest: int, one: Tensor) -> list[Tensor | None]:
    """d^m P_l / dz^m for l = m .. highest, scaled to p_k of degree k = l - m; None stands for the constant 1.

    These are Gegenbauer polynomials: scaled to leading coefficient 1, q_k = z q_{k-1} - b_k q_{k-2}. With q_k =
    s_k p_k and s_k = -b_k s_{k-2} that is p_k = p_{k-2} + s_{k-1} / s_k z p_{k-1}, one operation.
    """
    if highest < m:
        return []
    polynomials: list[Tensor | None] = [None, z][: highest - m + 1]
    for k in range(2, highest - m + 1):
        before, last = polynomials[k - 2], polynomials[k - 1]
        assert last is not None
        polynomials.append(torch.addcmul(one if before is None else before, z, last, value=recurrence_ratio(k, m)))
    return polynomials


@cache
def _scale(k: int, m: int) -> float:
    """s_k, with b_k = (k - 1) (k + 2m - 1) / ((2k + 2m - 1) (2k + 2m - 3))."""
    if k < 2:
        return 1.0
    b = (k - 1) * (k + 2 * m - 1) / ((2 * k + 2 * m - 1) * (2 * k + 2 * m - 3))
    return -b * _scale(k - 2, m)


@cache
def recurrence_ratio(k: int, m: int) -> float:
    return _scale(k - 1, m) / _scale(k, m)


@cache
def polynomial_slope(order: int, m: int) -> float:
    """Factor f of dp_lm / dz = f p_l,m+1."""
    k = order - m
    return k * _scale(k - 1, m + 1) / _scale(k, m)
