"""The baseline of a physically informed network is fitted first: what is seen of it, and what interruptions leave."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from commands.helpers import assert_same_files, call, done, refused, set_up_informed, snapshot, weights

import pyfit_gpu as pf
from pyfit_gpu.commands.interrupts import Terminated
from pyfit_gpu.commands.train.logs import ProgressRows
from pyfit_gpu.training.fit import fit

TRAIN = ("train", "si.h5", "--potential", "start.pinn", "--backup-dir", "", "--force-weight", 0, "--stress-weight", 0,
         "--steps", 2, "--baseline", "fit", "--baseline-starts", 2)  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up_informed(tmp_path, monkeypatch)


def baseline(path: str) -> tuple[float, ...]:
    return pf.load_potential(path, seed=1).bond_order_parameters


def test_its_progress_is_shown() -> None:
    said = done(*TRAIN, "--out", "out.pinn").said
    assert "baseline, 2 starts compete: 30/30 steps, loss " in said
    assert "eV/atom (best of 2), " in said
    assert "baseline, the best goes on: 15/15 steps, loss " in said
    assert "stopped before its end" not in said
    assert "compete:" not in done(*TRAIN, "--out", "quiet.pinn", "--quiet").err


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_an_interruption_meanwhile_leaves_nothing(
    error: type[BaseException], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command then gives what it would have given."""

    def interrupted(rows: ProgressRows, row: Any) -> None:
        if row.step == 3:
            raise error

    done(*TRAIN, "--out", "whole.pinn")
    before = snapshot()
    with monkeypatch.context() as patch:
        patch.setattr(ProgressRows, "on_step", interrupted)
        result = call(*TRAIN, "--out", "out.pinn", "--resume")
    assert result.status == status
    assert "while the baseline was fitted: nothing is written, the same command fits it anew" in result.said
    assert_same_files(snapshot(), before)
    done(*TRAIN, "--out", "out.pinn", "--resume")
    assert weights("out.pinn") == weights("whole.pinn")


def test_an_interruption_after_it_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything has trained: the run file has the baseline, and the run goes on to the same bits."""
    done(*TRAIN, "--out", "whole.pinn")

    def killed(*arguments: Any, **named: Any) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return fit(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr("pyfit_gpu.commands.train.job.fit", killed)
        assert call(*TRAIN, "--out", "out.pinn").status == 143
    assert baseline("out.pinn") == baseline("whole.pinn")
    said = done(*TRAIN, "--out", "out.pinn", "--resume").said
    assert "starts compete" not in said
    assert weights("out.pinn") == weights("whole.pinn")


def test_a_stop_file_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers found by then are kept, which is said."""

    def stopping(rows: ProgressRows, row: Any) -> None:
        if row.step == 3:
            Path("stop").touch()

    with monkeypatch.context() as patch:
        patch.setattr(ProgressRows, "on_step", stopping)
        said = done(*TRAIN, "--out", "out.pinn", "--stop-file", "stop").said
    assert "baseline: stopped before its end, after 3 and 0 steps: it is kept as it is" in said
    found = baseline("out.pinn")
    assert found != baseline("start.pinn")
    Path("stop").unlink()
    assert "starts compete" not in done(*TRAIN, "--out", "out.pinn", "--stop-file", "stop", "--resume").said
    assert baseline("out.pinn") == found


def test_faults_are_found_before_it() -> None:
    """Not after minutes: a weight for labels that no structure has, a limit of memory that is too low, no positions."""
    said = refused(*TRAIN, "--out", "out.pinn", "--force-weight", 0.1, match="force_weight: expected 0, got 0.1").said
    assert "compete" not in said
    said = refused(*TRAIN, "--out", "out.pinn", "--memory", "1M", match="memory: expected at least").said
    assert "compete" not in said
    done("convert", "si.h5", "si.dat")
    said = refused("train", "si.dat", *TRAIN[2:], "--out", "out.pinn", match="needs positions, which this").said
    assert "compete" not in said
