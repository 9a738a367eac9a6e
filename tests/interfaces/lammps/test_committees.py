"""Several potentials at once: their means and spreads, as LAMMPS' users ask for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from lammps_samples import Runner, calculated, coefficients, crystal, save_committee, thermo

from pyfit_gpu.errors import Failure

SPREADS = "energy_std 1 fx_std 1 fy_std 1 fz_std 1"
DUMP = ["dump 1 all custom 5 dump id f_spread[*] x y z", "dump_modify 1 sort id format float %.17g"]
FACTOR = 23.060549  # kcal/mol in one eV, LAMMPS' own number


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return save_committee(tmp_path / "potentials", 4, ("Si", "C"))


def members(atoms: Atoms, files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """(members, atoms) and (members, atoms, 3): energies and forces of each potential alone."""
    alone = [calculated(atoms, [file]) for file in files]
    return np.array([one.get_potential_energies() for one in alone]), np.array([one.get_forces() for one in alone])


@pytest.mark.parametrize("ranks", [1, 2])
def test_spreads_along_a_run(run: Runner, files: list[Path], ranks: int) -> None:
    """Sample standard deviations of atomic energies and forces, on the steps that fix pair asks for."""
    atoms = crystal((3, 2, 2), second="C")
    run(
        *run.setup(atoms, coefficients(files), style="pyfit forces_std yes"),
        "velocity all create 3000 7 loop geom",
        "fix 1 all nve",
        f"fix spread all pair 5 pyfit {SPREADS}",
        *DUMP,
        "run 10",
        ranks=ranks,
    )
    frames = run.dump()
    assert len(frames) == 3
    for frame in frames:
        there = atoms.copy()
        there.positions = frame[:, 5:8]
        energies, forces = members(there, files)
        np.testing.assert_allclose(frame[:, 1], energies.std(0, ddof=1), rtol=0, atol=1e-10)
        np.testing.assert_allclose(frame[:, 2:5], forces.std(0, ddof=1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("ranks", [1, 3])
def test_numbers_of_compute_pair(run: Runner, files: list[Path], ranks: int) -> None:
    """Spread of the total energy, mean and greatest of the atomic spreads; the rank that has none says nothing."""
    atoms = Atoms("SiCSi", [[1, 1, 1], [1.2, 1.4, 2.9], [2.5, 2.5, 1.2]], cell=[20] * 3, pbc=True)
    output = run(
        *run.setup(atoms, coefficients(files), elements=("Si", "C")),
        "compute spread all pair pyfit",
        "thermo_style custom step pe c_spread c_spread[*]",
        "thermo_modify format float %.17g",
        "run 0",
        ranks=ranks,
    )
    energies, _ = members(atoms, files)
    spreads = energies.std(0, ddof=1)
    expected = [energies.mean(0).sum()] * 2 + [energies.sum(1).std(ddof=1), spreads.mean(), spreads.max()]
    np.testing.assert_allclose(thermo(output)[0, 1:], expected, rtol=0, atol=1e-10)


def test_while_minimising(run: Runner, files: list[Path]) -> None:
    atoms = crystal((2, 2, 2), second="C")
    run(
        *run.setup(atoms, coefficients(files), style="pyfit forces_std yes"),
        f"fix spread all pair 1 pyfit {SPREADS}",
        *DUMP,
        "minimize 0 0 5 20",
    )
    for frame in run.dump():
        there = atoms.copy()
        there.positions = frame[:, 5:8]
        _, forces = members(there, files)
        np.testing.assert_allclose(frame[:, 2:5], forces.std(0, ddof=1), rtol=0, atol=1e-9)


def test_real_units(run: Runner, files: list[Path]) -> None:
    """Energies in kcal/mol, spreads too."""
    atoms = crystal((2, 2, 2), second="C")
    output = run(
        *run.setup(atoms, coefficients(files), style="pyfit forces_std yes", units="real"),
        f"fix spread all pair 1 pyfit {SPREADS}",
        "dump 1 all custom 1 dump id fx fy fz f_spread[*]",
        "dump_modify 1 sort id format float %.17g",
        "compute virial all centroid/stress/atom NULL virial",
        "compute sum all reduce sum c_virial[1] c_virial[2] c_virial[3]",
        "thermo_style custom step pe pxx pyy pzz c_sum[*] vol",
        "thermo_modify format float %.17g",
        "run 0",
    )
    expected = calculated(atoms, files)
    energies, forces = members(atoms, files)
    row = thermo(output)[0]
    np.testing.assert_allclose(-row[2:5] * row[8], row[5:8], rtol=1e-12)
    np.testing.assert_allclose(row[1], FACTOR * expected.get_potential_energy(), rtol=1e-7)
    frame = run.dump()[0]
    np.testing.assert_allclose(frame[:, 1:4], FACTOR * expected.get_forces(), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(frame[:, 4], FACTOR * energies.std(0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(frame[:, 5:8], FACTOR * forces.std(0, ddof=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("style", "spreads", "n_files", "message"),
    [
        ("pyfit", "fx_std 1", 2, "pyfit: fx_std: expected the keyword forces_std yes"),
        ("pyfit", "energy_std 1", 1, "pyfit: energy_std: expected several potential files in pair_coeff, found 1"),
        ("pyfit forces_std yes", "fx_std 0", 2, "cannot extract property fx_std|cannot extract fx_std"),
        ("pyfit", "charge 0", 2, "cannot extract property charge|cannot extract charge"),
    ],
)
def test_what_is_not_there(
    run: Runner, files: list[Path], style: str, spreads: str, n_files: int, message: str
) -> None:
    """Forces' spreads without their trigger would be those of an earlier step."""
    start = run.setup(crystal((2, 2, 2), second="C"), coefficients(files[:n_files]), style=style)
    with pytest.raises(Failure, match=message):
        run(*start, "fix 1 all nve", f"fix spread all pair 1 pyfit {spreads}", "run 3")


def test_one_potential_has_no_spread(run: Runner, files: list[Path]) -> None:
    start = run.setup(crystal((2, 2, 2), second="C"), coefficients(files[:1]))
    with pytest.raises(Failure, match="vector"):
        run(*start, "compute spread all pair pyfit", "thermo_style custom step c_spread[1]", "run 0")
