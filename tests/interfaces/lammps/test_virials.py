"""Virials of atoms: what they add up to, and the heat flux that they make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lammps_samples import Runner, calculated, coefficients, crystal, save_committee, thermo

BAR = 1.6021765e6  # in one eV/Å^3, LAMMPS' own number
TENSOR = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1))
VOIGT = (0, 1, 2, 5, 4, 3)  # places in ASE's order of xx yy zz xy xz yz


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return save_committee(tmp_path / "potentials", 1, ("Si", "C"), gi_mode=6, triples=((0, 2, 2),), cross_terms=1)


def sums(kind: str) -> list[str]:
    """Commands that add the virials of atoms up."""
    n = 6 if kind == "stress/atom" else 9
    columns = " ".join(f"c_virial[{k + 1}]" for k in range(n))
    return [f"compute virial all {kind} NULL virial", f"compute sum all reduce sum {columns}"]


@pytest.mark.parametrize("kind", ["stress/atom", "centroid/stress/atom"])
@pytest.mark.parametrize("modify", ["", "pair_modify nofdotr"], ids=["by forces", "by pairs"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_sum_is_the_stress(run: Runner, files: list[Path], kind: str, modify: str, ranks: int) -> None:
    """The global virial, by either of LAMMPS' ways, and the sum over atoms are the calculator's stress."""
    atoms = crystal((2, 2, 2), second="C")
    output = run(
        *run.setup(atoms, coefficients(files)),
        *([modify] if modify else []),
        *sums(kind),
        "thermo_style custom pxx pyy pzz pxy pxz pyz c_sum[*]",
        "thermo_modify format float %.17g",
        "run 0",
        ranks=ranks,
    )
    row = thermo(output)[0]
    stress = calculated(atoms, files).get_stress()[list(VOIGT)]
    np.testing.assert_allclose(-row[:6] / BAR, stress, rtol=0, atol=1e-12)
    np.testing.assert_allclose(row[6:12] / BAR / atoms.get_volume(), stress, rtol=0, atol=1e-12)
    if kind != "stress/atom":
        np.testing.assert_allclose(row[12:15], row[9:12], rtol=0, atol=1e-6)  # the tensor of all atoms is symmetric


def test_virials_of_atoms(run: Runner, files: list[Path]) -> None:
    """Each tensor of two atoms from its definition: -v g with g the derivative of one atom's energy."""
    atoms = crystal((1, 1, 1), second="C")[:2]
    atoms.set_cell([20, 20, 20])  # whose axes are those of LAMMPS
    run(
        *run.setup(atoms, coefficients(files)),
        "compute half all stress/atom NULL virial",
        "compute whole all centroid/stress/atom NULL virial",
        "dump 1 all custom 1 dump id c_half[*] c_whole[*]",
        "dump_modify 1 sort id format float %.17g",
        "run 0",
    )
    expected_half, expected_whole = np.zeros((2, 3, 3)), np.zeros((2, 3, 3))
    step = 1e-4
    for i, j in ((0, 1), (1, 0)):
        gradient = np.zeros(3)
        for axis in range(3):
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[j, axis] += sign * step
                gradient[axis] += sign * calculated(moved, files).get_potential_energies()[i] / (2 * step)
        tensor = np.outer(atoms.positions[j] - atoms.positions[i], gradient)  # stress times volume: minus the virial
        expected_whole[j] += tensor
        expected_half[i] += tensor / 2
        expected_half[j] += tensor / 2
    for row, half, whole in zip(run.dump()[0], expected_half, expected_whole, strict=True):
        np.testing.assert_allclose(row[1:7] / BAR, [half[k] for k in TENSOR[:6]], rtol=0, atol=1e-6)
        np.testing.assert_allclose(row[7:16] / BAR, [whole[k] for k in TENSOR], rtol=0, atol=1e-6)


@pytest.mark.parametrize("ranks", [1, 2])
def test_heat_flux(run: Runner, files: list[Path], ranks: int) -> None:
    """LAMMPS' heat flux is the change in time of sum r_i E_i, from three steps of dynamics.

    No energy may pass a border of the cell, where r_i is not that of the neighbour's image: there is vacuum.
    """
    step = 2e-5  # ps
    atoms = crystal((2, 2, 2), second="C")
    atoms.center(vacuum=4.0)
    output = run(
        *run.setup(atoms, coefficients(files), style="pyfit energy network"),
        "velocity all create 2000 9 loop geom",
        "fix 1 all nve",
        f"timestep {step}",
        "compute pe all pe/atom",
        "compute ke all ke/atom",
        "compute virial all centroid/stress/atom NULL virial",
        "compute flux all heat/flux ke pe virial",
        "compute symmetric all stress/atom NULL virial",
        "compute other all heat/flux ke pe symmetric",
        "thermo_style custom step c_flux[1] c_flux[2] c_flux[3] c_other[1] c_other[2] c_other[3]",
        "thermo_modify format float %.17g",
        "thermo 1",
        "dump 1 all custom 1 dump id xu yu zu c_pe c_ke",
        "dump_modify 1 sort id format float %.17g",
        "run 2",
        ranks=ranks,
    )
    moments = [(row[:, 1:4] * (row[:, 4] + row[:, 5])[:, None]).sum(0) for row in run.dump()]
    expected = (moments[2] - moments[0]) / (2 * step)
    found = thermo(output)[1]
    scale = np.abs(expected).max()
    # LAMMPS has the stress in bar: its factor has 6 digits.
    np.testing.assert_allclose(found[1:4], expected, rtol=0, atol=2e-6 * scale)
    assert np.abs(found[4:7] - expected).max() > 0.01 * scale, "with six components it is another"
