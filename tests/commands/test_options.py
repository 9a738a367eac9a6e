"""Options that are made from the fields of an optimiser's settings: defaults, types, words to choose from."""

from __future__ import annotations

from dataclasses import fields

import pytest

from pyfit_gpu.commands.options import build_parser
from pyfit_gpu.commands.train_settings import optimizer_of
from pyfit_gpu.optimizers.lbfgs_settings import LBFGSSettings

TRAIN = ["set.h5", "--potential", "si.nn.dat", "--out", "out.nn.dat"]
PLAN = ["set.h5", "--potential", "si.nn.dat"]


def asked(verb: str, *words: str) -> object:
    required = TRAIN if verb == "train" else PLAN
    options = build_parser()[1][verb].parse_strictly([*required, *words])
    return optimizer_of(options, options.optimizer)


@pytest.mark.parametrize("verb", ["train", "plan"])
def test_without_options_the_settings_are_the_defaults(verb: str) -> None:
    assert asked(verb) == LBFGSSettings()


def test_every_setting_is_an_option() -> None:
    given = LBFGSSettings("none", 0.25, 7, 5, 9, 1e-5, 1e-6, 8)
    words = [f"--{one.name.replace('_', '-')}={getattr(given, one.name)}" for one in fields(given)]
    found = asked("train", *words)
    assert found == given
    for one in fields(given):
        assert type(getattr(found, one.name)) is type(getattr(given, one.name)), one.name


def test_a_plan_asks_for_what_decides_the_memory() -> None:
    assert asked("plan", "--history-size", "7") == LBFGSSettings(history_size=7)
    with pytest.raises(SystemExit):
        asked("plan", "--max-iterations", "7")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--line-search", "wolfe"), "choose from"),
        (("--max-iterations", "2.5"), "expected a whole number >= 0, got '2.5'"),
        (("--max-evaluations", "x"), "expected a whole number >= 0, got 'x'"),
        (("--tolerance-change", "nan"), "expected a finite number, got 'nan'"),
    ],
)
def test_what_is_no_value(words: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        asked("train", *words)
    assert message in capsys.readouterr().err


def test_the_help_tells_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser()[1]["train"].parse_strictly(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--line-search {strong-wolfe,none} how far along a direction (strong-wolfe)" in text
    assert "--learning-rate R LBFGS step (1; without line search 0.05)" in text
    assert "--history-size N pairs that LBFGS remembers (100)" in text
    assert "--tolerance-gradient G largest component, ends a step (1e-7)" in text
