"""`prepare`: DFT files to a training set, in one go, by appending, and in shards."""

from __future__ import annotations

import csv
import fcntl
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from commands.helpers import (
    N_ATOMS,
    N_STRUCTURES,
    OWN,
    done,
    launching,
    names,
    new_names,
    poscar_blocks,
    refused,
    set_up,
    wait_until,
    weights,
    with_header,
    write_poscar,
)

import pyfit_gpu as pf
from pyfit_gpu.datasets.training_set import ATOM_FIELDS, STRUCTURE_FIELDS, TrainingSet
from pyfit_gpu.formats import dft_inputs

POTENTIAL = ("--potential", "si.nn.dat")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)


def prepare(*words: object, files: tuple[str, ...] = ("si.poscar.dat",), out: str = "si.h5") -> None:
    done("prepare", *files, *POTENTIAL, "--out", out, *words)


def assert_equal_sets(found: TrainingSet, expected: TrainingSet) -> None:
    """To the bit, unknown numbers included."""
    assert found.groups == expected.groups
    assert found.energy_shift == expected.energy_shift
    assert found.descriptor.identity() == expected.descriptor.identity()
    for name in (*ATOM_FIELDS, *STRUCTURE_FIELDS):
        mine, other = getattr(found, name), getattr(expected, name)
        assert mine.dtype == other.dtype, name
        assert mine.numpy().tobytes() == other.numpy().tobytes(), name


def content_hash(path: str) -> str:
    with h5py.File(path) as file:
        return bytes(file.attrs["content_hash"]).decode()


@pytest.fixture
def two_files() -> tuple[str, str]:
    """The same structures as in si.poscar.dat, in two files."""
    blocks = poscar_blocks("si.poscar.dat")
    return write_poscar("a.dat", blocks[:20]), write_poscar("b.dat", blocks[20:])


# ---------------------------------------------------------------------------------------------------------------------
# one set


def test_equals_the_python_interface() -> None:
    before = names()
    prepare("--e-shift", "0.25")
    assert new_names(before) == {"si.h5"}
    structures, potential = pf.load_structures("si.poscar.dat"), pf.load_potential("si.nn.dat")
    expected = pf.build_training_set(structures, potential, e_shift=0.25)
    assert_equal_sets(pf.load_training_set("si.h5"), expected)


@pytest.mark.parametrize("case", ["nn_mode0", "nn_mode1", "nn_wide", "pinn_mode1", "pinn_mode3", "pinn_mode4"])
def test_features_are_those_of_the_reference_program(case: str) -> None:
    """Physically informed potentials too: only their energies are left to a later version."""
    words = ("prepare", OWN / "structures.poscar.dat", "--potential", OWN / f"{case}.nn.dat", "--out", "set.h5")
    done(*words)
    features = pf.load_training_set("set.h5").features.numpy()
    expected = np.load(OWN / f"{case}.npz")["lsp"]
    assert features.shape == expected.shape
    assert np.max(np.abs(features - expected) / np.maximum(1, np.abs(expected))) < 1e-11


def test_what_is_said() -> None:
    result = done("prepare", "si.poscar.dat", *POTENTIAL, "--out", "si.h5", "--e-shift", "0.25")
    wrote = next(line for line in result.out.splitlines() if line.startswith("wrote si.h5"))
    for text in (f"{N_STRUCTURES} structures", "2 groups", f"{N_ATOMS} atoms", "40 features", "e_shift 0.25"):
        assert text in wrote


def file_energies() -> np.ndarray:
    return np.array([float(block[-1]) for block in poscar_blocks("si.poscar.dat")])


@pytest.mark.parametrize(("words", "shift"), [((), 0.0), (("--e-shift", "-1.5"), -1.5), (("--e-shift=106",), 106.0)])
def test_energy_shift_stands_apart_from_the_energies(words: tuple[str, ...], shift: float) -> None:
    prepare(*words)
    training_set = pf.load_training_set("si.h5")
    assert training_set.energy_shift == (shift,)
    assert np.array_equal(training_set.energy.numpy(), file_energies())
    used = file_energies() + training_set.sizes.numpy() * shift
    assert np.allclose(training_set.energy_used.numpy(), used, rtol=1e-15, atol=1e-12)


