"""Limits: what breaks them, and files that are none."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pyfit_gpu.errors import InputError
from pyfit_gpu.report.contents import Value
from pyfit_gpu.report.gate import Gate, Limit, load_gate

VALUES = [
    Value("energy-rmse", 12.0, "meV/atom"),
    Value("energy-rmse", 30.0, "meV/atom", "group Surface_100"),
    Value("energy-rmse", 5.0, "meV/atom", "group Surface_111"),
    Value("C11", 150.0, "GPa", "diamond"),
    Value("vacancy-formation-energy", math.nan, "eV", "diamond", note="it dissolved"),
]


def gate(tmp_path: Path, text: str) -> Gate:
    (tmp_path / "gate.json5").write_text(text)
    return load_gate(tmp_path / "gate.json5")


def test_limits_that_are_kept(tmp_path: Path) -> None:
    text = """{limits: {"energy-rmse": {max: 12}, // the same number is allowed
              "C11 of diamond": {min: 150, max: 160}, "energy-rmse of group *": {max: 30}}}"""
    assert gate(tmp_path, text).violations(VALUES) == []


@pytest.mark.parametrize(
    ("limit", "line"),
    [
        (Limit("energy-rmse", high=10), "energy-rmse: 12.00 meV/atom is above 10"),
        (Limit("C11 of *", low=151), "C11 of diamond: 150.000 GPa is below 151"),
        (Limit("energy-rmse of group Surface*", high=20),
         "energy-rmse of group Surface_100: 30.00 meV/atom is above 20"),
        (Limit("vacancy-formation-energy of diamond", low=0),
         "vacancy-formation-energy of diamond: not known (it dissolved)"),
        (Limit("energy-rsme", high=1), "energy-rsme: the report has no value of this name (there is energy-rmse"),
    ],
)  # fmt: skip
def test_broken_limits(limit: Limit, line: str) -> None:
    (found,) = Gate((limit,)).violations(VALUES)
    assert found.startswith(line)


def test_a_name_with_brackets_matches_itself() -> None:
    values = [Value("energy-rmse", 12.0, "meV/atom", "group a[1]")]
    assert len(Gate((Limit("energy-rmse of group a[1]", high=1),)).violations(values)) == 1
    assert Gate((Limit("energy-rmse of group a[1]", high=13),)).violations(values) == []


def test_phases_that_should_be_stable(tmp_path: Path) -> None:
    assert gate(tmp_path, "{}").stable is None
    assert gate(tmp_path, '{stable: ["fcc"]}').stable == ("fcc",)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{limits: {", "gate.json5: expected JSON5"),
        ("[1]", "expected an object, found a list"),
        ("{limit: {}}", "limit: expected limits or stable"),
        ("{limits: [1]}", "limits: expected an object with a limit by name, found a list"),
        ("{limits: {C11: 3}}", r"limits: C11: expected min, max or both.*found 3"),
        ("{limits: {C11: {}}}", r"limits: C11: expected min, max or both"),
        ("{limits: {C11: {maximum: 3}}}", r"limits: C11: expected min, max or both"),
        ("{limits: {C11: {max: '3'}}}", r"limits: C11: max: expected a number, found '3'"),
        ("{limits: {C11: {max: true}}}", r"limits: C11: max: expected a number, found True"),
        ("{limits: {C11: {max: NaN}}}", r"limits: C11: max: expected a number, found nan"),
        (f"{{limits: {{C11: {{max: {10**400}}}}}}}", r"limits: C11: max: expected a number, found 1000"),
        ("{limits: {C11: {min: 4, max: 3}}}", r"limits: C11: expected min <= max, found 4 and 3"),
        ("{stable: ['fcc', 1]}", "stable: expected a list of phases, found a list of something else"),
        ("{stable: 'fcc'}", "stable: expected a list of phases, found text"),
    ],
)
def test_files_that_are_no_limits(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        gate(tmp_path, text)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.json5: cannot read: No such file"):
        load_gate(tmp_path / "none.json5")


def test_binary_file(tmp_path: Path) -> None:
    (tmp_path / "gate").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="gate: expected JSON5"):
        load_gate(tmp_path / "gate")
