"""Signals and kills, in real processes: what was there stays, what is written is whole."""

from __future__ import annotations

import functools
import random
import re
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands.helpers import (
    ENVIRONMENT,
    Launcher,
    Running,
    assert_same_files,
    done,
    launching,
    log_rows,
    names,
    new_names,
    poscar_blocks,
    set_up,
    snapshot,
    wait_until,
    weights,
    write_poscar,
)

import pyfit_gpu as pf
from pyfit_gpu.commands import interrupts
from pyfit_gpu.commands.interrupts import Terminated, signals_are_exceptions, signals_end_the_process

POTENTIAL = ("--potential", "si.nn.dat")
TRAIN = ("train", "set.h5", *POTENTIAL, "--out", "out.nn.dat", "--steps", "1000000", "--backup-interval", "1")
TRAIN = (*TRAIN, "--keep", "last")  # the best validation need not be that of the step that a signal ends
RUN = ("run", "-t", "-s", "set.h5", "-e", "si.nn.dat", "-y", "out.nn.dat", "-i", "1000000", "-w", "-c")
RUN = (*RUN, "--network-backup-interval", "1", "--validation-interval", "1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    with launching(tmp_path_factory.mktemp("processes")) as launcher:
        yield launcher


@pytest.fixture
def training_set() -> None:
    done("prepare", "si.poscar.dat", *POTENTIAL, "--out", "set.h5", "--e-shift", "106", "--quiet")


def has_rows(path: str, count: int) -> bool:
    log = Path(path)
    return log.exists() and log.read_text().count("\n") >= count


def assert_ended_well(prefix: str, backups: str) -> None:
    """All outputs of a training that a signal ended: whole, and of the same step."""
    loss = log_rows(f"{prefix}loss.txt")
    steps = [step for step, _ in loss]
    assert steps == list(range(len(steps)))
    assert len(steps) < 1000
    assert [step for step, _ in log_rows(f"{prefix}validation.txt")] == steps
    last = f"{backups}/nn_bk_{steps[-1]:05d}.nn.dat"
    assert max(name for name in names() if name.startswith(f"{backups}/")) == last
    assert weights("out.nn.dat") == weights(last)
    assert pf.load_potential("out.nn.dat").energy_shift.tolist() == [106.0]
    done("train", "set.h5", "--potential", "out.nn.dat", "--out", "again.nn.dat", "--steps", "0", "--train-fraction",
         "0.95" if prefix == "" else "0.9")  # fmt: skip
    assert log_rows("again.loss.txt")[0][1] == pytest.approx(loss[-1][1], rel=1e-8)


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


# ---------------------------------------------------------------------------------------------------------------------
# training


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_ends_training_cleanly(training_set: None, number: signal.Signals, status: int) -> None:
    """A process as a user starts it."""
    command = [sys.executable, "-m", "pyfit_gpu", *TRAIN]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until(lambda: has_rows("out.loss.txt", 5))
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == status
    assert "Traceback" not in out + err
    assert "interrupted after" in out
    assert_ended_well("out.", "out.backup")


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_ends_the_classic_job_cleanly(
    training_set: None, launcher: Launcher, number: signal.Signals, status: int
) -> None:
    before = names()
    process = launcher.start(*RUN)
    wait_until(lambda: has_rows("loss.txt", 5))
    process.send(number)
    result = process.wait()
    assert result.status == status
    assert "Traceback" not in result.said
    made = {name for name in new_names(before) if not name.startswith("nn_backup/")}
    assert made == {"out.nn.dat", "loss.txt", "validation.txt", "pyfit_log.txt"}
    assert "interrupted after" in Path("pyfit_log.txt").read_text()
    assert_ended_well("", "nn_backup")


def test_a_signal_before_the_first_step(training_set: None, launcher: Launcher) -> None:
    """Whenever it comes: either everything is written or nothing was there yet."""
    for _ in range(3):
        process = launcher.start(*TRAIN, "--overwrite")
        wait_until(lambda: Path("out.loss.txt").exists(), pause=0.0)
        process.send(signal.SIGTERM)
        assert process.wait().status == 143
        assert_whole_rows("out.loss.txt")
        pf.load_potential("out.nn.dat")
        assert not [name for name in names() if name.endswith(".partial")]
        Path("out.loss.txt").unlink()


def assert_whole_rows(path: str) -> None:
    assert [step for step, _ in log_rows(path)] == list(range(len(log_rows(path))))


def test_a_second_signal_ends_it_at_once(training_set: None, launcher: Launcher) -> None:
    """A single step that takes for ever does not answer to the first."""
    words = ("--max-iterations", "100000000", "--line-search", "none", "--learning-rate", "1e-3")
    process = launcher.start(*TRAIN, *words)
    wait_until(lambda: has_rows("out.loss.txt", 1))
    time.sleep(0.2)
    process.send(signal.SIGINT)
    time.sleep(0.3)
    assert not process.ended
    process.send(signal.SIGINT)
    result = process.wait()
    assert result.status == 130
    assert "Traceback" not in result.said
    assert [step for step, _ in log_rows("out.loss.txt")] == [0]
    assert not [name for name in names() if name.endswith(".partial")]


def test_kill_while_training_leaves_inputs_and_the_old_network(training_set: None, launcher: Launcher) -> None:
    """Rows were written as they came, backups whole."""
    Path("out.nn.dat").write_text("a network of earlier days")
    before = snapshot()
    process = launcher.start(*TRAIN, "--overwrite")
    wait_until(lambda: has_rows("out.loss.txt", 8))
    process.send(signal.SIGKILL)
    assert process.wait().status == -signal.SIGKILL
    after = snapshot()
    assert {name: after[name] for name in before} == before
    assert len(Path("out.loss.txt").read_text().splitlines()) >= 8
    backups = [name for name in names() if re.fullmatch(r"out\.backup/nn_bk_\d{5}\.nn\.dat", name)]
    assert len(backups) >= 7
    for name in backups:
        pf.load_potential(name)


@pytest.mark.parametrize("when", ["before", "after"])
def test_kill_while_the_network_is_written(training_set: None, launcher: Launcher, when: str) -> None:
    only = (*POTENTIAL, "--out", "out.nn.dat", "--backup-dir", "", "--run-file", "")
    done("train", "set.h5", *only, "--steps", "1")
    old = Path("out.nn.dat").read_bytes()
    words = ("train", "set.h5", *only, "--steps", "2", "--overwrite")
    result = launcher.start(*words, kill_at=("replace", when, signal.SIGKILL)).wait()
    assert result.status == -signal.SIGKILL
    assert (Path("out.nn.dat").read_bytes() == old) == (when == "before")
    pf.load_potential("out.nn.dat")


# ---------------------------------------------------------------------------------------------------------------------
# preparing

PREPARE = ("prepare", "many.dat", *POTENTIAL, "--out", "set.h5", "--e-shift", "106")
Complete = Callable[[str, int], bytes]
WAYS = {"new": (), "overwrite": ("--overwrite",), "append": ("--append",)}


FEW, MANY = 2, 20  # times the 34 structures; MANY takes about half a second


def write_structures(times: int) -> None:
    write_poscar("many.dat", poscar_blocks("si.poscar.dat") * times)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Complete:
    """The set that each way leads to when nothing comes between."""

    @functools.cache
    def result(way: str, times: int) -> bytes:
        with pytest.MonkeyPatch.context() as monkeypatch:
            set_up(tmp_path_factory.mktemp("complete"), monkeypatch)
            write_structures(times)
            start_from(way)
            done(*PREPARE, *WAYS[way])
            return Path("set.h5").read_bytes()

    return result


def start_from(way: str) -> bytes | None:
    """Content of set.h5 beforehand."""
    if way == "new":
        Path("set.h5").unlink(missing_ok=True)
        return None
    done("prepare", "si.poscar.dat", *POTENTIAL, "--out", "set.h5", "--e-shift", "106", "--overwrite")
    return Path("set.h5").read_bytes()


def assert_old_or_complete(old: bytes | None, complete: bytes) -> str:
    """The set is the old one or none, or the new one whole; nothing else passes for a set."""
    others = names() - {"si.poscar.dat", "si.nn.dat", "many.dat", "set.h5"}
    assert all(re.fullmatch(r"\.set\.h5\..*\.partial", name) for name in others), others
    found = Path("set.h5").read_bytes() if Path("set.h5").exists() else None
    if found == complete:
        return "complete"
    assert found == old
    return "old"


POINTS = [("fsync", "before"), ("fsync", "after"), ("replace", "before"), ("replace", "after")]


@pytest.mark.parametrize("point", POINTS, ids="-".join)
@pytest.mark.parametrize("way", WAYS)
def test_kill_at_the_worst_moments(launcher: Launcher, complete: Complete, way: str, point: tuple[str, str]) -> None:
    write_structures(FEW)
    old = start_from(way)
    result = launcher.start(*PREPARE, *WAYS[way], kill_at=(*point, signal.SIGKILL)).wait()
    assert result.status == -signal.SIGKILL
    expected = "complete" if point == ("replace", "after") else "old"
    assert assert_old_or_complete(old, complete(way, FEW)) == expected
    done("prepare", "si.poscar.dat", *POTENTIAL, "--out", "set.h5", "--overwrite")
    assert not [name for name in names() if name.endswith(".partial")]  # the next job clears what the killed one left


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("point", POINTS, ids="-".join)
@pytest.mark.parametrize("way", WAYS)
def test_a_signal_at_the_worst_moments(
    launcher: Launcher, complete: Complete, way: str, point: tuple[str, str], number: int
) -> None:
    """Besides, nothing stays behind."""
    write_structures(FEW)
    old = start_from(way)
    result = launcher.start(*PREPARE, *WAYS[way], kill_at=(*point, number)).wait()
    assert result.status == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert "Traceback" not in result.said
    assert_old_or_complete(old, complete(way, FEW))
    assert not [name for name in names() if name.endswith(".partial")]


def kill_after(process: Running, seconds: float, number: signal.Signals) -> int:
    time.sleep(seconds)
    process.send(number)
    return process.wait().status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_random(launcher: Launcher, complete: Complete, number: signal.Signals) -> None:
    write_structures(MANY)
    started = time.monotonic()
    assert launcher.start(*PREPARE).wait().status == 0
    whole = time.monotonic() - started
    assert Path("set.h5").read_bytes() == complete("new", MANY)
    draw = random.Random(4)
    statuses = set()
    for trial in range(6):
        way = list(WAYS)[trial % 3]
        old = start_from(way)
        delay = draw.uniform(0.02, 1.0) * whole
        statuses.add(kill_after(launcher.start(*PREPARE, *WAYS[way]), delay, number))
        assert_old_or_complete(old, complete(way, MANY))
        partial = [Path(name) for name in names() if name.endswith(".partial")]
        if number == signal.SIGTERM:
            assert not partial
        for path in partial:
            path.unlink()
    assert (-9 if number == signal.SIGKILL else 143) in statuses
    assert statuses <= {0, -number, 128 + number}


def test_killed_when_the_temporary_file_appears(launcher: Launcher, complete: Complete) -> None:
    write_structures(MANY)
    for way, words in WAYS.items():
        old = start_from(way)
        process = launcher.start(*PREPARE, *words)
        wait_until(lambda: any(Path().glob(".set.h5.????????.partial")), pause=0.0)
        process.send(signal.SIGKILL)
        process.wait()
        assert_old_or_complete(old, complete(way, MANY))
        for path in Path().glob(".set.h5.*"):
            path.unlink()


def test_a_killed_shard_is_missing(launcher: Launcher) -> None:
    """It is done again as if nothing had been; the other shard and the manifest stay."""
    words = ("prepare", "si.poscar.dat", *POTENTIAL, "--out", "set.h5", "--shard")
    done(*words, "0/2")
    before = {name: content for name, content in snapshot().items() if not name.endswith(".partial")}
    result = launcher.start(*words, "1/2", kill_at=("replace", "before", signal.SIGKILL)).wait()
    assert result.status == -signal.SIGKILL
    after = {name: content for name, content in snapshot().items() if not name.endswith(".partial")}
    assert_same_files(after, before)
    done(*words, "1/2")
    assert "34" in done("info", "set.json").out


def test_a_shard_killed_before_the_manifest(launcher: Launcher) -> None:
    """The shard's file is there, whole, but not in the manifest: the task that is submitted again sees to that."""
    words = ("prepare", "si.poscar.dat", *POTENTIAL, "--out", "set.h5", "--shard")
    done(*words, "0/2")
    manifest = Path("set.json").read_bytes()
    assert launcher.start(*words, "1/2", kill_at=("replace", "after", signal.SIGKILL)).wait().status == -signal.SIGKILL
    assert Path("set.json").read_bytes() == manifest
    done("info", "set.1-of-2.h5")
    assert "computed 40 features" not in done(*words, "1/2").out
    assert "34" in done("info", "set.json").out


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_classic_job_ended_while_it_generates(launcher: Launcher, number: signal.Signals, status: int) -> None:
    """Neither a set nor a network, where the text set was about to be renamed."""
    words = ("run", "-g", "-t", "-f", "si.poscar.dat", "-e", "si.nn.dat", "-a", "set.dat", "-y", "out.nn.dat", "-w")
    before = names()
    result = launcher.start(*words, kill_at=("replace", "before", number)).wait()
    assert result.status == status
    assert "Traceback" not in result.said
    left = {name for name in new_names(before) if not (number == signal.SIGKILL and name.endswith(".partial"))}
    assert left <= {"pyfit_log.txt"}


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "si.poscar.dat", *POTENTIAL, "--out", "out.csv", "--overwrite"),
        ("convert", "si.poscar.dat", "out.extxyz", "--overwrite"),
        ("convert", "si.nn.dat", "copy.nn.dat", "--overwrite"),
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_other_outputs_are_whole_or_old(launcher: Launcher, words: tuple[str, ...], number: signal.Signals) -> None:
    target = next(word for word in words if word.startswith(("out.", "copy.")))
    Path(target).write_text("of earlier days")
    before = snapshot()
    launcher.start(*words, kill_at=("replace", "before", number)).wait()
    after = {name: content for name, content in snapshot().items() if not name.endswith(".partial")}
    assert_same_files(after, before)
    if number == signal.SIGTERM:
        assert not [name for name in names() if name.endswith(".partial")]


