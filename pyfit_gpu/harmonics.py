"""Real functions on the sphere whose products sum to Legendre polynomials (the addition theorem).

With u a unit vector, c_m + i s_m = (u_x + i u_y)^m and D_lm the m-th derivative of P_l at u_z,

    P_l(u . v) = D_l0(u) D_l0(v) + sum_{m=1..l} 2 (l-m)! / (l+m)! D_lm(u) D_lm(v) [c_m(u) c_m(v) + s_m(u) s_m(v)].

`angular_rows` gives the factors with D scaled to leading coefficient 1, which makes the recurrence two operations;
`pair_weights` gives the numbers that the products are then summed with. The theorem: Abramowitz and Stegun,
Handbook of Mathematical Functions, chapter 8; the split into (x + iy)^m and derivatives is the textbook form of
the solid harmonics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def n_rows(orders: Sequence[int]) -> int:
    return sum(2 * order + 1 for order in orders)


def pair_weights(orders: Sequence[int], *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(n_rows, n_orders): products of `angular_rows`, times this, are the Legendre polynomials."""
    weights = torch.zeros(n_rows(orders), len(orders), dtype=torch.float64)
    row = 0
    for m in range(max(orders) + 1):
        for column, order in enumerate(orders):
            if order < m:
                continue
            # d^m P_l / dz^m begins with (2l)! / (2^l l! (l-m)!) z^(l-m).
            leading = math.factorial(2 * order) / (2**order * math.factorial(order) * math.factorial(order - m))
            norm = (2 if m else 1) * math.factorial(order - m) / math.factorial(order + m)
            copies = 2 if m else 1
            weights[row : row + copies, column] = norm * leading**2
            row += copies
    return weights.to(device=device, dtype=dtype)


def angular_rows(x: Tensor, y: Tensor, z: Tensor, orders: Sequence[int], out: Tensor) -> Tensor:
    """Fill `out` (n_rows, n_pairs) for unit vectors given by components (n_pairs,); rows go by m, then order.

    `out` is written in place: this is the hot path of the features, and rows of pairs stay in cache.
    """
    wanted = list(orders)
    cosine = torch.ones_like(x)
    sine = torch.zeros_like(x)
    row = 0
    for m in range(max(wanted) + 1):
        if m == 1:
            cosine, sine = x, y
        elif m > 1:
            cosine, sine = x * cosine - y * sine, x * sine + y * cosine
        derivatives = _monic_derivatives(z, m, max(wanted))
        for order in wanted:
            if order < m:
                continue
            derivative = derivatives[order - m]
            if m == 0:
                out[row] = derivative if derivative is not None else 1.0
                row += 1
                continue
            for part in (cosine, sine):
                if derivative is None:
                    out[row] = part
                else:
                    torch.mul(part, derivative, out=out[row])
                row += 1
    return out


def angular_derivatives(x: Tensor, y: Tensor, z: Tensor, orders: Sequence[int]) -> Tensor:
    """(3, n_rows, n_pairs): derivatives of `angular_rows` with respect to x, y and z.

    Of the rows as polynomials in the three components: what leaves the sphere is for the caller to project out.
    """
    wanted = list(orders)
    highest = max(wanted)
    result = x.new_zeros(3, n_rows(wanted), len(x))
    # c_m + i s_m = (x + i y)^m, so d(c_m + i s_m) = m (c_{m-1} + i s_{m-1}) (dx + i dy).
    cosine, sine = torch.ones_like(x), torch.zeros_like(x)
    lower = (sine, sine)  # c_{m-1}, s_{m-1}, times m
    polynomials = _monic_derivatives(z, 0, highest)
    row = 0
    for m in range(highest + 1):
        if m:
            lower = (m * cosine, m * sine)
            cosine, sine = x * cosine - y * sine, x * sine + y * cosine
        # dq_lm / dz = (l - m) q_l,m+1
        above = _monic_derivatives(z, m + 1, highest) if m < highest else []
        for order in wanted:
            if order < m:
                continue
            value = polynomials[order - m]
            slope = None
            if order > m:
                q = above[order - m - 1]
                slope = float(order - m) if q is None else (order - m) * q
            if m == 0:
                if slope is not None:
                    result[2, row] = slope
                row += 1
                continue
            scaled = lower if value is None else (lower[0] * value, lower[1] * value)
            result[0, row] = scaled[0]
            torch.neg(scaled[1], out=result[1, row])
            result[0, row + 1] = scaled[1]
            result[1, row + 1] = scaled[0]
            if slope is not None:
                torch.mul(cosine, slope, out=result[2, row])
                torch.mul(sine, slope, out=result[2, row + 1])
            row += 2
        polynomials = above
    return result


