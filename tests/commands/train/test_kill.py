"""Training that is killed at random moments and resumed until it is done leaves the files of an undisturbed run.

Compared byte for byte: the networks of all members and the best, backups, logs, ranking and the run file; it holds
names as they were given and no times. What may differ: hidden temporary files that SIGKILL leaves behind.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands.helpers import ENVIRONMENT, Launcher, Result, assert_same_files, done, launching, snapshot, wait_until

from pyfit_gpu.formats.run_file import load_run

KILL, FULL = int(signal.SIGKILL), 0  # FULL: no signal, a disk that fills up
ENDS = {KILL: {-KILL}, signal.SIGTERM: {143}, signal.SIGINT: {130}, signal.SIGUSR1: {138, -signal.SIGUSR1}, FULL: {2}}
NUMBERS = [KILL, signal.SIGTERM, KILL, signal.SIGINT, KILL, signal.SIGUSR1]
STEPS = 30
# Small enough that a run lasts a few seconds; forces, since only with them a step takes its time.
TRAIN = ("train", "si.h5", "--potential", "start.nn.dat", "--out", "out.nn.dat", "--checkpoint-interval", "0",
         "--steps", str(STEPS), "--max-iterations", "4", "--force-weight", "0.3", "--backup-interval", "7",
         "--group-log", "groups.csv", "--energy-volume-log", "volumes.txt", "--energy-volume-interval", "5",
         "--learning-rate-ramp", "5", "--validation-interval", "2", "--test-groups",
         "hot", "--n-threads", "1")  # fmt: skip
MEMBERS = (*TRAIN, "--members", "3", "--patience", "5")
Undisturbed = Callable[[tuple[str, ...]], dict[str, bytes | None]]


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    with launching(tmp_path_factory.mktemp("processes")) as launcher:
        yield launcher


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, example_data: Path) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    lines = (example_data / "si.start.nn.dat").read_text().splitlines()
    lines[3:6] = [" 1 0.3 4.0 1.0 0.8", " 4 0 1 2 3", " 6 1.6 2.1 2.6 3.1 3.5 3.9"]  # few features and neighbours
    (folder / "start.nn.dat").write_text("\n".join([*lines[:7], " 3 24 8 1"]) + "\n")
    done("prepare", example_data / "si_dft.extxyz", "--potential", folder / "start.nn.dat", "--out", folder / "si.h5",
         "--quiet")  # fmt: skip
    return folder


def files() -> dict[str, bytes | None]:
    """All but what SIGKILL may leave behind."""
    return {name: content for name, content in snapshot().items() if not name.endswith(".partial")}


def fresh_folder(folder: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    for file in inputs.iterdir():
        os.link(file, folder / file.name)
    monkeypatch.chdir(folder)


class Killer:
    """Starts a command again and again, ends it each time, and in the end lets it finish."""

    def __init__(self, launcher: Launcher, words: tuple[str, ...], seed: int = 0) -> None:
        self.launcher = launcher
        self.words = (*words, "--resume", "--quiet")
        self.draw = random.Random(seed)
        self.n_ended = 0  # by us, not by themselves
        print(f"seed {seed}")

    def once(self, number: int, target: float) -> None:
        """Send a signal when `target` of the training is done (below 0: while it starts, above 1: at its end)."""
        before = steps()
        process = self.launcher.start(*self.words)
        if target >= 0:
            wait_until(lambda: process.ended or n_rows() > STEPS * min(target, 1.0), pause=0.001)
        delay = self.draw.uniform(0, 0.3 if target < 0 else 0.06)
        time.sleep(delay)
        process.send(number)
        self._note(f"{signal.Signals(number).name} at {target:.2f}, {delay:.3f} s", process.wait(), number, before)

    def full_disk(self, size: int) -> None:
        before = steps()
        result = self.launcher.start(*self.words, file_size=size).wait()
        self._note(f"files of {size} bytes at most", result, FULL, before)

    def _note(self, what: str, result: Result, number: int, before: int) -> None:
        summary = f"{what}: status {result.status}, steps {before} to {steps()}"
        print(summary)
        assert result.status in {0, *ENDS[number]}, f"{summary}\n{result.said}"
        assert "Traceback" not in result.said, result.said
        self.n_ended += result.status != 0

    def finish(self) -> None:
        result = self.launcher.start(*self.words).wait()
        assert result.status == 0, result.said


def steps() -> int:
    """Steps in the run file, of the member that has taken most; -1: there is none."""
    if not Path("out.run.h5").exists():
        return -1
    return max(len(member["history"]["loss"]) - 1 for member in load_run("out.run.h5").state.members)


def n_rows() -> int:
    """Number of rows of the longest loss log."""
    return max((path.read_text().count("\n") for path in Path().glob("out*loss.txt")), default=0)


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The files of a run that nobody ends."""
    known: dict[tuple[str, ...], dict[str, bytes | None]] = {}

    def run(words: tuple[str, ...]) -> dict[str, bytes | None]:
        if words not in known:
            with pytest.MonkeyPatch.context() as patch:
                fresh_folder(tmp_path_factory.mktemp("runs") / "undisturbed", inputs, patch)
                result = launcher.start(*words).wait()
                assert result.status == 0, result.said
                assert load_run("out.run.h5").state.conditioning is not None  # what is killed below has these, too
                known[words] = files()
        return known[words]

    return run


