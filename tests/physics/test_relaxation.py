"""Relaxations side by side against ASE's, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.optimize import BFGS

from pyfit_gpu.interfaces.ase import PyfitCalculator
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.physics import relaxation
from pyfit_gpu.physics.members import Members
from pyfit_gpu.physics.relaxation import Start, relax


def rattled(seed: int):
    atoms = bulk("Si", "diamond", 5.479, cubic=True)
    atoms.rattle(0.08, seed=seed)
    return atoms


def test_as_ase(committee: Potential) -> None:
    members = Members(committee)
    starts = [Start(0, rattled(1)), Start(1, rattled(1)), Start(1, rattled(2))]
    for start, found in zip(starts, relax(members, starts), strict=True):
        atoms = start.atoms.copy()
        atoms.calc = PyfitCalculator(committee.member(start.member))
        BFGS(atoms, logfile=None).run(fmax=1e-3)
        assert found.at_rest
        assert found.evaluated.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
        assert abs(found.evaluated.forces).max() < relaxation.FORCE_TOLERANCE
        assert np.array_equal(start.atoms.positions, rattled(1 if start is not starts[2] else 2).positions)


def test_along_a_direction(members: Members) -> None:
    direction = np.array([1.0, 2.0, 2.0]) / 3
    (found,) = relax(members, [Start(0, rattled(3), direction)])
    moved = found.atoms.positions - rattled(3).positions
    assert np.allclose(moved, (moved @ direction)[:, None] * direction)
    assert abs(found.evaluated.forces @ direction).max() < relaxation.FORCE_TOLERANCE
    assert abs(found.evaluated.forces).max() > 0.1


def test_too_few_steps(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "_MOST_STEPS", 2)
    (found,) = relax(members, [Start(0, rattled(1))])
    assert not found.at_rest
    assert np.isfinite(found.evaluated.energy)
