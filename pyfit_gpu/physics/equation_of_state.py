"""The equation of state of Birch and Murnaghan, fitted to energies at several volumes.

    E(V) = E0 + 9/16 V0 B { (x - 1)^3 B' + (x - 1)^2 (6 - 4 x) }        x = (V0 / V)^(2/3)

E is a polynomial of third order in V^(-2/3), so the fit is linear.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.units import GPa

from pyfit_gpu.structures.cells import FloatArray

# Volumes that differ by less from that of least energy, relative to it, determine an equation. One range for all: the
# more volumes, the further its numbers are from those of the crystal at rest, for potentials as for data.
FITTED_RANGE = 0.15


@dataclass(frozen=True)
class EquationOfState:
    """The equation's numbers, per atom; NaN where energies have no minimum."""

    energy: float  # eV
    volume: float  # Å^3
    bulk_modulus: float  # GPa
    derivative: float  # of the bulk modulus by pressure


UNKNOWN = EquationOfState(np.nan, np.nan, np.nan, np.nan)


def fit_equation(volumes: FloatArray, energies: FloatArray) -> EquationOfState:
    """Fit the equation to energies (eV per atom) at volumes (Å^3 per atom), at least four, around a minimum."""
    middle = float(np.mean(volumes))
    x = (volumes / middle) ** (-2 / 3)
    if len(np.unique(x)) < 4:
        return UNKNOWN
    polynomial = np.polynomial.Polynomial.fit(x, energies, 3)
    offset, scale = polynomial.mapparms()
    _, slope, curvature, third = (float(k * own) for k, own in enumerate(np.real(polynomial.coef)))
    # Of the two places t where slope + curvature t + third t^2 is zero the minimum, in the form that has no difference
    # of nearly equal numbers where the third derivative is small.
    root = curvature**2 - 4 * slope * third
    if root <= 0 or curvature + np.sqrt(root) <= 0:
        return UNKNOWN
    place = float(-2 * slope / (curvature + np.sqrt(root)))
    if abs(place) > 1:
        return UNKNOWN
    x0 = (place - offset) / scale
    volume = middle * x0**-1.5
    second = float(polynomial.deriv(2)(x0))
    # With dx/dV = -2/3 x/V, at the minimum V^2 d2E/dV2 = 4/9 x^2 E''.
    bulk_modulus = 4 / 9 * x0**2 * second / volume
    derivative = 4 + 2 / 3 * x0 * float(polynomial.deriv(3)(x0)) / second
    return EquationOfState(float(polynomial(x0)), volume, bulk_modulus / GPa, derivative)
