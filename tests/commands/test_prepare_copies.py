"""`prepare` and structures that come more than once: a warning with their number, or each once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands.helpers import N_STRUCTURES, done, poscar_blocks, refused, set_up, write_poscar

import pyfit_gpu as pf
from pyfit_gpu.formats import dft_inputs
from pyfit_gpu.formats.extxyz.writer import write_extxyz
from pyfit_gpu.formats.opening import read_frames
from pyfit_gpu.structures.frames import Frame

POTENTIAL = ("--potential", "si.nn.dat")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)


@pytest.fixture
def overlapping() -> tuple[str, str]:
    """Two files that share ten structures."""
    blocks = poscar_blocks("si.poscar.dat")
    return write_poscar("a.dat", blocks[:22]), write_poscar("b.dat", blocks[12:])


@pytest.fixture(params=["held", "read twice"])
def limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dft_inputs, "HELD_BYTES", 2**26 if request.param == "held" else 0)


def frames() -> list[Frame]:
    return [frame for frame in read_frames("si.poscar.dat") if isinstance(frame, Frame)]


def prepare(*words: object) -> str:
    return done("prepare", *words, *POTENTIAL).said


def assert_same_structures(path: str, files: tuple[str, ...] = ("si.poscar.dat",)) -> None:
    expected = pf.build_training_set(pf.load_structures(*files), pf.load_potential("si.nn.dat"), e_shift=1.0)
    found = pf.load_training_set(path)
    assert torch.equal(found.energy, expected.energy)
    assert torch.equal(found.features, expected.features)


def test_the_same_file_appended() -> None:
    assert "warning" not in prepare("si.poscar.dat", "--out", "s.h5", "--e-shift", "106")
    said = prepare("si.poscar.dat", "--out", "s.h5", "--append")
    assert (
        f"warning: {N_STRUCTURES} of {N_STRUCTURES} structures are in the set already, the first is si.poscar.dat, "
        "structure 1 (line 1)" in said
    )
    assert "others in the files" not in said
    assert len(pf.load_training_set("s.h5")) == 2 * N_STRUCTURES


def test_files_that_overlap(overlapping: tuple[str, str]) -> None:
    said = prepare(*overlapping, "--out", "s.h5", "--e-shift", "106")
    assert "warning: 10 of 44 structures are copies of others in the files, the first is b.dat, structure 1 " in said


def test_each_once(overlapping: tuple[str, str], limit: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dft_inputs, "WINDOW_ATOMS", 20)
    said = prepare(*overlapping, "--out", "s.h5", "--e-shift", "1", "--unique-structures")
    assert "10 of 44 structures are copies and were left out" in said
    assert "labels" not in said.split("were left out")[1].split("wrote")[0]
    assert_same_structures("s.h5")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_agree(overlapping: tuple[str, str], limit: None, count: int) -> None:
    for index in range(count):
        prepare(*overlapping, "--out", "s.h5", "--e-shift", "1", "--unique-structures", "--shard", f"{index}/{count}")
    assert_same_structures("s.json")


def test_shards_with_and_without_do_not_mix(overlapping: tuple[str, str]) -> None:
    words = ("prepare", *overlapping, *POTENTIAL, "--out", "s.h5")
    done(*words, "--shard", "0/2", "--unique-structures")
    refused(*words, "--shard", "1/2", match="s.json")


def test_appending_what_is_new() -> None:
    blocks = poscar_blocks("si.poscar.dat")
    write_poscar("a.dat", blocks[:12])
    prepare("a.dat", "--out", "s.h5", "--e-shift", "1")
    said = prepare("si.poscar.dat", "--out", "s.h5", "--append", "--unique-structures")
    assert f"12 of {N_STRUCTURES} structures are copies and were left out" in said
    assert_same_structures("s.h5")
    before = Path("s.h5").read_bytes()
    said = prepare("si.poscar.dat", "--out", "s.h5", "--append", "--unique-structures")
    assert "s.h5 stays as it is" in said
    assert Path("s.h5").read_bytes() == before


def test_shift_of_the_structures_that_stay(overlapping: tuple[str, str]) -> None:
    prepare("si.poscar.dat", "--out", "once.h5", "--e-shift", "fit")
    prepare(*overlapping, "--out", "s.h5", "--e-shift", "fit", "--unique-structures")
    assert pf.load_training_set("s.h5").energy_shift == pf.load_training_set("once.h5").energy_shift


@pytest.mark.parametrize("place", ["in the set", "in the files"])
def test_labels_that_get_lost_are_said(place: str) -> None:
    """Two with another energy, one that alone knows its forces, and one that knows nothing."""
    known = frames()[:4]
    energies = [frame.energy for frame in known]
    assert None not in energies
    others = [replace(frame, energy=(frame.energy or 0.0) + 0.1) for frame in known[:2]]
    others += [replace(known[2], forces=np.zeros((known[2].n_atoms, 3))), replace(known[3], energy=None)]
    write_extxyz("known.xyz", known)
    write_extxyz("others.xyz", others)
    if place == "in the set":
        prepare("known.xyz", "--out", "s.h5", "--e-shift", "106")
        said = prepare("others.xyz", "--out", "s.h5", "--append", "--unique-structures")
    else:
        said = prepare("known.xyz", "others.xyz", "--out", "s.h5", "--e-shift", "106", "--unique-structures")
    assert "warning: 3 of these copies have other labels, or more of them" in said
    assert pf.load_training_set("s.h5").energy.tolist() == energies


def test_files_without_elements_are_compared_with_a_set() -> None:
    """A file that names no element means the only one of the potential, which a set knows."""
    named = frames()
    write_extxyz("unnamed.xyz", [replace(frame, atomic_numbers=frame.atomic_numbers * 0) for frame in named])
    prepare("si.poscar.dat", "--out", "s.h5", "--e-shift", "106")
    said = prepare("unnamed.xyz", "--out", "s.h5", "--append", "--unique-structures")
    assert "s.h5 stays as it is" in said
