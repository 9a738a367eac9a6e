"""Training of physically informed networks on all kinds of structures, and where it meets what other verbs do."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from commands.helpers import call, done, refused, set_up_informed, weights

import pyfit_gpu as pf

ISOLATED = {"Si": -102.0, "C": -147.0}  # eV
TRAIN = ("train", "mixed.h5", "--potential", "start.nn.dat", "--out", "out.nn.dat", "--backup-dir", "", "--baseline",
         "fit", "--baseline-starts", 1, "--force-weight", 0.1, "--stress-weight", 0.1,
         "--max-iterations", 2)  # fmt: skip


def labelled(atoms: Atoms, group: str, bound: float, **labels: object) -> Atoms:
    """The structure with an energy `bound` eV below that of its atoms."""
    energy = sum(ISOLATED[symbol] for symbol in atoms.get_chemical_symbols()) - bound
    atoms.info["group"] = group
    atoms.calc = SinglePointCalculator(atoms, energy=energy, **labels)
    return atoms


def mixed() -> list[Atoms]:
    """Crystals of which some lack forces or stress, molecules without a cell, lone atoms in a cell and in none."""
    rng = np.random.default_rng(0)
    found = []
    for k in range(6):
        places = 2.3 * np.array([[x, y, z] for x in range(2) for y in range(2) for z in range(1)])
        atoms = Atoms("SiCSiC", places + rng.uniform(-0.2, 0.2, places.shape), cell=[4.7, 4.7, 2.5], pbc=True)
        labels: dict[str, object] = {"forces": rng.normal(size=(4, 3)), "stress": rng.normal(size=6) / 50}
        if k % 3 == 1:
            del labels["forces"]
        if k % 3 == 2:
            del labels["stress"]
        found.append(labelled(atoms, f"crystal{k % 2}", 16.0 + rng.normal(), **labels))
    for length in (1.7, 2.2, 2.7):
        forces = np.array([[0.1, 0, 0], [-0.1, 0, 0]])
        found.append(labelled(Atoms("SiC", [[0, 0, 0], [length, 0, 0]]), "dimer", 4.0 - length, forces=forces))
        found.append(labelled(Atoms("C3", [[0, 0, 0], [length, 0, 0], [0.2, 1.6, 0]]), "trimer", 9.0 - length))
    found.append(labelled(Atoms("Si"), "atom", 0.0))
    found.append(labelled(Atoms("C", cell=[20, 20, 20], pbc=True), "atom", 0.0, forces=np.zeros((1, 3))))
    return found


@pytest.fixture
def two_elements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The set of mixed structures, and a draft of a squared informed network."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("mixed.extxyz", mixed())
    done("new", "--elements", "Si", "C", "--pinn", "--cutoff", 3.4, "--n-centers", 3, "--hidden", 4, "--out",
         "start.nn.dat", "--quiet")  # fmt: skip
    shift = ",".join(f"{symbol}={-energy}" for symbol, energy in ISOLATED.items())
    done("prepare", "mixed.extxyz", "--potential", "start.nn.dat", "--out", "mixed.h5", "--e-shift", shift, "--quiet")


@pytest.mark.usefixtures("two_elements")
def test_two_elements_from_start_to_evaluation() -> None:
    said = done(*TRAIN, "--steps", 3).said
    assert "baseline of C (A1 A2 alpha1 alpha2 " in said
    losses = [float(line.split()[1]) for line in Path("out.loss.txt").read_text().splitlines()]
    assert len(losses) == 4
    assert sorted(losses, reverse=True) == losses
    whole = weights("out.nn.dat")
    done(*TRAIN, "--steps", 1, "--overwrite")
    done(*TRAIN, "--steps", 3, "--resume")
    assert weights("out.nn.dat") == whole
    found = pf.load_potential("out.nn.dat")
    assert found.form == "squared"
    assert found.energy_shift.tolist() == [102.0, 147.0]
    said = done("evaluate", "mixed.extxyz", "--potential", "out.nn.dat", "--forces", "--out", "out.csv").said
    assert "of 14 structures have no reference forces" in said
    done("report", "mixed.extxyz", "--potential", "out.nn.dat", "--out", "report", "--parts", "errors,training")
    assert json.loads(Path("report/report.json").read_text())


@pytest.mark.usefixtures("two_elements")
def test_lone_atoms_have_no_energy() -> None:
    """Whatever the network gives: so they are right from the start, with forces, in a cell and without one."""
    done(*TRAIN, "--steps", 1)
    potential = pf.load_potential("out.nn.dat")
    for atoms in mixed()[-2:]:
        atoms.calc = pf.PyfitCalculator(potential)
        assert atoms.get_potential_energy() == pytest.approx(ISOLATED[atoms.get_chemical_symbols()[0]], abs=1e-12)
        assert not atoms.get_forces().any()


# ---------------------------------------------------------------------------------------------------------------------
# one element


ENERGIES = ("train", "si.h5", "--force-weight", 0, "--stress-weight", 0, "--backup-dir", "")


@pytest.fixture
def silicon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up_informed(tmp_path, monkeypatch)


@pytest.mark.usefixtures("silicon")
def test_a_run_goes_on_in_its_own_form() -> None:
    done(*ENERGIES, "--potential", "start.pinn", "--out", "out.pinn", "--steps", 1)
    again = (*ENERGIES, "--potential", "start.nn.dat", "--steps", 2, "--resume", "--run-file", "out.run.h5")
    refused(*again, "--out", "out.pinn", match="out.pinn: cannot hold a physically informed network .squared form")
    match = r"resume: form: expected plain .the run's., found squared"
    said = refused(*again, "--out", "out.nn.dat", match=match).said
    assert "resume: baseline: expected [" in said
    assert max(map(len, said.split())) < 40  # no number with all of its digits


@pytest.mark.usefixtures("silicon")
def test_members_that_trained_apart() -> None:
    """Each has a baseline of its own: together they predict what they do alone, but do not train."""
    files = ("more.pinn", "fewer.pinn")
    for path, fraction in zip(files, (1.0, 0.6), strict=True):
        done(*ENERGIES, "--potential", "start.pinn", "--out", path, "--train-fraction", fraction, "--steps", 1,
             "--baseline", "fit", "--baseline-starts", 1)  # fmt: skip
    alone = [pf.load_potential(path) for path in files]
    assert alone[0].bond_order_parameters != alone[1].bond_order_parameters
    atoms = Atoms("Si2", [[0, 0, 0], [2.3, 0, 0]])
    energies = []
    for one in (*alone, pf.load_potentials(files)):
        atoms.calc = pf.PyfitCalculator(one)
        energies.append(atoms.get_potential_energy())
    assert energies[0] != pytest.approx(energies[1], abs=1e-3)
    assert energies[2] == pytest.approx((energies[0] + energies[1]) / 2, abs=1e-9)
    said = done("evaluate", "si.poscar.dat", "--potential", *files, "--out", "both.csv").said
    assert "spread of the members" in said
    refused(*ENERGIES, "--potential", *files, "--out", "both.pinn", match="expected the same baseline in all")
    done(*ENERGIES, "--potential", files[0], files[0], "--out", "same.pinn", "--steps", 1)


@pytest.mark.usefixtures("silicon")
def test_starts_of_a_baseline_that_is_kept() -> None:
    match = "baseline_starts: expected where the baseline is fitted alone, got 3 with baseline keep"
    refused(*ENERGIES, "--potential", "start.pinn", "--out", "out.pinn", "--baseline-starts", 3, match=match)


@pytest.mark.usefixtures("silicon")
@pytest.mark.parametrize(
    ("limit", "status", "said"),
    [
        (("--patience", 1, "--min-improvement", 1e9), 0, "no more improvement after 1 steps"),
        (("--target-rmse", 1e6), 0, "target reached after "),
        (("--max-time", "0.01s"), 75, "out of time after 0 steps"),
    ],
    ids=["patience", "target", "time"],
)
def test_limits_end_it_and_more_steps_go_on(limit: tuple[object, ...], status: int, said: str) -> None:
    words = (*ENERGIES, "--potential", "start.pinn", "--train-fraction", 0.7)
    done(*words, "--out", "whole.pinn", "--steps", 4)
    result = call(*words, "--out", "out.pinn", "--steps", 4, *limit)
    assert result.status == status
    assert said in result.said
    done(*words, "--out", "out.pinn", "--steps", 4, "--resume")
    assert weights("out.pinn") == weights("whole.pinn")


@pytest.mark.usefixtures("silicon")
@pytest.mark.parametrize("own", [(), ("--baseline", "fit")], ids=["network", "baseline"])
def test_a_start_without_an_energy_is_named(own: tuple[str, ...]) -> None:
    """With a far below 0, 1 + z is negative where there are angles."""
    lines = Path("start.pinn").read_text().splitlines()
    number = next(k for k, line in enumerate(lines) if line.startswith(" 1 10.5"))
    words = lines[number].split()
    lines[number] = " " + " ".join([*words[:7], "-30", *words[8:]])
    Path("wrong.pinn").write_text("\n".join(lines) + "\n")
    result = call(*ENERGIES, "--potential", "wrong.pinn", "--out", "out.pinn", *own)
    assert result.status == 2
    assert "expected outputs of " in result.err
    assert "atom 1: " in result.err
    assert not Path("out.pinn").exists()


@pytest.mark.usefixtures("two_elements")
def test_the_plan_counts_bonds_of_structures_with_forces() -> None:
    words = ("plan", "mixed.h5", "--potential", "start.nn.dat", "--stress-weight", 0)
    alone, with_forces = (done(*words, "--force-weight", weight).out for weight in (0, 0.1))
    assert "bonds are kept, " in alone
    assert "derivatives and bonds are kept, " in with_forces
