"""Options of the verbs that read files of structures, and what these say about the files."""

from __future__ import annotations

import argparse
import gzip
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from commands.helpers import done, refused, set_up

from pyfit_gpu.commands.reading import add_reading, read_options
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.read_options import ReadOptions

LATTICE = 'Lattice="8 0 0 0 8 0 0 0 8"'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)


def dimers(path: str, comment: str, n: int = 3, properties: str = "") -> str:
    """Structures of two atoms at other distances; the comment may hold the distance."""
    with open(path, "w") as file:
        for number in range(n):
            d = 2.2 + 0.1 * number
            extra = " 0 0 0.5" if properties else ""
            file.write(f"2\n{LATTICE} {properties} {comment.format(d=d)}\n")
            file.write(f"Si 0 0 0{extra}\nSi 0 0 {d}{extra.replace('0.5', '-0.5')}\n")
    return path


def parsed(*words: str) -> ReadOptions:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_reading(parser)
    return read_options(parser.parse_args(words))


OPTION = {one.name: f"--{one.name.replace('_', '-')}" for one in fields(ReadOptions)} | {"elements": "--type-elements"}
VALUE = {"vasp_steps": "converged", "units": "hartree,bohr", "elements": "Si,C"}


@pytest.mark.parametrize("name", OPTION)
def test_every_option_of_the_library(name: str) -> None:
    value = VALUE.get(name, "mine")
    assert getattr(parsed(OPTION[name], value), name) == (("Si", "C") if name == "elements" else value)


def test_defaults_are_those_of_the_library() -> None:
    assert parsed() == ReadOptions()


def test_wrong_choices() -> None:
    with pytest.raises(InputError, match="units: expected those of energy and length"):
        parsed("--units", "furlong")
    with pytest.raises(InputError, match="stress_key: expected without virial_key"):
        parsed("--stress-key", "a", "--virial-key", "b")
    for verb in (
        ["prepare", "si.poscar.dat", "--out", "new.h5", "--potential", "si.nn.dat"],
        ["info", "si.poscar.dat"],
    ):
        refused(*verb, "--units", "furlong", match="units: expected those of energy and length")
        refused(*verb, "--vasp-steps", "some", match="--vasp-steps: invalid choice")


@pytest.mark.parametrize("verb", ["prepare", "evaluate", "info", "convert"])
def test_verbs_that_have_them(verb: str) -> None:
    said = " ".join(done(verb, "--help").out.split())
    assert [option for option in OPTION.values() if f"{option} " not in said] == []


def prepare(*words: str) -> str:
    return done("prepare", *words, "--potential", "si.nn.dat", "--out", "set.h5", "--overwrite").said


def test_prepare_takes_the_names() -> None:
    dimers(
        "a.xyz", 'E0=-{d} W="512 0 0 0 512 0 0 0 512" phase=b w=2', properties="Properties=species:S:1:pos:R:3:F:R:3"
    )
    said = prepare("a.xyz", "--energy-key", "E0", "--forces-key", "f", "--virial-key", "W", "--group-key", "phase",
                   "--weight-key", "w")  # fmt: skip
    assert "not read" not in said
    made = load_training_set("set.h5")
    np.testing.assert_allclose(made.energy, [-2.2, -2.3, -2.4])
    np.testing.assert_allclose(made.forces[:2], [[0, 0, 0.5], [0, 0, -0.5]])
    np.testing.assert_allclose(made.stress[0], [-1, -1, -1, 0, 0, 0])
    assert made.groups == ("b",) * 3
    np.testing.assert_allclose(made.weight, 2)


def test_prepare_names_what_is_missing_and_the_way_out() -> None:
    dimers("a.xyz", "E0=-{d}")
    dimers("b.xyz", "energy=-{d}")
    said = prepare("a.xyz", "b.xyz")
    assert (
        "a.xyz: 3 of 3 structures have no energy; key E0 is not read (--energy-key NAME, --forces-key NAME ..." in said
    )
    assert "b.xyz: 3 structures, 3 with an energy, 0 with forces, 0 with stress" in said
    assert "energy_key" not in said


def test_a_wrong_name_is_refused_before_anything_is_written() -> None:
    dimers("a.xyz", "energy=-{d}")
    for option in ("energy", "forces", "stress", "virial", "group", "weight"):
        refused("prepare", "a.xyz", "--potential", "si.nn.dat", "--out", "new.h5", f"--{option}-key", "mine",
                match=f"{option}_key: no structure of a.xyz has 'mine'")  # fmt: skip


def test_contradictions_name_the_option() -> None:
    dimers("a.xyz", "energy=-{d} dft_energy=-9")
    ask = "prepare", "a.xyz", "--potential", "si.nn.dat", "--out", "set.h5"
    refused(*ask, match=r"a\.xyz, structure 1: has two labels for energy, .* with --energy-key NAME\)")
    prepare("a.xyz", "--energy-key", "dft_energy")
    np.testing.assert_allclose(load_training_set("set.h5").energy, -9)
    dimers("b.xyz", 'energy=-{d} stress="1 0 0 0 0 0" virial="1 0 0 0 0 0"')
    refused("info", "b.xyz", match="with --stress-key NAME or --virial-key NAME")
    done("info", "b.xyz", "--virial-key", "virial")


def test_info_shows_what_is_read() -> None:
    dimers("a.xyz", "E0=-{d}")
    said = done("info", "a.xyz")
    assert "0 with an energy" in said.out
    assert "  not read      key E0\n" in said.out
    assert "not read" not in done("info", "a.xyz", "--energy-key", "E0").out
    assert "3 with an energy" in done("info", "a.xyz", "--energy-key", "e0").out
    refused("info", "a.xyz", "--energy-key", "e", match="no structure of a.xyz has 'e'; not read: key E0")


def test_convert_and_evaluate_take_the_names() -> None:
    dimers("a.xyz", "E0=-{d}")
    done("convert", "a.xyz", "b.xyz", "--energy-key", "E0")
    assert "energy=-2.2 " in Path("b.xyz").read_text()
    refused("convert", "a.xyz", "c.xyz", "--energy-key", "E1", match="no structure of a.xyz has 'E1'; not read: key E0")
    said = done(
        "evaluate", "a.xyz", "--potential", "si.nn.dat", "--out", "a.csv", "--energy-key", "E0", "--e-shift", "0"
    ).said
    assert "meV/atom" in said
    refused("evaluate", "a.xyz", "--potential", "si.nn.dat", "--out", "b.csv", "--energy-key", "E", "--e-shift", "0",
            match="no structure of a.xyz has 'E'")  # fmt: skip


def test_compressed_files_are_prepared() -> None:
    dimers("a.xyz", "energy=-{d}")
    Path("b.xyz.gz").write_bytes(gzip.compress(Path("a.xyz").read_bytes()))
    prepare("b.xyz.gz")
    assert load_training_set("set.h5").groups == ("b",) * 3