def test_several_files_in_their_order(two_files: tuple[str, str]) -> None:
    prepare()
    prepare(files=two_files, out="both.h5")
    prepare(files=two_files[::-1], out="turned.h5")
    assert Path("both.h5").read_bytes() == Path("si.h5").read_bytes()
    turned = pf.load_training_set("turned.h5")
    assert turned.energy.tolist() == [*file_energies()[20:], *file_energies()[:20]]


def test_no_dft_structures_are_kept_without_an_energy() -> None:
    write_poscar("some.dat", poscar_blocks()[:6], ["NO_DFT_a", "b", "c"])
    prepare(files=("some.dat",))
    training_set = pf.load_training_set("si.h5")
    assert torch.isnan(training_set.energy).tolist() == [True, False, False] * 2
    assert training_set.groups == ("NO_DFT_a", "b", "c") * 2


EXTXYZ = """\
1
Lattice="3 0 0 0 3 0 0 0 {length}" Properties=species:S:1:pos:R:3 {info} pbc="T T T"
Si 0.1 0.2 0.3
"""


def test_files_that_ase_reads() -> None:
    """Groups from `group` or `config_type`, else the file's stem; weights; what has no energy stays."""
    infos = ("group=named energy=-100", "config_type=typed energy=-101", "weight=2.5 energy=-102", "")
    text = "".join(EXTXYZ.format(length=4 + k, info=info) for k, info in enumerate(infos))
    Path("many.extxyz").write_text(text)
    prepare(files=("many.extxyz",))
    training_set = pf.load_training_set("si.h5")
    assert training_set.groups == ("named", "typed", "many", "many")
    assert training_set.weight.tolist() == [1, 1, 2.5, 1]
    assert training_set.energy[:3].tolist() == [-100, -101, -102]
    assert torch.isnan(training_set.energy).tolist() == [False, False, False, True]
    assert training_set.volume.tolist() == pytest.approx([36, 45, 54, 63])


def test_files_of_both_kinds_in_one_set() -> None:
    Path("one.extxyz").write_text(EXTXYZ.format(length=4, info="energy=-100"))
    prepare(files=("one.extxyz", "si.poscar.dat"))
    training_set = pf.load_training_set("si.h5")
    assert training_set.groups == ("one", *("even", "odd") * 17)


def test_same_command_same_bytes() -> None:
    prepare()
    first = Path("si.h5").read_bytes()
    prepare("--overwrite")
    assert Path("si.h5").read_bytes() == first


