"""Texts of options as values."""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Callable

import pytest
from sample_sets import make_potential

from pyfit_gpu.commands import parsing
from pyfit_gpu.commands.parsing import (
    duration,
    finite,
    group_rules_as_text,
    parse_by_group,
    parse_number,
    parse_shift,
    parse_triples,
    parse_windows,
    shard,
    triples_as_text,
    whole,
    windows_as_text,
)
from pyfit_gpu.commands.train.options import WeightOptions, with_plain_rules
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats import text_lines
from pyfit_gpu.formats.run_file import Run
from pyfit_gpu.models.energy_shift import METHODS


class TestParse:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("107.1", 107.1),
            ("-1e-3", -1e-3),
            ("0", 0.0),
            ("Si=107.1,C=154.9", {"Si": 107.1, "C": 154.9}),
            (" C = -1.5 , Si = 2 ", {"C": -1.5, "Si": 2.0}),
            ("Si=1", {"Si": 1.0}),
            ("fit", "fit"),
            ("isolated", "isolated"),
            ("atomisation", "atomisation"),
        ],
    )
    def test_forms(self, text: str, expected: object) -> None:
        assert parse_shift(text) == expected

    @pytest.mark.parametrize(
        "text",
        ["", "one", "nan", "inf", "1_0", "FIT", "fitted", "Si=", "Si=x", "Si=nan", "=3", "Si=1,", "Si=1,2", "1,2"],
    )
    def test_anything_else(self, text: str) -> None:
        with pytest.raises(
            InputError, match=r"--e-shift: expected a finite number .*Si=.*fit, isolated or atomisation, got"
        ) as error:
            parse_shift(text)
        assert repr(text) in str(error.value)

    def test_an_element_twice(self) -> None:
        with pytest.raises(InputError, match=r"--e-shift: expected every element once, got Si twice"):
            parse_shift("Si=1,C=2,Si=1")


class TestWords:
    def test_by_group(self) -> None:
        found = parse_by_group(["a=1", "b*=0", "x=y=2.5e-3", "c= 4"], "--group-weight")
        assert found == (("a", 1.0), ("b*", 0.0), ("x=y", 0.0025), ("c", 4.0))
        assert parse_by_group([], "--group-weight") == ()

    def test_windows(self) -> None:
        found = parse_windows([":0.1=2", "0.1:1=1", "1:=0", ":=3", "-0.5:.5=1"], "--window-weight")
        expected = [(-math.inf, 0.1, 2), (0.1, 1, 1), (1, math.inf, 0), (-math.inf, math.inf, 3), (-0.5, 0.5, 1)]
        assert found == tuple(expected)

    @pytest.mark.parametrize(
        ("value", "match"),
        [
            ("a", "expected PATTERN=NUMBER, got 'a'"),
            ("", "expected PATTERN=NUMBER, got ''"),
            ("=1", "expected PATTERN=NUMBER, got '=1'"),
            ("a=", "expected a number of 0 or more, got ''"),
            ("a=b", "expected a number of 0 or more, got 'b'"),
            ("a=-1", "expected a number of 0 or more, got '-1'"),
            ("a=nan", "expected a number of 0 or more, got 'nan'"),
            ("a=inf", "expected a number of 0 or more, got 'inf'"),
        ],
    )
    def test_faults_by_group(self, value: str, match: str) -> None:
        with pytest.raises(InputError, match=rf"^--group-target.*{match}"):
            parse_by_group(["ok=1", value], "--group-target")

    @pytest.mark.parametrize(
        ("value", "match"),
        [
            ("0:1", "expected LOW:HIGH=NUMBER, got '0:1'"),
            ("1=2", "expected LOW:HIGH=NUMBER, got '1=2'"),
            ("0:1:2=3", "expected a number of eV/atom or nothing, got '1:2'"),
            ("a:1=1", "expected a number of eV/atom or nothing, got 'a'"),
            ("0:inf=1", "expected a number of eV/atom or nothing, got 'inf'"),
            ("nan:1=1", "expected a number of eV/atom or nothing, got 'nan'"),
            ("1:0=1", "expected a lower end below the upper one, got 1 and 0"),
            ("1:1=1", "expected a lower end below the upper one, got 1 and 1"),
            ("0:1=x", "expected a number of 0 or more, got 'x'"),
            ("0:1=-2", "expected a number of 0 or more, got '-2'"),
        ],
    )
    def test_faults_of_windows(self, value: str, match: str) -> None:
        with pytest.raises(InputError, match=rf"^--window-weight.*{match}"):
            parse_windows([value], "--window-weight")

    def test_back_as_text(self) -> None:
        """Equal rules have one text, however they were written."""
        rules = parse_by_group(["a=2", "b*=2.0", "x=y=1e-3"], "")
        assert group_rules_as_text(rules) == ["a=2.0", "b*=2.0", "x=y=0.001"]
        assert parse_by_group(group_rules_as_text(rules), "") == rules
        windows = parse_windows([":0.1=2", "0.1:1=1", "1:=.5", ":=3"], "")
        assert windows_as_text(windows) == [":0.1=2.0", "0.1:1.0=1.0", "1.0:=0.5", ":=3.0"]
        assert parse_windows(windows_as_text(windows), "") == windows

    def test_triples(self) -> None:
        found = parse_triples(["112", "2,10,12", "0,0,0"], "--triples")
        assert found == ((1, 1, 2), (2, 10, 12), (0, 0, 0))
        assert triples_as_text(found) == "112 2,10,12 000"
        assert parse_triples(triples_as_text(found).split(), "") == found
        assert triples_as_text([]) == "none"
        assert parse_triples(["none"], "") == ()

    @pytest.mark.parametrize(
        "word", ["", "11", "1122", "1,1", "1,1,", "1,1,2,2", "1 2", "-11", "1.2", "a", "none", "١١٢"]
    )
    def test_faults_of_triples(self, word: str) -> None:
        with pytest.raises(InputError, match=r"^--triples: expected three Legendre orders a word.*, got ") as error:
            parse_triples(["112", word], "--triples")
        assert repr(word) in str(error.value)


