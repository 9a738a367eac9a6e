"""The equation of state against itself, written out, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from ase.eos import EquationOfState as AseEquation
from ase.units import GPa

from pyfit_gpu.physics.equation_of_state import UNKNOWN, fit_equation


def birch_murnaghan(v: np.ndarray, e0: float, v0: float, b: float, b1: float) -> np.ndarray:
    x = (v0 / v) ** (2 / 3)
    return e0 + 9 / 16 * v0 * b * GPa * ((x - 1) ** 3 * b1 + (x - 1) ** 2 * (6 - 4 * x))


@pytest.mark.parametrize("b1", [2.5, 4.0, 6.0])
def test_its_own_numbers_come_back(b1: float) -> None:
    volumes = np.linspace(17, 24, 9)
    found = fit_equation(volumes, birch_murnaghan(volumes, -5.4, 20.2, 97.0, b1))
    assert found.energy == pytest.approx(-5.4, abs=1e-9)
    assert found.volume == pytest.approx(20.2, rel=1e-8)
    assert found.bulk_modulus == pytest.approx(97.0, rel=1e-7)
    assert found.derivative == pytest.approx(b1, rel=1e-6)


def test_as_ase() -> None:
    volumes = np.linspace(18, 22, 9)
    energies = 0.01 * (volumes - 20) ** 2 - 0.0008 * (volumes - 20) ** 3
    v0, e0, b = AseEquation(volumes, energies, eos="birchmurnaghan").fit(warn=False)
    found = fit_equation(volumes, energies)
    assert (found.volume, found.energy, found.bulk_modulus) == pytest.approx((v0, e0, b / GPa), rel=1e-4)


def test_no_minimum() -> None:
    volumes = np.linspace(18, 22, 9)
    assert fit_equation(volumes, -volumes) == UNKNOWN
    assert fit_equation(volumes, -((volumes - 20) ** 2)) == UNKNOWN


def test_few_volumes() -> None:
    volumes = np.array([19.0, 20.0, 20.0, 21.0])
    assert fit_equation(volumes, (volumes - 20) ** 2) == UNKNOWN
