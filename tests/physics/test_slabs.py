"""Slabs: areas and planes of textbook crystals, cut where the gap is widest; energies against ASE's relaxations."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import make_supercell
from ase.optimize import BFGS

from pyfit_gpu.interfaces.ase import PyfitCalculator
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.physics.crystals import binary_crystals, elementary_crystals, scaled
from pyfit_gpu.physics.data_cells import Reference
from pyfit_gpu.physics.equation_of_state import UNKNOWN
from pyfit_gpu.physics.equilibrium import Solid, find_solids
from pyfit_gpu.physics.ground_states import supercell
from pyfit_gpu.physics.members import Members
from pyfit_gpu.physics.properties import Property
from pyfit_gpu.physics.slabs import cut_slab
from pyfit_gpu.physics.stacking_faults import stacking_faults
from pyfit_gpu.physics.surfaces import surfaces
from pyfit_gpu.physics.vacancies import vacancies

CRYSTALS = {one.name: one for one in (*elementary_crystals("Si"), *binary_crystals("Si", "C"))}
# Area of the smallest cell and distance of planes with equal atoms, for a = 1.
GEOMETRY = {
    ("fcc", (1, 0, 0)): (1 / 2, 1 / 2),
    ("fcc", (1, 1, 0)): (1 / np.sqrt(2), 1 / np.sqrt(8)),
    ("fcc", (1, 1, 1)): (np.sqrt(3) / 4, 1 / np.sqrt(3)),
    ("bcc", (1, 1, 0)): (1 / np.sqrt(2), 1 / np.sqrt(2)),
    ("bcc", (1, 1, 1)): (np.sqrt(3), 1 / np.sqrt(12)),
    ("diamond", (1, 0, 0)): (1 / 2, 1 / 2),
    ("diamond", (1, 1, 1)): (np.sqrt(3) / 4, 1 / np.sqrt(3)),
    ("sc", (1, 1, 1)): (np.sqrt(3), 1 / np.sqrt(3)),
    ("hcp", (0, 0, 1)): (np.sqrt(3) / 2, np.sqrt(8 / 3)),
    ("cesiumchloride", (1, 1, 0)): (np.sqrt(2), 1 / np.sqrt(2)),
}


@pytest.mark.parametrize(("name", "plane"), GEOMETRY)
def test_geometry(name: str, plane: tuple[int, int, int]) -> None:
    crystal = CRYSTALS[name]
    area, spacing = GEOMETRY[name, plane]
    slab = cut_slab(crystal, crystal.atoms, plane, 5.01 * spacing)
    assert slab.area == pytest.approx(area)
    assert len(slab.atoms) == 6 * len(crystal.atoms)
    assert slab.atoms.pbc.tolist() == [True, True, False]
    along = np.array(plane) @ np.linalg.inv(crystal.conventional(crystal.atoms).cell.array).T
    assert abs(slab.normal @ along / np.linalg.norm(along)) == pytest.approx(1)
    assert np.ptp(slab.heights) < 6 * spacing


def test_one_bond_is_cut_at_111_of_diamond() -> None:
    crystal = CRYSTALS["diamond"]
    slab = cut_slab(crystal, crystal.atoms, (1, 1, 1), 3.0)
    gaps = np.diff(np.unique(slab.heights.round(6)))
    assert gaps[0] == pytest.approx(np.sqrt(3) / 12, abs=1e-5)  # so the wide gap is outside
    assert gaps[1] == pytest.approx(np.sqrt(3) / 4, abs=1e-5)


def test_the_crystal_is_not_changed() -> None:
    """Inside of a slab every atom has its four neighbours."""
    atoms = scaled(CRYSTALS["zincblende"].atoms, 10.5)
    slab = cut_slab(CRYSTALS["zincblende"], atoms, (1, 1, 0), 15.0).atoms
    distances = slab.repeat((3, 3, 1)).get_all_distances(mic=True)
    bond = np.sqrt(3) / 4 * (8 * 10.5) ** (1 / 3)
    counts = (abs(distances - bond) < 1e-6).sum(axis=1)
    assert set(counts.tolist()) == {3, 4}


def relaxed(atoms, potential: Potential):
    atoms.calc = PyfitCalculator(potential)
    BFGS(atoms, logfile=None).run(fmax=1e-3, steps=300)
    return atoms.get_potential_energy()


@pytest.mark.slow
def test_vacancy_and_surfaces_as_ase_relaxes_them(silicon: Potential, members: Members, diamond: Solid) -> None:
    ((_, state),) = diamond.known
    cell = make_supercell(state.atoms, 2 * diamond.crystal.conventional_vectors)
    assert len(cell) == len(supercell(diamond, state.atoms)) == 64
    del cell[0]
    (vacancy,) = vacancies(members, [diamond]).properties
    assert vacancy.value == pytest.approx(relaxed(cell, silicon) - 63 * state.energy, abs=1e-3)
    found = {one.name: one.value for one in surfaces(members, [diamond]).properties}
    for plane in ((1, 0, 0), (1, 1, 0), (1, 1, 1)):
        # A cell of another shape, periodic with vacuum.
        slab = cut_slab(diamond.crystal, state.atoms, plane, 12.5)
        atoms = slab.atoms.repeat((2, 1, 1))
        atoms.cell[2] = slab.normal * (np.ptp(slab.heights) + 15)
        atoms.pbc = True
        energy = (relaxed(atoms, silicon) - len(atoms) * state.energy) / (4 * slab.area) * 16.0217663
        assert found[f"free-surface-energy {''.join(map(str, plane))}"] == pytest.approx(energy, abs=1e-3)


def test_surfaces_of_silicon(members: Members, diamond: Solid) -> None:
    values = {one.name: one for one in surfaces(members, [diamond]).properties}
    assert list(values) == [f"free-surface-energy {plane}" for plane in ("100", "110", "111")]
    assert all(one.unit == "J/m^2" and not one.note for one in values.values())
    # Dangling bonds per area: 2, 2 / sqrt(2), 2 / sqrt(3) per (a / 2)^2.
    assert values["free-surface-energy 111"].value < values["free-surface-energy 100"].value


def test_vacancy_of_silicon(members: Members, diamond: Solid) -> None:
    (found,) = vacancies(members, [diamond]).properties
    assert (found.name, found.phase, found.unit) == ("defect-formation-energy vacancy", "diamond", "eV")
    assert 1.5 < found.value < 4


def test_each_member_has_surfaces_of_its_own(committee: Potential) -> None:
    """With the energies and areas of its own crystal."""
    both = [one.members for one in _surfaces(committee)]
    for number in range(2):
        alone = [one.value for one in _surfaces(committee.member(number))]
        assert [values[number] for values in both] == pytest.approx(alone, abs=1e-9)
    assert all(abs(first - second) > 1e-4 for first, second in both)


def _surfaces(potential: Potential) -> tuple[Property, ...]:
    members = Members(potential)
    return surfaces(members, find_solids(members, [CRYSTALS["diamond"]], [Reference(UNKNOWN)])).properties


def test_no_crystal_no_defects(members: Members) -> None:
    for compute in (vacancies, surfaces, stacking_faults):
        (found,) = compute(members, []).properties
        assert np.isnan(found.value)
        assert found.note == "no crystal at rest by all members"