# ---------------------------------------------------------------------------------------------------------------------
# outputs that exist


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read twice, with a few structures at a time."""
    monkeypatch.setattr(dft_inputs, "HELD_BYTES", 0)
    monkeypatch.setattr(dft_inputs, "WINDOW_ATOMS", 20)


@pytest.mark.parametrize("shift", ["0.5", "fit"])
def test_in_windows(two_files: tuple[str, str], shift: str, request: pytest.FixtureRequest) -> None:
    """The same bytes as in one go: whole, in shards, and appended, on one thread and on several."""
    words = ("--e-shift", shift, "--quiet")
    prepare(*words, files=two_files, out="whole.h5")
    for index in range(3):
        prepare(*words, "--shard", f"{index}/3", files=two_files, out="part.h5")
    expected = {name: Path(name).read_bytes() for name in ("whole.h5", *(f"part.{k}-of-3.h5" for k in range(3)))}
    prepare("--e-shift", "0.5", files=two_files, out="appended.h5")
    request.getfixturevalue("small_limits")
    for n_threads in (1, 3):
        prepare(*words, "--n-threads", n_threads, "--overwrite", files=two_files, out="whole.h5")
        for index in range(3):
            prepare(*words, "--shard", f"{index}/3", "--overwrite", files=two_files, out="part.h5")
        for name, content in expected.items():
            assert Path(name).read_bytes() == content, name
    prepare("--e-shift", "0.5", files=two_files[:1], out="twice.h5")
    prepare("--append", files=two_files[1:], out="twice.h5")
    assert Path("twice.h5").read_bytes() == Path("appended.h5").read_bytes()


@pytest.mark.usefixtures("small_limits")
def test_a_fault_in_the_last_window() -> None:
    """Nothing is left of what was written before it was read."""
    lines = Path("si.poscar.dat").read_text().splitlines()
    lines[-2] = "0.1 0.2 zero"
    Path("si.poscar.dat").write_text("\n".join(lines) + "\n")
    words = ("prepare", "si.poscar.dat", *POTENTIAL, "--out", "si.h5")
    refused(*words, match=rf"si\.poscar\.dat, line {len(lines) - 1}, structure {N_STRUCTURES} .*found '0\.1 0\.2 zero'")


def test_an_existing_set_is_not_replaced() -> None:
    Path("si.h5").write_text("something precious")
    words = ("prepare", "si.poscar.dat", *POTENTIAL, "--out", "si.h5")
    refused(*words, match=r"si\.h5.*exists.*--overwrite")


def test_overwrite() -> None:
    Path("si.h5").write_text("something old")
    prepare("--overwrite")
    assert len(pf.load_training_set("si.h5")) == N_STRUCTURES


def test_unique() -> None:
    before = names()
    Path("my.si.h5").write_text("something precious")
    for number in range(2):
        prepare("--unique", out="my.si.h5")
        assert new_names(before) == {"my.si.h5", *(f"my.{k:05d}.si.h5" for k in range(number + 1))}
    assert Path("my.si.h5").read_text() == "something precious"
    assert Path("my.00000.si.h5").read_bytes() == Path("my.00001.si.h5").read_bytes()


@pytest.mark.parametrize("out", ["si.dat", "si", "si.json"])
def test_a_set_needs_a_name_that_says_hdf5(out: str) -> None:
    refused("prepare", "si.poscar.dat", *POTENTIAL, "--out", out, match=r"\.h5")


def test_the_other_hdf5_ending() -> None:
    prepare(out="si.hdf5")
    assert len(pf.load_training_set("si.hdf5")) == N_STRUCTURES


# ---------------------------------------------------------------------------------------------------------------------
# append


def test_append_gives_the_set_of_all_files(two_files: tuple[str, str]) -> None:
    prepare("--e-shift", "0.5", files=two_files, out="both.h5")
    prepare("--e-shift", "0.5", files=two_files[:1])
    before = names()
    prepare("--append", files=two_files[1:])
    assert new_names(before) == set()
    assert content_hash("si.h5") == content_hash("both.h5")
    assert_equal_sets(pf.load_training_set("si.h5"), pf.load_training_set("both.h5"))


def test_append_does_not_compute_what_is_there_again(two_files: tuple[str, str]) -> None:
    """Features that no structure has would not survive that."""
    prepare(files=two_files[:1])
    fresh = pf.load_training_set("si.h5")
    pf.save_training_set(replace(fresh, features=fresh.features + 1.0), "si.h5")
    result = done("prepare", "b.dat", *POTENTIAL, "--out", "si.h5", "--append")
    appended = pf.load_training_set("si.h5")
    assert torch.equal(appended.features[: fresh.n_atoms], fresh.features + 1.0)
    prepare(files=two_files[1:], out="b.h5")
    assert torch.equal(appended.features[fresh.n_atoms :], pf.load_training_set("b.h5").features)
    assert f"read {N_STRUCTURES - 20} structures" in result.out


def test_append_twice(two_files: tuple[str, str]) -> None:
    blocks = poscar_blocks("si.poscar.dat")
    prepare(files=(write_poscar("first.dat", blocks[:5]),))
    for part in (blocks[5:9], blocks[9:]):
        prepare("--append", files=(write_poscar("next.dat", part),))
    prepare(out="whole.h5")
    assert Path("si.h5").read_bytes() == Path("whole.h5").read_bytes()


def test_append_takes_the_shift_of_the_set(two_files: tuple[str, str]) -> None:
    prepare("--e-shift", "0.5", files=two_files[:1])
    prepare("--append", "--e-shift", "0.5", files=two_files[1:])
    assert pf.load_training_set("si.h5").energy_shift == (0.5,)


@pytest.mark.parametrize(
    ("changes", "words", "match"),
    [
        ({}, ("--e-shift", "0.6"), r"(?s)e_shift.*0\.5.*0\.6"),
        ({}, ("--e-shift", "0"), r"(?s)e_shift.*0\.5.*0"),
        ({4: " 0 1.0 4.6 1.0 1.0"}, (), r"(rc|cutoff)\b.*4\.5.*4\.6|(rc|cutoff)\b.*4\.6.*4\.5"),
        ({3: " C 12.011"}, (), r"elements.*(Si.*C|C.*Si)"),
    ],
)
def test_append_refuses_another_scale_or_potential(
    two_files: tuple[str, str], changes: dict[int, str], words: tuple[str, ...], match: str
) -> None:
    prepare("--e-shift", "0.5", files=two_files[:1])
    with_header("other.nn.dat", changes)
    words = ("prepare", "b.dat", "--potential", "other.nn.dat", "--out", "si.h5", "--append", *words)
    assert "computed" not in refused(*words, match=match).out  # before any work


def test_append_needs_a_set() -> None:
    refused("prepare", "si.poscar.dat", *POTENTIAL, "--out", "si.h5", "--append", match=r"si\.h5")
    Path("si.h5").write_text("not a set")
    refused("prepare", "si.poscar.dat", *POTENTIAL, "--out", "si.h5", "--append", match=r"si\.h5")


@pytest.mark.parametrize("words", [("--shard", "0/2"), ("--unique",), ("--overwrite",)])
def test_append_and_what_does_not_go_with_it(words: tuple[str, ...]) -> None:
    prepare()
    refused("prepare", "si.poscar.dat", *POTENTIAL, "--out", "si.h5", "--append", *words, match="--append")


# ---------------------------------------------------------------------------------------------------------------------
# shards


@pytest.fixture
def whole() -> str:
    prepare("--e-shift", "0.5", out="whole.h5")
    return "whole.h5"


def shard(index: int, count: int, *words: object) -> None:
    prepare("--e-shift", "0.5", "--shard", f"{index}/{count}", *words)


@pytest.mark.parametrize("order", [(0,), (1, 0), (2, 0, 1), (4, 3, 2, 1, 0)], ids=len)
def test_shards_read_as_one_set_in_file_order(whole: str, order: tuple[int, ...]) -> None:
    before = names()
    count = len(order)
    for index in order:
        shard(index, count)
    made = {name for name in new_names(before) if not name.startswith(".")}
    assert made == {"si.json", *(f"si.{index}-of-{count}.h5" for index in range(count))}
    assert_equal_sets(pf.load_training_set("si.json"), pf.load_training_set(whole))
    done("convert", "si.json", "joined.h5")
    assert content_hash("joined.h5") == content_hash(whole)


def test_a_shard_holds_every_nth_structure(whole: str) -> None:
    shard(1, 3)
    part, everything = pf.load_training_set("si.1-of-3.h5"), pf.load_training_set(whole)
    assert_equal_sets(part, everything.select(range(1, N_STRUCTURES, 3)))


def test_train_and_info_take_the_manifest(whole: str) -> None:
    for index in range(3):
        shard(index, 3)
    for name in ("si.json", whole):
        words = ("--out", f"{name}.nn.dat", "--steps", "2", "--train-fraction", "0.7")
        done("train", name, *POTENTIAL, *words)
    assert weights("si.json.nn.dat") == weights(f"{whole}.nn.dat")
    assert Path("si.json.loss.txt").read_bytes() == Path(f"{whole}.loss.txt").read_bytes()
    one, other = done("info", "si.json").out, done("info", whole).out
    assert one.splitlines()[1:] == other.splitlines()[1:]


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_shard_is_named(missing: int) -> None:
    for index in {0, 1, 2} - {missing}:
        shard(index, 3)
    for words in (("info", "si.json"), ("train", "si.json", *POTENTIAL, "--out", "out.nn.dat")):
        refused(*words, match=rf"si\.json.*shard {missing}\b.*missing.*si\.{missing}-of-3\.h5")
    refused("convert", "si.json", "all.h5", match=rf"shard {missing}\b.*missing")
    shard(missing, 3)
    assert str(N_STRUCTURES) in done("info", "si.json").out


def test_what_is_still_missing_is_said() -> None:
    words = ("prepare", "si.poscar.dat", *POTENTIAL, "--out", "si.h5", "--shard")
    assert re.search(r"si\.json.*\b0, 2\b.*missing", done(*words, "1/3").out)
    assert re.search(r"si\.json.*\b2\b.*missing", done(*words, "0/3").out)
    assert "missing" not in done(*words, "2/3").out


def test_a_shard_that_was_moved_or_changed_is_named() -> None:
    for index in range(2):
        shard(index, 2)
    original = Path("si.1-of-2.h5").read_bytes()
    shutil.copy("si.0-of-2.h5", "si.1-of-2.h5")
    refused("info", "si.json", match=r"shard 1\b.*si\.1-of-2\.h5")
    Path("si.1-of-2.h5").unlink()
    refused("info", "si.json", match=r"shard 1\b.*si\.1-of-2\.h5")
    Path("si.1-of-2.h5").write_bytes(original[:-100])
    refused("info", "si.json", match=r"si\.1-of-2\.h5")
    Path("si.1-of-2.h5").write_bytes(original)
    done("info", "si.json")


def test_an_existing_shard_is_not_computed_again() -> None:
    """A task that was killed between its shard and the manifest is submitted again."""
    words = ("prepare", "si.poscar.dat", *POTENTIAL, "--out", "si.h5", "--e-shift", "0.5", "--shard", "0/2")
    done(*words)
    content = Path("si.0-of-2.h5").read_bytes()
    Path("si.json").unlink()
    said = done(*words).out
    assert "there already" in said
    assert "computed 40" not in said
    assert Path("si.0-of-2.h5").read_bytes() == content
    shard(1, 2)
    done("info", "si.json")
    assert "computed 40" in done(*words, "--overwrite").out


def test_a_shard_of_other_inputs_is_not_replaced() -> None:
    shard(0, 2)
    Path("si.json").unlink()
    words = ("prepare", "si.poscar.dat", *POTENTIAL, "--out", "si.h5", "--e-shift", "0.7", "--shard", "0/2")
    refused(*words, match="exists.*--overwrite")


def test_shards_of_other_inputs_do_not_mix() -> None:
    """The same names, but another energy shift: refused, or with --overwrite the manifest belongs to the later run."""
    shard(0, 2)
    words = ("prepare", "si.poscar.dat", *POTENTIAL, "--out", "si.h5", "--e-shift", "0.7", "--shard", "1/2")
    refused(*words, match=r"si\.json.*other inputs.*--overwrite")
    done(*words, "--overwrite")
    refused("info", "si.json", match=r"shard 0\b.*missing")
    assert json.loads(Path("si.json").read_text())["shards"].keys() == {"1"}


def test_more_shards_than_structures() -> None:
    words = ("prepare", "si.poscar.dat", *POTENTIAL, "--out", "si.h5")
    refused(*words, "--shard", f"0/{N_STRUCTURES + 1}", match=f"shard.*{N_STRUCTURES}")


def test_shards_are_not_numbered() -> None:
    """The shards of one set must agree on its name."""
    refused("prepare", "si.poscar.dat", *POTENTIAL, "--out", "si.h5", "--shard", "0/2", "--unique", match="--unique")


def test_the_manifest_is_rewritten_under_a_lock(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A process that finishes its shard waits for the one that holds the lock."""
    shard(0, 2)
    manifest = Path("si.json").read_bytes()
    lock = Path(".si.json.lock")
    assert lock.exists()
    with launching(tmp_path_factory.mktemp("processes")) as launcher:
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            words = ("prepare", "si.poscar.dat", *POTENTIAL, "--out", "si.h5", "--e-shift", "0.5", "--shard", "1/2")
            process = launcher.start(*words)
            wait_until(Path("si.1-of-2.h5").exists)
            time.sleep(0.3)
            assert not process.ended
            assert Path("si.json").read_bytes() == manifest
        assert process.wait().status == 0
    assert json.loads(Path("si.json").read_text())["shards"].keys() == {"0", "1"}
    assert lock.exists()


