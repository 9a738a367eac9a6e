"""Calling the command line: in this process, or as processes of their own that share one import of torch."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import pyfit_gpu
from pyfit_gpu.commands.cli import main

OWN = Path(__file__).parents[1] / "data" / "own"
N_STRUCTURES, N_ATOMS = 34, 146  # in OWN / "structures.poscar.dat"

PACKAGE = Path(pyfit_gpu.__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE)}


@dataclass(frozen=True)
class Result:
    """How a command ended and what it said."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


def call(*words: object) -> Result:
    """Run a command in this process. What it changes in the process is put back."""
    out, err = io.StringIO(), io.StringIO()
    log = logging.getLogger("pyfit_gpu")
    state = (log.handlers[:], log.propagate, log.level)
    on_sigterm, n_threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main([str(word) for word in words])
            except SystemExit as end:
                status = 0 if end.code is None else int(end.code)
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)
        torch.set_num_threads(n_threads)
        log.handlers[:], log.propagate = state[:2]
        log.setLevel(state[2])
    return Result(status, out.getvalue(), err.getvalue())


def done(*words: object) -> Result:
    """Run a command that must succeed."""
    result = call(*words)
    assert result.status == 0, result.said
    return result


def refused(*words: object, match: str) -> Result:
    """Run a command that must be refused: exit status 2, a message, no traceback, every file as it was."""
    before = snapshot()
    result = call(*words)
    assert result.status == 2, f"expected status 2, got {result.status}: {result.said}"
    assert re.search(match, result.err), f"expected {match!r} on stderr, got: {result.err}"
    assert "Traceback" not in result.said
    assert_same_files(snapshot(), before)
    return result


def snapshot(folder: Path | str = ".") -> dict[str, bytes | None]:
    """Every name below a folder, hidden ones too, with its content; None for folders."""
    root = Path(folder)
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))
    }


def assert_same_files(found: dict[str, bytes | None], expected: dict[str, bytes | None]) -> None:
    """With a message that names the files and spares their contents."""
    __tracebackhide__ = True
    more, fewer = found.keys() - expected.keys(), expected.keys() - found.keys()
    changed = {name for name in found.keys() & expected.keys() if found[name] != expected[name]}
    if more or fewer or changed:
        pytest.fail(f"new: {sorted(more)}, gone: {sorted(fewer)}, changed: {sorted(changed)}")


def names(folder: Path | str = ".") -> set[str]:
    """Names of all files below a folder; folders only where they are empty."""
    content = snapshot(folder)
    return {name for name in content if not any(other.startswith(f"{name}/") for other in content)}


def new_names(before: set[str]) -> set[str]:
    return names() - before


def poscar_blocks(path: Path | str = OWN / "structures.poscar.dat") -> list[list[str]]:
    """The structures of a classic text file, each as its lines."""
    lines = [line for line in Path(path).read_text().splitlines() if line.strip()]
    blocks = []
    while lines:
        length = 8 + int(lines[5])
        blocks.append(lines[:length])
        lines = lines[length:]
    return blocks


def write_poscar(path: str, blocks: Sequence[Sequence[str]], groups: Sequence[str] | None = None) -> str:
    """Write structures, under other groups if they are given (taken in turn)."""
    labelled = [block if groups is None else [groups[k % len(groups)], *block[1:]] for k, block in enumerate(blocks)]
    Path(path).write_text("".join("\n".join(block) + "\n" for block in labelled))
    return path


def set_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with the structures in two groups of 17 and a potential, and nothing else."""
    monkeypatch.chdir(folder)
    write_poscar("si.poscar.dat", poscar_blocks(), ["even", "odd"])
    shutil.copy(OWN / "nn_mode1.nn.dat", "si.nn.dat")


INFORMED = ("--elements", "Si", "--cutoff", "3.6", "--hidden", "4", "--n-centers", "4", "--quiet")


def set_up_informed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with ten small structures in two groups and their set, and drafts of an informed network."""
    monkeypatch.chdir(folder)
    small = [block for block in poscar_blocks() if int(block[5]) <= 6]
    write_poscar("si.poscar.dat", small[:10], ["one", "two"])
    for name in ("start.pinn", "start.nn.dat"):
        done("new", *INFORMED, "--pinn", "--out", name)
    done("prepare", "si.poscar.dat", "--potential", "start.pinn", "--out", "si.h5", "--e-shift", "102", "--quiet")


def with_header(target: str, changes: dict[int, str], source: str = "si.nn.dat") -> str:
    """A copy of a potential with some of its lines, counted from 1, replaced."""
    lines = Path(source).read_text().splitlines()
    for number, text in changes.items():
        lines[number - 1] = text
    Path(target).write_text("\n".join(lines) + "\n")
    return target


def fresh_potential(target: str, layers: str = "3 40 5 1", **changes: str) -> str:
    """A potential that asks for random weights and therefore holds none."""
    lines = Path("si.nn.dat").read_text().splitlines()[:8]
    lines[3] = " 1 0.3 4.5 1.0 1.0"
    lines[7] = f" {layers}"
    for number, text in changes.items():
        lines[int(number.removeprefix("line_")) - 1] = text
    Path(target).write_text("\n".join(lines) + "\n")
    return target