@pytest.mark.parametrize("words", [TRAIN, pytest.param(MEMBERS, marks=pytest.mark.slow)], ids=["one", "three"])
def test_killed_at_random_moments(
    words: tuple[str, ...],
    inputs: Path,
    launcher: Launcher,
    undisturbed: Undisturbed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Ends of all kinds, spread over the whole of the training; each run goes on where the one before was."""
    more = request.config.getoption("--kills")
    n_kills = 34 if more else 7 if words == TRAIN else 4
    expected = undisturbed(words)
    killer = Killer(launcher, words, random.SystemRandom().randrange(10**6) if more else 17)
    for attempt in range(3):  # a run may be quicker than a signal: then another one
        fresh_folder(tmp_path / f"killed{attempt}", inputs, monkeypatch)
        for k in range(n_kills):
            killer.once(NUMBERS[k % len(NUMBERS)], -0.2 + 1.4 * (k + killer.draw.random()) / n_kills)
        killer.finish()
        assert_same_files(snapshot(), expected)  # nothing is left of the killed runs
        if killer.n_ended >= n_kills - 2:
            return
    pytest.fail(f"only {killer.n_ended} runs were ended")


def test_a_full_disk(
    inputs: Path, launcher: Launcher, undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of all kinds are the first for which there is no room, also in the middle of training."""
    words = (*TRAIN, "--history-size", "1", "--energy-volume-interval", "1")
    expected = undisturbed(words)
    network, run, volumes = (len(expected[name] or b"") for name in ("out.nn.dat", "out.run.h5", "volumes.txt"))
    assert 400 < network < run < volumes
    fresh_folder(tmp_path / "full", inputs, monkeypatch)
    killer = Killer(launcher, words)
    reached = []
    for size in (400, network - 1, run // 2, (run + volumes) // 2, volumes - 1):  # room for the message at least
        killer.full_disk(size)
        reached.append(steps())
    assert reached[:3] == [-1] * 3
    assert 0 < reached[3] < reached[4] < STEPS
    assert killer.n_ended == 5
    killer.finish()
    assert_same_files(files(), expected)


@pytest.mark.parametrize("point", ["fsync", "replace"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_a_file_is_written(
    point: str,
    when: str,
    inputs: Path,
    launcher: Launcher,
    undisturbed: Undisturbed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one of each run, a few times; 12 steps are enough."""
    words = (*TRAIN, "--steps", "12", "--validation-interval", "5")
    expected = undisturbed(words)
    fresh_folder(tmp_path / "killed", inputs, monkeypatch)
    for _ in range(3):
        result = launcher.start(*words, "--resume", kill_at=(point, when, KILL)).wait()
        assert result.status == -KILL, result.said
    assert launcher.start(*words, "--resume").wait().status == 0
    assert_same_files(files(), expected)


@pytest.mark.slow
def test_a_process_as_a_user_starts_it(
    inputs: Path, launcher: Launcher, undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed once while it trains, then the same command again."""
    words = (*TRAIN, "--steps", "25")
    expected = undisturbed(words)
    fresh_folder(tmp_path / "killed", inputs, monkeypatch)
    command = [sys.executable, "-m", "pyfit_gpu", *words, "--resume"]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            end = time.monotonic() + 60
            while steps() < 5 and time.monotonic() < end:
                time.sleep(0.01)
        finally:
            process.kill()
    assert process.returncode == -KILL
    assert 5 <= steps() < 25
    ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "resume: out.run.h5, after" in ended.stdout
    assert_same_files(files(), expected)
