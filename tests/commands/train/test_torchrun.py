"""`torchrun -m pyfit_gpu train`: as many processes as one likes give the files of one, byte for byte."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from commands.helpers import ENVIRONMENT, Result, assert_same_files, done, snapshot, wait_until

from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.run_file import load_run
from pyfit_gpu.training.lanes import LANE_ATOMS

# Everything at once: forces, members, validation, groups that only test, targets of groups.
TRAIN = ("train", "si.h5", "--potential", "start.nn.dat", "--out", "out.nn.dat", "--steps", "3", "--device", "cpu",
         "--max-iterations", "2", "--members", "2", "--force-weight", "0.3", "--test-groups",
         "hot", "--group-target", "diamond_*=0.02", "--validation-interval", "2", "--backup-interval", "2",
         "--checkpoint-interval", "0", "--energy-volume-log", "volumes.txt", "--history-size", "10")  # fmt: skip
TIMEOUT = 100  # s; a process that waits for ever ends the test here


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, example_data: Path) -> Path:
    """A set of several lanes: the silicon of the examples 16 times, with other positions and the same labels."""
    folder = tmp_path_factory.mktemp("inputs")
    rng, copies = np.random.default_rng(0), []
    for _ in range(16):
        for atoms in ase.io.read(example_data / "si_dft.extxyz", ":"):
            copy = atoms.copy()
            copy.calc = SinglePointCalculator(copy, **atoms.calc.results)
            copy.positions += rng.normal(scale=0.05, size=copy.positions.shape)
            copies.append(copy)
    ase.io.write(folder / "si.extxyz", copies)
    lines = (example_data / "si.start.nn.dat").read_text().splitlines()
    lines[3:6] = [" 1 0.3 3.5 1.0 0.8", " 3 0 1 2", " 4 1.6 2.1 2.6 3.1"]  # few features and neighbours
    (folder / "start.nn.dat").write_text("\n".join([*lines[:7], " 3 12 6 1"]) + "\n")
    done("prepare", folder / "si.extxyz", "--potential", folder / "start.nn.dat", "--out", folder / "si.h5",
         "--quiet")  # fmt: skip
    assert int(load_training_set(folder / "si.h5").sizes.sum()) > 6 * LANE_ATOMS[-1] >= 3 * LANE_ATOMS[1]
    return folder


@pytest.fixture
def fresh(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Goes to a new folder with the inputs."""

    def go(name: str) -> None:
        (tmp_path / name).mkdir()
        for file in ("si.h5", "start.nn.dat"):
            os.link(inputs / file, tmp_path / name / file)
        monkeypatch.chdir(tmp_path / name)

    return go