def prepare_set(target: str = "si.h5", potential: str = "start.nn.dat") -> None:
    """A set of the structures of `set_up`, and the potential that it is made for, with random parameters."""
    fresh_potential(potential)
    done("prepare", "si.poscar.dat", "--potential", potential, "--out", target, "--e-shift", "fit", "--quiet")


def log_rows(path: str) -> list[tuple[int, float]]:
    """Rows of a loss or validation log; every one must look as the format says."""
    text = Path(path).read_text()
    assert re.fullmatch(r"(\d{6,} \d\.\d{10}E[+-]\d\d+\n)*", text), text
    return [(int(step), float(value)) for step, value in (line.split() for line in text.splitlines())]


def weights(path: str) -> bytes:
    """The weights of a potential file as the bits of float64."""
    return pyfit_gpu.load_potential(path).networks.flat().numpy().tobytes()


# ---------------------------------------------------------------------------------------------------------------------
# processes


def subprocess_call(*words: object, cwd: Path | str = ".", timeout: float = 60) -> Result:
    """`python -m pyfit_gpu ...` in a process of its own."""
    command = [sys.executable, "-m", "pyfit_gpu", *map(str, words)]
    ended = subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout, check=False
    )
    return Result(ended.returncode, ended.stdout, ended.stderr)


# Imports once what every command needs, then forks a process for every command: real signals, limits and ends of
# processes without two seconds of imports for each.
_SERVER = """
import json, os, resource, signal, sys
import torch
import pyfit_gpu.commands.train.command, pyfit_gpu.commands.prepare, pyfit_gpu.commands.classic.job
from pyfit_gpu.commands.cli import main
torch.set_num_threads(1)
torch.optim.LBFGS([torch.zeros(1, requires_grad=True)])  # imports much when it is first made

def kill_at(point, when, number):
    real = getattr(os, point)
    def patched(*args, **keywords):
        if when == "before":
            os.kill(os.getpid(), number)
        result = real(*args, **keywords)
        if when == "after":
            os.kill(os.getpid(), number)
        return result
    setattr(os, point, patched)

def child(request):
    os.chdir(request["folder"])
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if request["file_size"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"],) * 2)
    if request["kill_at"]:
        kill_at(*request["kill_at"])
    status = main(request["words"])
    if request["to_the_end"]:
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

print("ready", flush=True)
for line in iter(sys.stdin.readline, ""):
    request = json.loads(line)
    if "wait" in request:
        answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
    else:
        answer = os.fork()
        if answer == 0:
            child(request)
    print(answer, flush=True)
"""


class Running:
    """A command in a process of its own."""

    def __init__(self, launcher: Launcher, pid: int, out: Path, err: Path) -> None:
        self.launcher = launcher
        self.pid = pid
        self._out = out
        self._err = err

    def wait(self, timeout: float = 60) -> Result:
        status = int(self.launcher.ask({"wait": self.pid}, timeout))
        return Result(status, self._out.read_text(), self._err.read_text())

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    @property
    def ended(self) -> bool:
        """Whether it has ended; until `wait` it stays a zombie."""
        state = Path(f"/proc/{self.pid}/stat")
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"


class Launcher:
    """Starts commands from a process that has already imported everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        self.server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A shell may have started the tests with SIGINT ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert self._answer(60) == "ready"

    def _answer(self, timeout: float) -> str:
        assert self.server.stdout is not None
        if not select.select([self.server.stdout], [], [], timeout)[0]:
            self.server.kill()
            raise AssertionError(f"no answer within {timeout} s")
        return self.server.stdout.readline().strip()

    def ask(self, request: dict[str, object], timeout: float) -> str:
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return self._answer(timeout)

    def start(
        self,
        *words: object,
        file_size: int = 0,
        kill_at: tuple[str, str, int] | None = None,
        to_the_end: bool = False,
    ) -> Running:
        """Start a command in the current folder.

        Args:
            file_size: limit on the size of files, as if the disk were full; 0: none.
            kill_at: (function of os, "before" or "after", signal): the process sends itself that signal there.
            to_the_end: with all that Python does when a process ends, which takes torch most of a second.
        """
        self.count += 1
        out, err = self.folder / f"{self.count}.out", self.folder / f"{self.count}.err"
        request = {
            "words": [str(word) for word in words],
            "folder": os.getcwd(),
            "out": str(out),
            "err": str(err),
            "file_size": file_size,
            "kill_at": kill_at,
            "to_the_end": to_the_end,
        }
        return Running(self, int(self.ask(request, 60)), out, err)

    def close(self) -> None:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait(60)
        self.server.stdout.close()


@contextlib.contextmanager
def launching(folder: Path) -> Iterator[Launcher]:
    launcher = Launcher(folder)
    try:
        yield launcher
    finally:
        launcher.close()


def wait_until(condition: Callable[[], bool], timeout: float = 30, pause: float = 0.002) -> None:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("waited in vain")
        time.sleep(pause)
