"""`select`: what is chosen and written, and every fault named before anything is written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from commands.helpers import (
    OWN,
    done,
    fresh_potential,
    names,
    new_names,
    poscar_blocks,
    refused,
    set_up,
    with_header,
    write_poscar,
)

import pyfit_gpu as pf
from pyfit_gpu.formats import dft_inputs
from pyfit_gpu.formats.uncertainty_file import load_uncertainty, save_uncertainty
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.training.clusters import build_extrapolation_grade
from pyfit_gpu.training.laplace import build_error_bars

N_POOL = 34
METHODS = ["farthest", "determinant", "grade", "error-bar", "spread", "random"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)


def save_uncertainty_of(potential: str, *, error_bars: bool = True, path: str = "si.uncertainty.txt") -> None:
    """Save what the first twenty structures say of a potential."""
    model = pf.load_potential(potential)
    train = pf.build_training_set(pf.load_structures("si.poscar.dat"), model).select(range(20))
    bars = build_error_bars(model, train) if error_bars else None
    save_uncertainty(Uncertainty.of(model, build_extrapolation_grade(train, model), bars), path)


def write_member(target: str, seed: int = 5) -> str:
    model = pf.load_potential("si.nn.dat")
    pf.save_potential(model.randomized(seed), target)
    return target


def chosen(path: str = "out.extxyz") -> list[tuple[str, int]]:
    frames = ase.io.read(path, index=":")
    assert all(isinstance(frame.info["pool_index"], int | np.integer) for frame in frames)
    return [(str(frame.info["pool_file"]), int(frame.info["pool_index"])) for frame in frames]


def select(*words: object, pool: tuple[str, ...] = ("si.poscar.dat",), n: int = 4, out: str = "out.extxyz") -> str:
    return done("select", *pool, "--potential", "si.nn.dat", "-n", n, "--out", out, *words).said


def test_frames_keep_their_labels_and_say_where_they_come_from():
    before = names()
    said = select("--method", "determinant")
    assert new_names(before) == {"out.extxyz"}
    frames, structures = ase.io.read("out.extxyz", index=":"), pf.load_structures("si.poscar.dat")
    expected = pf.select_structures(structures, pf.load_potential("si.nn.dat"), 4, method="determinant")
    assert chosen() == [("si.poscar.dat", row) for row in expected.rows]
    for frame, row, score in zip(frames, expected.rows, expected.scores, strict=True):
        size = structures.sizes[row]
        np.testing.assert_array_equal(frame.positions, structures.positions[row, :size])
        assert frame.get_potential_energy() == float(structures.energy[row])
        assert frame.info["group"] == structures.groups[row]
        assert frame.info["score"] == pytest.approx(score, rel=1e-6)
    rows = re.findall(r"^ +(\d+) +\S+ +\d+  (even|odd) +si.poscar.dat, structure (\d+)", said, re.MULTILINE)
    assert [int(number) - 1 for _, _, number in rows] == list(expected.rows)
    assert f"log det of the information: 0.000 -> {expected.log_det[1]:.3f}" in said
    assert f"from the nearest of them: none -> {expected.distance[1]:.3f}" in said


@pytest.mark.parametrize("method", METHODS)
def test_methods(method, monkeypatch):
    save_uncertainty_of("si.nn.dat")
    more = ["--potential", "si.nn.dat", write_member("b.nn.dat")] if method == "spread" else []
    words = ["--method", method, *more]
    select(*words)
    first = chosen()
    assert len(set(first)) == 4
    monkeypatch.setattr(dft_inputs, "HELD_BYTES", 0)  # read again for the coordinates, and for those chosen
    monkeypatch.setattr(dft_inputs, "WINDOW_ATOMS", 20)
    select(*words, "--overwrite", "--quiet")
    assert chosen() == first


def test_uncertain_ones_by_the_numbers():
    save_uncertainty_of("si.nn.dat", path="other.txt")
    model, structures = pf.load_potential("si.nn.dat"), pf.load_structures("si.poscar.dat")
    uncertainty = load_uncertainty("other.txt")
    found = pf.predict(model, structures, derivatives=False, uncertainty=uncertainty).uncertainty
    assert found.energy is not None
    sizes = torch.tensor(structures.sizes)
    highest = torch.stack([part.max() for part in found.grade.split(structures.sizes)])
    for method, scores in (("grade", highest), ("error-bar", found.energy / sizes)):
        select("--method", method, "--uncertainty", "other.txt", "--overwrite", n=3)
        got = [frame.info["score"] for frame in ase.io.read("out.extxyz", index=":")]
        np.testing.assert_allclose(got, scores.sort(descending=True).values[:3], rtol=1e-6)


def test_members_have_the_grades_of_one_of_them():
    save_uncertainty_of("si.nn.dat")
    select("--method", "grade")
    select("--method", "grade", "--potential", "si.nn.dat", write_member("b.nn.dat"), out="both.extxyz")
    assert chosen("both.extxyz") == chosen()


def test_random_by_seed():
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        select("--method", "random", "--seed", seed, out=f"{name}.extxyz")
    assert chosen("a.extxyz") == chosen("b.extxyz") != chosen("c.extxyz")
    assert "score" not in ase.io.read("a.extxyz").info


def test_copies_and_known_structures_are_left_out():
    blocks = poscar_blocks()
    write_poscar("more.dat", [*blocks[:3], *blocks[20:22]], ["other"])
    done("prepare", "more.dat", "--potential", "si.nn.dat", "--out", "known.h5")
    write_poscar("some.dat", blocks[10:12])
    # All that is left of both files: the pool without the seven known ones, each once.
    said = select("--known", "known.h5", "some.dat", pool=("si.poscar.dat", "more.dat"), n=N_POOL - 7)
    assert "12 of 39 structures of the pool are copies of others or known already" in said
    expected = set(range(N_POOL)) - {0, 1, 2, 20, 21, 10, 11}
    assert sorted(chosen()) == [("si.poscar.dat", row) for row in sorted(expected)]
    structures, model = pf.load_structures("si.poscar.dat"), pf.load_potential("si.nn.dat")
    select("--known", "known.h5", "some.dat", out="few.extxyz")
    by_library = pf.select_structures(structures, model, 4, known=structures.select([0, 1, 2, 20, 21, 10, 11]))
    assert [row for _, row in chosen("few.extxyz")] == list(by_library.rows)


def test_indices_are_those_within_each_file():
    blocks = poscar_blocks()
    write_poscar("a.dat", blocks[:20])
    write_poscar("b.dat", blocks[20:])
    select("--method", "random", pool=("a.dat", "b.dat"), n=N_POOL)
    assert sorted(chosen()) == [("a.dat", k) for k in range(20)] + [("b.dat", k) for k in range(N_POOL - 20)]


def test_a_known_set_without_positions_is_told():
    done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "known.h5")
    done("convert", "known.h5", "known.dat")
    said = select("--known", "known.dat", n=1)
    assert "warning: known.dat holds no positions (classic text)" in said


def test_no_labels_are_needed_and_no_trained_potential():
    structures = pf.load_structures("si.poscar.dat")
    frames = [
        ase.Atoms("Si" * size, positions=positions[:size].numpy(), cell=cell.numpy(), pbc=True)
        for positions, cell, size in zip(structures.positions, structures.cell, structures.sizes, strict=True)
    ]
    ase.io.write("bare.xyz", frames, format="extxyz")
    select(pool=("bare.xyz",))
    assert {file for file, _ in chosen()} == {"bare.xyz"}
    assert ase.io.read("out.extxyz").calc is None
    fresh_potential("fresh.nn.dat")
    for out in ("a.extxyz", "b.extxyz"):  # its parameters are drawn anew and do not matter
        select("--potential", "fresh.nn.dat", pool=("bare.xyz",), out=out)
    assert chosen("a.extxyz") == chosen("b.extxyz")


def test_several_elements():
    shutil.copy(OWN / "two_elements.nn.dat", "two.nn.dat")
    shutil.copy(OWN / "two_elements.extxyz", "two.extxyz")
    select("--potential", "two.nn.dat", pool=("two.extxyz",), n=3)
    assert len(set(chosen())) == 3
    assert {symbol for frame in ase.io.read("out.extxyz", index=":") for symbol in frame.symbols} == {"Si", "C"}


REFUSED = [
    (["-n", "35"], "-n: expected a number from 1 to 34, of the structures to choose from, got 35"),
    (["-n", "0"], "-n: expected the number of structures to choose, at least 1, got 0"),
    (["-n", "x"], "expected a whole number >= 0, got 'x'"),
    (["--out", "out.csv"], r"out.csv: expected a name that ends in .extxyz or .xyz"),
    (["--out", "si.poscar.dat"], r"expected a name that ends in .extxyz"),
    (["--out", "there.extxyz"], "there.extxyz: exists already"),
    (["--out", "none/out.extxyz"], "the folder none does not exist"),
    (["--method", "best"], "invalid choice: 'best'"),
    (["--known", "none.h5"], "none.h5: cannot read"),
    (["--known", "si.poscar.dat"], "the pool: expected structures that are not known already, found none"),
    (["--known", "si.nn.dat"], "si.nn.dat: expected structures, found a potential"),
    (["--known", "other.h5"], "other.h5 does not fit the potential: "),
    (["--potential", "none.nn.dat"], "none.nn.dat: cannot read"),
    (["--method", "spread"], "--method spread: expected several potentials, got one"),
    (
        ["--method", "grade"],
        r"si.uncertainty.txt: expected the uncertainty file of si.nn.dat, found none \(pyfit-gpu uncertainty build and",
    ),
    (["--method", "grade", "--uncertainty", "u.txt", "--potential", "b.nn.dat"], "u.txt: belongs to another potential"),
    (
        ["--method", "error-bar", "--uncertainty", "u.txt"],
        "u.txt: expected error bars, found the grade alone .pyfit",
    ),
    (
        ["--method", "error-bar", "--uncertainty", "u.txt", "--potential", "si.nn.dat", "b.nn.dat"],
        "--method error-bar: expected one potential, got 2",
    ),
    (["--uncertainty", "u.txt"], "--uncertainty: expected with --method grade or error-bar, got --method farthest"),
    (
        ["--method", "spread", "--potential", "fresh.nn.dat"],
        "fresh.nn.dat: expected a trained potential, found",
    ),
    (["--energy-key", "E0"], "energy_key|--energy-key"),
]


@pytest.mark.parametrize(("words", "match"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_bad_options(words, match):
    Path("there.extxyz").write_text("mine")
    write_member("b.nn.dat")
    fresh_potential("fresh.nn.dat")
    save_uncertainty_of("si.nn.dat", error_bars=False, path="u.txt")
    if "other.h5" in words:
        cells = Path("si.nn.dat").read_text().splitlines()[3].split()
        with_header("shorter.nn.dat", {4: " ".join([*cells[:2], "4.1", *cells[3:]])})
        done("prepare", "si.poscar.dat", "--potential", "shorter.nn.dat", "--out", "other.h5")
    given = {"--potential": "si.nn.dat", "-n": "3", "--out": "out.extxyz"}
    rest = [word for name, value in given.items() if name not in words for word in (name, value)]
    refused("select", "si.poscar.dat", *rest, *words, match=match)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("empty.xyz", "", "empty.xyz"),
        ("cut.xyz", '2\nProperties=species:S:1:pos:R:3 pbc="F F F"\nSi 0 0 0\n', "cut.xyz"),
        ("gold.xyz", '1\nProperties=species:S:1:pos:R:3 pbc="F F F"\nAu 0 0 0\n', "gold.xyz, structure 1.*Au"),
        ("none.xyz", None, "none.xyz: cannot read"),
        ("set.h5", "set", "set.h5: expected structures, found a training set"),
    ],
)
def test_bad_pools(name, content, match):
    if content == "set":
        done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", name)
    elif content is not None:
        Path(name).write_text(content)
    refused("select", "si.poscar.dat", name, "--potential", "si.nn.dat", "-n", 1, "--out", "out.extxyz", match=match)


def test_no_structures_are_refused_before_the_pool_is_read():
    Path("pool.xyz").write_text("no structures")
    refused("select", "pool.xyz", "--potential", "si.nn.dat", "-n", 0, "--out", "out.extxyz", match="-n: expected")
