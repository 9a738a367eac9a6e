"""Each obstacle to fused kernels: one line, and the other way."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch

from pyfit_gpu import fused

CARD = torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A card that can do everything, on which the trial runs well."""
    monkeypatch.setattr(fused, "_known", {})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("PYFIT_FUSED", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    trial(monkeypatch, lambda device: None)


def trial(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda name: type("Trial", (), {"run": staticmethod(run)}))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_cpu_has_none_and_needs_no_word(caplog: pytest.LogCaptureFixture) -> None:
    assert not fused.has_fused_kernels(torch.device("cpu"))
    assert lines(caplog) == []


@pytest.mark.usefixtures("card")
def test_a_good_card(caplog: pytest.LogCaptureFixture) -> None:
    assert fused.has_fused_kernels(CARD)
    assert lines(caplog) == []


def refuse(device: torch.device) -> None:
    raise RuntimeError("no kernel image is available\nand more lines")


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("switch", "switched off by PYFIT_FUSED=0"),
        ("triton", "triton is not installed"),
        ("card", "expected a card of compute capability 8.0 or more, found 7.5"),
        ("compiler", "no C compiler was found"),
        ("trial", "RuntimeError: no kernel image is available"),
    ],
)
def test_obstacles(what: str, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    if what == "switch":
        monkeypatch.setenv("PYFIT_FUSED", "0")
    elif what == "triton":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    elif what == "card":
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    elif what == "compiler":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    else:
        trial(monkeypatch, refuse)
    for _ in range(3):
        assert not fused.has_fused_kernels(CARD)
    (line,) = lines(caplog)
    assert said in line
    assert "more lines" not in line
    assert line.endswith("torch's operations are used, which are slower")


@pytest.mark.usefixtures("card")
def test_a_compiler_that_is_named_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("CC", "icx")
    assert fused.has_fused_kernels(CARD)


@pytest.mark.usefixtures("card")
def test_a_cache_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file stands where the folder should be: that holds for root, too, whom no permission stops."""
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "home" / "cache"))
    assert fused.has_fused_kernels(CARD)
    (line,) = lines(caplog)
    assert "cannot be written" in line
    assert Path(os.environ["TRITON_CACHE_DIR"]).is_dir()


@pytest.mark.usefixtures("card")
def test_memory_that_runs_out_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(device: torch.device) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    trial(monkeypatch, full)
    with pytest.raises(torch.OutOfMemoryError):
        fused.has_fused_kernels(CARD)


@pytest.mark.usefixtures("card")
def test_giving_up_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    assert fused.has_fused_kernels(CARD)
    for _ in range(2):
        fused.give_up(CARD, ValueError("too many registers"))
    assert not fused.has_fused_kernels(CARD)
    (line,) = lines(caplog)
    assert "ValueError: too many registers" in line


def test_faults_of_kernels_are_known_by_where_they_come_from() -> None:
    from subprocess import CalledProcessError

    assert fused.is_fault_of_kernels(CalledProcessError(1, ["gcc"]))
    assert fused.is_fault_of_kernels(OSError(28, "No space left on device"))
    assert not fused.is_fault_of_kernels(torch.OutOfMemoryError("CUDA out of memory"))
    assert not fused.is_fault_of_kernels(ValueError("positions"))


@pytest.mark.usefixtures("card")
def test_memory_that_ends_where_triton_notices_it_is_torchs_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever halves batches waits for that one; the kernels stay."""

    def full(*nothing: object) -> None:
        raise RuntimeError("Triton Error [CUDA]: out of memory")

    assert fused.has_fused_kernels(CARD)
    with pytest.raises(torch.OutOfMemoryError):
        fused.by_kernels(CARD, full, lambda: None)
    assert fused.has_fused_kernels(CARD)
    fused._known.clear()
    trial(monkeypatch, full)
    with pytest.raises(torch.OutOfMemoryError):
        fused.has_fused_kernels(CARD)
