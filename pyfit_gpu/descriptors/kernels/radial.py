"""Straight-line code of the functions of the distance: unit vector, cutoff, Gaussians, and their derivatives."""

from __future__ import annotations

from pyfit_gpu.descriptors.basis import Basis

# The vector of a pair as a unit vector x y z, the distance r and its inverse.
UNIT = (
    "x = tl.load(vectors + 3 * pair, mask=there, other=1.0)",
    "y = tl.load(vectors + 3 * pair + 1, mask=there, other=0.0)",
    "z = tl.load(vectors + 3 * pair + 2, mask=there, other=0.0)",
    "inverse = tl.rsqrt(x * x + y * y + z * z)",
    "r = (x * x + y * y + z * z) * inverse",
    "x, y, z = x * inverse, y * inverse, z * inverse",
)


def cutoff(basis: Basis) -> tuple[str, ...]:
    """Lines for fc, and for what its derivative is made of."""
    return (
        f"depth = tl.minimum(r - {basis.cutoff!r}, 0.0)",
        "fourth = (depth * depth) * (depth * depth)",
        f"over = 1.0 / (fourth + {basis.cutoff_width**4!r})",
        "fc = fourth * over",
    )


def cutoff_slope(basis: Basis) -> tuple[str, ...]:
    """The line for fc', after `cutoff`."""
    return (f"dfc = {4 * basis.cutoff_width**4!r} * (depth * depth * depth) * (over * over)",)


def gaussian(basis: Basis, center: str) -> tuple[str, ...]:
    """Lines for the Gaussian at `center` without the cutoff, and for r - center."""
    return (f"offset = r - {center}", f"gauss = tl.exp(offset * offset * {-1 / basis.gaussian_width**2!r})")


def gaussian_slope(basis: Basis) -> str:
    """The expression of f_n', after `gaussian`, `cutoff` and `cutoff_slope`."""
    return f"gauss * (dfc - {2 / basis.gaussian_width**2!r} * offset * fc)"
