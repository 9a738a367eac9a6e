"""The members side by side: each cell by its own member, as `predict` gives it, on the scale of the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

import pyfit_gpu as pf
from pyfit_gpu.interfaces.ase import PyfitCalculator
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.physics.members import Members, highest_grade


def test_as_the_calculator(committee: Potential) -> None:
    cells = [bulk("Si"), bulk("Si", "fcc", a=3.9), bulk("Si", cubic=True)]
    groups = [(1, cells[:2]), (0, cells), (1, []), (0, cells[:1])]
    found = Members(committee).evaluate(groups)
    assert [len(own) for own in found] == [2, 3, 0, 1]
    for (number, own), evaluated in zip(groups, found, strict=True):
        for atoms, one in zip(own, evaluated, strict=True):
            atoms.calc = PyfitCalculator(committee.member(number))
            assert one.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
            assert np.allclose(one.forces, atoms.get_forces(), atol=1e-10)
            assert np.allclose(one.stress, atoms.get_stress(), atol=1e-10)
            assert np.isnan(one.grade)
    assert highest_grade(found) is None


def test_threads_do_not_matter(committee: Potential, three_threads: None) -> None:
    cells = [bulk("Si", a=5.0 + 0.1 * k) for k in range(7)]
    groups = [(0, cells[:4]), (1, cells[4:]), (1, cells[:2])]
    found = Members(committee).evaluate(groups)
    torch.set_num_threads(1)
    for one, other in zip(found, Members(committee).evaluate(groups), strict=True):
        assert [own.energy for own in one] == [own.energy for own in other]
        assert all(np.array_equal(own.stress, same.stress) for own, same in zip(one, other, strict=True))


def test_single_precision_is_computed_in_double(silicon: Potential) -> None:
    (exact,), (found,) = (
        Members(one).evaluate([(0, [bulk("Si")])])[0] for one in (silicon, silicon.to("cpu", torch.float32))
    )
    assert found.energy == pytest.approx(exact.energy, abs=1e-4)
    assert Members(silicon.to("cpu", torch.float32)).potentials[0].dtype == torch.float64


def test_a_cell_with_two_atoms_at_one_place_does_not_spoil_the_others(members: Members) -> None:
    broken = Atoms("Si2", positions=np.zeros((2, 3)), cell=5 * np.eye(3), pbc=True)
    ((first, second, third),) = members.evaluate([(0, [bulk("Si"), broken, bulk("Si")])])
    assert first.energy == third.energy < -200
    assert np.isnan(second.energy)
    assert second.forces.shape == (2, 3)


def test_grades(silicon: Potential, silicon_data: pf.Structures) -> None:
    grade = pf.build_extrapolation_grade(pf.build_training_set(silicon_data, silicon), silicon)
    members = Members(silicon, pf.Uncertainty.of(silicon, grade))
    found = members.evaluate([(0, [bulk("Si"), bulk("Si", a=3.0)])])
    assert found[0][0].grade < 1.2 < found[0][1].grade == highest_grade(found)
    assert np.isnan(members.evaluate([(0, [bulk("Si")])], grades=False)[0][0].grade)
