"""Reference crystals: coordination, conventional cells, volumes."""

from __future__ import annotations

import numpy as np
import pytest

from pyfit_gpu.physics.crystals import binary_crystals, elementary_crystals, scaled, strained

COORDINATION = {"fcc": 12, "bcc": 8, "hcp": 12, "diamond": 4, "sc": 6}
COORDINATION |= {"zincblende": 4, "wurtzite": 4, "rocksalt": 6, "cesiumchloride": 8}
IN_CONVENTIONAL = {"fcc": 4, "bcc": 2, "hcp": 2, "diamond": 8, "sc": 1}
IN_CONVENTIONAL |= {"zincblende": 8, "wurtzite": 4, "rocksalt": 8, "cesiumchloride": 2}

CRYSTALS = [*elementary_crystals("Al"), *binary_crystals("Si", "C")]
every_crystal = pytest.mark.parametrize("crystal", CRYSTALS, ids=lambda crystal: crystal.name)


@every_crystal
def test_coordination(crystal) -> None:
    distances = crystal.atoms.repeat(5).get_all_distances(mic=True)[0]
    nearest = distances[distances > 1e-6].min()
    assert np.count_nonzero((distances > 1e-6) & (distances < 1.01 * nearest)) == COORDINATION[crystal.prototype]


@every_crystal
def test_conventional_cell(crystal) -> None:
    atoms = scaled(crystal.atoms, 12.5)
    cell = crystal.conventional(atoms)
    assert len(cell) == IN_CONVENTIONAL[crystal.prototype]
    assert cell.get_volume() / len(cell) == pytest.approx(12.5)
    if crystal.symmetry == "cubic":
        assert np.allclose(cell.cell.array, crystal.lattice_constants(atoms)["a"] * np.eye(3))
    else:
        assert list(crystal.lattice_constants(atoms)) == ["a", "c"]
        assert crystal.lattice_constants(atoms)["c"] == pytest.approx(cell.cell.lengths()[2])


def test_phases_of_several_elements_have_the_element_in_their_name() -> None:
    assert [one.name for one in elementary_crystals("C", "C ")][:2] == ["C fcc", "C bcc"]


def test_strain_takes_positions_along() -> None:
    crystal = next(one for one in CRYSTALS if one.name == "diamond")
    strain = np.array([[0.01, 0.02, 0], [0.02, 0, 0], [0, 0, -0.03]])
    changed = strained(crystal.atoms, strain)
    assert np.allclose(changed.get_scaled_positions(), crystal.atoms.get_scaled_positions())
    assert np.allclose(changed.cell.array, crystal.atoms.cell.array @ (np.eye(3) + strain))
