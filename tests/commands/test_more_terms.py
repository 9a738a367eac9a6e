"""gi_mode 6 from `new` to the calculator: everything that the other modes can do."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from commands.helpers import Result, done, refused

import pyfit_gpu as pf
from pyfit_gpu.training import memory_plan

# A conditioning of its own: unconditioned, these few steps amplify rounding to per cents.
TRAIN = ("--force-weight", "0.1", "--stress-weight", "0.1", "--conditioning", "half", "--l2", "0")
WORDS = {"one": "Si", "three": "Si C Ge"}


def labelled(seed: int, symbols: list[str]) -> Atoms:
    """A small cell whose energy, forces and stress agree."""
    draw = np.random.default_rng(seed)
    atoms = bulk("SiC", "zincblende", a=4.6, cubic=True)
    atoms.symbols = draw.choice(symbols, len(atoms))
    atoms.set_cell(atoms.cell @ (np.eye(3) + draw.normal(0, 0.03, (3, 3))), scale_atoms=True)
    atoms.rattle(0.12, rng=draw)
    atoms.calc = LennardJones(sigma=2.0, epsilon=0.3, rc=5.0, smooth=True)
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
    return atoms


@pytest.fixture(scope="module", params=WORDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with structures, a potential as `new` makes it and a set."""
    folder = tmp_path_factory.mktemp(request.param)
    symbols = WORDS[request.param].split()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write("dft.extxyz", [labelled(seed, symbols) for seed in range(10)])
        words = ("--n-centers", 4, "--first-center", 1.5, "--hidden", 4, "--max-random", 0.3)
        done("new", "--elements", *symbols, "--cutoff", 4, *words, "--out", "nn.dat")
        done("prepare", "dft.extxyz", "--potential", "nn.dat", "--out", "set.h5", "--e-shift", "fit")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(out: str, *words: object) -> Result:
    return done("train", "set.h5", "--potential", "nn.dat", "--out", out, *TRAIN, *words)


def losses(name: str) -> np.ndarray:
    return np.loadtxt(f"{name}.loss.txt", ndmin=2)[:, 1]


def test_shards(folder: Path) -> None:
    for shard in ("0/3", "2/3", "1/3"):
        done(
            "prepare", "dft.extxyz", "--potential", "nn.dat", "--out", "parts.h5", "--e-shift", "fit", "--shard", shard
        )
    whole, parts = pf.load_training_set("set.h5"), pf.load_training_set("parts.json")
    assert torch.equal(whole.features, parts.features)
    assert whole.descriptor == parts.descriptor


def test_append(folder: Path) -> None:
    frames = read("dft.extxyz", ":")
    write("first.extxyz", frames[:4])
    write("second.extxyz", frames[4:])
    shifts = pf.load_training_set("set.h5").energy_shift
    named = ",".join(f"{a}={b!r}" for a, b in zip(pf.load_potential("nn.dat").descriptor.elements, shifts, strict=True))
    done("prepare", "first.extxyz", "--potential", "nn.dat", "--out", "both.h5", "--e-shift", named)
    done("prepare", "second.extxyz", "--potential", "nn.dat", "--out", "both.h5", "--append")
    assert torch.equal(pf.load_training_set("both.h5").features, pf.load_training_set("set.h5").features)


def test_the_library_has_the_same_features(folder: Path) -> None:
    potential, structures = pf.load_potential("nn.dat", seed=1), pf.load_structures("dft.extxyz")
    assert torch.equal(pf.featurize(structures, potential), pf.load_training_set("set.h5").features)


def test_training_with_forces(folder: Path) -> None:
    train("out.nn.dat", "--steps", 6)
    assert losses("out")[-1] < 0.7 * losses("out")[0]
    done("evaluate", "dft.extxyz", "--potential", "out.nn.dat", "--out", "out.extxyz", "--forces")
    found = read("out.extxyz", ":")
    predicted = pf.predict(pf.load_potential("out.nn.dat"), pf.load_structures("dft.extxyz"))
    assert np.allclose(np.concatenate([atoms.get_forces() for atoms in found]), predicted.forces.numpy(), atol=1e-7)


def test_members_train_as_alone(folder: Path) -> None:
    train("team.nn.dat", "--steps", 3, "--members", 2)
    train("one.nn.dat", "--steps", 3, "--members", 1, "--first-member", 1)
    assert Path("team.m001.nn.dat").read_bytes() == Path("one.m001.nn.dat").read_bytes()
    done("evaluate", "dft.extxyz", "--potential", "team.run.h5", "--out", "team.csv", "--forces")


def test_resumed_training_has_the_same_bits(folder: Path) -> None:
    train("whole.nn.dat", "--steps", 4)
    train("cut.nn.dat", "--steps", 2)
    train("cut.nn.dat", "--steps", 4, "--resume")
    assert Path("cut.nn.dat").read_bytes() == Path("whole.nn.dat").read_bytes()


