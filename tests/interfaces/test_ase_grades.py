"""The calculator's extrapolation grades, and the highest one that is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import load_potential, save_potential
from pyfit_gpu.formats.uncertainty_file import save_uncertainty, uncertainty_path
from pyfit_gpu.interfaces.ase import PyfitCalculator
from pyfit_gpu.models.extrapolation import ExtrapolationError
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.clusters import build_extrapolation_grade

SILICON = Path(__file__).parents[1] / "data" / "si_small.nn.dat"


def crystal(rattle: float, seed: int = 0) -> Atoms:
    atoms = bulk("Si", "diamond", a=5.48, cubic=True)
    atoms.rattle(rattle, seed=seed)
    return atoms


def structures(*all_atoms: Atoms) -> Structures:
    frames = [
        Frame(atoms.positions, atoms.cell.array, atoms.pbc, atoms.numbers.astype(np.int64), group="", source="x")
        for atoms in all_atoms
    ]
    return Structures.from_frames(frames)


@pytest.fixture(scope="module")
def silicon() -> Potential:
    return load_potential(SILICON)


@pytest.fixture(scope="module")
def uncertainty(silicon: Potential) -> Uncertainty:
    train = build_training_set(structures(*(crystal(0.1, seed) for seed in range(20))), silicon)
    return Uncertainty.of(silicon, build_extrapolation_grade(train, silicon))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_grades(silicon: Potential, uncertainty: Uncertainty, dtype: torch.dtype) -> None:
    atoms = crystal(0.2)
    atoms.calc = PyfitCalculator(silicon, uncertainty=uncertainty, dtype=dtype)
    expected = predict(silicon, structures(atoms), uncertainty=uncertainty).uncertainty
    assert expected is not None
    atoms.get_potential_energy()  # they come with everything
    found = atoms.calc.results["extrapolation_grade"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected.grade, rtol=1e-9 if dtype == torch.float64 else 1e-3)
    np.testing.assert_array_equal(atoms.calc.get_property("extrapolation_grade", atoms), found)
    assert not set(atoms.calc.export_properties()) & {"extrapolation_grade"}
    training = crystal(0.1, seed=3)
    assert atoms.calc.get_property("extrapolation_grade", training).max() < 1 + 1e-3


def test_without_uncertainty(silicon: Potential) -> None:
    atoms = crystal(0.1)
    atoms.calc = PyfitCalculator(silicon)
    atoms.get_forces()
    assert "extrapolation_grade" not in atoms.calc.results
    assert "extrapolation_grade" not in atoms.calc.implemented_properties


def test_file_beside_the_potential(silicon: Potential, uncertainty: Uncertainty, tmp_path: Path) -> None:
    path = tmp_path / "si.nn.dat"
    save_potential(silicon, path)
    save_uncertainty(uncertainty, uncertainty_path(path))
    atoms = crystal(0.1)
    found = []
    for calculator in (
        PyfitCalculator(path, device="cpu"),
        PyfitCalculator(silicon, uncertainty=uncertainty_path(path)),
        PyfitCalculator(silicon, uncertainty=uncertainty),
    ):
        found.append(calculator.get_property("extrapolation_grade", atoms).tolist())
    assert found[0] == found[1] == found[2]


def test_dynamics_stop_above_a_grade(silicon: Potential, uncertainty: Uncertainty) -> None:
    """An atom flies out of the crystal: the step in which it is too far outside fails, and names it."""
    atoms = crystal(0.05)
    atoms.calc = PyfitCalculator(silicon, uncertainty=uncertainty, max_grade=2.0)
    atoms.set_velocities(np.where(np.arange(8)[:, None] == 5, [0.3, 0.1, 0.0], 0.0))
    seen = []
    dynamics = VelocityVerlet(atoms, timestep=0.5)
    dynamics.attach(lambda: seen.append(atoms.calc.results["extrapolation_grade"].max()))
    pattern = (
        r"Atoms, counted from 1, atom \d: expected an extrapolation grade of at most 2, got [\d.]+ "
        r"\(farthest out: input \d+, Si-Si l=\d r0=[\d.]+ Å\)"
    )
    with pytest.raises(ExtrapolationError, match=pattern) as caught:
        dynamics.run(500)
    assert len(seen) > 1
    assert max(seen) <= 2 < caught.value.grade
    assert f"atom {caught.value.atom + 1}:" in str(caught.value)
    assert not atoms.calc.results
    free = predict(silicon, structures(atoms), uncertainty=uncertainty).uncertainty
    assert free is not None
    assert int(free.grade.argmax()) == caught.value.atom
    assert float(free.grade.max()) == pytest.approx(caught.value.grade, rel=1e-9)


def test_bad_input(silicon: Potential, uncertainty: Uncertainty, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"max_grade: expected an uncertainty, .* got none \(build_extrapolation_grade"
    ):
        PyfitCalculator(silicon, max_grade=3.0)
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=re.escape(f"max_grade: expected a number above 0, got {value}")):
            PyfitCalculator(silicon, uncertainty=uncertainty, max_grade=value)
    other = silicon.randomized(1)
    with pytest.raises(InputError, match="uncertainty: belongs to another potential"):
        PyfitCalculator(other, uncertainty=uncertainty)
    save_uncertainty(uncertainty, tmp_path / "old.txt")
    with pytest.raises(InputError, match=r"old\.txt: belongs to another potential"):
        PyfitCalculator(other, uncertainty=tmp_path / "old.txt")
    with pytest.raises(InputError, match=r"none\.txt: cannot read: No such file"):
        PyfitCalculator(silicon, uncertainty=tmp_path / "none.txt")
