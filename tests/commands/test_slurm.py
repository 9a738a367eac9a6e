"""The job arrays of examples/slurm under a real SLURM on this machine; skipped where there is none."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands.helpers import ENVIRONMENT, N_STRUCTURES, done, log_rows, set_up, weights
from commands.slurm import ENDED, SEARCHED, NoSlurm, Slurm, Task, own_processes, running_slurm

import pyfit_gpu as pf

pytestmark = pytest.mark.slow
TEMPLATES = Path(__file__).parents[2] / "examples" / "slurm"
N_STEPS = 400  # 4 to 8 s
TRAIN = ("--steps", N_STEPS)
N_BEFORE = 50  # steps before an interruption, at least
SETTINGS = {"SET": "set.h5", "START": "si.nn.dat"}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    program = tmp_path_factory.mktemp("bin") / "pyfit-gpu"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pyfit_gpu "$@"\n')
    program.chmod(0o755)
    environment = {**ENVIRONMENT, "PATH": f"{program.parent}:{SEARCHED}"}
    try:
        with running_slurm(environment) as system:
            yield system
    except NoSlurm as reason:
        pytest.skip(str(reason))
    assert not own_processes(system), "processes are left behind"
    assert not Path(system.environment["SLURM_CONF"]).exists()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with templates, structures, a potential and nothing else."""
    set_up(tmp_path, monkeypatch)
    for template in TEMPLATES.glob("*.sh"):
        shutil.copy(template, tmp_path)


def prepare() -> None:
    done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "set.h5", "--e-shift", 106, "--n-threads", 1)


@functools.cache
def uninterrupted(seed: int) -> bytes:
    """Weights of the same fit in one go, without SLURM."""
    words = ("--potential", "si.nn.dat", "--out", f"alone{seed}.nn.dat", "--randomize", "--weight-seed", seed)
    done("train", "set.h5", *words, "--n-threads", 1, *TRAIN)
    return weights(f"alone{seed}.nn.dat")


def logs() -> str:
    return "\n".join(f"{path}:\n{path.read_text()}" for path in sorted(Path().glob("*.log")))


# ---------------------------------------------------------------------------------------------------------------------
# shards


def test_an_array_makes_the_shards_of_one_set_and_the_next_job_waits_for_it(slurm: Slurm) -> None:
    settings = {"SHARDS": 3, "DATA": "si.poscar.*", "START": "si.nn.dat"}
    words = ("prepare_array.sh", "--e-shift", 106)
    job = slurm.submit("--array=0-2", "--cpus-per-task=1", *words, **settings)
    checks = ("--output=info.log", "--wrap", "pyfit-gpu info set.json")
    follower = slurm.submit(f"--dependency=afterok:{job}", *checks)
    assert slurm.tasks(follower)[""].state == "PENDING"
    tasks = slurm.wait(job)
    assert {index: task.state for index, task in tasks.items()} == dict.fromkeys("012", "COMPLETED"), logs()
    assert slurm.wait(follower)[""].state == "COMPLETED", logs()
    assert f"structures    {N_STRUCTURES}, " in Path("info.log").read_text()
    prepare()
    assert pf.load_training_set("set.json").features.equal(pf.load_training_set("set.h5").features)


def test_a_failed_shard_keeps_the_next_job_from_starting_and_is_submitted_again_alone(slurm: Slurm) -> None:
    settings = {"SHARDS": 2, "DATA": "si.poscar.dat", "START": "si.nn.dat"}
    Path("set.1-of-2.h5").mkdir()  # no file can take its place
    job = slurm.submit("--array=0-1", "--cpus-per-task=1", "prepare_array.sh", **settings)
    follower = slurm.submit(
        f"--dependency=afterok:{job}",
        "--kill-on-invalid-dep=yes",
        "--output=info.log",
        "--wrap",
        "pyfit-gpu info set.json",
    )
    tasks = slurm.wait(job)
    assert [tasks[index].state for index in "01"] == ["COMPLETED", "FAILED"], logs()
    assert slurm.wait(follower)[""].state == "CANCELLED"
    assert not Path("info.log").exists()
    Path("set.1-of-2.h5").rmdir()
    job = slurm.submit("--array=1", "--cpus-per-task=1", "prepare_array.sh", **settings)
    assert slurm.wait(job)["1"].state == "COMPLETED", logs()
    assert len(pf.load_training_set("set.json")) == N_STRUCTURES


