"""Phonons against ASE's finite displacements, and where phonopy is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from ase.phonons import Phonons
from ase.units import _e, _hbar

from pyfit_gpu.interfaces.ase import PyfitCalculator
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.physics import phonons as module
from pyfit_gpu.physics.crystals import elementary_crystals
from pyfit_gpu.physics.data_cells import Reference
from pyfit_gpu.physics.equation_of_state import UNKNOWN
from pyfit_gpu.physics.equilibrium import Solid, find_solids
from pyfit_gpu.physics.members import Members
from pyfit_gpu.physics.phonons import phonons


def test_without_phonopy(members: Members, diamond: Solid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (found,) = phonons(members, [diamond]).properties
    assert np.isnan(found.value)
    assert "phonopy is not installed: pip install" in found.note
    assert phonons(members, [diamond]).curves == ()


class TestWithPhonopy:
    @pytest.fixture(autouse=True)
    def phonopy(self) -> None:
        pytest.importorskip("phonopy", reason="phonopy is not installed (extra report)")

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")
    def test_as_ase(self, silicon: Potential, members: Members, diamond: Solid, tmp_path: Path) -> None:
        atoms = diamond.known[0][1].atoms
        found = phonons(members, [diamond])
        (curve,) = found.curves
        path = atoms.cell.bandpath(npoints=module._N_POINTS)
        calculation = Phonons(atoms, PyfitCalculator(silicon), supercell=(7, 7, 7), delta=0.01, name=tmp_path / "ph")
        calculation.run()
        calculation.read(acoustic=True)
        expected = calculation.band_structure(path.kpts, verbose=False) * _e / _hbar / (2 * np.pi) / 1e12
        own = np.array(curve.y).T
        assert own.shape == expected.shape
        assert abs(own - expected).max() < 0.01 * expected.max()
        assert {one.name: one.value for one in found.properties} == pytest.approx(
            {"phonon-frequency-minimum": 0, "phonon-frequency-maximum": expected.max()}, rel=0.01, abs=1e-3
        )

    def test_curve(self, members: Members, diamond: Solid, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a small supercell: six branches, three of which begin at zero, places with names."""
        monkeypatch.setattr(module, "_LEAST_LENGTH", 1.0)
        found = phonons(members, [diamond])
        (curve,) = found.curves
        assert len(curve.y) == 6
        assert curve.ticks[0] == (0.0, "G")
        start = np.array(curve.y)[:, 0]
        assert np.allclose(start[:3], 0, atol=1e-3)
        assert np.allclose(start[3:], start[3], atol=1e-3)  # the Raman mode, three times
        assert start[3] == pytest.approx(15.14, abs=0.05)  # as at any size of the supercell

    def test_members_as_if_alone(self, committee: Potential, monkeypatch: pytest.MonkeyPatch) -> None:
        """The second member's crystal has other lengths than the one that the displacements were made for."""
        monkeypatch.setattr(module, "_LEAST_LENGTH", 1.0)
        values = []
        for potential in (committee, committee.member(1)):
            own = Members(potential)
            crystals = [one for one in elementary_crystals("Si") if one.name in ("hcp", "diamond")]
            solids = find_solids(own, crystals, [Reference(UNKNOWN)] * 2)
            for solid in solids:
                values.append([one.members[-1] for one in phonons(own, [solid]).properties])
        assert np.allclose(values[0], values[2], rtol=1e-4, atol=1e-5)
        assert np.allclose(values[1], values[3], rtol=1e-4, atol=1e-5)
