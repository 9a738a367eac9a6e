"""`fit --pinn`: its stages, its clock, and what it makes of data without forces or isolated atoms."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from commands.fit.test_fit import Killed, commands, content, prepare_folder, verbs
from commands.helpers import call, done, refused

import pyfit_gpu as pf
from pyfit_gpu.commands.fit import command
from pyfit_gpu.commands.fit.stages import ENERGIES, TRAINING
from pyfit_gpu.models.elemental_solids import elemental_solid

QUICK = ("--pinn", "--members", 2, "--time", "1h", "--device", "cpu")


def made_up(forces: bool) -> list[Atoms]:
    """Rattled and strained cells of aluminium with energies of ASE's EMT."""
    rng, found = np.random.default_rng(1), []
    for number in range(8):
        atoms = bulk("Al", "fcc" if number % 2 else "bcc", a=4.05 if number % 2 else 3.2, cubic=True)
        atoms.set_cell(atoms.cell * rng.uniform(0.96, 1.06), scale_atoms=True)
        atoms.rattle(0.05, rng=rng)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy()} | ({"forces": atoms.get_forces()} if forces else {})
        atoms.calc = SinglePointCalculator(atoms, **labels)
        found.append(atoms)
    return found


def fit(*words: object, data: str = "al.extxyz", out: str = "out") -> str:
    return done("fit", data, "--out", out, *QUICK, *words).said


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path, monkeypatch)


def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_folder(tmp_path, monkeypatch)
    monkeypatch.setattr("pyfit_gpu.commands.fit.stages.BASELINE_STARTS", 1)
    monkeypatch.setattr("pyfit_gpu.training.baseline._STEPS", 2)
    monkeypatch.setattr("pyfit_gpu.training.baseline._LAST_STEPS", 2)
    write("al.extxyz", made_up(forces=True))


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    where = tmp_path_factory.mktemp("earlier")
    with pytest.MonkeyPatch.context() as patch:
        begin(where, patch)
        return where / "out", fit()


@pytest.fixture
def finished(earlier: tuple[Path, str], folder: None) -> str:
    """A complete fit in `out`; what it said."""
    shutil.copytree(earlier[0], "out")
    return earlier[1]


def word(words: Sequence[str], option: str) -> str:
    return words[words.index(option) + 1]


def test_energies_train_before_forces(finished: str) -> None:
    new, _, prepare, first, second, *rest = commands(finished)
    assert "--pinn" in new
    assert word(prepare, "--e-shift") == "atomisation"
    assert (word(first, "--baseline"), word(first, "--force-weight"), word(first, "--stress-weight")) == (
        "fit",
        "0",
        "0",
    )
    assert second[1:5] == ["out/set.h5", "--potential", "out/energies.m000.nn.dat", "out/energies.m001.nn.dat"]
    assert "--baseline" not in second
    assert "--force-weight" not in second
    assert [words[0] for words in rest] == ["uncertainty", "evaluate", "report", "lammps"]
    potential = pf.load_potential("out/fit.nn.dat")
    assert potential.kind == "a physically informed network (squared form)"
    assert potential.networks.layer_sizes == (40, 16, 16, 8)
    energies = [atoms.get_potential_energy() / len(atoms) for atoms in made_up(forces=True)]
    lowest = min(energies) + float(potential.energy_shift)
    assert lowest == pytest.approx(-elemental_solid("Al").cohesive_energy, abs=1e-6)


def test_info_names_the_kind_and_what_is_done(finished: str) -> None:
    said = done("info", "out/fit.json").out
    assert "pinn yes" in said
    assert "done          potential, doctor, set, energies, training, uncertainty, errors, report\n" in said


def test_energies_alone_train_once() -> None:
    write("al.extxyz", made_up(forces=False))
    said = fit()
    (train,) = (words for words in commands(said) if words[0] == "train")
    assert word(train, "--baseline") == "fit"
    assert word(train, "--max-time") == "3600s"
    assert "not done      lammps" in done("info", "out/fit.json").out


def test_two_elements_and_one_member() -> None:
    cells = made_up(forces=True)
    for atoms in cells[::2]:
        atoms.symbols[0] = "Cu"
    write("alcu.extxyz", cells)
    fit("--members", 1, data="alcu.extxyz")
    assert pf.load_potential("out/fit.nn.dat").networks.layer_sizes == (120, 16, 16, 21)


@pytest.mark.parametrize("number", [3, 4])
def test_killed_in_a_training_it_comes_to_the_same(number: int, finished: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out").rename("whole")
    original, began = command._Fit._status, []

    def killed(self: object, stage: object, words: Sequence[str]) -> int:
        status = original(self, stage, words)  # type: ignore[arg-type]
        began.append(stage)
        if len(began) == number + 1:
            raise Killed
        return status

    with monkeypatch.context() as patch:
        patch.setattr(command._Fit, "_status", killed)
        with pytest.raises(Killed):
            call("fit", "al.extxyz", "--out", "out", *QUICK)
    assert verbs(fit())[0] == "train"
    for name in ("energies.m001.nn.dat", "fit.nn.dat", "fit.m000.loss.txt", "fit.uncertainty.txt"):
        assert content(Path("out") / name) == content(Path("whole") / name), name


def test_time_of_the_first_training_is_not_given_again(finished: str) -> None:
    record = json.loads(Path("out/fit.json").read_text())
    assert record["spent"][ENERGIES] > 0
    del record["done"][TRAINING]
    record["spent"][ENERGIES] = 600.0
    Path("out/fit.json").write_text(json.dumps(record))
    os.unlink("out/fit.run.h5")
    (train,) = (words for words in commands(fit()) if words[0] == "train")
    assert word(train, "--max-time") == "3000s"


def test_the_share_of_the_first_training(finished: str) -> None:
    first = next(words for words in commands(finished) if words[0] == "train")
    assert word(first, "--max-time") == "1800s"
    record = json.loads(Path("out/fit.json").read_text())
    del record["done"][ENERGIES]
    record["spent"][ENERGIES] = 700.0
    record["began"][ENERGIES] = os.stat("out/energies.run.h5").st_mtime
    Path("out/fit.json").write_text(json.dumps(record))
    again = next(words for words in commands(fit()) if words[0] == "train")
    assert word(again, "--max-time") == "1100s"


def test_a_fit_of_the_other_kind_is_refused(finished: str) -> None:
    words = [one for one in QUICK if one != "--pinn"]
    refused("fit", "al.extxyz", "--out", "out", *words, match=r"pinn: expected yes \(the earlier fit's\), got no")


def test_overwrite_removes_what_the_other_kind_left(finished: str) -> None:
    done("fit", "al.extxyz", "--out", "out", *[one for one in QUICK if one != "--pinn"], "--overwrite")
    assert not list(Path("out").glob("energies*"))
    assert not pf.load_potential("out/fit.nn.dat").is_physically_informed
