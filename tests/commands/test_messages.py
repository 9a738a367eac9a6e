"""Messages of the library, in the words of the command line."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

import pyfit_gpu
from pyfit_gpu.commands.messages import _WORDS, OptionsFormatter, found_faults, in_options, shown
from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.files import check_output

PACKAGE = Path(pyfit_gpu.__file__).parent
LIBRARY = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "commands"]


def test_every_remedy_has_words() -> None:
    assert set(_WORDS) == set(Remedy)


@pytest.mark.parametrize("file", LIBRARY, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_the_library_knows_no_options(file: Path) -> None:
    assert not re.findall(r"--[a-z][\w-]*", file.read_text(encoding="utf-8"))


def test_in_options() -> None:
    assert in_options(InputError("a fault")) == "a fault"
    error = InputError("set.dat: no splits", where="set.dat", remedy=Remedy.CONVERT)
    assert in_options(error) == "set.dat: no splits (pyfit-gpu convert set.dat SET.h5)"
    assert "--" not in str(error)


def test_faults(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    faults = found_faults(
        lambda: check_output(tmp_path / "there", overwrite=False),
        lambda: check_output(tmp_path / "new", overwrite=False),
    )
    assert faults == [f"{tmp_path}/there: exists already (give --overwrite to replace it, --unique to number it)"]


@pytest.mark.parametrize("args", [(Remedy.E_SHIFT,), (3, Remedy.E_SHIFT), ()])
def test_log_records(args: tuple[object, ...]) -> None:
    text = "taken " + " ".join("%s" for _ in args)
    record = logging.LogRecord("pyfit_gpu", logging.WARNING, "", 0, text, args, None)
    said = OptionsFormatter("warning: %(message)s").format(record)
    assert said == "warning: taken " + " ".join(
        "give --e-shift" if value is Remedy.E_SHIFT else str(value) for value in args
    )
    assert "--" not in record.getMessage()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, Å and \u4e2d\n second line", "plain, Å and \u4e2d\n second line"),
        ("\x1b]0;title\x07\x1b[31mred", r"\x1b]0;title\x07\x1b[31mred"),
        ("over\rwritten\t\x7f\x9b0m", r"over\rwritten\t\x7f\x9b0m"),
        ("\u202eabc\u2066\u200b\u2028", r"\u202eabc\u2066\u200b\u2028"),
        ("\ud800", r"\ud800"),
        ("", ""),
    ],
)
def test_shown(text: str, expected: str) -> None:
    """Nothing that a terminal would obey, and nothing that UTF-8 cannot hold."""
    assert shown(text) == expected
    assert shown(text).encode().decode() == expected
    assert shown(shown(text)) == expected
    record = logging.LogRecord("pyfit_gpu", logging.INFO, "", 0, "read %s", (text,), None)
    assert OptionsFormatter("%(message)s").format(record) == f"read {expected}"