def test_two_that_append_at_once(tmp_path: Path) -> None:
    """Neither takes the other's structures away."""
    prepare()
    command = [sys.executable, "-m", "pyfit_gpu", "prepare", "si.poscar.dat", *POTENTIAL, "--out", "si.h5", "--append"]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert len(pf.load_training_set("si.h5")) == 3 * N_STRUCTURES


# ---------------------------------------------------------------------------------------------------------------------
# energy shifts of several elements

SIC = ("--potential", "sic.nn.dat", "--out", "sic.h5")


@pytest.fixture
def sic() -> list[Atoms]:
    """Structures of silicon, of carbon and of both in sic.extxyz, isolated atoms at its end, and a potential."""
    shutil.copy(OWN / "two_elements.nn.dat", "sic.nn.dat")
    rng = np.random.default_rng(0)
    frames = ase.io.read(OWN / "two_elements.extxyz", index=":")
    frames += [Atoms("Si", cell=[3, 3, 3], pbc=True), Atoms("C", cell=[2.5] * 3, pbc=True)]
    frames += [Atoms("Si", cell=[9, 9, 9], pbc=True), Atoms("C")]
    for atoms in frames:
        energy = -107.1 * np.sum(atoms.symbols == "Si") - 154.9 * np.sum(atoms.symbols == "C") + rng.normal()
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    ase.io.write("sic.extxyz", frames)
    return list(ase.io.iread("sic.extxyz"))