def angular_pull_back(
    x: Tensor, y: Tensor, z: Tensor, orders: Sequence[int], grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`grad` (n_rows, n_pairs) times `angular_derivatives`, summed over the rows: three times (n_pairs,).

    The same formulas as there, without the nine tenths of the memory traffic that writing the derivatives out costs.
    """
    highest = max(orders)
    cosine, sine = torch.ones_like(x), torch.zeros_like(x)
    polynomials = _monic_derivatives(z, 0, highest)
    of_x, of_y, of_z = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
    row = 0
    for m in range(highest + 1):
        lower = (cosine, sine)  # c_{m-1}, s_{m-1}
        if m:
            cosine, sine = (x, y) if m == 1 else (x * cosine - y * sine, x * sine + y * cosine)
        above = _monic_derivatives(z, m + 1, highest) if m < highest else []
        parts = 2 if m else 1
        planar = [torch.zeros_like(x) for _ in range(parts)]  # sum_l q_lm grad, for c_m and s_m
        axial = [torch.zeros_like(x) for _ in range(parts)]  # sum_l dq_lm/dz grad
        for order in orders:
            if order < m:
                continue
            value = polynomials[order - m]
            for part in range(parts):
                if m:
                    _add_product(planar[part], grad[row], value)
                if order > m:
                    _add_product(axial[part], grad[row], above[order - m - 1], order - m)
                row += 1
        if m == 0:
            of_z += axial[0]
        else:
            of_z.addcmul_(cosine, axial[0]).addcmul_(sine, axial[1])
            if m == 1:
                of_x += planar[0]
                of_y += planar[1]
            else:
                of_x.addcmul_(lower[0], planar[0], value=m).addcmul_(lower[1], planar[1], value=m)
                of_y.addcmul_(lower[0], planar[1], value=m).addcmul_(lower[1], planar[0], value=-m)
        polynomials = above
    return of_x, of_y, of_z


def _add_product(total: Tensor, factor: Tensor, polynomial: Tensor | None, value: float = 1.0) -> None:
    """total += value * factor * polynomial, where None stands for 1."""
    if polynomial is None:
        total.add_(factor, alpha=value)
    else:
        total.addcmul_(factor, polynomial, value=value)


def _monic_derivatives(z: Tensor, m: int, highest: int) -> list[Tensor | None]:
    """d^m P_l / dz^m for l = m .. highest, scaled to leading coefficient 1; None stands for the constant 1.

    These are Gegenbauer polynomials of degree k = l - m, so q_k = z q_{k-1} - b_k q_{k-2} with
    b_k = (k - 1) (k + 2m - 1) / ((2k + 2m - 1) (2k + 2m - 3)).
    """
    polynomials: list[Tensor | None] = [None]
    if highest > m:
        polynomials.append(z)
    for k in range(2, highest - m + 1):
        b = (k - 1) * (k + 2 * m - 1) / ((2 * k + 2 * m - 1) * (2 * k + 2 * m - 3))
        last, before = polynomials[k - 1], polynomials[k - 2]
        assert last is not None
        product = z * last
        polynomials.append(product.sub_(b) if before is None else product.sub_(before, alpha=b))
    return polynomials
