"""A run file that version 0.1.0 wrote goes on, to the losses that version 0.1.0 went on to."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands.helpers import done, refused

from pyfit_gpu.formats.run_file import load_run

WORDS = ("train", "set.h5", "--potential", "start.nn.dat", "--out", "trained.nn.dat", "--members", 2, "--steps", 6,
         "--train-fraction", 0.5, "--force-weight", 0.1, "--stress-weight", 0.1, "--max-iterations", 3,
         "--n-threads", 1, "--force-cpu", "--resume", "--quiet")  # fmt: skip


@pytest.fixture(autouse=True)
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(Path(__file__).parents[2] / "data" / "version_0.1.0", tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")


def test_it_goes_on() -> None:
    assert "optimizer" not in load_run("trained.run.h5").settings
    done(*WORDS, "--history-size", 6)
    for k in range(2):
        found, expected = (np.loadtxt(f"{name}.m00{k}.loss.txt") for name in ("trained", "resumed"))
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    run = load_run("trained.run.h5")
    assert (run.settings["optimizer"], run.settings["history_size"], run.done) == ("lbfgs", 6, True)


def test_its_settings_have_the_names_they_had() -> None:
    message = r"resume: history_size: expected 6 \(the run's\), which cannot change, got 7"
    refused(*WORDS, "--history-size", 7, match=message)
    message = r"resume: line_search: expected strong-wolfe \(the run's\), got none \(--allow-change line_search\)"
    refused(*WORDS, "--history-size", 6, "--line-search", "none", match=message)
    done(*WORDS, "--history-size", 6, "--line-search", "none", "--allow-change", "line_search")