def counts_and_energies(frames: list[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    counts = np.array([[np.sum(atoms.symbols == symbol) for symbol in ("Si", "C")] for atoms in frames])
    return counts, np.array([atoms.get_potential_energy() for atoms in frames])


def least_squares(frames: list[Atoms]) -> np.ndarray:
    """By the normal equations."""
    counts, energies = counts_and_energies(frames)
    x = counts / counts.sum(axis=1, keepdims=True)
    return np.linalg.solve(x.T @ x, -x.T @ (energies / counts.sum(axis=1)))


@pytest.mark.parametrize(
    ("words", "shifts"),
    [
        ((), (0.0, 0.0)),
        (("--e-shift", "2"), (2.0, 2.0)),
        (("--e-shift", "Si=107.1,C=154.9"), (107.1, 154.9)),
        (("--e-shift=C=-1e-3,Si=0",), (0.0, -1e-3)),
    ],
    ids=str,
)
def test_shifts_given(sic: list[Atoms], words: tuple[str, ...], shifts: tuple[float, ...]) -> None:
    said = done("prepare", "sic.extxyz", *SIC, *words).out
    assert "e_shift Si {:g}, C {:g}".format(*shifts) in said
    training_set = pf.load_training_set("sic.h5")
    assert training_set.energy_shift == shifts
    counts, energies = counts_and_energies(sic)
    assert np.array_equal(training_set.energy.numpy(), energies)
    assert np.allclose(training_set.energy_used.numpy(), energies + counts @ np.array(shifts), rtol=1e-14)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("Si=107.1", r"e_shift: .*\(Si, C\) once: C is missing"),
        ("Si=107.1,C=154.9,Ge=1", r"e_shift: .*\(Si, C\) once: Ge is not one of them"),
        ("Si=107.1,C=154.9,C=1", r"--e-shift: .*C twice"),
        ("Si=107.1,C=", r"--e-shift: expected .*got 'Si=107.1,C='"),
        ("107.1,154.9", r"--e-shift: expected .*got '107.1,154.9'"),
        ("fitted", r"--e-shift: expected .*fit, isolated or atomisation, got 'fitted'"),
    ],
)
def test_shifts_that_are_refused(sic: list[Atoms], text: str, match: str) -> None:
    words = ("sic.extxyz", "--potential", "sic.nn.dat", "--e-shift", text)
    assert "read" not in refused("prepare", *words, "--out", "sic.h5", match=match).out  # before any work
    refused("prepare", *words, "--out", "sic.h5", "--shard", "0/2", match=match)
    refused("evaluate", *words, "--out", "sic.csv", match=match)


