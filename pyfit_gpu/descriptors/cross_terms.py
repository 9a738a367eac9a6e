"""Products of the sums of two Gaussians n and n' = n + k, for all n at once, and their derivatives.

Sums lie as (n, rows, columns), a column for each Gaussian, and are shifted against each other as one long row. So the
last k products of each row are of two different rows: they mean nothing, and nothing is made of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def sum_of_products(pairs: Sequence[tuple[Tensor, Tensor]], k: int) -> Tensor:
    """Sum of x_n y_n+k over pairs x, y, (n, rows, columns). What stands in the last k columns means nothing."""
    (x, y), *others = pairs
    if k == 0:
        total = x * y
        for x, y in others:
            total.addcmul_(x, y)
        return total
    total = torch.empty_like(x)
    flat = total.view(-1)[:-k]
    torch.mul(x.view(-1)[:-k], y.view(-1)[k:], out=flat)
    for x, y in others:
        flat.addcmul_(x.view(-1)[:-k], y.view(-1)[k:])
    return total


def add_grad_of_product(x: Tensor, y: Tensor, grads: tuple[Tensor, Tensor], spread: Tensor, k: int) -> None:
    """Add to `grads` the derivatives of the sum of `spread` x_n y_n+k, where `spread` is zero in the last k columns."""
    x, y, grad_x, grad_y, spread = (tensor.view(-1) for tensor in (x, y, *grads, spread))
    grad_x[:-k].addcmul_(spread[:-k], y[k:])
    grad_y[k:].addcmul_(spread[:-k], x[:-k])


def derivative_of_product(value: Tensor, part: Tensor, radial: Tensor, slopes: Tensor, radii: Tensor, k: int) -> Tensor:
    """Derivatives d(A_n A_n+k) / dv over the norm, (n, n_r0 - k, 3, K); overwrites `part` if k is 0.

    Args:
        value: sums over 2 w A / N times the angular functions, (n, n_r0, K).
        part: the same of their derivatives, (n, n_r0, 3, K).
        radial: f_n, (n, n_r0, 1, K).
        slopes: f_n' u, (n, n_r0, 3, K).
        radii: r0_n, (n_r0,) Å.
    """
    if k == 0:
        return part.mul_(radial).addcmul_(value[:, :, None], slopes)
    # 2 A_n / N_n becomes A_n / (r0_n r0_n+k).
    near = (radii[:-k] / radii[k:] / 2)[:, None, None]
    far = near.reciprocal() / 4
    moved_far = (part[:, :-k] * radial[:, k:]).addcmul_(value[:, :-k, None], slopes[:, k:]).mul_(near)
    moved_near = (part[:, k:] * radial[:, :-k]).addcmul_(value[:, k:, None], slopes[:, :-k]).mul_(far)
    return moved_far.add_(moved_near)
