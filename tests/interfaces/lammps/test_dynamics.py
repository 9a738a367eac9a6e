"""Molecular dynamics with the plugin: on several ranks, with atoms that change ranks, in every kind of run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from lammps_samples import Runner, calculated, coefficients, crystal, save_committee, thermo

from pyfit_gpu.errors import Failure

FORCES = ["dump 1 all custom 100 dump id fx fy fz", "dump_modify 1 sort id format float %.17g"]
ENERGIES = ["thermo_style custom step pe etotal pxx pyy pzz pxy pxz pyz", "thermo_modify format float %.17g norm no"]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return save_committee(tmp_path / "potentials", 1, ("Si", "C"))


def zincblende() -> Atoms:
    return crystal((3, 2, 2), second="C")


def test_several_ranks_give_the_same(run: Runner, files: list[Path]) -> None:
    """Equal but for the rounding of sums in another order."""
    found = []
    for ranks in (1, 2, 4):
        output = run(*run.setup(zincblende(), coefficients(files)), *FORCES, *ENERGIES, "run 0", ranks=ranks)
        found.append((thermo(output)[0], run.dump()[0]))
    for energies, forces in found[1:]:
        np.testing.assert_allclose(energies, found[0][0], rtol=1e-12, atol=1e-12 * np.abs(found[0][0]).max())
        np.testing.assert_allclose(forces, found[0][1], rtol=0, atol=1e-12 * np.abs(found[0][1][:, 1:]).max())


@pytest.mark.parametrize("n_atoms", [1, 2, 3])
def test_more_ranks_than_atoms(run: Runner, files: list[Path], n_atoms: int) -> None:
    atoms = Atoms("SiCSi", [[1, 1, 1], [1.2, 1.4, 2.9], [17, 17, 17]], cell=[20] * 3, pbc=True)[:n_atoms]
    output = run(*run.setup(atoms, coefficients(files), elements=("Si", "C")), *FORCES, *ENERGIES, "run 0", ranks=4)
    expected = calculated(atoms, files)
    assert abs(thermo(output)[0, 1] - expected.get_potential_energy()) < 1e-11 * n_atoms
    np.testing.assert_allclose(run.dump()[0, :, 1:], expected.get_forces(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("ranks", "n_steps"), [(2, 200), pytest.param(4, 1000, marks=pytest.mark.slow)], ids=["2 ranks", "4 ranks"]
)
def test_atoms_that_cross_ranks(run: Runner, files: list[Path], ranks: int, n_steps: int) -> None:
    """While atoms change ranks the energy stays, and the forces are those of the calculator at the same place."""
    atoms = zincblende()
    output = run(
        *run.setup(atoms, coefficients(files)),
        "velocity all create 1500.0 7 loop geom",
        "velocity all set 50.0 31.0 -29.0 sum yes",  # Å/ps: all atoms pass borders of ranks
        "fix 1 all nve",
        "timestep 0.0005",
        f"dump 1 all custom {n_steps // 4} dump id fx fy fz x y z",
        "dump_modify 1 sort id format float %.17g",
        *ENERGIES,
        f"thermo {n_steps // 20}",
        f"run {n_steps}",
        ranks=ranks,
    )
    assert "Dangerous builds = 0" in output
    total = thermo(output)[:, 2]
    assert len(total) == 21
    assert np.ptp(thermo(output)[:, 1]) > 0.5  # eV: something happens
    assert np.ptp(total) < 1e-4 * len(atoms), "the energy drifts"
    for row in run.dump():
        there = atoms.copy()
        there.positions = row[:, 4:7]  # the box of an orthogonal cell is not rotated
        np.testing.assert_allclose(row[:, 1:4], calculated(there, files).get_forces(), rtol=0, atol=1e-10)


def test_trajectory_of_the_calculator(run: Runner, files: list[Path]) -> None:
    """The same steps as ASE's integrator with the calculator."""
    atoms = calculated(crystal((2, 2, 2), second="C"), files)
    atoms.set_masses([28.0] * len(atoms))
    output = run(
        *run.setup(atoms, coefficients(files)), "fix 1 all nve", "timestep 0.001", *ENERGIES, "thermo 10", "run 30"
    )
    expected = []
    dynamics = VelocityVerlet(atoms, 1e-3 * 1e3 * units.fs)
    dynamics.attach(lambda: expected.append(atoms.get_potential_energy()), interval=10)
    dynamics.run(30)
    # The two programs know the unit of mass to 6 digits.
    np.testing.assert_allclose(
        thermo(output)[:, 1] - expected[0], np.array(expected) - expected[0], rtol=1e-4, atol=1e-9
    )