def test_shifts_by_least_squares(sic: list[Atoms]) -> None:
    said = done("prepare", "sic.extxyz", *SIC, "--e-shift", "fit").out
    expected = np.round(least_squares(sic), 6)
    assert pf.load_training_set("sic.h5").energy_shift == tuple(expected)
    assert f"energy per atom of Si {-expected[0]:.6f} eV, C {-expected[1]:.6f} eV" in said


def test_shifts_of_isolated_atoms(sic: list[Atoms]) -> None:
    said = done("prepare", "sic.extxyz", *SIC, "--e-shift", "isolated").out
    energies = [float(atoms.get_potential_energy()) for atoms in sic[-2:]]
    assert pf.load_training_set("sic.h5").energy_shift == tuple(-energy for energy in energies)
    assert f"Si {energies[0]!r} eV (sic.extxyz, structure {len(sic) - 1}" in said


def test_no_isolated_atom(sic: list[Atoms]) -> None:
    ase.io.write("some.extxyz", sic[:-1])
    refused(
        "prepare", "some.extxyz", *SIC, "--e-shift", "isolated", match="isolated.*within 4.2 Å; C: found none, but 1"
    )


def test_a_least_squares_without_an_answer(sic: list[Atoms]) -> None:
    """It goes on, and says which elements it could not tell apart."""
    ase.io.write("mixed.extxyz", [atoms for atoms in sic if set(atoms.symbols) == {"Si", "C"}][:1])
    result = done("prepare", "mixed.extxyz", *SIC, "--e-shift", "fit")
    assert re.search("warning: .*do not determine the energies of Si and C apart", result.err)