# ---------------------------------------------------------------------------------------------------------------------
# seeds


def test_an_array_trains_one_seed_per_task(slurm: Slurm) -> None:
    prepare()
    job = slurm.submit("--array=0-2", "--cpus-per-task=1", "train_array.sh", *TRAIN, **SETTINGS)
    tasks = slurm.wait(job)
    assert {index: task.state for index, task in tasks.items()} == dict.fromkeys("012", "COMPLETED"), logs()
    assert len({weights(f"fits/{seed}.nn.dat") for seed in range(3)}) == 3
    assert weights("fits/1.nn.dat") == uninterrupted(1)


def test_two_fits_in_one_task(slurm: Slurm) -> None:
    """Two fits share a node that is only given as a whole: number 2 N + k is the k-th of task N."""
    prepare()
    job = slurm.submit("--array=1", "--cpus-per-task=2", "train_array.sh", *TRAIN, **SETTINGS, FITS=2)
    assert slurm.wait(job)["1"].state == "COMPLETED", logs()
    assert {path.name for path in Path("fits").glob("*.nn.dat")} == {"2.nn.dat", "3.nn.dat"}
    assert weights("fits/3.nn.dat") == uninterrupted(3)


# ---------------------------------------------------------------------------------------------------------------------
# interruptions


def start(slurm: Slurm, *words: object) -> str:
    """Submit tasks 0 and 1 of a training, with more of its options, and wait until 1 is in the middle of it."""
    prepare()
    job = slurm.submit("--array=0-1", "--cpus-per-task=1", "train_array.sh", *TRAIN, *words, **SETTINGS)
    log = Path("fits/1.loss.txt")

    def is_training() -> bool:
        assert all(task.state not in ENDED for task in slurm.tasks(job).values()), logs()
        return log.exists() and len(log_rows(str(log))) > N_BEFORE

    slurm.until(is_training, 60, f"steps of {job}")
    return job


def training_of(slurm: Slurm, seed: int) -> int:
    """The process that trains a seed."""
    found = []
    for pid in own_processes(slurm):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"pyfit_gpu" in words and f"fits/{seed}.nn.dat".encode() in words:
            found.append(pid)
    assert len(found) == 1, logs()
    return found[0]