# ---------------------------------------------------------------------------------------------------------------------
# several at once: tasks of a job array start in one folder at the same moment


def all_at_once(launcher: Launcher, *commands: tuple[str, ...]) -> None:
    running = [launcher.start(*words) for words in commands]
    for process in running:
        result = process.wait()
        assert result.status == 0, result.said


def test_one_training_for_each_output(training_set: None, launcher: Launcher) -> None:
    """A second one is refused while the first runs, whatever it may replace; so is one that shares only a log."""
    first = launcher.start(*TRAIN, "--out", "out.nn.dat", "--steps", "1000", "--loss-log", "loss.txt")
    wait_until(lambda: has_rows("loss.txt", 3))
    for more in (("--overwrite",), ("--resume",), ()):
        second = launcher.start(*TRAIN, "--out", "out.nn.dat", *more).wait()
        assert second.status == 2
        assert f"out.nn.dat: another job is writing it (process {first.pid} on " in second.err
    shared = launcher.start(*TRAIN, "--out", "b.nn.dat", "--loss-log", "loss.txt", "--overwrite").wait()
    assert shared.status == 2
    assert "loss.txt: another job is writing it" in shared.err
    classic = ("run", "-t", "-s", "set.h5", "-e", "si.nn.dat", "-y", "out.nn.dat", "-w", "-o")
    assert "out.nn.dat: another job is writing it" in launcher.start(*classic).wait().err
    first.send(signal.SIGTERM)
    assert first.wait().status == 143
    assert [step for step, _ in log_rows("loss.txt")] == list(range(len(log_rows("loss.txt"))))
    assert launcher.start(*TRAIN, "--out", "out.nn.dat", "--steps", "1", "--overwrite").wait().status == 0