def test_skin_does_not_matter(run: Runner, files: list[Path]) -> None:
    found = []
    for skin in ("0.3", "2.0"):
        output = run(
            *run.setup(zincblende(), coefficients(files)),
            f"neighbor {skin} bin",
            "velocity all create 1500 3 loop geom",
            "fix 1 all nve",
            *ENERGIES,
            "run 50",
        )
        found.append(thermo(output)[-1])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)


def test_runs_that_change_the_cell(run: Runner, files: list[Path]) -> None:
    """NPT of a triclinic cell, minimisation with the cell, a deformation: the last forces are the calculator's."""
    atoms = zincblende()
    atoms.set_cell(atoms.cell.array @ [[1, 0, 0], [0.15, 1, 0], [0.05, -0.1, 1]], scale_atoms=True)
    runs = [
        ["velocity all create 600 3", "fix 1 all npt temp 600 600 0.1 tri 0 0 1", "run 40", "unfix 1"],
        ["fix 1 all box/relax iso 0.0", "minimize 0 1e-3 20 60", "unfix 1"],
        ["fix 1 all nve", "fix 2 all deform 1 xy erate 0.5 remap v", "run 20"],
    ]
    frames = "dump 1 all custom 20 dump id fx fy fz x y z"
    cell = 'print "cell $(lx:%.17g) $(ly:%.17g) $(lz:%.17g) $(xy:%.17g) $(xz:%.17g) $(yz:%.17g)"'
    for commands in runs:
        single = ["undump 1", frames.replace("20 dump", "1 last"), "dump_modify 1 sort id format float %.17g", "run 0"]
        output = run(*run.setup(atoms, coefficients(files)), frames, *commands, *single, cell, ranks=2)
        x, y, z, xy, xz, yz = map(float, output.split("\ncell ")[-1].split()[:6])
        row = run.dump("last")[-1]
        there = Atoms(atoms.numbers, positions=row[:, 4:7], cell=[[x, 0, 0], [xy, y, 0], [xz, yz, z]], pbc=True)
        np.testing.assert_allclose(row[:, 1:4], calculated(there, files).get_forces(), rtol=0, atol=1e-10)


def test_restart(run: Runner, files: list[Path]) -> None:
    """A restart file goes on as the run that wrote it, once the potential is named again."""
    start = run.setup(zincblende(), coefficients(files))
    fix = ["fix 1 all nve", *ENERGIES, "thermo 10"]
    whole = run(*start, "velocity all create 900 3", *fix, "restart 20 part.*", "run 40", ranks=2)
    later = run("read_restart part.20", *start[-2:], *fix, "run 20", ranks=2)
    np.testing.assert_allclose(thermo(later), thermo(whole)[-3:], rtol=1e-10)
    with pytest.raises(Failure, match="pair"):
        run("read_restart part.20", *fix, "run 20")


def test_an_atom_that_is_lost(run: Runner, files: list[Path]) -> None:
    atoms = Atoms("SiC", [[1, 1, 1], [2.5, 1, 1]], cell=[9] * 3, pbc=False)
    with pytest.raises(Failure, match=r"ERROR.*(Lost atoms|out of range)"):
        run(
            *run.setup(atoms, coefficients(files)), "velocity all set 900 0 0", "fix 1 all nve", "thermo 10", "run 1000"
        )
