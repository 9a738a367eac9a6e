"""Files that version 0.1.0 wrote are read, appended to and gone on with, and say the same numbers as today's code.

How they were made, from the 16 structures of sic.extxyz:

    pyfit-gpu new --elements Si C --cutoff 4.5 --legendre-orders 0 1 2 --n-centers 3 --hidden 4 --out start.nn.dat
    pyfit-gpu prepare sic.extxyz --potential start.nn.dat --e-shift fit --out set.h5     (shards.json: as two shards)
    pyfit-gpu train set.h5 ...                                                            (TRAIN below, 4 steps)
    pyfit-gpu evaluate sic.extxyz --potential trained.nn.dat --out trained.csv
    pyfit-gpu convert set.h5 set.training_set.dat

resumed.m00*.loss.txt are the logs of that training after it had gone on to 6 steps. A change that these tests do not
let pass needs a new version of the format and a reader for both. Do not write these files anew.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands.helpers import done, refused
from sample_sets import arrays_of, assert_same_set

import pyfit_gpu as pf
from pyfit_gpu.datasets.splits import CLASSIC_RULE
from pyfit_gpu.formats.run_file import load_run

OLD = Path(__file__).parent / "data" / "version_0.1.0"
PREPARE = ("prepare", "sic.extxyz", "--potential", "start.nn.dat", "--device", "cpu")
TRAIN = ("train", "set.h5", "--potential", "start.nn.dat", "--randomize", "--members", 2, "--out", "trained.nn.dat",
         "--max-iterations", 3, "--history-size", 6, "--force-weight", 0.1, "--stress-weight", 0.1,
         "--train-fraction", 0.7, "--split", "halves", "--checkpoint-interval", 0, "--backup-interval", 0,
         "--device", "cpu")  # fmt: skip
MEMBERS = ("trained.m000.nn.dat", "trained.m001.nn.dat")


@pytest.fixture(autouse=True)
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder holds copies of the old files."""
    for path in OLD.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)


