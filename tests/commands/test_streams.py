"""Standard output and error that are closed, full, broken or of few letters: the work is done all the same."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands.helpers import ENVIRONMENT, done, log_rows, set_up

from pyfit_gpu.commands.streams import TolerantStream, output_fault, tolerant_streams

FULL = Path("/dev/full")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of bash, in which $PYFIT is the program, with the buffers that streams usually have."""
    environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": "", "PYFIT": f"{sys.executable} -m pyfit_gpu", **environment}
    return subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


TRAIN = "$PYFIT train set.h5 --potential si.nn.dat --out out.nn.dat --steps 2"


@pytest.mark.parametrize("streams", ["> /dev/full 2>&1", ">&- 2>&- <&-", "2>&1 | true", "> /dev/full 2>&-"])
def test_training(streams: str) -> None:
    """With messages, warnings and progress on both streams."""
    if "full" in streams and not FULL.exists():
        pytest.skip("needs /dev/full")
    done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "set.h5", "--quiet")
    ended = shell(f"set -o pipefail; {TRAIN} --train-fraction 0.99 {streams}")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert len(log_rows("out.loss.txt")) == 3
    assert Path("out.nn.dat").exists()
    assert not [name for name in os.listdir() if name.endswith(".partial")]


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", ["info si.nn.dat", "run -h", "--help"])
def test_a_verb_whose_product_is_lost(words: str) -> None:
    ended = shell(f"$PYFIT {words} > /dev/full")
    assert ended.returncode == 1
    assert ended.stderr == "pyfit-gpu: error: standard output: No space left on device\n"


def test_letters_that_the_output_does_not_have() -> None:
    ended = shell("$PYFIT info si.nn.dat", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert ended.returncode == 0
    assert r"width 1 \xc5" in ended.stdout
    assert ended.stderr == ""


class Broken(io.StringIO):
    """Stream that fails until it is mended."""

    error: Exception | None = BrokenPipeError("gone")

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


def test_faults_are_noted_and_raise_nothing() -> None:
    below = Broken()
    stream = TolerantStream(below)
    assert stream.write("lost") == 4
    below.error = OSError("full")
    stream.write("lost, too")
    assert isinstance(stream.fault, BrokenPipeError)  # the first
    below.error = None
    stream.write("Å")
    assert below.getvalue() == "Å"
    stream.settle()
    below.close()
    stream.write("to a closed stream")
    stream.flush()


def test_letters(tmp_path: Path) -> None:
    with open(tmp_path / "out", "w", encoding="latin-1") as file:
        TolerantStream(file).write("Å α \udcff\n")
    assert (tmp_path / "out").read_bytes() == b"\xc5 \\u03b1 \\udcff\n"


def test_streams_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that Python does not have."""
    monkeypatch.setattr(sys, "stdout", None)
    before = sys.stderr
    with tolerant_streams():
        print("nowhere")
        print("there", file=sys.stderr)
        assert output_fault() is None
    assert sys.stdout is None
    assert sys.stderr is before