def wait_for_the_rest(slurm: Slurm, job: str, n_saved: int = N_BEFORE // 2) -> dict[str, Task]:
    """Wait until all tasks have ended; a fit that starts afresh betrays itself by a log that is short again."""
    fewest = [N_STEPS]

    def has_ended() -> bool:
        fewest.append(len(Path("fits/1.loss.txt").read_text().splitlines()))
        return {task.state for task in slurm.tasks(job).values()} <= ENDED

    slurm.until(has_ended, 60, f"the end of {job}")
    assert min(fewest) >= n_saved, f"started afresh\n{logs()}"
    return slurm.tasks(job)


def assert_as_uninterrupted() -> None:
    """The same weights as in one go, and every step in the log once."""
    assert [step for step, _ in log_rows("fits/1.loss.txt")] == list(range(N_STEPS + 1)), logs()
    assert weights("fits/1.nn.dat") == uninterrupted(1)


@pytest.mark.parametrize(
    "interrupt",
    [
        pytest.param(("scancel", "--signal=USR1", "--batch"), id="notice of the time limit"),
        pytest.param(("scontrol", "requeue"), id="requeued from outside, as after preemption"),
    ],
)
def test_a_requeued_task_continues(interrupt: tuple[str, ...], slurm: Slurm) -> None:
    job = start(slurm)
    slurm.run(*interrupt, f"{job}_1")
    tasks = wait_for_the_rest(slurm, job)
    assert {index: task.state for index, task in tasks.items()} == dict.fromkeys("01", "COMPLETED"), logs()
    assert [tasks[index].n_restarts for index in "01"] == [0, 1], logs()
    assert_as_uninterrupted()


@pytest.mark.parametrize(
    ("seconds", "n_saved"), [pytest.param(0.1, N_BEFORE // 2, id="after a run file"), pytest.param(30, 0, id="before")]
)
def test_a_killed_task_continues_when_it_is_submitted_again(seconds: float, n_saved: int, slurm: Slurm) -> None:
    interval = ("--checkpoint-interval", seconds)
    job = start(slurm, *interval)
    os.kill(training_of(slurm, 1), signal.SIGKILL)  # as for want of memory
    tasks = slurm.wait(job)
    assert [tasks[index].state for index in "01"] == ["COMPLETED", "FAILED"], logs()
    assert tasks["1"].exit_code == "137:0"
    job = slurm.submit("--array=0-1", "--cpus-per-task=1", "train_array.sh", *TRAIN, *interval, **SETTINGS)
    tasks = wait_for_the_rest(slurm, job, n_saved)
    assert {index: task.state for index, task in tasks.items()} == dict.fromkeys("01", "COMPLETED"), logs()
    assert_as_uninterrupted()


def test_a_cancelled_task_saves_and_stays_cancelled(slurm: Slurm) -> None:
    job = start(slurm)
    slurm.run("scancel", f"{job}_1")
    tasks = slurm.wait(job)
    assert [tasks[index].state for index in "01"] == ["COMPLETED", "CANCELLED"], logs()
    assert Path("fits/1.nn.dat").exists(), logs()
    job = slurm.submit("--array=1", "--cpus-per-task=1", "train_array.sh", *TRAIN, **SETTINGS)
    assert wait_for_the_rest(slurm, job)["1"].state == "COMPLETED", logs()
    assert_as_uninterrupted()


def stand_in(slurm: Slurm, text: str) -> dict[str, str]:
    """A script in place of pyfit-gpu: settings for `submit`."""
    program = Path("bin/pyfit-gpu")
    program.parent.mkdir()
    program.write_text(f"#!/bin/bash\n{text}\n")
    program.chmod(0o755)
    return {**SETTINGS, "PATH": f"{program.parent.resolve()}:{slurm.environment['PATH']}"}


def test_which_exit_statuses_go_back_to_the_queue(slurm: Slurm) -> None:
    """Fit 0 ends, 1 fails, 2 always runs out of time, 3 does once: the last one has the number of the whole array."""
    settings = stand_in(
        slurm,
        """case $* in
          *"--weight-seed 1 "*) exit 1 ;;
          *"--weight-seed 2 "*) exit 75 ;;
          *"--weight-seed 3 "*) if [ ! -e again ]; then touch again; sleep 1; exit 75; fi ;;
        esac""",
    )
    job = slurm.submit("--array=0-3", "--cpus-per-task=1", "train_array.sh", **settings, RUNS=2)
    tasks = slurm.wait(job)
    found = {index: (task.state, task.n_restarts, task.exit_code) for index, task in tasks.items()}
    assert found == {
        "0": ("COMPLETED", 0, "0:0"),
        "1": ("FAILED", 0, "1:0"),
        "2": ("FAILED", 1, "75:0"),
        "3": ("COMPLETED", 1, "0:0"),
    }, logs()


def test_a_cancelled_task_has_time_to_save(slurm: Slurm) -> None:
    """Processes that the script leaves running are killed as soon as the script has ended."""
    settings = stand_in(slurm, "trap 'sleep 3; touch saved; exit 143' TERM; touch started; sleep 60 & wait")
    job = slurm.submit("--array=0", "--cpus-per-task=1", "train_array.sh", **settings)
    slurm.until(Path("started").exists, 20, "the start")
    slurm.run("scancel", job)
    assert slurm.wait(job)["0"].state == "CANCELLED"
    assert Path("saved").exists(), logs()


def test_after_the_notice_status_1_goes_back_to_the_queue(slurm: Slurm) -> None:
    """torchrun's way to end on USR1. It is called in place of `pyfit-gpu train`."""
    settings = stand_in(
        slurm, "echo $*; [ -e again ] && exit; trap 'touch again; exit 1' USR1; touch started; sleep 60 & wait"
    )
    launcher = "pyfit-gpu -m pyfit_gpu train"
    job = slurm.submit(
        "--array=5", "--cpus-per-task=1", "train_array.sh", "--dtype", "float32", **settings, TRAIN=launcher
    )
    slurm.until(Path("started").exists, 20, "the start")
    slurm.run("scancel", "--signal=USR1", "--batch", f"{job}_5")
    task = slurm.wait(job)["5"]
    assert (task.state, task.n_restarts) == ("COMPLETED", 1), logs()
    words = "-m pyfit_gpu train set.h5 --potential si.nn.dat --out fits/5.nn.dat --randomize --weight-seed 5 --resume"
    assert Path(f"train.{job}_5.log").read_text().count(f"{words} --n-threads 1 --dtype float32\n") == 2, logs()
