"""Units among the keys of a structure: converted where they are known, refused where they are not or stay open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import units

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.extxyz.declared_units import DeclaredUnits
from pyfit_gpu.formats.extxyz.reader import read_extxyz
from pyfit_gpu.structures.frames import Frame, StructureSummary

LATTICE = 'Lattice="4 0 0 0 4 0 0 0 4"'
FORCES = "Properties=species:S:1:pos:R:3:forces:R:3"
HARTREE, BOHR = 27.21138602, 0.52917721067  # CODATA 2014


def one(folder: Path, comment: str, atom: str = "Si 0.5 0 0 1 2 3") -> Frame:
    path = folder / "a.xyz"
    path.write_text(f"1\n{comment}\n{atom}\n")
    (frame,) = read_extxyz(path)
    (summary,) = read_extxyz(path, wanted=lambda number: False)
    assert isinstance(frame, Frame)
    assert isinstance(summary, StructureSummary)
    assert summary.energy == frame.energy
    return frame


def test_hartree_and_bohr(tmp_path: Path) -> None:
    frame = one(
        tmp_path,
        f"{LATTICE} {FORCES} energy=-2 energy-unit=Hartree length_unit=bohr force_unit=hartree/bohr "
        'stress="1 2 3 4 5 6" stress_units=Ha/bohr^3',
    )
    assert frame.energy == pytest.approx(-2 * HARTREE, rel=1e-9)
    np.testing.assert_allclose(frame.positions, [[0.5 * BOHR, 0, 0]], rtol=1e-9)
    np.testing.assert_allclose(frame.cell, 4 * BOHR * np.eye(3), rtol=1e-9)
    np.testing.assert_allclose(frame.forces, np.array([[1, 2, 3]]) * HARTREE / BOHR, rtol=1e-9)
    np.testing.assert_allclose(frame.stress, np.arange(1, 7) * HARTREE / BOHR**3, rtol=1e-9)
    assert frame.unread == ()  # units are read


def test_a_virial_in_other_units_over_the_converted_volume(tmp_path: Path) -> None:
    frame = one(tmp_path, f'{LATTICE} virial="64 0 0 0 0 0" virial_unit=hartree length_unit=bohr', "Si 0 0 0")
    np.testing.assert_allclose(frame.stress, [-HARTREE / BOHR**3, 0, 0, 0, 0, 0], rtol=1e-9)


@pytest.mark.parametrize(
    ("unit", "factor"), [("GPa", units.GPa), ("kbar", 0.1 * units.GPa), ("bar", 1e-4 * units.GPa), ("eV/A^3", 1.0)]
)
def test_a_stress_alone_in_other_units(tmp_path: Path, unit: str, factor: float) -> None:
    frame = one(tmp_path, f'{LATTICE} energy=-1 stress="1 0 0 0 0 0" unit_stress={unit}', "Si 0 0 0")
    assert frame.stress is not None
    assert frame.stress[0] == pytest.approx(factor, rel=1e-12)
    assert frame.energy == -1


@pytest.mark.parametrize(
    "declared",
    [
        *("energy_unit=eV", "energy-units=ev length_unit=Angstrom", "Energy_Unit=EV"),
        *("units=metal", 'units="eV, Ang"', "unit=eV/A"),
    ],
)
def test_our_units_change_nothing(tmp_path: Path, declared: str) -> None:
    frame = one(tmp_path, f'{LATTICE} {FORCES} energy=-1 stress="1 0 0 0 0 0" {declared}')
    assert (frame.energy, frame.forces.tolist(), frame.unread) == (-1, [[1, 2, 3]], ())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("energy_unit=furlong", "energy_unit=furlong: expected a unit of energy"),
        ("energy_unit=eV/atom", "energy_unit=eV/atom: expected a unit of energy"),
        ('energy_unit=""', "energy_unit=: expected a unit of energy"),
        ("force_unit=eV", "force_unit=eV: expected a unit of force"),
        ("stress_unit=eV/A", "stress_unit=eV/A: expected a unit of stress"),
        ("cell_unit=lattice", "cell_unit=lattice: expected a unit of length"),
        ("units=real", "units=real: expected eV,Ang"),
        ("unit=hartree,bohr", "unit=hartree,bohr: expected eV,Ang"),
        ("energy_unit=eV unit_energy=hartree", "unit_energy=hartree: expected the unit of energy that another key"),
        ("pos_unit=bohr cell_unit=Ang", "cell_unit=Ang: expected the unit of length that another key"),
        ("energy_unit=hartree", "energy_unit declare units that are not ours, .* expected force_unit as well"),
        ("energyunit=furlong", "energyunit=furlong: expected a unit of energy"),
        ("length_unit=bohr energy_unit=eV", "energy_unit declare units .* expected force_unit as well"),
        ("length_unit=bohr", "length_unit declare units .* expected energy_unit as well"),
        ("force_unit=hartree/bohr", "force_unit declare units .* expected energy_unit as well"),
        ("energy_unit=hartree force_unit=hartree/bohr", "expected stress_unit as well"),
    ],
)
def test_units_that_are_not_known_or_stay_open(tmp_path: Path, declared: str, message: str) -> None:
    with pytest.raises(InputError, match=f"a.xyz, structure 1: .*{message}"):
        one(tmp_path, f'{LATTICE} {FORCES} energy=-1 stress="1 0 0 0 0 0" {declared}')


def test_open_units_of_what_is_not_there_do_not_matter(tmp_path: Path) -> None:
    frame = one(tmp_path, f"{LATTICE} energy=-1 energy_unit=hartree", "Si 0 0 0")
    assert frame.energy == pytest.approx(-HARTREE, rel=1e-9)
    with pytest.raises(InputError, match="expected virial_unit as well"):
        one(tmp_path, f'{LATTICE} energy=-1 virial="1 0 0 0 0 0" energy_unit=hartree', "Si 0 0 0")


@pytest.mark.parametrize("key", ["unit_cell", "unitcell", "unitary", "energy_unity", "n_units", "formula_units"])
def test_keys_that_only_sound_like_units(key: str) -> None:
    assert DeclaredUnits.of({key: "4"}, "here").keys == ()
