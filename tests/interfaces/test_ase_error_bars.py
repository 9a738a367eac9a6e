"""Error bars in the calculator: those of `predict`, those of forces only where they are asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from bond_order_samples import make_bond_order
from models.test_last_layer import make_bars, make_uncertainty
from sample_sets import make_potential

from pyfit_gpu.interfaces.ase import PyfitCalculator
from pyfit_gpu.models.potential import Form
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame


def make_atoms() -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


@pytest.fixture
def calculator() -> PyfitCalculator:
    potential = make_potential()
    return PyfitCalculator(potential, uncertainty=make_uncertainty(potential), e_shift=0.0)


def test_energies_always_forces_where_asked_for(calculator: PyfitCalculator) -> None:
    atoms = make_atoms()
    atoms.calc = calculator
    atoms.get_forces()
    assert "energy_uncertainty" in calculator.results
    assert "forces_uncertainty" not in calculator.results
    found = calculator.get_property("forces_uncertainty", atoms)
    assert "forces" in calculator.results
    frame = Frame(atoms.positions, atoms.cell.array, atoms.pbc, atoms.numbers, "", "")
    expected = predict(
        calculator.potential, Structures.from_frames([frame]), uncertainty=calculator.uncertainty, force_errors=True
    ).uncertainty
    assert expected is not None
    assert calculator.get_property("energy_uncertainty", atoms) == pytest.approx(float(expected.energy), rel=1e-10)
    np.testing.assert_allclose(found, expected.forces.numpy(), rtol=1e-9)
    assert not {"energy_uncertainty", "forces_uncertainty"} & set(calculator.export_properties())  # ASE refuses them


def test_without_error_bars_there_are_none() -> None:
    atoms = make_atoms()
    atoms.calc = PyfitCalculator(make_potential(), e_shift=0.0)
    atoms.get_potential_energy()
    assert "energy_uncertainty" not in atoms.calc.results
    assert "forces_uncertainty" not in atoms.calc.implemented_properties


def test_single_precision_is_close(calculator: PyfitCalculator) -> None:
    atoms = make_atoms()
    small = PyfitCalculator(
        make_potential(), uncertainty=make_uncertainty(make_potential()), dtype=torch.float32, e_shift=0.0
    )
    for name in ("energy_uncertainty", "forces_uncertainty"):
        expected = calculator.get_property(name, atoms)
        np.testing.assert_allclose(small.get_property(name, atoms), expected, rtol=1e-3, atol=1e-4 * np.max(expected))


@pytest.mark.parametrize("of_all", [False, True], ids=["last-layer", "all-parameters"])
@pytest.mark.parametrize("form", ["squared", "plain"])
def test_of_a_physically_informed_potential(form: Form, of_all: bool) -> None:
    potential, atoms = make_bond_order(form=form), make_atoms()
    uncertainty = make_uncertainty(potential)
    if of_all:
        bars = replace(make_bars(potential.networks.n_parameters), form="all-parameters")
        uncertainty = replace(uncertainty, error_bars=bars)
    calculator = atoms.calc = PyfitCalculator(potential, uncertainty=uncertainty, e_shift=0.0)
    frame = Frame(atoms.positions, atoms.cell.array, atoms.pbc, atoms.numbers, "", "")
    expected = predict(
        potential, Structures.from_frames([frame]), uncertainty=calculator.uncertainty, force_errors=True
    ).uncertainty
    assert expected is not None
    assert expected.forces is not None
    assert calculator.get_property("energy_uncertainty", atoms) == pytest.approx(float(expected.energy), rel=1e-9)
    assert "forces_uncertainty" not in calculator.results
    np.testing.assert_allclose(calculator.get_property("forces_uncertainty", atoms), expected.forces, rtol=1e-7)
