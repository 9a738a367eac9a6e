"""A run file that version 0.1.0 wrote, which named no optimiser, knows settings under the names they had."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands.helpers import done, refused

WORDS = ("train", "set.h5", "--potential", "start.nn.dat", "--out", "trained.nn.dat", "--members", 2, "--steps", 6,
         "--train-fraction", 0.5, "--force-weight", 0.1, "--stress-weight", 0.1, "--max-iterations", 3,
         "--n-threads", 1, "--force-cpu", "--resume", "--quiet")  # fmt: skip


@pytest.fixture(autouse=True)
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(Path(__file__).parents[2] / "data" / "version_0.1.0", tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")


def test_its_settings_have_the_names_they_had() -> None:
    message = r"resume: history_size: expected 6 \(the run's\), which cannot change, got 7"
    refused(*WORDS, "--history-size", 7, match=message)
    message = r"resume: line_search: expected strong-wolfe \(the run's\), got none \(--allow-change line_search\)"
    refused(*WORDS, "--history-size", 6, "--line-search", "none", match=message)
    done(*WORDS, "--history-size", 6, "--line-search", "none", "--allow-change", "line_search")