@pytest.fixture(scope="module")
def expected(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | None]:
    """The files of one process without torchrun."""
    folder = tmp_path_factory.mktemp("one")
    for file in ("si.h5", "start.nn.dat"):
        os.link(inputs / file, folder / file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done(*TRAIN)
        return snapshot()


def command(n_processes: int, *words: object) -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", n_processes, "--master-port", port)
    return [sys.executable, *map(str, launcher), "-m", "pyfit_gpu", *map(str, words)]


def torchrun(n_processes: int, *words: object, environment: dict[str, str] | None = None) -> Result:
    ended = subprocess.run(
        command(n_processes, *words),
        env=environment or ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return Result(ended.returncode, ended.stdout, ended.stderr)


@pytest.mark.parametrize(
    ("n_processes", "deal"),
    [(2, "data"), *(pytest.param(*values, marks=pytest.mark.slow) for values in ((3, "data"), (2, "members")))],
)
def test_the_files_of_one_process(
    n_processes: int,
    deal: str,
    fresh: Callable[[str], None],
    expected: dict[str, bytes | None],
) -> None:
    fresh("several")
    result = torchrun(n_processes, *TRAIN, "--distribute", deal)
    assert result.status == 0, result.said
    assert f"{n_processes} processes share the work ({deal})" in result.out
    assert_same_files(snapshot(), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("n_processes", "deal"), [(2, "data"), (3, "data"), (2, "members")])
def test_gauss_newton_and_the_evidence(n_processes: int, deal: str, fresh: Callable[[str], None]) -> None:
    """Several processes that take over after four steps write the bytes of a single one."""
    words = [word for word in TRAIN if word not in ("--max-iterations", "--history-size", "10")]
    words.remove("2")  # of --max-iterations, the first
    own = (*words, "--optimizer", "gauss-newton", "--l2", "auto")
    fresh("one")
    done(*own, "--steps", "7")
    expected = snapshot()
    fresh("several")
    done(*own, "--steps", "4")
    result = torchrun(n_processes, *own, "--steps", "7", "--resume", "--distribute", deal)
    assert result.status == 0, result.said
    assert "parameters determined" in result.out
    assert_same_files(snapshot(), expected)


@pytest.mark.slow
def test_terminated_and_resumed_by_another_number(
    fresh: Callable[[str], None], expected: dict[str, bytes | None]
) -> None:
    """SIGTERM to the launcher saves and writes everything; one process goes on, then three finish."""
    fresh("cut")
    words = (*TRAIN, "--steps", "100000")  # free to change; it has not ended when the signal comes
    with subprocess.Popen(
        command(2, *words), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            log = Path("out.m000.loss.txt")
            wait_until(lambda: log.exists() and log.read_text().count("\n") >= 2, timeout=60)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode != 0
    assert "interrupted after" in out, out + err
    run = load_run("out.run.h5")
    steps = len(run.state.members[0]["history"]["loss"]) - 1
    assert {"out.nn.dat", "out.m000.nn.dat", "out.m001.nn.dat", "out.ranking.csv"} <= set(snapshot())
    print(f"stopped after {steps} steps")
    last = steps + 2
    done(*TRAIN, "--resume", "--steps", last - 1)
    result = torchrun(3, *TRAIN, "--resume", "--steps", last)
    assert result.status == 0, result.said
    found = snapshot()
    fresh("undisturbed")
    done(*TRAIN, "--steps", last)
    assert_same_files(found, snapshot())


INFORMED = ("train", "si.h5", "--potential", "start.pinn", "--out", "out.pinn", "--steps", "2", "--device", "cpu",
            "--members", "2", "--stress-weight", "0", "--backup-interval", "2",
            "--checkpoint-interval", "0")  # fmt: skip
SPREAD = ("--max-iterations", "2", "--spread-penalty", "0.02")
LANES = 64  # atoms at least: then a small set has several


@pytest.fixture(scope="module")
def informed_inputs(tmp_path_factory: pytest.TempPathFactory, example_data: Path) -> Path:
    folder = tmp_path_factory.mktemp("informed")
    ase.io.write(folder / "si.extxyz", ase.io.read(example_data / "si_dft.extxyz", "::4"))
    done("new", "--elements", "Si", "--cutoff", "3.6", "--hidden", "4", "--n-centers", "4", "--pinn", "--out",
         folder / "start.pinn", "--quiet")  # fmt: skip
    done("prepare", folder / "si.extxyz", "--potential", folder / "start.pinn", "--out", folder / "si.h5", "--e-shift",
         "102.457", "--quiet")  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("n_processes", "deal", "own"),
    [
        (2, "data", ("--force-weight", "0.1", *SPREAD)),
        pytest.param(3, "data", ("--force-weight", "0", "--baseline", "fit", *SPREAD), marks=pytest.mark.slow),
        pytest.param(3, "data", ("--force-weight", "0.1", *SPREAD), marks=pytest.mark.slow),
        pytest.param(2, "members", ("--force-weight", "0", "--baseline", "fit", *SPREAD), marks=pytest.mark.slow),
        pytest.param(
            3, "data", ("--force-weight", "0", "--optimizer", "gauss-newton", "--l2", "auto"), marks=pytest.mark.slow
        ),
    ],
    ids=["forces", "baseline and energies", "forces by three", "members", "gauss-newton"],
)
def test_physically_informed_networks(
    n_processes: int,
    deal: str,
    own: tuple[str, ...],
    informed_inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pyfit_gpu.training.lanes.LANE_ATOMS", (LANES,) * 3)
    words = (*INFORMED, *own, "--baseline-starts", "2") if "fit" in own else (*INFORMED, *own)
    files = []
    for name in ("one", "several"):
        (tmp_path / name).mkdir()
        for file in ("si.h5", "start.pinn"):
            os.link(informed_inputs / file, tmp_path / name / file)
        monkeypatch.chdir(tmp_path / name)
        if name == "one":
            done(*words)
        else:
            result = torchrun(n_processes, *words, "--distribute", deal, environment=_with_lanes(tmp_path))
            assert result.status == 0, result.said
            assert f"{n_processes} processes share the work ({deal})" in result.out
        files.append(snapshot())
    assert_same_files(*files)


def _with_lanes(folder: Path) -> dict[str, str]:
    """An environment in which sets of this size are shared."""
    path = folder / "path"
    path.mkdir()
    line = f"    lanes.LANE_ATOMS = ({LANES},) * 3\n"
    (path / "sitecustomize.py").write_text(
        f"import os\nif 'RANK' in os.environ:\n    import pyfit_gpu.training.lanes as lanes\n{line}"
    )
    joined = f"{path}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"
    return {**ENVIRONMENT, "PYTHONPATH": joined, "PYTHONDONTWRITEBYTECODE": "1"}


# ---------------------------------------------------------------------------------------------------------------------
# what is refused: one message, every process ends


def refused(*words: object, match: str, environment: dict[str, str] | None = None) -> None:
    """Both processes end by themselves or are ended by the launcher, and the first has one thing to say."""
    before = snapshot()
    result = torchrun(2, *words, environment=environment)
    assert result.status != 0, result.said
    messages = re.findall(r"^pyfit-gpu: error: .*$", result.err, re.MULTILINE)
    assert len(messages) == 1, result.said
    assert re.search(match, messages[0]), messages
    # The first failure that the launcher sees; the other process may have been ended by it before it got so far.
    assert re.search(r"Root Cause.*exitcode *: 2 ", result.err, re.DOTALL), result.err
    assert "RuntimeError" not in result.said, result.said
    assert_same_files(snapshot(), before)


def test_an_input_that_is_wrong(fresh: Callable[[str], None]) -> None:
    """Found by the first process."""
    fresh("wrong")
    Path("start.nn.dat").unlink()
    Path("start.nn.dat").write_text("not a potential\n")
    refused(*TRAIN, match="start.nn.dat")


@pytest.mark.slow
def test_fewer_members_than_processes(fresh: Callable[[str], None]) -> None:
    fresh("few")
    words = (*TRAIN, "--members", "1", "--distribute", "members")
    refused(*words, match=r"distribute: expected at least as many members as processes \(2\), got 1")


@pytest.mark.slow
def test_a_set_that_only_another_process_cannot_read(fresh: Callable[[str], None]) -> None:
    """A file system that is not the same everywhere."""
    fresh("elsewhere")
    Path("sitecustomize.py").write_text(
        "import os\nif os.environ.get('RANK') == '1':\n    from pathlib import Path\n    os.chdir('empty')\n"
    )
    Path("empty").mkdir()
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{os.getcwd()}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    refused(*TRAIN, match="process 1: si.h5: cannot read: No such file", environment=environment)


def test_files_for_validation_and_test(fresh: Callable[[str], None], inputs: Path) -> None:
    """Every process computes the same features from files of structures."""
    fresh("files")
    frames = ase.io.read(inputs / "si.extxyz", ":60")
    ase.io.write("v.extxyz", frames[:30])
    ase.io.write("t.extxyz", frames[30:])
    words = ("train", "si.h5", "--potential", "start.nn.dat", "--steps", "2", "--device", "cpu",
             "--validation", "v.extxyz", "--test", "t.extxyz", "--out")  # fmt: skip
    done(*words, "one.nn.dat")
    result = torchrun(2, *words, "two.nn.dat")
    assert result.status == 0, result.said
    for ending in (".nn.dat", ".loss.txt", ".validation.txt", ".groups.csv"):
        assert Path(f"one{ending}").read_bytes() == Path(f"two{ending}").read_bytes(), ending


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("pyfit_gpu.commands.train.preparation", "weight_windows"),
        pytest.param("pyfit_gpu.training.objective", "Objective.lane_values", marks=pytest.mark.slow),
    ],
)
def test_another_process_that_runs_out_of_memory(module: str, name: str, fresh: Callable[[str], None]) -> None:
    """While it reads, or at work: it says so, the first process says that it has gone, and there is no traceback."""
    fresh("short")
    Path("sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        f"    import {module} as module\n"
        "    def fail(*_, **__):\n"
        "        raise MemoryError\n"
        f"    module.{name} = fail\n"
    )
    path = f"{os.getcwd()}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"
    result = torchrun(2, *TRAIN, environment={**ENVIRONMENT, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"})
    assert result.status != 0, result.said
    assert "pyfit-gpu: error: out of memory" in result.err, result.said
    assert "pyfit-gpu: error: another process of this training has ended" in result.err, result.said
    assert not re.search("RuntimeError|MemoryError", result.said), result.said
