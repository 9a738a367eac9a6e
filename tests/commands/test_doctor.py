"""`doctor`: what it prints and writes, its exit status, and every fault named before anything is written."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import ase.io
import pytest
from commands.helpers import call, done, refused
from doctor_samples import changed, good_frames
from sample_sets import make_potential

import pyfit_gpu as pf
from pyfit_gpu.formats.extxyz.writer import write_extxyz
from pyfit_gpu.formats.opening import read_frames


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Good data, data with an energy that is wrong and a copy, and potentials."""
    monkeypatch.chdir(tmp_path)
    frames = good_frames()
    write_extxyz("good.extxyz", frames)
    write_extxyz("bad.extxyz", [*changed(frames, 3, energy=frames[3].energy + 1.0), frames[8]])
    for seed in (1, 2):
        pf.save_potential(make_potential(["Cu"], seed=seed), f"cu{seed}.nn.dat")


def test_good_data() -> None:
    result = done("doctor", "good.extxyz", "--potential", "cu1.nn.dat")
    assert (
        "17 structures, 68 atoms of Cu, 2 groups, 1 file; 17 with an energy, 17 with forces, 17 with stress"
        in result.out
    )
    assert "energies against stress: 6 steps" in result.out
    assert "noise floor: 0 meV/atom, from structures with equal inputs (6 of each atom)" in result.out
    assert "found: 0 errors, 0 warnings, 0 notes" in result.out
    assert result.err == ""


def test_errors_give_status_1() -> None:
    result = call("doctor", "bad.extxyz")
    assert result.status == 1
    assert "found: 1 error, 1 warning, 0 notes" in result.out
    error, warning = re.findall(r"^ +(\d) (\w+: .+)\n(?:    \S.*\n)+((?:      .+\n)+)", result.out, re.MULTILINE)
    assert error == ("1", "error: stress against energies", "      bad.extxyz, structure 4\n")
    assert warning == ("2", "warning: copies", "      bad.extxyz, structure 18\n")


def test_warnings_alone_give_status_0() -> None:
    write_extxyz("copy.extxyz", [*good_frames(), good_frames()[8]])
    assert "found: 0 errors, 1 warning" in done("doctor", "copy.extxyz").out


def test_quiet_says_it_by_the_status() -> None:
    result = call("doctor", "bad.extxyz", "--quiet", "--json", "found.json")
    assert (result.status, result.said) == (1, "")
    assert Path("found.json").exists()


def test_json() -> None:
    assert call("doctor", "bad.extxyz", "good.extxyz", "--json", "found.json").status == 1
    found = json.loads(Path("found.json").read_text())
    assert (found["format"], found["version"]) == ("pyfit-gpu diagnosis", 1)
    assert found["summary"]["files"] == {"bad.extxyz": 18, "good.extxyz": 17}
    assert found["summary"]["findings"]["error"] == sum(one["severity"] == "error" for one in found["findings"])
    assert [one["number"] for one in found["findings"]] == list(range(1, len(found["findings"]) + 1))
    copies = next(one for one in found["findings"] if one["kind"] == "copies")
    assert len(copies["frames"]) == len(copies["numbers"]) == 18
    assert copies["frames"][0] == "bad.extxyz, structure 18"


def test_a_clean_file_lacks_what_was_confirmed() -> None:
    result = call("doctor", "bad.extxyz", "--write-clean", "clean.extxyz", "--leave-out", "1,2")
    assert result.status == 1  # of what was read
    assert "wrote clean.extxyz: 16 of 18 structures" in result.out
    assert len(ase.io.read("clean.extxyz", ":")) == 16
    assert "found: 0 errors, 0 warnings, 0 notes" in done("doctor", "clean.extxyz").out
    kept = list(read_frames("clean.extxyz"))
    assert [frame.energy for frame in kept] == [frame.energy for k, frame in enumerate(good_frames()) if k != 3]


def test_sets() -> None:
    done("prepare", "good.extxyz", "--potential", "cu1.nn.dat", "--out", "set.h5", "--quiet", "--e-shift", "0")
    result = done("doctor", "set.h5")
    assert "noise floor: 0 meV/atom, from structures with equal inputs (6 of each atom)" in result.out
    pf.save_potential(make_potential(["Cu"], cutoff=5.0), "other.nn.dat")
    refused(
        "doctor",
        "set.h5",
        "--potential",
        "other.nn.dat",
        match="set.h5 does not fit the potential: cutoff: expected 5.0",
    )
    both = call("doctor", "set.h5", "bad.extxyz")
    assert "35 structures" in both.out
    assert "bad.extxyz, structure 4" in both.out


def test_classic_text_sets_hold_no_positions() -> None:
    done("prepare", "good.extxyz", "--potential", "cu1.nn.dat", "--out", "set.h5", "--quiet", "--e-shift", "0")
    done("convert", "set.h5", "set.dat", "--quiet")
    result = done("doctor", "set.dat")
    assert "no structure has forces" in result.out
    assert "equal inputs (6 of each atom)" in result.out
    refused("doctor", "set.dat", "--write-clean", "c.extxyz", "--leave-out", "1", match="is about no structure")


def test_committees_find_outliers() -> None:
    words = ("doctor", "good.extxyz", "--potential", "cu1.nn.dat", "cu2.nn.dat")
    assert "outliers of the committee: looked for" in done(*words).out
    assert "outliers of the committee: looked for" not in done(*words[:-1]).out


def test_names_of_labels() -> None:
    text = Path("good.extxyz").read_text().replace(" energy=", " E0=")
    Path("named.extxyz").write_text(text)
    refused("doctor", "named.extxyz", match="expected structures with energies, found none in 17")
    done("doctor", "named.extxyz", "--energy-key", "E0")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("empty.extxyz",), "empty.extxyz: the file is empty"),
        (("none.extxyz",), "none.extxyz: cannot read"),
        (("good.extxyz", "--potential", "si.nn.dat"), r"good.extxyz, structure 1, atom 1: .*\(Si\), found Cu"),
        (("good.extxyz", "--json", "no/found.json"), "no/found.json: cannot write: the folder no does not exist"),
        (("good.extxyz", "--json", "good.extxyz"), "good.extxyz"),
        (("good.extxyz", "--write-clean", "clean.dat", "--leave-out", "1"), "expected a name that ends in .extxyz"),
        (("good.extxyz", "--write-clean", "clean.extxyz"), "--write-clean and --leave-out: expected both or none"),
        (("good.extxyz", "--leave-out", "1"), "--write-clean and --leave-out: expected both or none"),
        (("good.extxyz", "--write-clean", "c.extxyz", "--leave-out", "1"), "of which there are none, got 1"),
        (("bad.extxyz", "--write-clean", "c.extxyz", "--leave-out", "3"), "the number of a finding, 1 to 2, got 3"),
        (("bad.extxyz", "--write-clean", "c.extxyz", "--leave-out", "x"), "expected numbers from 1"),
        (("good.extxyz", "--cutoff", "0"), "cutoff: expected a distance above 0"),
    ],
)
def test_bad_input(words: tuple[str, ...], match: str) -> None:
    Path("empty.extxyz").touch()
    pf.save_potential(make_potential(["Si"]), "si.nn.dat")
    refused("doctor", *words, match=match)


def test_nothing_left_to_write() -> None:
    frames = [replace(frame, forces=-frame.forces) for frame in good_frames()[7:]]
    write_extxyz("turned.extxyz", frames)
    refused(
        "doctor", "turned.extxyz", "--write-clean", "c.extxyz", "--leave-out", "1", match="nothing is left to write"
    )