@pytest.mark.parametrize(
    "words",
    [
        ("train", "set.h5", *POTENTIAL, "--out", "out.nn.dat", "--steps", "2"),
        ("prepare", "si.poscar.dat", *POTENTIAL, "--out", "out.h5"),
        ("run", "-g", "-f", "si.poscar.dat", "-e", "si.nn.dat", "-a", "out.dat"),
        ("run", "-t", "-s", "set.h5", "-e", "si.nn.dat", "-y", "out.nn.dat", "-w", "-i", "2"),
    ],
    ids=["train", "prepare", "generate", "classic"],
)
def test_the_same_job_twice_at_once(words: tuple[str, ...], training_set: None, launcher: Launcher) -> None:
    """One runs, the other is refused: it finds the lock, or the output."""
    running = [launcher.start(*words) for _ in range(2)]
    results = [process.wait() for process in running]
    assert sorted(result.status for result in results) == [0, 2], results
    refused = max(results, key=lambda result: result.status)
    assert re.search("another job is writing it|exists already|there is a run already", refused.err)
    assert "Traceback" not in refused.said
    assert not [name for name in names() if name.endswith(".partial")]


def test_shards_at_once(launcher: Launcher) -> None:
    words = ("prepare", "si.poscar.dat", *POTENTIAL, "--out", "set.h5", "--shard")
    all_at_once(launcher, *((*words, f"{index}/4") for index in range(4)))
    assert "34" in done("info", "set.json").out


