"""The verb `report`: pages from sets, files and committees; limits; inputs and outputs that are wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands.helpers import (
    N_STRUCTURES,
    OWN,
    call,
    done,
    fresh_potential,
    names,
    poscar_blocks,
    prepare_set,
    refused,
    set_up,
    snapshot,
    write_poscar,
)

import pyfit_gpu as pf
from pyfit_gpu.commands import report_page
from pyfit_gpu.structures.frames import Frame

REPORT = ("report", "--potential", "si.nn.dat", "--parts", "errors,training,data")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)


@pytest.fixture
def trained() -> None:
    """A set, and a committee of two that was trained on it, with a run file."""
    prepare_set()
    done("train", "si.h5", "--potential", "start.nn.dat", "--out", "fit.nn.dat", "--steps", 2, "--members", 2,
         "--uncertainty", "--test-groups", "odd", "--quiet")  # fmt: skip


def content(folder: str = "out") -> dict[str, Any]:
    return json.loads(Path(folder, "report.json").read_text())


def value(name: str, folder: str = "out") -> float:
    values = content(folder)["values"]
    (found,) = [one["value"] for one in values if f"{one['name']}{' of ' * bool(one['of'])}{one['of']}" == name]
    return found


def parts(folder: str = "out") -> dict[str, int]:
    """Numbers of structures with an energy that trained, validated, .."""
    tables = content(folder)["sections"][0]["tables"]
    rows = next(table for table in tables if table["title"].startswith("Structures that trained"))["rows"]
    return {row[0]: row[2] for row in rows if row[1] == "energy"}


def sections(folder: str = "out") -> list[str]:
    return [section["title"] for section in content(folder)["sections"]]


def test_errors_are_those_of_evaluate() -> None:
    done(*REPORT, "si.poscar.dat", "--out", "out")
    said = done("evaluate", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "e.csv").out
    for group in ("even", "odd"):
        rmse, mae, largest = map(float, re.search(rf"^{group} +17 +(\S+) +(\S+) +(\S+)", said, re.MULTILINE).groups())
        for kind, expected in (("rmse", rmse), ("mae", mae), ("largest", largest)):
            assert value(f"energy-{kind} of group {group}") == pytest.approx(expected, abs=6e-4)
    page = Path("out/report.html").read_text()
    assert "si.poscar.dat, structure 3" in page  # points name their structure
    assert {path.name for path in Path("out").iterdir()} == {"report.html", "report.json", "plots"}
    assert {f"{plot['name']}.png" for section in content()["sections"] for plot in section["plots"]} == {
        path.name for path in Path("out/plots").iterdir()
    }


def test_a_set_a_committee_and_the_run_beside_it(trained: None) -> None:
    done("report", "--potential", "fit.run.h5", "--set", "si.h5", "--out", "out")
    assert {"Errors", "Calibration", "Extrapolation", "Training", "Data", "Physics", "Potential"} <= set(sections())
    members = [pf.load_potential(f"fit.m{k:03}.nn.dat") for k in range(2)]
    structures = pf.load_training_set("si.h5").structures()
    known = pf.load_training_set("si.h5").energy_used.numpy()
    both = np.mean([pf.predict(member, structures).energy.numpy() for member in members], axis=0)
    error = 1000 * (both - known) / np.array(structures.sizes)
    assert value("energy-rmse") == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-9)
    odd = np.array(structures.groups) == "odd"
    assert value("energy-rmse of test") == pytest.approx(np.sqrt(np.mean(error[odd] ** 2)), rel=1e-9)
    training = next(section for section in content()["sections"] if section["title"] == "Training")
    assert [row[:2] for row in training["tables"][0]["rows"]] == [["member 0", 2], ["member 1", 2]]
    losses = [float(row.split()[1]) for row in Path("fit.m001.loss.txt").read_text().splitlines()]
    curve = next(one for one in training["plots"][0]["series"] if one["label"] == "member 1, training")
    assert curve["y"] == pytest.approx(losses, rel=1e-9)


def test_set_and_files_together(trained: None) -> None:
    done("report", "si.poscar.dat", "--potential", "fit.nn.dat", "--set", "si.h5", "--out", "out", "--parts", "errors")
    by_group = [value(f"energy-rmse of group {group}") for group in ("even", "odd")]  # as many of both
    assert value("energy-rmse") == pytest.approx(np.sqrt(np.mean(np.square(by_group))), rel=1e-9)
    counts = parts()
    assert counts["test"] == 2 * 17  # a copy did what the structure of the set did
    assert counts["training"] + counts["validation"] == 2 * 17
    assert "others" not in counts


def test_structures_of_files_that_the_set_has_not_are_others(trained: None) -> None:
    blocks = poscar_blocks()
    moved = [[*block[:-2], re.sub(r"\S+", "0.01", block[-2], count=1), block[-1]] for block in blocks[:5]]
    write_poscar("more.poscar.dat", [*moved, *blocks[5:8]], ["more"])
    done("report", "more.poscar.dat", "--potential", "fit.nn.dat", "--set", "si.h5", "--out", "out",
         "--parts", "errors")  # fmt: skip
    assert parts()["others"] == 5
    assert sum(parts().values()) == N_STRUCTURES + 8
    assert value("energy-rmse of others") > 0


def test_the_physics_sees_small_cells_and_one_of_each_composition(make_frame: Callable[..., Frame]) -> None:
    def cell(symbols: list[str]) -> Frame:
        return make_frame(np.arange(3.0 * len(symbols)).reshape(-1, 3), symbols=symbols)

    small, larger, largest = cell(["Si"] * 2), cell(["Si", "C"] * 10), cell(["C", "Si"] * 12)
    alike, other = cell(["Si"] * 20), cell(["C"] * 17)
    frames = [largest, small, alike, larger, other]
    assert report_page._crystals(frames) == [small, larger, other]


def test_the_energy_shift_that_is_given_is_that_of_the_physics(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def compute(potential: pf.Potential, *_: object, **__: object) -> pf.Physics:
        seen.append(potential.energy_shift.tolist())
        return pf.Physics((), (), {})

    monkeypatch.setattr(report_page, "compute_physics", compute)
    done("report", "--potential", "si.nn.dat", "--out", "out", "--parts", "physics", "--e-shift", "0.5")
    assert seen == [[0.5]]


def test_references_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    physics = pf.Physics((pf.Property("C11", "diamond", 150.0, "GPa"),), (), {"crystals": 0.0}, stable=("diamond",))
    monkeypatch.setattr(report_page, "compute_physics", lambda *_, **__: physics)
    Path("known.json5").write_text('{"C11 of diamond": 160, "C12 of diamond": 64}')
    words = ("--out", "out", "--parts", "physics", "--references", "known.json5")
    found = call("report", "--potential", "si.nn.dat", *words)
    assert found.status == 0
    (value,) = (one for one in content()["values"] if one["name"] == "C11")
    assert value["reference"] == 160
    assert "C12 of diamond: no property has this name (there is C11 of diamond)" in found.err


def test_logs_give_the_curves_where_there_is_no_run_file() -> None:
    Path("si.loss.txt").write_text("000000 1.0E+00\n000001 5.0E-01\n")
    done(*REPORT, "--out", "out")
    training = next(section for section in content()["sections"] if section["title"] == "Training")
    assert training["plots"][0]["series"][0]["y"] == [1.0, 0.5]
    assert sections() == ["Training", "Potential"]  # there is no data


def test_parts() -> None:
    done("report", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "out", "--parts", "data")
    assert sections() == ["Data", "Potential"]
    done("report", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "out", "--parts", "doctor", "--overwrite")
    assert sections() == ["Doctor", "Potential"]
    refused("report", "--potential", "si.nn.dat", "--out", "new", "--parts", "errors,charm", match="got 'charm'")


class TestGate:
    """Exit statuses, and that the page is there whatever they are."""

    def gate(self, text: str, *words: object) -> tuple[int, list[str]]:
        Path("gate.json5").write_text(text)
        found = call(*REPORT, "si.poscar.dat", "--out", "out", "--gate", "gate.json5", "--overwrite", *words)
        assert Path("out/report.html").exists()
        return found.status, [line for line in found.out.splitlines() if line.startswith("limit")]

    def test_kept(self) -> None:
        assert self.gate('{limits: {"energy-rmse": {max: 1e9}}}') == (0, [])
        assert content()["violations"] == []
        assert "kept" in Path("out/report.html").read_text()

    def test_broken(self) -> None:
        status, lines = self.gate(
            '{limits: {"energy-rmse": {max: 1e-3}, "energy-mae of group *": {min: 1e9}}}', "--quiet"
        )
        assert status == 1
        assert [line.split(": ")[1] for line in lines] == [
            "energy-rmse",
            "energy-mae of group even",
            "energy-mae of group odd",
        ]
        assert "energy-rmse: " in Path("out/report.html").read_text()
        assert len(content()["violations"]) == 3

    def test_unstable_phases(self, monkeypatch: pytest.MonkeyPatch) -> None:
        properties = (
            pf.Property("potential-energy", "fcc", -5.0, "eV/atom"),
            pf.Property("potential-energy", "sc", -4.0, "eV/atom"),
            pf.Property("C44", "fcc", -2.0, "GPa"),
            pf.Property("C44", "sc", -7.0, "GPa"),
        )
        physics = pf.Physics(properties, (), {"crystals": 0.0}, stable=("fcc",))
        monkeypatch.setattr(report_page, "compute_physics", lambda *_, **__: physics)
        status, lines = self.gate("{}", "--parts", "physics")
        assert (status, len(lines)) == (1, 1)
        assert lines[0].startswith("limit broken: C44 of fcc: −2.000 GPa")
        assert self.gate('{stable: ["sc"]}', "--parts", "physics")[1][0].startswith("limit broken: C44 of sc")
        assert self.gate("{stable: []}", "--parts", "physics")[0] == 0
        assert self.gate('{stable: ["diamnd"]}', "--parts", "physics")[1][0].startswith(
            "limit broken: diamnd: the report has no phase"
        )
        assert self.gate('{stable: ["fcc"]}', "--parts", "errors")[0] == 1  # nothing was computed
        assert self.gate("{}", "--parts", "errors")[0] == 0
        assert self.gate('{stable: ["sc"]}') == (1, ["limit broken: sc: the report has no physical properties"])
        assert call("report", "--potential", "si.nn.dat", "--out", "new", "--parts", "physics").status == 0  # no gate

    def test_bad_file(self) -> None:
        Path("gate.json5").write_text("{limits: {C11: 3}}")
        refused(*REPORT, "si.poscar.dat", "--out", "out", "--gate", "gate.json5", match="gate.json5: limits: C11")


class TestBadInput:
    def test_potential_of_other_elements(self) -> None:
        Path("ge.extxyz").write_text("1\nenergy=-1.0 Properties=species:S:1:pos:R:3\nGe 0.0 0.0 0.0\n")
        refused(*REPORT, "ge.extxyz", "--out", "out", match="expected .*Si.*Ge")

    def test_data_without_energies(self) -> None:
        done("convert", "si.poscar.dat", "si.extxyz", "--quiet")
        text = re.sub(r" (free_)?energy=\S+", "", Path("si.extxyz").read_text())
        Path("bare.extxyz").write_text(text)
        done("report", "bare.extxyz", "--potential", "si.nn.dat", "--out", "out", "--parts", "errors,data,doctor")
        assert "have no energies, forces or stress" in Path("out/report.html").read_text()
        assert sections() == ["Errors", "Data", "Potential"]

    def test_a_report_that_is_there_already(self) -> None:
        done(*REPORT, "--out", "out")
        refused(*REPORT, "--out", "out", match=r"out/report.html: exists already \(give --overwrite")
        done(*REPORT, "--out", "out", "--overwrite")
        done(*REPORT, "--out", "out", "--unique")
        assert Path("out.00000/report.html").exists()

    def test_a_folder_that_cannot_be_made(self) -> None:
        refused(*REPORT, "--out", "no/such/out", match="no/such/out: cannot write: the folder no/such does not exist")
        refused(*REPORT, "--out", "l" * 300, match="cannot write: expected a name of at most")
        Path("file").write_text("")
        refused(*REPORT, "--out", "file", match="file: expected a folder for the report, found a file")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_without_permission(self) -> None:
        Path("out").mkdir()
        os.chmod("out", 0o500)
        refused(*REPORT, "--out", "out", match="out/report.html: cannot write: no permission")

    def test_a_disk_that_fills_up_leaves_the_earlier_page(self, monkeypatch: pytest.MonkeyPatch) -> None:
        done(*REPORT, "si.poscar.dat", "--out", "out")
        before = snapshot("out")

        def full(*_: object) -> None:
            raise pf.InputError("out/plots/parity_energy.png: cannot write: No space left on device")

        monkeypatch.setattr(report_page, "save_picture", full)
        refused(*REPORT, "si.poscar.dat", "--out", "out", "--overwrite", match="No space left")
        assert snapshot("out") == before

    def test_a_set_of_another_potential(self, trained: None) -> None:
        fresh_potential("other.nn.dat", line_4=" 1 0.3 4.4 1.0 1.0")
        refused("report", "--potential", "other.nn.dat", "--set", "si.h5", "--out", "out",
                match="si.h5 was not made for this potential")  # fmt: skip

    def test_names_that_a_terminal_would_obey(self) -> None:
        write_poscar("si.poscar.dat", poscar_blocks()[:4], ["<b>\x1b[31m", "&"])
        done(*REPORT, "si.poscar.dat", "--out", "out")
        page = Path("out/report.html").read_text()
        assert "\x1b" not in page
        assert "&lt;b&gt;\\x1b[31m" in page
        assert "<b>\\x1b" not in page.split('id="plots"')[0]


def test_info_knows_a_report() -> None:
    done(*REPORT, "si.poscar.dat", "--out", "out")
    said = done("info", "out/report.json").out
    assert "numbers of a report" in said
    assert f"energy-rmse  {value('energy-rmse'):.4g} meV/atom" in said
    Path("cut.json").write_text(Path("out/report.json").read_text()[:2000])
    refused("info", "cut.json", match="cut.json: expected the JSON of a report")


def test_nothing_else_is_written() -> None:
    before = names()
    done(*REPORT, "si.poscar.dat", "--out", "out")
    assert all(name.startswith("out/") for name in names() - before)
    shutil.rmtree("out")
    assert OWN.exists()