def test_no_energies_to_fit_to() -> None:
    write_poscar("none.dat", poscar_blocks()[:3], ["NO_DFT"])
    words = ("prepare", "none.dat", *POTENTIAL, "--out", "si.h5", "--e-shift", "fit")
    refused(*words, match="e_shift fit: expected structures with an energy, found none among 3")


@pytest.mark.parametrize("method", ["fit", "isolated"])
def test_shards_have_the_shifts_of_the_whole(sic: list[Atoms], method: str) -> None:
    done("prepare", "sic.extxyz", "--potential", "sic.nn.dat", "--out", "whole.h5", "--e-shift", method)
    for index in (2, 0, 1):
        done("prepare", "sic.extxyz", *SIC, "--e-shift", method, "--shard", f"{index}/3")
    assert_equal_sets(pf.load_training_set("sic.json"), pf.load_training_set("whole.h5"))


def test_shards_of_the_same_shifts_said_differently(sic: list[Atoms]) -> None:
    done("prepare", "sic.extxyz", *SIC, "--e-shift", "2", "--shard", "0/2")
    refused("prepare", "sic.extxyz", *SIC, "--e-shift", "Si=2,C=3", "--shard", "1/2", match=r"sic\.json.*other inputs")
    done("prepare", "sic.extxyz", *SIC, "--e-shift", "C=2,Si=2", "--shard", "1/2")
    assert pf.load_training_set("sic.json").energy_shift == (2.0, 2.0)