class TestNumbers:
    @pytest.mark.parametrize("text", ["1", "-1e-3", " 2.5 ", ".5", "0", "nan", "inf", "1_0", "", "x", "1,5", "0x10"])
    def test_as_the_files(self, text: str) -> None:
        assert parse_number(text) == text_lines.parse_number(text)

    @pytest.mark.parametrize(
        ("parse", "text", "expected"),
        [
            (whole, "12", 12),
            (finite, "-1.5e2", -150.0),
            (duration, "1.5", 90.0),
            (duration, "1:02:03", 3723.0),
            (duration, "90s", 90.0),
            (duration, "30m", 1800.0),
            (duration, "2h", 7200.0),
            (duration, "0.5h", 1800.0),
            (shard, "0/4", (0, 4)),
        ],
    )
    def test_forms(self, parse: Callable[[str], object], text: str, expected: object) -> None:
        assert parse(text) == expected

    @pytest.mark.parametrize(
        ("parse", "text"),
        [
            *((whole, text) for text in ("-1", "1.0", "", "²", "1_0")),
            *((finite, text) for text in ("nan", "inf", "1_0", "", "x")),
            *((duration, text) for text in ("-1", "1:2", "1:2:3:4", "a:b:c", "nan", "s", "-3s", "3d", "1h30m", "")),
            *((shard, text) for text in ("4/4", "1", "/2", "-1/2", "1/x")),
        ],
    )
    def test_anything_else(self, parse: Callable[[str], object], text: str) -> None:
        with pytest.raises(argparse.ArgumentTypeError, match=r"expected .*, got"):
            parse(text)


def test_methods_of_shifts() -> None:
    assert parsing.SHIFT_METHODS == METHODS


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, pyfit_gpu.commands.options; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rules_of_an_earlier_run() -> None:
    """Version 0.1.0 kept the words of its command line."""
    earlier = {"group_weight": ["a=2", "b*=2.0e0"], "window_weight": [":1=.5"], "steps": 3}
    run = Run(make_potential(), None, earlier, {}, {}, 0, False)  # type: ignore[arg-type]
    asked = WeightOptions(parse_by_group(["a=2.0", "b*=2"], ""), parse_windows([":1.0=0.5"], ""))
    assert with_plain_rules(run).settings == {**asked.as_settings(), "steps": 3}
    assert run.settings == earlier
