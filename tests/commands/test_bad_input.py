"""Bad input gets a clear message and exit status 2, without a traceback, and no file is lost, made or half written."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
from commands.helpers import (
    OWN,
    Launcher,
    Result,
    assert_same_files,
    call,
    done,
    fresh_potential,
    launching,
    names,
    poscar_blocks,
    refused,
    set_up,
    snapshot,
    with_header,
    write_poscar,
)

import pyfit_gpu as pf

AS_ROOT = os.name == "posix" and os.geteuid() == 0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)


@pytest.fixture
def training_set() -> None:
    done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "set.h5", "--e-shift", "106", "--quiet")


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    with launching(tmp_path_factory.mktemp("processes")) as launcher:
        yield launcher


def refused_by_all(commands: dict[str, tuple[str, ...]], match: str) -> None:
    """Every one of the commands refuses, and leaves what was there, an old output among it."""
    for words in commands.values():
        refused(*words, match=match)


# ---------------------------------------------------------------------------------------------------------------------
# structures

OLD = "an output of earlier days\n"

TAKES_STRUCTURES = {
    "prepare": ("prepare", "bad.dat", "--potential", "si.nn.dat", "--out", "old.h5", "--overwrite"),
    "shard": ("prepare", "bad.dat", "--potential", "si.nn.dat", "--out", "new.h5", "--shard", "0/1"),
    "evaluate": ("evaluate", "bad.dat", "--potential", "si.nn.dat", "--out", "old.csv", "--overwrite"),
    "extxyz": ("evaluate", "bad.dat", "--potential", "si.nn.dat", "--out", "new.extxyz", "--plots", "plots"),
    "run": ("run", "-g", "-f", "bad.dat", "-e", "si.nn.dat", "-a", "old.h5", "-o", "--log-path="),
    "run both": ("run", "-g", "-t", "-o", "-w", "-f", "bad.dat", "-e", "si.nn.dat", "-a", "old.h5", "-y", "new.nn.dat",
                 "--log-path="),
}  # fmt: skip
READS_STRUCTURES = TAKES_STRUCTURES | {
    "info": ("info", "bad.dat"),
    "convert": ("convert", "bad.dat", "new.extxyz"),
}


def change(block: int, line: int, text: str) -> str:
    """The structures with one line of one of them, both counted from 0, replaced."""
    blocks = poscar_blocks("si.poscar.dat")
    blocks[block][line] = text
    return "".join("\n".join(lines) + "\n" for lines in blocks)


def old_outputs() -> None:
    for name in ("old.h5", "old.csv"):
        Path(name).write_text(OLD)


def place(block: int, line: int) -> str:
    """Place that a message must name: the line in the file and the structure, both counted from 1."""
    blocks = poscar_blocks("si.poscar.dat")
    return rf"bad\.dat, line {sum(map(len, blocks[:block])) + line + 1}, structure {block + 1}\b"


FAULTS_IN_A_LINE = {
    "scale factor": (3, 1, "one"),
    "scale factor zero": (3, 1, "0"),
    "cell not a number": (33, 2, "0.0 x 2.5"),
    "cell of two numbers": (33, 3, "0.0 2.5"),
    "cell NaN": (5, 4, "0.0 nan 2.5"),
    "cell infinite": (5, 4, "0.0 inf 2.5"),
    "cell Fortran": (5, 4, "0.0 1.0d0 2.5"),
    "no number of atoms": (7, 5, "many"),
    "zero atoms": (7, 5, "0"),
    "minus one atom": (7, 5, "-1"),
    "half an atom": (7, 5, "1.5"),
    "letter": (9, 6, "quadratic"),
    "letter missing": (9, 6, "0.0 0.0 0.0"),
    "coordinate not a number": (11, 7, "0.0 0.0 zero"),
    "coordinate NaN": (11, 7, "0.0 NaN 0.0"),
    "coordinate infinite": (11, 7, "0.0 -Infinity 0.0"),
    "two coordinates": (11, 7, "0.0 0.0"),
    "four numbers": (11, 7, "0.0 0.0 0.0 1.0"),
    "unknown element": (11, 7, "0.0 0.0 0.0 Xx"),
    "weight": (2, 0, "even weight=heavy"),
    "weight negative": (2, 0, "even weight=-1"),
    "energy not a number": (33, -1, "low"),
    "energy NaN": (33, -1, "nan"),
    "energy infinite": (33, -1, "inf"),
    "two energies": (33, -1, "-1.0 -2.0"),
}


@pytest.mark.parametrize("fault", FAULTS_IN_A_LINE)
def test_a_line_that_is_wrong(fault: str) -> None:
    """The message names the file, the line and the structure, and shows what was found."""
    block, line, text = FAULTS_IN_A_LINE[fault]
    Path("bad.dat").write_text(change(block, line, text))
    old_outputs()
    line %= len(poscar_blocks("si.poscar.dat")[block])
    found = "" if text.startswith("even") else rf"{re.escape(text)}"
    refused_by_all(READS_STRUCTURES, rf"{place(block, line)}.*expected .*{found}")


def test_too_many_or_too_few_atoms() -> None:
    """Wherever the reader notices it: in this structure."""
    for count in ("1", "3"):
        Path("bad.dat").write_text(change(2, 5, count))
        old_outputs()
        refused_by_all(READS_STRUCTURES, r"bad\.dat, line \d+, structure 3\b")


@pytest.mark.parametrize("cut", [1, 2, 4, 7, 8])
def test_truncated_last_structure(cut: int) -> None:
    lines = Path("si.poscar.dat").read_text().splitlines(keepends=True)
    Path("bad.dat").write_text("".join(lines[:-cut]))
    old_outputs()
    refused_by_all(READS_STRUCTURES, r"bad\.dat, line \d+, structure 34\b.*end of the file")


def test_truncated_within_a_line() -> None:
    Path("bad.dat").write_text(Path("si.poscar.dat").read_text()[:-30])
    old_outputs()
    refused_by_all(READS_STRUCTURES, r"bad\.dat, line \d+, structure 34\b")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"bad\.dat.*empty"),
        (b"\n \n\n", r"bad\.dat"),
        (b"\0\1\2\3\xff" * 500, r"bad\.dat.*binary"),
        (b"Si\xff\xfe\n1.0\n", r"bad\.dat.*(binary|expected)"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 500, r"bad\.dat"),
        (b"only a line of text\n", r"bad\.dat"),
    ],
    ids=["empty", "blank", "binary", "not utf-8", "hdf5", "text"],
)
def test_files_that_hold_no_structures(content: bytes, match: str) -> None:
    Path("bad.dat").write_bytes(content)
    old_outputs()
    refused_by_all(READS_STRUCTURES, match)


def test_binary_data_in_the_middle() -> None:
    content = Path("si.poscar.dat").read_bytes()
    Path("bad.dat").write_bytes(content[:3000] + b"\0\xff\0" * 10 + content[3000:])
    old_outputs()
    refused_by_all(READS_STRUCTURES, r"bad\.dat")


def test_a_file_that_is_not_there_or_a_folder() -> None:
    old_outputs()
    refused_by_all(READS_STRUCTURES, r"bad\.dat")
    Path("bad.dat").mkdir()
    refused_by_all(READS_STRUCTURES, r"bad\.dat")


def block_of(cell: list[str], positions: list[str]) -> list[str]:
    return ["even", "1.0", *cell, str(len(positions)), "cartesian", *positions, "-100.0"]


CUBE, FLAT = ["4 0 0", "0 4 0", "0 0 4"], ["4 0 0", "0 4 0", "4 4 0"]
IMPOSSIBLE = {
    "flat": (block_of(FLAT, ["0 0 0"]), "singular"),
    "zero": (block_of(["4 0 0", "0 4 0", "0 0 0"], ["0 0 0"]), "singular"),
    "nearly flat": (block_of(["4 0 0", "0 4 0", "4 4 1e-9"], ["0 0 0"]), "singular"),
    "negative scale of a flat cell": (["even", "-64", *block_of(FLAT, ["0 0 0"])[2:]], "singular"),
    "two atoms at one place": (block_of(CUBE, ["0 0 0", "1 1 1", "1 1 1"]), "(same|one) place|coincide|distance"),
    "two atoms at one place of different cells": (block_of(CUBE, ["0.5 0 0", "4.5 4 -8"]), "(same|one) place|distance"),
}  # fmt: skip


@pytest.mark.parametrize("fault", IMPOSSIBLE)
def test_structures_that_cannot_be(fault: str) -> None:
    """In the middle of the file; the message names the structure."""
    block, match = IMPOSSIBLE[fault]
    blocks = poscar_blocks("si.poscar.dat")
    write_poscar("bad.dat", [*blocks[:4], block, *blocks[4:]])
    old_outputs()
    refused_by_all(TAKES_STRUCTURES, rf"(?s)bad\.dat.*structure 5\b.*({match})")


def test_an_element_that_the_potential_lacks() -> None:
    Path("bad.dat").write_text(change(6, 7, "0.0 0.0 0.0 Ge"))
    old_outputs()
    refused_by_all(TAKES_STRUCTURES, r"bad\.dat, structure 7\b.*Si.*Ge")


def test_a_good_file_and_a_bad_one() -> None:
    """Structures that were read before the fault are not written."""
    Path("bad.dat").write_text(change(33, -1, "low"))
    words = ("si.poscar.dat", "bad.dat", "--potential", "si.nn.dat")
    for command in (("prepare", *words, "--out", "new.h5"), ("evaluate", *words, "--out", "new.csv")):
        refused(*command, match=r"bad\.dat")


def test_appending_a_bad_file(training_set: None) -> None:
    Path("bad.dat").write_text(change(33, -1, "low"))
    refused("prepare", "bad.dat", "--potential", "si.nn.dat", "--out", "set.h5", "--append", match=r"bad\.dat")
    done("info", "set.h5")


ONE_FRAME = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 energy=-1 pbc="T T T"\nSi 0 0 0\nSi 1 1 1\n'


@pytest.mark.parametrize(
    "content",
    [
        ONE_FRAME[:-9],
        ONE_FRAME + ONE_FRAME[:-9],
        ONE_FRAME.replace("Si 1 1 1", "Si 1 1 one"),
        ONE_FRAME.replace("Si 1 1 1", "Si 1 1 nan"),
        ONE_FRAME.replace("energy=-1", "energy=nan"),
        ONE_FRAME.replace("4 0 0 0 4 0 0 0 4", "4 0 0 0 4 0 4 4 0"),
        ONE_FRAME.replace("1 1 1", "4 4 4"),
        ONE_FRAME.replace("Si 1", "Ge 1"),
        "2\n" + ONE_FRAME,
    ],
    ids=["truncated", "second", "text", "NaN", "energy", "singular", "one place", "element", "count"],
)
def test_bad_extxyz(content: str) -> None:
    Path("bad.extxyz").write_text(content)
    old_outputs()
    commands = {
        name: tuple("bad.extxyz" if word == "bad.dat" else word for word in words)
        for name, words in TAKES_STRUCTURES.items()
    }
    refused_by_all(commands, r"bad\.extxyz")


def test_a_truncated_vasp_run() -> None:
    text = (OWN.parent / "vasp" / "vasprun.xml").read_text()
    Path("bad.vasprun.xml").write_text(text[: 2 * len(text) // 3])
    for words in (("prepare", "bad.vasprun.xml", "--out", "new.h5"), ("evaluate", "bad.vasprun.xml", "--out", "o.csv")):
        refused(*words, "--potential", "si.nn.dat", match=r"bad\.vasprun\.xml")


# ---------------------------------------------------------------------------------------------------------------------
# potentials

TAKES_A_POTENTIAL = {
    "prepare": ("prepare", "si.poscar.dat", "--potential", "bad.nn.dat", "--out", "new.h5"),
    "train": ("train", "set.h5", "--potential", "bad.nn.dat", "--out", "new.nn.dat"),
    "evaluate": ("evaluate", "si.poscar.dat", "--potential", "bad.nn.dat", "--out", "new.csv"),
    "run -g": ("run", "-g", "-f", "si.poscar.dat", "-e", "bad.nn.dat", "-a", "new.h5", "--log-path="),
    "run -t": ("run", "-t", "-s", "set.h5", "-e", "bad.nn.dat", "-y", "new.nn.dat", "--log-path="),
}
READS_A_POTENTIAL = TAKES_A_POTENTIAL | {
    "info": ("info", "bad.nn.dat"),
    "convert": ("convert", "bad.nn.dat", "new.nn.dat"),
}

HEADER_FAULTS = {
    "too few inputs": {8: " 4 39 16 16 1"},
    "too many inputs": {8: " 4 41 16 16 1"},
    "two outputs": {8: " 4 40 16 16 2"},
    "no layers": {8: " 0"},
    "fewer sizes than their number": {8: " 5 40 16 16 1"},
    "layer of zero": {8: " 4 40 0 16 1"},
    "layer not a number": {8: " 4 40 a 16 1"},
    "mode": {1: " 7 0.5 1"},
    "activation": {1: " 1 0.5 7"},
    "shift": {1: " 1 nan 1"},
    "cutoff": {4: " 0 1.0 -4.5 1.0 1.0"},
    "width": {4: " 0 1.0 4.5 0.0 1.0"},
    "sigma": {4: " 0 1.0 4.5 1.0 0.0"},
    "randomize": {4: " 2 1.0 4.5 1.0 1.0"},
    "element": {3: " Xx 28.0"},
    "mass": {3: " Si heavy"},
    "no elements": {2: " 0"},
    "orders": {5: " 5 0 1 2 4"},
    "order": {5: " 5 0 1 2 4 -6"},
    "centres": {6: " 8 1.6 2.0 x 2.8 3.2 3.6 4.0 4.3"},
    "baseline": {7: " 0 9.6 4.7"},
}


@pytest.mark.parametrize("fault", HEADER_FAULTS)
def test_headers(training_set: None, fault: str) -> None:
    with_header("bad.nn.dat", HEADER_FAULTS[fault])
    refused_by_all(TAKES_A_POTENTIAL, r"bad\.nn\.dat")


@pytest.mark.parametrize("n_inputs", [39, 41, 80])
def test_inputs_that_do_not_fit_the_header(training_set: None, n_inputs: int) -> None:
    """Also where no weights are there to be counted."""
    fresh_potential("bad.nn.dat", f"3 {n_inputs} 5 1")
    refused_by_all(READS_A_POTENTIAL, rf"bad\.nn\.dat, line 8\b.*40 inputs.*{n_inputs}")


@pytest.mark.parametrize("sizes", [" 4 40 16 17 1", " 4 40 15 16 1", " 3 40 16 1", " 5 40 16 16 16 1"])
def test_layer_sizes_that_do_not_fit_the_weights(training_set: None, sizes: str) -> None:
    with_header("bad.nn.dat", {8: sizes})
    refused_by_all(READS_A_POTENTIAL, r"bad\.nn\.dat.*weights")


@pytest.mark.parametrize("n_lines", [-1, -300, -945])
def test_too_few_weights(training_set: None, n_lines: int) -> None:
    lines = Path("si.nn.dat").read_text().splitlines(keepends=True)
    Path("bad.nn.dat").write_text("".join(lines[:n_lines]))
    refused_by_all(READS_A_POTENTIAL, rf"bad\.nn\.dat.*945 weights.*{945 + n_lines}$")


def test_too_many_weights(training_set: None) -> None:
    Path("bad.nn.dat").write_text(Path("si.nn.dat").read_text() + "0.5 0.0\n")
    refused_by_all(READS_A_POTENTIAL, r"bad\.nn\.dat, line 954.*945 weights.*no more")


@pytest.mark.parametrize("value", ["nan 0.0", "inf 0.0", "x 0.0", "1,5 0.0", "1_0 0.0"])
def test_weights_that_are_no_numbers(training_set: None, value: str) -> None:
    with_header("bad.nn.dat", {100: value})
    refused_by_all(READS_A_POTENTIAL, rf"bad\.nn\.dat, line 100\b.*{value}")


@pytest.mark.parametrize("content", [b"", b"\0\1\2" * 100, b"a text\n", b"\xff\xfe\xfd" * 100])
def test_files_that_are_no_potential(training_set: None, content: bytes) -> None:
    Path("bad.nn.dat").write_bytes(content)
    refused_by_all(TAKES_A_POTENTIAL, r"bad\.nn\.dat")


def test_a_potential_that_is_not_there(training_set: None) -> None:
    refused_by_all(TAKES_A_POTENTIAL, r"bad\.nn\.dat")


def test_an_older_header_is_explained(training_set: None) -> None:
    lines = Path("si.nn.dat").read_text().splitlines()
    Path("bad.nn.dat").write_text("\n".join([*lines[:4], lines[5], *lines[7:]]) + "\n")
    refused_by_all(TAKES_A_POTENTIAL, r"bad\.nn\.dat.*older header")


# ---------------------------------------------------------------------------------------------------------------------
# training sets

TAKES_A_SET = {
    "train": ("train", "bad.h5", "--potential", "si.nn.dat", "--out", "new.nn.dat"),
    "run": ("run", "-t", "-s", "bad.h5", "-e", "si.nn.dat", "-y", "new.nn.dat", "--log-path="),
    "append": ("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "bad.h5", "--append"),
    "info": ("info", "bad.h5"),
    "convert": ("convert", "bad.h5", "new.dat"),
}


def damaged(content: bytes, how: str) -> bytes:
    third = len(content) // 3
    return {
        "truncated": content[:third],
        "one byte short": content[:-1],
        "empty": b"",
        "only the first bytes": content[:8],
        "a byte of the features": content[:third] + bytes([content[third] ^ 1]) + content[third + 1 :],
        "zeros": content[:third] + bytes(third) + content[2 * third :],
    }[how]


@pytest.mark.parametrize(
    "how", ["truncated", "one byte short", "empty", "only the first bytes", "a byte of the features", "zeros"]
)
def test_damaged_sets(training_set: None, how: str) -> None:
    Path("bad.h5").write_bytes(damaged(Path("set.h5").read_bytes(), how))
    refused_by_all(TAKES_A_SET, r"bad\.h5")


def change_energy(file: h5py.File) -> None:
    file["structures/energy"][0] += 1.0


def delete_features(file: h5py.File) -> None:
    del file["atoms/features"]


def change_settings(file: h5py.File) -> None:
    file.attrs["settings"] = file.attrs["settings"].replace(b"4.5", b"4.6")


def delete_hash(file: h5py.File) -> None:
    del file.attrs["content_hash"]


def later_version(file: h5py.File) -> None:
    file.attrs["version"] = 2


def other_format(file: h5py.File) -> None:
    file.attrs["format"] = "something else"


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (change_energy, "damaged"),
        (delete_features, "atoms/features"),
        (change_settings, "damaged"),
        (delete_hash, "damaged|content_hash"),
        (later_version, "version.*1.*2"),
        (other_format, "something else"),
    ],
)
def test_edited_sets(training_set: None, edit: Callable[[h5py.File], None], match: str) -> None:
    shutil.copy("set.h5", "bad.h5")
    with h5py.File("bad.h5", "r+") as file:
        edit(file)
    refused_by_all(TAKES_A_SET, rf"bad\.h5.*({match})")


def test_foreign_hdf5() -> None:
    with h5py.File("bad.h5", "w") as file:
        file["somebody/elses"] = [1.0, 2.0]
    refused_by_all(TAKES_A_SET, r"bad\.h5.*format")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (" # 146 - ", " # 145 - "),
        (" # 34 - ", " # 35 - "),
        ("Gi  ", "Gi  1.0 "),
        ("ATOM-3 ", "ATOM-4 "),
        ("E+00", "E+999"),
        (" # 1 - Potential", " # 2 - Potential"),
    ],
)
def test_bad_text_sets(training_set: None, old: str, new: str) -> None:
    done("convert", "set.h5", "set.dat")
    text = Path("set.dat").read_text()
    assert old in text
    Path("bad.h5").write_text(text.replace(old, new, 1))
    commands = {name: words for name, words in TAKES_A_SET.items() if name != "append"}
    refused_by_all(commands, r"bad\.h5")


def test_truncated_text_set(training_set: None) -> None:
    done("convert", "set.h5", "set.dat")
    lines = Path("set.dat").read_text().splitlines(keepends=True)
    for end in (5, 12, 13, -1, -2):
        Path("bad.h5").write_text("".join(lines[:end]))
        commands = {name: words for name, words in TAKES_A_SET.items() if name != "append"}
        refused_by_all(commands, r"bad\.h5")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "{}",
        '{"format": "pyfit-gpu training set manifest"}',
        '{"format": "pyfit-gpu training set manifest", "version": 2}',
        '{"format": "pyfit-gpu training set manifest", "version": 1, "count": 1, "n_structures": 1, "inputs": "x", '
        '"shards": []}',
    ],
)
def test_bad_manifests(content: str) -> None:
    Path("bad.json").write_text(content)
    words = ("train", "bad.json", "--potential", "si.nn.dat", "--out", "new.nn.dat")
    refused(*words, match=r"bad\.json")


def test_a_set_of_another_potential_names_the_field(training_set: None) -> None:
    with_header("bad.nn.dat", {6: " 8 1.6 2.0 2.4 2.8 3.2 3.6 4.0 4.25"})
    commands = {name: words for name, words in TAKES_A_POTENTIAL.items() if name in ("train", "run -t")}
    refused_by_all(commands, r"(r0|gaussian_centers).*4\.(25|3)\b.*4\.(25|3)\b")
    words = ("prepare", "si.poscar.dat", "--potential", "bad.nn.dat", "--out", "set.h5", "--append")
    refused(*words, match="r0|gaussian_centers")


def test_a_set_that_lies_about_its_numbers(training_set: None) -> None:
    """A NaN among the features with a right hash: refused, or at the least never trained to a network."""
    whole = pf.load_training_set("set.h5")
    features = whole.features.clone()
    features[5, 3] = float("nan")
    pf.save_training_set(replace(whole, features=features), "bad.h5")
    before = snapshot()
    result = call(*TAKES_A_SET["train"], "--loss-log", "", "--validation-log", "", "--backup-dir", "")
    assert result.status in (1, 2)
    assert "Traceback" not in result.said
    if result.status == 2:
        assert_same_files(snapshot(), before)


# ---------------------------------------------------------------------------------------------------------------------
# outputs

WRITES = {
    "prepare": ("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "{}.h5"),
    "shard": ("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "{}.h5", "--shard", "0/2"),
    "train": ("train", "set.h5", "--potential", "si.nn.dat", "--out", "{}.nn.dat", "--steps", "1"),
    "evaluate": ("evaluate", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "{}.csv"),
    "extxyz": ("evaluate", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "{}.extxyz"),
    "convert": ("convert", "set.h5", "{}.dat"),
    "convert structures": ("convert", "si.poscar.dat", "{}.extxyz"),
    "convert potential": ("convert", "si.nn.dat", "{}.nn.dat"),
    "run -g": ("run", "-g", "-f", "si.poscar.dat", "-e", "si.nn.dat", "-a", "{}.dat", "--log-path="),
    "run -t": ("run", "-t", "-s", "set.h5", "-e", "si.nn.dat", "-y", "{}.nn.dat", "-i", "1", "--log-path="),
}


def words_of(command: str, out: str) -> tuple[str, ...]:
    return tuple(word.format(out) for word in WRITES[command])


@pytest.mark.parametrize("command", WRITES)
def test_a_folder_that_is_not_there(training_set: None, command: str) -> None:
    refused(*words_of(command, "missing/new"), match=r"missing.*folder.*not exist")


@pytest.mark.parametrize("command", ["prepare", "train", "evaluate", "convert"])
def test_a_folder_that_is_not_there_for_numbered_outputs(training_set: None, command: str) -> None:
    """Before the work, as without --unique."""
    result = refused(*words_of(command, "missing/new"), "--unique", match=r"missing.*folder.*not exist")
    assert "computed" not in result.out
    assert "read " not in result.out


@pytest.mark.parametrize("command", WRITES)
def test_a_folder_in_place_of_the_output(training_set: None, command: str) -> None:
    words = words_of(command, "new")
    target = next(word for word in words if word.startswith("new."))
    Path(target if command != "shard" else "new.0-of-2.h5").mkdir()
    refused(*words, match=r"new\..*not a plain file|new\..*exists")


@pytest.mark.parametrize("command", [command for command in WRITES if command != "shard"])
def test_an_output_that_exists(training_set: None, command: str) -> None:
    words = words_of(command, "new")
    target = next(word for word in words if word.startswith("new."))
    Path(target).write_text("something precious")
    refused(*words, match=r"new\..*exists.*--overwrite")


@pytest.mark.parametrize("content", ["", "set.h5"], ids=["no set", "another set"])
def test_a_file_in_place_of_a_shard(training_set: None, content: str) -> None:
    """Only the same shard of the same inputs may be there already."""
    Path("new.0-of-2.h5").write_bytes(Path(content).read_bytes() if content else b"something precious")
    refused(*words_of("shard", "new"), match=r"new\.0-of-2\.h5")
    done(*words_of("shard", "new"), "--overwrite")


@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
@pytest.mark.parametrize("command", WRITES)
def test_a_folder_that_must_not_be_written_to(training_set: None, command: str) -> None:
    Path("locked").mkdir()
    Path("locked").chmod(0o555)
    try:
        refused(*words_of(command, "locked/new"), match=r"locked.*permission")
    finally:
        Path("locked").chmod(0o755)


@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
@pytest.mark.parametrize("command", [command for command in WRITES if command != "shard"])
def test_an_output_that_is_read_only(training_set: None, command: str) -> None:
    words = words_of(command, "new")
    target = Path(next(word for word in words if word.startswith("new.")))
    target.write_text("something precious")
    target.chmod(0o444)
    overwrite = "-o" if command.startswith("run") else "--overwrite"
    refused(*words, overwrite, match=r"new\..*read-only")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize(
    "words",
    [
        ("train", "set.h5", "--potential", "si.nn.dat", "--out", "new.nn.dat", "--loss-log", "/dev/full"),
        ("train", "set.h5", "--potential", "si.nn.dat", "--out", "/dev/full", "--overwrite"),
        ("run", "-t", "-s", "set.h5", "-e", "si.nn.dat", "-y", "new.nn.dat", "--loss-log-path=/dev/full"),
        ("run", "-t", "-s", "set.h5", "-e", "si.nn.dat", "-y", "new.nn.dat", "--log-path=/dev/full"),
    ],
)
def test_a_full_device(training_set: None, words: tuple[str, ...]) -> None:
    refused(*words, match="/dev/full")


FULL = {
    "prepare": (("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "new.h5"), 40_000),
    "prepare early": (("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "new.h5"), 1_000),
    "replace": (("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "old.h5", "--overwrite"), 40_000),
    "append": (("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "set.h5", "--append", "--e-shift=106"),
               90_000),
    "shard": (("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "new.h5", "--shard", "0/2"), 20_000),
    "evaluate": (("evaluate", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "old.csv", "--overwrite"), 500),
    "extxyz": (("evaluate", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "new.extxyz"), 2_000),
    "plots": (("evaluate", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "new.csv", "--plots", "plots"), 5_000),
    "convert": (("convert", "set.h5", "new.dat"), 40_000),
    "convert structures": (("convert", "si.poscar.dat", "new.extxyz"), 2_000),
    "convert potential": (("convert", "si.nn.dat", "new.nn.dat"), 2_000),
    "run -g": (("run", "-g", "-f", "si.poscar.dat", "-e", "si.nn.dat", "-a", "new.dat", "--log-path="), 40_000),
}  # fmt: skip


@pytest.mark.parametrize("case", FULL)
def test_a_full_disk(training_set: None, launcher: Launcher, case: str) -> None:
    """A limit on the size of files stands for it: no output, the old one as it was, nothing half written."""
    words, limit = FULL[case]
    old_outputs()
    before = snapshot()
    # HDF5 has more to say, and to break, when a process ends with a file that could not be closed.
    result = launcher.start(*words, file_size=limit, to_the_end=any(word.endswith(".h5") for word in words)).wait()
    assert_refused_for_space(result)
    after = snapshot()
    if case == "plots":  # the table was complete and stays; no plot is there
        assert after.keys() - before.keys() <= {"new.csv", "plots"}
        before = {name: after[name] for name in after if name not in before} | before
    assert_same_files(after, before)


def assert_refused_for_space(result: Result) -> None:
    assert result.status == 2, result.said
    assert "Traceback" not in result.said
    assert re.search(r"error: .*cannot write: .*(too large|space)", result.err, re.IGNORECASE), result.err


@pytest.mark.parametrize("words", [WRITES["train"], WRITES["run -t"]], ids=["train", "run"])
def test_a_disk_that_fills_while_training(training_set: None, launcher: Launcher, words: tuple[str, ...]) -> None:
    """Here a network is too large: the old one stays, and none is half written, nor is a backup."""
    words = tuple(word.format("old") for word in words)
    shutil.copy("si.nn.dat", "old.nn.dat")
    before = snapshot()
    overwrite = "-o" if words[0] == "run" else "--overwrite"
    assert_refused_for_space(launcher.start(*words, overwrite, file_size=20_000).wait())
    after = snapshot()
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if name.endswith((".nn.dat", ".partial")) and name not in before]


# ---------------------------------------------------------------------------------------------------------------------
# outputs that are inputs


def test_a_log_onto_an_input(training_set: None) -> None:
    """Logs need no --overwrite, so nothing else would stop them."""
    words = ("train", "set.h5", "--potential", "si.nn.dat", "--out", "new.nn.dat")
    refused(*words, "--loss-log", "set.h5", match=r"set\.h5")
    refused(*words, "--validation-log", "si.nn.dat", match=r"si\.nn\.dat")
    classic = ("run", "-t", "-s", "set.h5", "-e", "si.nn.dat", "-y", "new.nn.dat", "-w")
    refused(*classic, "--loss-log-path", "./set.h5", match=r"set\.h5")
    refused(*classic, "--log-path", "si.nn.dat", match=r"si\.nn\.dat")


def test_two_outputs_of_one_name(training_set: None) -> None:
    words = ("train", "set.h5", "--potential", "si.nn.dat", "--out", "new.nn.dat")
    refused(*words, "--loss-log", "new.nn.dat", match=r"new\.nn\.dat")
    refused(*words, "--loss-log", "log.txt", "--validation-log", "log.txt", match=r"log\.txt")
    classic = ("run", "-t", "-s", "set.h5", "-e", "si.nn.dat", "-y", "new.nn.dat", "-w")
    refused(*classic, "--loss-log-path", "pyfit_log.txt", match=r"pyfit_log\.txt")


@pytest.mark.parametrize("verb", ["train", "run"])
def test_going_on_from_a_backup(training_set: None, verb: str) -> None:
    """With --overwrite the backups are replaced, but the one that training starts from is an input."""
    train = ("train", "set.h5", "--out", "new.nn.dat", "--backup-dir", "nn_backup", "--steps", "1")
    done(*train, "--potential", "si.nn.dat", "--steps", "25")
    start = "nn_backup/nn_bk_00025.nn.dat"
    content = Path(start).read_bytes()
    if verb == "run":
        call("run", "-t", "-s", "set.h5", "-e", start, "-y", "new.nn.dat", "-w", "-o", "-i", "1")
    else:
        call(*train, "--potential", start, "--overwrite")
    assert Path(start).exists()
    assert Path(start).read_bytes() == content


def test_a_list_of_names_that_is_empty() -> None:
    """A pattern of the shell without a match leaves nothing to read."""
    before = names()
    result = call("prepare", "--potential", "si.nn.dat", "--out", "new.h5")
    assert result.status == 2
    assert "DFT_FILE" in result.err
    assert names() == before


def test_manifest_of_a_shard_is_left_alone_by_a_fault() -> None:
    """A job array's task that fails changes nothing of what the others made."""
    words = ("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "si.h5", "--shard")
    done(*words, "0/2")
    manifest = json.loads(Path("si.json").read_text())
    Path("bad.dat").write_text(change(3, -1, "low"))
    refused("prepare", "bad.dat", *words[2:], "1/2", match=r"bad\.dat")
    assert json.loads(Path("si.json").read_text()) == manifest