def test_append_to_a_set_with_different_shifts(sic: list[Atoms]) -> None:
    ase.io.write("a.extxyz", sic[:3])
    ase.io.write("b.extxyz", sic[3:])
    done("prepare", "a.extxyz", "b.extxyz", "--potential", "sic.nn.dat", "--out", "both.h5", "--e-shift=Si=1.5,C=2")
    for words in ((), ("--e-shift", "C=2,Si=1.5")):
        done("prepare", "a.extxyz", *SIC, "--e-shift", "Si=1.5,C=2", "--overwrite")
        done("prepare", "b.extxyz", *SIC, "--append", *words)
        assert content_hash("sic.h5") == content_hash("both.h5")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "Si=1.5,C=2.5",
            r"sic\.h5: cannot append: e_shift: expected Si 1\.5, C 2\.0 \(the set's\), got Si 1\.5, C 2\.5",
        ),
        ("1.5", r"e_shift: expected Si 1\.5, C 2\.0 \(the set's\), got Si 1\.5, C 1\.5"),
        ("Si=1.5", r"e_shift: .*C is missing"),
        ("fit", r"--e-shift fit: expected without --append: .*one energy shift"),
        ("isolated", r"--e-shift isolated: expected without --append"),
    ],
)
def test_append_with_other_shifts(sic: list[Atoms], text: str, match: str) -> None:
    done("prepare", "sic.extxyz", *SIC, "--e-shift", "Si=1.5,C=2")
    result = refused("prepare", "sic.extxyz", *SIC, "--append", "--e-shift", text, match=match)
    assert "read" not in result.out  # before any work


def test_append_to_a_set_that_does_not_know_its_shift(sic: list[Atoms]) -> None:
    done("prepare", "sic.extxyz", *SIC)
    pf.save_training_set(replace(pf.load_training_set("sic.h5"), energy_shift=None), "sic.h5")
    for words in ((), ("--e-shift", "0")):
        refused("prepare", "sic.extxyz", *SIC, "--append", *words, match=r"sic\.h5: cannot append: e_shift: .*unknown")


def test_an_element_that_the_potential_lacks(sic: list[Atoms]) -> None:
    sic[2].symbols[0] = "Ge"
    ase.io.write("ge.extxyz", sic)
    for words in ((), ("--e-shift", "fit"), ("--e-shift", "isolated")):
        refused("prepare", "ge.extxyz", *SIC, *words, match=r"ge\.extxyz, structure 3.*, atom 1: .*\(Si, C\), found Ge")


def test_shifts_go_with_the_potential(sic: list[Atoms]) -> None:
    """prepare, train, evaluate: on the network's scale each atom has the shift of its element."""
    done("prepare", "sic.extxyz", *SIC, "--e-shift", "fit")
    done("train", "sic.h5", "--potential", "sic.nn.dat", "--out", "out.nn.dat", "--steps", "1")
    shifts = np.round(least_squares(sic), 6)
    assert pf.load_potential("out.nn.dat").energy_shift.tolist() == shifts.tolist()
    counts, energies = counts_and_energies(sic)
    for words, expected in (((), shifts), (("--e-shift", "C=3,Si=2"), [2.0, 3.0]), (("--e-shift", "2"), [2.0, 2.0])):
        done("evaluate", "sic.extxyz", "--potential", "out.nn.dat", "--out", "out.csv", "--overwrite", *words)
        with open("out.csv") as file:
            found = [float(row["reference_energy_per_atom"]) for row in csv.DictReader(file)]
        assert np.allclose(found, (energies + counts @ expected) / counts.sum(axis=1), rtol=1e-13)


@pytest.mark.parametrize("method", ["fit", "isolated"])
def test_evaluate_finds_no_shifts(sic: list[Atoms], method: str) -> None:
    """They belong to what a potential was trained with."""
    words = ("evaluate", "sic.extxyz", "--potential", "sic.nn.dat", "--out", "out.csv", "--e-shift", method)
    refused(*words, match=rf"e_shift: .*got '{method}' \(only prepare finds")
