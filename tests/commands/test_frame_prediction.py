"""Frames that are read in parts, as a GPU computes them: the same files, and every value at its place."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from commands.helpers import done, set_up

from pyfit_gpu.commands import evaluate, jobs
from pyfit_gpu.commands.frame_prediction import FramePrediction
from pyfit_gpu.commands.jobs import Sources, read_all_frames, read_windows
from pyfit_gpu.formats.dft_inputs import in_windows

GPU = torch.device("cuda", 0)
SIZES = (2, 1, 3)


def prediction(rows: range) -> FramePrediction:
    """Everything that there can be, numbered by frame."""
    per_atom = [np.full((SIZES[row], 3), row, dtype=float) for row in rows]
    energy, stress = np.array([float(row) for row in rows]), np.array([[row] * 6 for row in rows], dtype=float)
    spread = FramePrediction(energy + 10, per_atom, stress + 10)
    bars = FramePrediction(energy + 20, per_atom, None)
    return FramePrediction(energy, per_atom, stress, spread, [own[:, 0] for own in per_atom], bars)


def test_parts_are_joined() -> None:
    found, expected = FramePrediction.joined([prediction(range(2)), prediction(range(2, 3))]), prediction(range(3))
    assert found.spread
    assert expected.spread
    assert found.error_bars
    assert expected.error_bars
    for own, known in ((found, expected), (found.spread, expected.spread), (found.error_bars, expected.error_bars)):
        np.testing.assert_array_equal(own.energy, known.energy)
        assert [part.tolist() for part in own.forces or []] == [part.tolist() for part in known.forces or []]
        assert (own.stress is None) == (known.stress is None)
        if own.stress is not None and known.stress is not None:
            np.testing.assert_array_equal(own.stress, known.stress)
    assert [part.tolist() for part in found.grades or []] == [part.tolist() for part in expected.grades or []]


def test_what_is_not_known_stays_so() -> None:
    part = FramePrediction(np.zeros(2), None, None)
    found = FramePrediction.joined([part, part])
    assert found.energy.shape == (4,)
    assert (found.forces, found.stress, found.spread, found.grades, found.error_bars) == (None,) * 5


@pytest.fixture
def small_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)
    monkeypatch.setattr(jobs, "in_windows", partial(in_windows, most=20))


@pytest.mark.usefixtures("small_windows")
def test_a_gpu_gets_parts_and_the_log_says_once_what_was_read(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sources = Sources.of(["si.poscar.dat", "si.poscar.dat"])
    expected = [frame.source for frame in read_all_frames(sources, training=False)]
    caplog.clear()
    windows = list(read_windows(sources, GPU))
    assert len(windows) > 2
    assert [frame.source for window in windows for frame in window] == expected
    assert [record.getMessage().split(" ")[:2] for record in caplog.records] == [["read", str(len(expected))]]
    assert len(list(read_windows(sources, torch.device("cpu")))) == 1


@pytest.mark.usefixtures("small_windows")
def test_evaluated_in_parts_it_is_the_same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("evaluate", "si.poscar.dat", "--potential", "si.nn.dat", "--out")
    done(*command, "whole.extxyz")
    monkeypatch.setattr(evaluate, "read_windows", lambda sources, device: read_windows(sources, GPU))
    done(*command, "parts.extxyz")
    assert Path("parts.extxyz").read_bytes() == Path("whole.extxyz").read_bytes()
