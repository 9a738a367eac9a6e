"""The page of a running fit: what it shows, when it is written, and that it harms no fit."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands.helpers import call, done, names, prepare_set, refused, set_up
from sample_sets import make_potential

from pyfit_gpu.commands.train import live
from pyfit_gpu.commands.train.live import LivePage
from pyfit_gpu.training.history import LabelErrors, StepRecord

TRAIN = ("train", "si.h5", "--potential", "start.nn.dat", "--out", "fit.nn.dat")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)


@pytest.fixture
def prepared() -> None:
    prepare_set()


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def row(step: int, loss: float, validation: float | None = None, member: int = 0) -> StepRecord:
    errors = LabelErrors({"energy": loss, "forces": 2 * loss})
    return StepRecord(
        step, loss, validation, make_potential(), lambda: torch.zeros(1), errors,
        None if validation is None else LabelErrors({"energy": validation}),
        {"<even>": loss}, {} if validation is None else {"<even>": validation}, member,
    )  # fmt: skip


def curves(path: str = "live.html") -> dict[str, tuple[list[float], list[float]]]:
    text = Path(path).read_text()
    found = json.loads(re.search(r'id="plots">(.*?)</script>', text, re.DOTALL)[1])
    return {one["label"]: (one["x"], one["y"]) for one in found[0]["series"]}


def page(clock: Callable[[], float], numbers: tuple[int, ...] = (0,)) -> LivePage:
    return LivePage("live.html", "fit.nn.dat", numbers, 10, clock=clock)


def test_rows_become_curves_and_tables() -> None:
    clock = Clock()
    one = page(clock, (3, 4))
    for member, factor in ((0, 1.0), (1, 2.0)):
        (observer,) = one.observers(member)
        observer.on_start()
        for step in range(3):
            clock.now += 100.0
            observer.on_step(row(step, factor / (step + 1), factor if step == 1 else None))
    assert curves() == {
        "member 3, training": ([0, 1, 2], [1.0, 0.5, 0.333333]),
        "member 3, validation": ([1], [1.0]),
        "member 4, training": ([0, 1, 2], [2.0, 1.0, 0.666667]),
        "member 4, validation": ([1], [2.0]),
    }
    text = Path("live.html").read_text()
    assert "2 of 10" in text
    assert "&lt;even&gt;" in text
    assert 'http-equiv="refresh"' in text
    one.close()
    assert 'http-equiv="refresh"' not in Path("live.html").read_text()


def test_a_restart_begins_anew() -> None:
    one = page(Clock())
    (observer,) = one.observers(0)
    observer.on_start()
    observer.on_step(row(0, 1.0))
    observer.on_step(row(1, 0.5))
    observer.on_start()
    observer.on_step(row(0, 3.0))
    one.close()
    assert curves() == {"training": ([0], [3.0])}


def test_losses_that_are_no_numbers() -> None:
    one = page(Clock(), (0, 1))
    for member, loss in ((0, math.nan), (1, 0.5)):
        one.observers(member)[0].on_step(row(0, loss))
    one.close()
    assert curves() == {"member 1, training": ([0], [0.5])}
    assert ">0.5000 eV/atom<small>member 1<" in Path("live.html").read_text()


def test_a_validation_that_is_no_number_is_not_the_least() -> None:
    one = page(Clock(), (0, 1))
    for member, least in ((0, 0.6), (1, 0.5)):
        for step, validation in enumerate((math.nan, least)):
            one.observers(member)[0].on_step(row(step, 1.0, validation))
    one.close()
    assert ">0.5000 eV/atom<small>member 1<" in Path("live.html").read_text()


def test_pages_take_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that takes 1 s comes at most every 50 s; one that takes nothing every 2 s."""
    clock, written = Clock(), []

    def write(*_: object, seconds: float, **__: object) -> None:
        written.append(clock.now)
        clock.now += seconds

    for seconds, expected in ((1.0, [0.0, 51.0, 102.0]), (0.0, [0.0, 2.0, 4.0])):
        clock.now, written[:] = 0.0, []
        monkeypatch.setattr(live, "write_page", lambda *a, s=seconds, **k: write(*a, seconds=s, **k))
        one = page(clock)
        for step in range(1000):
            one.add(0, row(step, 1.0))
            clock.now += 0.25
            if len(written) == 3:
                break
        assert written == pytest.approx(expected, abs=0.3)


def test_no_page_costs_nothing() -> None:
    one = LivePage("", "fit", (0,), 10)
    assert one.observers(0) == []
    one.close()
    assert "live.html" not in names()


def test_train(prepared: None) -> None:
    done(*TRAIN, "--live", "live.html", "--steps", 2, "--members", 2, "--quiet")
    for k in range(2):
        losses = [float(line.split()[1]) for line in Path(f"fit.m00{k}.loss.txt").read_text().splitlines()]
        assert curves()[f"member {k}, training"][1] == pytest.approx(losses, rel=1e-5)
    text = Path("live.html").read_text()
    assert "the fit has ended" in text
    assert "odd" in text


def test_a_run_that_goes_on_shows_its_earlier_rows(prepared: None) -> None:
    done(*TRAIN, "--live", "live.html", "--steps", 2, "--quiet")
    done(*TRAIN, "--live", "live.html", "--steps", 4, "--quiet", "--resume")
    assert curves()["training"][0] == [0, 1, 2, 3, 4]


def test_the_fit_is_the_same_with_it(prepared: None) -> None:
    done(*TRAIN, "--steps", 2, "--quiet")
    without = Path("fit.nn.dat").read_bytes()
    done(*TRAIN, "--steps", 2, "--quiet", "--overwrite", "--live", "live.html")
    assert Path("fit.nn.dat").read_bytes() == without


def test_pages_that_cannot_be_written(prepared: None) -> None:
    refused(*TRAIN, "--live", "no/live.html", match="no/live.html: cannot write")
    Path("live.html").write_text("mine")
    refused(*TRAIN, "--live", "live.html", match="live.html: exists already")
    refused(*TRAIN, "--live", "si.h5", "--overwrite", match=r"live page: si.h5 is the .* as well")


def test_a_page_that_fails_later_does_not_end_the_fit(prepared: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyfit_gpu.errors import InputError

    def full(*_: object, **__: object) -> None:
        raise InputError("live.html: cannot write: No space left on device")

    monkeypatch.setattr(live, "write_page", full)
    found = call(*TRAIN, "--live", "live.html", "--steps", 2, "--quiet")
    assert found.status == 0
    assert found.err.count("the live page is not written any more: live.html: cannot write: No space") == 1
    assert Path("fit.nn.dat").exists()