def test_files_are_those_that_were_written() -> None:
    """Nobody has replaced them by newer ones, which any code would read."""
    digest = hashlib.sha256()
    for path in sorted(OLD.iterdir()):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    assert digest.hexdigest() == "058a34b3c7525053952dcde60716e673c1c7724e9b8c8b83fc09e9a101546b92"


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def column(path: str, name: str) -> torch.Tensor:
    with open(path, newline="", encoding="utf-8") as file:
        return torch.tensor([float(row[name]) for row in csv.DictReader(file)], dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------------------
# training sets


def test_set() -> None:
    done(*PREPARE, "--e-shift", "fit", "--out", "new.h5")
    old, new = pf.load_training_set("set.h5"), pf.load_training_set("new.h5")
    assert (len(old), old.n_atoms, old.features.shape[1]) == (16, 86, 27)
    for name in ("species", "positions", "forces", "sizes", "energy", "weight", "cell", "pbc", "stress"):
        assert torch.equal(getattr(old, name), getattr(new, name)), name
    for name in ("features", "volume"):
        assert_close(getattr(old, name), getattr(new, name))
    assert (old.groups, old.descriptor) == (new.groups, new.descriptor)
    np.testing.assert_allclose(old.energy_shift, new.energy_shift, rtol=1e-12)


def test_its_split() -> None:
    """Read as it was stored, and drawn by the rule of that version today."""
    old = pf.load_training_set("set.h5")
    assert set(old.splits) == {"halves"}
    split = old.splits["halves"]
    assert (split.seed, split.train_fraction, split.n_structures, split.test) == (2, 0.7, 16, [])
    assert split.train == [10, 13, 4, 8, 11, 5, 3, 2, 6, 0, 1, 14, 15, 12, 7]
    assert split.validation == [9]
    drawn = old.plan_split(0.7, 2, rule=CLASSIC_RULE)
    assert (drawn.train, drawn.validation) == (split.train, split.validation)


def test_shards() -> None:
    assert_same_set(pf.load_training_set("shards.json"), pf.load_training_set("set.h5"))


def test_text_set() -> None:
    """Seven digits, of the labels energies alone; and today's text of the old set is the old text."""
    text, whole = pf.load_training_set("set.training_set.dat"), pf.load_training_set("set.h5")
    assert (text.groups, text.descriptor) == (whole.groups, whole.descriptor)
    assert torch.equal(text.sizes, whole.sizes)
    assert torch.equal(text.species, whole.species)
    for name in ("features", "energy_used", "volume"):
        torch.testing.assert_close(getattr(text, name), getattr(whole, name), rtol=5e-7, atol=0.0)
    done("convert", "set.h5", "new.dat")
    assert Path("new.dat").read_bytes() == Path("set.training_set.dat").read_bytes()


def test_append() -> None:
    """The old structures stay, bit for bit; the same structures once more come out as today's code computes them."""
    before = pf.load_training_set("set.h5")
    done(*PREPARE, "--append", "--out", "set.h5")
    after = pf.load_training_set("set.h5")
    assert len(after) == 32
    assert arrays_of(after.select(range(16))) == arrays_of(before)
    assert_close(after.features[86:], before.features)
    assert torch.equal(after.energy[16:], before.energy)
    assert after.groups == before.groups * 2


# ---------------------------------------------------------------------------------------------------------------------
# potentials


def test_potential() -> None:
    done("evaluate", "sic.extxyz", "--potential", "trained.nn.dat", "--out", "new.csv", "--device", "cpu")
    for name in ("energy_per_atom", "reference_energy_per_atom", "volume_per_atom"):
        assert_close(column("new.csv", name), column("trained.csv", name), 1e-10)


def test_run_file_as_members() -> None:
    members = pf.load_potentials("trained.run.h5")
    assert torch.equal(members.networks.flat(), pf.load_potentials(MEMBERS).networks.flat())
    assert torch.equal(pf.load_potential("trained.nn.dat").networks.flat(), members.networks.flat()[:1])
    done("evaluate", "sic.extxyz", "--potential", "trained.run.h5", "--out", "run.csv", "--device", "cpu")
    for k, name in enumerate(MEMBERS):
        done("evaluate", "sic.extxyz", "--potential", name, "--out", f"{k}.csv", "--device", "cpu")
    mean = (column("0.csv", "energy_per_atom") + column("1.csv", "energy_per_atom")) / 2
    assert_close(column("run.csv", "energy_per_atom"), mean, 1e-10)
    assert_close(column("0.csv", "energy_per_atom"), column("trained.csv", "energy_per_atom"), 1e-10)


# ---------------------------------------------------------------------------------------------------------------------
# training


def rows(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_training_goes_on() -> None:
    """Two more steps as version 0.1.0 took them; what it had written stays."""
    result = done(*TRAIN, "--steps", 6, "--resume")
    assert "resume: trained.run.h5, after 4 steps" in result.out
    for member in ("m000", "m001"):
        found, expected = rows(Path(f"trained.{member}.loss.txt")), rows(OLD / f"resumed.{member}.loss.txt")
        assert found[:5] == rows(OLD / f"trained.{member}.loss.txt") == expected[:5]
        further = [np.loadtxt([row.decode() for row in lines[5:]]) for lines in (found, expected)]
        assert further[0].shape == (2, 5)
        np.testing.assert_allclose(further[0], further[1], rtol=1e-6)
        for log in ("validation.txt", "groups.csv"):
            written = rows(OLD / f"trained.{member}.{log}")
            assert rows(Path(f"trained.{member}.{log}"))[: len(written)] == written


def test_training_goes_on_without_conditioning() -> None:
    """However often it is resumed; another conditioning than the run's is refused."""
    for steps in (5, 6):
        done(*TRAIN, "--steps", steps, "--resume")
        assert load_run("trained.run.h5").state.conditioning is None
    found = (np.loadtxt("trained.m000.loss.txt"), np.loadtxt(OLD / "resumed.m000.loss.txt"))
    np.testing.assert_allclose(*found, rtol=1e-6)
    message = r"conditioning: expected none \(the run's\), which cannot change, got half"
    refused(*TRAIN, "--steps", 7, "--resume", "--conditioning", "half", match=message)


def test_the_same_training_from_the_start() -> None:
    """With the weights that the old program drew, of inputs as they are, and no penalty."""
    done(*TRAIN, "--steps", 6, "--overwrite", "--conditioning", "none", "--l2", 0)
    for member in ("m000", "m001"):
        found, expected = (np.loadtxt(path) for path in (f"trained.{member}.loss.txt", f"resumed.{member}.loss.txt"))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# what they are

KINDS = {
    "set.h5": ("training set (HDF5)", "halves: 15 train, 1 validate, 0 test"),
    "shards.json": ("training set in shards (manifest)", "16, 16 with an energy"),
    "shards.0-of-2.h5": ("training set (HDF5)", "8, 8 with an energy"),
    "set.training_set.dat": ("training set (classic text)", "16, 16 with an energy"),
    "start.nn.dat": ("potential (.nn.dat)", "random weights are drawn on loading"),
    "trained.nn.dat": ("potential (.nn.dat)", "106.693 154.33 eV/atom"),
    "trained.run.h5": ("run file of a fit", "done, 2 members, 4 steps asked for"),
    "trained.m000.loss.txt": ("loss or validation log", "5, steps 0 to 4"),
    "trained.m000.validation.txt": ("loss or validation log", "least 0.518818 at step 3"),
    "trained.m000.groups.csv": ("errors by group", "antisite 0.6544"),
    "trained.ranking.csv": ("ranking of members", "member 0, score 5.1882e-01 eV/atom"),
    "trained.csv": ("table of energies", "structures    16"),
    "sic.extxyz": ("structures (extended XYZ)", "16, 16 with an energy, 16 with forces"),
}


@pytest.mark.parametrize("name", KINDS)
def test_info(name: str) -> None:
    kind, detail = KINDS[name]
    said = done("info", name).out
    assert said.startswith(f"{name}: "), said
    assert kind in said.splitlines()[0], said
    assert detail in said, said