def test_run_with_other_terms_is_not_resumed(folder: Path) -> None:
    train("out.nn.dat", "--steps", 1)
    text = Path("nn.dat").read_text()
    assert " 1 3 1 1 2 1 2 3 2 2 2\n" in text
    Path("nn.dat").write_text(text.replace(" 1 3 1 1 2 1 2 3 2 2 2\n", " 1 3 1 1 2 1 2 3 0 2 2\n"))
    done("prepare", "dft.extxyz", "--potential", "nn.dat", "--out", "set.h5", "--e-shift", "fit", "--overwrite")
    words = ("--potential", "nn.dat", "--out", "out.nn.dat", *TRAIN, "--steps", 2, "--resume")
    match = r"resume: descriptor: triples: expected \[.*\[2, 2, 2\]\] .the run's., found \[.*\[0, 2, 2\]\]"
    refused("train", "set.h5", *words, match=match)


def test_set_of_other_terms_is_refused(folder: Path) -> None:
    text = Path("nn.dat").read_text()
    Path("other.nn.dat").write_text(text.replace(" 1 3 1 1 2 1 2 3 2 2 2\n", " 1 3 1 1 2 1 2 3 0 2 2\n"))
    words = ("--potential", "other.nn.dat", "--out", "out.nn.dat")
    match = r"set\.h5 was not made for other\.nn\.dat: triples: expected .*\[0, 2, 2\]\], found .*\[2, 2, 2\]\]"
    refused("train", "set.h5", *words, match=match)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_streamed_sets_train_alike(folder: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train("resident.nn.dat", "--steps", 2, "--dtype", dtype)
    monkeypatch.setattr(memory_plan._Need, "choices", lambda need: iter([(True, None)]))
    result = train("streamed.nn.dat", "--steps", 2, "--dtype", dtype)
    assert "features are read from the file" in result.out
    assert np.allclose(losses("resident"), losses("streamed"), rtol=1e-9 if dtype == "float64" else 2e-2)


def test_text_set_and_back(folder: Path) -> None:
    done("convert", "set.h5", "set.txt")
    done("convert", "set.txt", "back.h5")
    back, whole = pf.load_training_set("back.h5"), pf.load_training_set("set.h5")
    assert back.descriptor == whole.descriptor
    assert torch.allclose(back.features, whole.features, rtol=1e-6, atol=1e-30)
    done("train", "set.txt", "--potential", "nn.dat", "--out", "out.nn.dat", "--steps", 1)


@pytest.mark.parametrize("name", ["nn.dat", "set.h5", "out.run.h5"])
def test_info_names_the_terms(folder: Path, name: str) -> None:
    train("out.nn.dat", "--steps", 0)
    said = done("info", name).out
    assert "cross terms   1\n" in said
    assert "triples       112 123 222\n" in said


def test_calculator(folder: Path) -> None:
    """Forces and stress are the derivatives of the energy."""
    train("out.nn.dat", "--steps", 2)
    (atoms,) = read("dft.extxyz", "3:4")
    atoms.calc = pf.PyfitCalculator("out.nn.dat")
    forces, stress, step = atoms.get_forces(), atoms.get_stress(voigt=False), 3e-4

    def slope(moved: object) -> float:
        """Fourth-order difference of the energy along `moved(amount)`."""
        energies = [moved(k * step).get_potential_energy() for k in (-2, -1, 1, 2)]
        return float(np.dot([1, -8, 8, -1], energies) / (12 * step))

    def shifted(amount: float) -> Atoms:
        other: Atoms = atoms.copy()
        other.calc = atoms.calc
        other.positions[2, 1] += amount
        return other

    def strained(amount: float) -> Atoms:
        other: Atoms = atoms.copy()
        other.calc = atoms.calc
        strain = np.eye(3)
        strain[0, 1] += amount / 2
        strain[1, 0] += amount / 2
        other.set_cell(atoms.cell @ strain, scale_atoms=True)
        return other

    assert forces[2, 1] == pytest.approx(-slope(shifted), abs=1e-8)
    assert stress[0, 1] * atoms.get_volume() == pytest.approx(slope(strained), abs=1e-7)


def test_orders_that_are_there_twice(folder: Path) -> None:
    """Features of an order that is listed twice are there twice; a triple takes the first."""
    elements = pf.load_potential("nn.dat", seed=1).descriptor.elements
    made = []
    for orders, n_orders in (("0 1 2", 3), ("0 1 2 2", 4)):
        lines = Path("nn.dat").read_text().splitlines()
        lines[len(elements) + 3] = f"{n_orders} {orders} 1 1 1 1 2"
        n = len(elements)
        n_inputs = n * (n + 1) // 2 * n_orders * 7 + n * (n + 1) * (n + 2) // 6 * 4
        lines[-1] = f"3 {n_inputs} 4 1"
        Path("twice.nn.dat").write_text("\n".join(lines) + "\n")
        potential = pf.load_potential("twice.nn.dat", seed=1)
        features = pf.featurize(pf.load_structures("dft.extxyz"), potential)
        n_pairs = potential.descriptor.n_pair_features
        made.append((features[:, :n_pairs].unflatten(1, (-1, n_orders, 7)), features[:, n_pairs:]))
    (once, four), (twice, same_four) = made
    assert torch.allclose(twice[:, :, :3], once, rtol=1e-12)
    assert torch.equal(twice[:, :, 3], twice[:, :, 2])
    assert torch.allclose(same_four, four, rtol=1e-12)
