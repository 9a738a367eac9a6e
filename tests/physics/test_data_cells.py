"""Cells of the data: which crystal they are, whatever their setting, and the reference values they give."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase.build import bulk, make_supercell
from ase.units import GPa

from pyfit_gpu.physics.crystals import binary_crystals, elementary_crystals, scaled
from pyfit_gpu.physics.data_cells import data_cells, energies_alone, find_reference, fingerprints, is_same
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame

MakeFrame = Callable[..., Frame]
ELEMENTARY = {crystal.name: crystal for crystal in elementary_crystals("Si")}


def made(make_frame: MakeFrame, atoms, **labels) -> Frame:
    return make_frame(atoms.positions, atoms.cell.array, symbols=atoms.get_chemical_symbols(), **labels)


@pytest.mark.parametrize("name", ELEMENTARY)
def test_setting_does_not_matter(name: str) -> None:
    crystal = ELEMENTARY[name]
    other = make_supercell(scaled(crystal.atoms, 17.0), [[1, 1, 0], [0, 1, 0], [1, 0, 2]])
    other.rotate(37, (1, 2, 3), rotate_cell=True)
    own = fingerprints([other])[0]
    same = [
        one
        for one, found in zip(ELEMENTARY, fingerprints([c.atoms for c in ELEMENTARY.values()]), strict=True)
        if is_same(own, found)
    ]
    assert same == [name]


def test_elements_matter() -> None:
    zincblende = next(binary_crystals("Si", "C")).atoms
    layered = bulk("SiC", "zincblende", a=1.0).repeat((1, 1, 2))
    layered.symbols = "SiSiCC"
    assert not is_same(*fingerprints([zincblende, layered]))


def test_equation_of_the_data(make_frame: MakeFrame) -> None:
    """Only the cells of this crystal, near its lowest one, and without forces."""
    frames = []
    for volume in (16.0, 18.5, 19.0, 19.5, 20.0, 20.5, 21.0, 21.5):
        energy = 0.01 * (volume - 20) ** 2 - 5 if volume > 16 else 40.0
        frames.append(made(make_frame, scaled(ELEMENTARY["diamond"].atoms, volume), energy=2 * energy))
    frames.append(made(make_frame, scaled(ELEMENTARY["fcc"].atoms, 20.0), energy=-9.0))
    pushed = made(make_frame, scaled(ELEMENTARY["diamond"].atoms, 20.2), energy=-40.0, forces=np.ones((2, 3)))
    reference = find_reference(
        ELEMENTARY["diamond"], data_cells(Structures.from_frames([*frames, pushed]), ["Si"], 6.0), {"Si": -1.0}
    )
    assert reference.equation.volume == pytest.approx(20.0, abs=0.01)
    assert reference.equation.energy == pytest.approx(-5.0, abs=1e-4)
    assert reference.equation.bulk_modulus == pytest.approx(20 * 0.02 / GPa, rel=0.02)
    assert reference.lattice_constants(ELEMENTARY["diamond"])["a"] == pytest.approx(160 ** (1 / 3), abs=1e-3)
    assert reference.alone == -1.0


def test_few_cells_give_the_lowest(make_frame: MakeFrame) -> None:
    frames = [made(make_frame, scaled(ELEMENTARY["bcc"].atoms, v), energy=e) for v, e in ((15.0, -3.0), (16.0, -4.0))]
    reference = find_reference(ELEMENTARY["bcc"], data_cells(Structures.from_frames(frames), ["Si"], 6.0), {})
    assert (reference.equation.energy, reference.equation.volume) == (-4.0, pytest.approx(16.0))
    assert np.isnan(reference.equation.bulk_modulus)
    assert reference.lattice_constants(ELEMENTARY["bcc"])["a"] == pytest.approx(32 ** (1 / 3))
    assert find_reference(ELEMENTARY["fcc"], data_cells(Structures.from_frames(frames), ["Si"], 6.0), {}).atoms is None


def test_a_single_atom_in_a_large_cell_is_no_crystal(make_frame: MakeFrame) -> None:
    """It would be a simple cubic one, of lower energy than none."""
    data = Structures.from_frames([make_frame([[0.0, 0.0, 0.0]], 12 * np.eye(3), symbols=["Si"], energy=-0.9)])
    assert data_cells(data, ["Si"], 6.0) == []
    assert len(data_cells(data, ["Si"], 12.1)) == 1


def test_hexagonal_lengths_only_from_a_cell_set_up_alike(make_frame: MakeFrame) -> None:
    hcp = ELEMENTARY["hcp"]
    alike = scaled(hcp.atoms, 15.0)
    other = make_supercell(alike, [[1, 0, 0], [1, 1, 0], [0, 0, 1]])  # 60 degrees instead of 120
    for atoms, is_known in ((alike, True), (other, False)):
        data = Structures.from_frames([made(make_frame, atoms, energy=-8.0)])
        found = find_reference(hcp, data_cells(data, ["Si"], 6.0), {}).lattice_constants(hcp)
        assert bool(found) == is_known
    assert hcp.lattice_constants(alike) == pytest.approx(
        find_reference(
            hcp, data_cells(Structures.from_frames([made(make_frame, alike, energy=-8.0)]), ["Si"], 6.0), {}
        ).lattice_constants(hcp)
    )


def test_isolated_atoms(make_frame: MakeFrame) -> None:
    """Alone means without images within the cutoff; the lowest counts; molecules do not."""
    one = [[0.0, 0.0, 0.0]]
    frames = [
        make_frame(one, energy=-0.7),
        make_frame(one, 12 * np.eye(3), energy=-0.9),
        make_frame(one, 3 * np.eye(3), energy=-5.0),
        make_frame([[0.0, 0, 0], [2.0, 0, 0]], energy=-3.0),
        make_frame(one),
    ]
    assert energies_alone(Structures.from_frames(frames), ["Si"], 5.0) == {"Si": -0.9}
    assert energies_alone(Structures.from_frames(frames[2:]), ["Si"], 5.0) == {}
    assert energies_alone(None, ["Si"], 5.0) == {}
