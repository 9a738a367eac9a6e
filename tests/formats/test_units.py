"""Units in eV and Å: against ASE's and the numbers of CODATA 2014."""

from __future__ import annotations

import math

import pytest
from ase import units

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.units import Quantity, factor, parse_unit_system

# By hand, from CODATA 2014: hartree and Rydberg in eV, bohr in Å, elementary charge in C, Avogadro's number.
HARTREE, BOHR, CHARGE, AVOGADRO = 27.21138602, 0.52917721067, 1.6021766208e-19, 6.022140857e23


@pytest.mark.parametrize(
    ("quantity", "unit", "expected"),
    [
        ("energy", "eV", 1.0),
        ("energy", " e V ", 1.0),
        ("energy", "meV", 1e-3),
        ("energy", "Hartree", HARTREE),
        ("energy", "Ha", HARTREE),
        ("energy", "a.u.", HARTREE),
        ("energy", "Ry", HARTREE / 2),
        ("energy", "kcal/mol", 4184 / CHARGE / AVOGADRO),
        ("energy", "kJ/mol", 1000 / CHARGE / AVOGADRO),
        ("length", "Å", 1.0),
        ("length", "Angstrom", 1.0),
        ("length", "Bohr", BOHR),
        ("length", "nm", 10.0),
        ("force", "eV/Å", 1.0),
        ("force", "meV/A", 1e-3),
        ("force", "hartree/bohr", HARTREE / BOHR),
        ("force", "Ry/au", HARTREE / 2 / BOHR),
        ("force", "kcal/mol/Angstrom", 4184 / CHARGE / AVOGADRO),
        ("force", "kJ/mol/nm", 100 / CHARGE / AVOGADRO),
        ("stress", "eV/A^3", 1.0),
        ("stress", "eV/Ang**3", 1.0),
        ("stress", "'eV/Å³'", 1.0),
        ("stress", "Ha/bohr^3", HARTREE / BOHR**3),
        ("stress", "GPa", 1e9 / CHARGE * 1e-30),
        ("stress", "kbar", 1e8 / CHARGE * 1e-30),
        ("stress", "bar", 1e5 / CHARGE * 1e-30),
        ("stress", "MPa", 1e6 / CHARGE * 1e-30),
        ("stress", "Pa", 1 / CHARGE * 1e-30),
    ],
)
def test_factor(quantity: Quantity, unit: str, expected: float) -> None:
    found = factor(quantity, unit)
    assert found is not None
    assert math.isclose(found, expected, rel_tol=1e-8)


def test_the_factors_are_ases() -> None:
    assert factor("energy", "hartree") == units.Hartree
    assert factor("length", "bohr") == units.Bohr
    assert factor("stress", "GPa") == units.GPa


@pytest.mark.parametrize(
    ("quantity", "unit"),
    [
        ("energy", ""),
        ("energy", "furlong"),
        ("energy", "bohr"),
        ("energy", "eV/atom"),
        ("length", "eV"),
        ("length", "Å^2"),
        ("force", "eV"),
        ("force", "/A"),
        ("force", "eV/"),
        ("force", "eV/A^3"),
        ("force", "A/eV"),
        ("force", "GPa"),
        ("stress", "eV/A"),
        ("stress", "eV/A^2"),
        ("stress", "eV/A^33"),
        ("stress", "eV/A3"),
        ("stress", "eV"),
    ],
)
def test_what_is_not_known_is_none(quantity: Quantity, unit: str) -> None:
    assert factor(quantity, unit) is None


def test_system() -> None:
    assert (parse_unit_system("eV,Ang").force, parse_unit_system("eV, Å").length) == (1.0, 1.0)
    atomic = parse_unit_system("hartree,bohr")
    assert math.isclose(atomic.energy, HARTREE, rel_tol=1e-8)
    assert math.isclose(atomic.force, HARTREE / BOHR, rel_tol=1e-8)


@pytest.mark.parametrize("text", ["", "eV", "eV,", ",Ang", "Ang,eV", "eV,Ang,bohr", "eV Ang", "hartree;bohr"])
def test_systems_that_are_not_known(text: str) -> None:
    with pytest.raises(InputError, match="units: expected those of energy and length") as caught:
        parse_unit_system(text)
    assert caught.value.setting == "units"
    assert repr(text) in str(caught.value)