def test_numbered_jobs_at_once(training_set: None, launcher: Launcher) -> None:
    """Each has a number of its own, and every output under it is its own."""
    before = names()
    words = ("run", "-t", "-s", "set.h5", "-e", "si.nn.dat", "-y", "out.nn.dat", "-w", "-m", "-i")
    all_at_once(launcher, *((*words, str(steps)) for steps in (1, 2, 3)))
    made = new_names(before)
    assert len([name for name in made if "/" not in name]) == 12
    lengths = set()
    for number in range(3):
        rows = log_rows(f"loss.{number:05d}.txt")
        lengths.add(len(rows))
        log = Path(f"pyfit_log.{number:05d}.txt").read_text()
        assert f"done after {len(rows) - 1} steps" in log
        assert f"wrote out.{number:05d}.nn.dat" in log
    assert lengths == {2, 3, 4}


def test_numbered_sets_at_once(launcher: Launcher) -> None:
    for number, times in enumerate((3, 2, 1)):
        write_poscar(f"{number}.dat", poscar_blocks("si.poscar.dat") * times)
    commands = [("prepare", f"{number}.dat", *POTENTIAL, "--out", "set.h5", "--unique") for number in range(3)]
    all_at_once(launcher, *commands)
    sets = sorted(Path().glob("set.*.h5"))
    assert sorted(len(pf.load_training_set(path)) for path in sets) == [34, 68, 102]


def check_signal_in_a_callback() -> None:
    """Send a signal in a weak reference's callback, in which Python can only report what is raised."""

    class Thing:
        pass

    with signals_end_the_process():
        signals_are_exceptions()
        things = [Thing()]
        reference = weakref.ref(things[0], lambda _: signal.raise_signal(signal.SIGTERM))

        def drop() -> None:
            things.clear()
            time.sleep(10)

        with pytest.raises(Terminated):
            drop()
        assert reference() is None


def test_a_signal_in_a_callback_is_not_lost() -> None:
    check_signal_in_a_callback()


def test_a_signal_that_comes_again_too_soon_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine it does before Python has gone on from where it could only report it."""
    send_soon, count = interrupts._send_soon, 0

    def at_once_at_first(number: int) -> None:
        nonlocal count
        count += 1
        if count == 1:
            signal.raise_signal(number)
        else:
            send_soon(number)

    monkeypatch.setattr(interrupts, "_send_soon", at_once_at_first)
    check_signal_in_a_callback()
    assert count == 2
