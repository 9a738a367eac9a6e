"""Extrapolation grades on the command line: the file beside a potential, columns, the list of the farthest out."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from commands.helpers import done, poscar_blocks, refused, set_up, write_poscar

import pyfit_gpu as pf
from pyfit_gpu.formats.uncertainty_file import save_uncertainty
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.training.clusters import build_extrapolation_grade

EVALUATE = ("evaluate", "si.poscar.dat", "--potential", "si.nn.dat")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Working folder with structures, a potential, and grades for the first 14 of 34 structures."""
    set_up(tmp_path, monkeypatch)
    blocks = poscar_blocks("si.poscar.dat")
    write_poscar("training.poscar.dat", blocks[:14])
    potential = pf.load_potential("si.nn.dat")
    train = pf.build_training_set(pf.load_structures("training.poscar.dat"), potential)
    save_uncertainty(Uncertainty.of(potential, build_extrapolation_grade(train, potential)), "si.uncertainty.txt")


def rows_of(path: str) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def expected_grades() -> list[torch.Tensor]:
    from pyfit_gpu.formats.uncertainty_file import load_uncertainty

    structures, potential = pf.load_structures("si.poscar.dat"), pf.load_potential("si.nn.dat")
    found = predict(potential, structures, uncertainty=load_uncertainty("si.uncertainty.txt")).uncertainty
    assert found is not None
    return list(found.grade.split(structures.sizes))


def test_columns_of_the_table() -> None:
    said = done(*EVALUATE, "--out", "out.csv").said
    expected = expected_grades()
    rows = rows_of("out.csv")
    assert list(rows[0])[-2:] == ["highest_grade", "highest_grade_atom"]
    assert [float(row["highest_grade"]) for row in rows] == pytest.approx([float(own.max()) for own in expected])
    for row, own in zip(rows, expected, strict=True):
        assert own[int(row["highest_grade_atom"]) - 1] == pytest.approx(float(own.max()))
    highest = np.array([float(own.max()) for own in expected])
    assert highest[:14].max() == pytest.approx(1.0, abs=1e-9)
    outside = int((highest > 1 + 1e-9).sum())
    assert 0 < outside <= 20
    assert f"extrapolation grade (1: edge of the training set): {outside} of 34 structures are above" in said


def test_list_of_the_farthest_out() -> None:
    said = done(*EVALUATE, "--out", "out.csv").out
    listed = said[said.index("highest grades:") :].splitlines()[1:6]
    highest = np.array([float(own.max()) for own in expected_grades()])
    order = np.argsort(-highest, kind="stable")
    for line, row in zip(listed, order, strict=False):
        pattern = rf"\s+{highest[row]:.3f}  (even|odd) +si\.poscar\.dat, structure {row + 1} \(line \d+\), atom (\d+): "
        match = re.match(pattern + r"input (\d+), Si-Si l=\d r0=[\d.]+ Å$", line)
        assert match, line
        assert int(match[2]) == int(rows_of("out.csv")[row]["highest_grade_atom"])


def test_extxyz_has_the_grade_of_each_atom() -> None:
    done(*EVALUATE, "--out", "out.extxyz")
    for atoms, own in zip(ase.io.read("out.extxyz", index=":"), expected_grades(), strict=True):
        np.testing.assert_allclose(atoms.arrays["extrapolation_grade"], own, rtol=1e-9)


@pytest.mark.parametrize("words", [("--uncertainty", "none"), ("--quiet",)])
def test_without(words: tuple[str, ...]) -> None:
    said = done(*EVALUATE, "--out", "out.csv", *words).said
    assert "grade" not in said
    assert ("highest_grade" in rows_of("out.csv")[0]) == (words == ("--quiet",))


def test_file_that_is_named() -> None:
    Path("si.uncertainty.txt").rename("other.txt")
    plain = done(*EVALUATE, "--out", "plain.csv").said
    assert "grade" not in plain
    done(*EVALUATE, "--out", "out.csv", "--uncertainty", "other.txt")
    assert "highest_grade" in rows_of("out.csv")[0]


def test_float32() -> None:
    done(*EVALUATE, "--out", "out.csv", "--dtype", "float32")
    found = [float(row["highest_grade"]) for row in rows_of("out.csv")]
    assert found == pytest.approx([float(own.max()) for own in expected_grades()], rel=1e-3)


def test_members_have_the_grades_of_one_of_them() -> None:
    other = pf.load_potential("si.nn.dat").randomized(3)
    pf.save_potential(other, "b.nn.dat")
    done(*EVALUATE, "b.nn.dat", "--out", "out.csv")
    done("evaluate", "si.poscar.dat", "--potential", "b.nn.dat", "si.nn.dat", "--out", "c.csv",
         "--uncertainty", "si.uncertainty.txt")  # fmt: skip
    highest = [float(own.max()) for own in expected_grades()]
    for path in ("out.csv", "c.csv"):
        assert [float(row["highest_grade"]) for row in rows_of(path)] == pytest.approx(highest)


def test_left_by_an_earlier_potential() -> None:
    """Beside the potential it is named and left alone; asked for, it is refused."""
    pf.save_potential(pf.load_potential("si.nn.dat").randomized(3), "si.nn.dat")
    result = done(*EVALUATE, "--out", "out.csv")
    assert re.search("warning: no uncertainties: si.uncertainty.txt: belongs to another potential", result.err)
    assert "highest_grade" not in rows_of("out.csv")[0]
    refused(*EVALUATE, "--out", "new.csv", "--uncertainty", "si.uncertainty.txt", match="belongs to another potential")


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda text: text[: len(text) // 2], r"bad\.txt"),
        (
            lambda text: text[: text.rindex("end ")],
            r"bad\.txt: cut off after line \d+: expected 'begin' .*, or 'end' .*, found the end of the file",
        ),
        (lambda text: re.sub("center ", "center nan ", text, count=1), r"bad\.txt, line \d+: expected 40 numbers"),
        (lambda text: text.replace("elements Si", "elements Ge"), r"bad\.txt"),
        (lambda text: re.sub(r"(center -?\d\.)\d", r"\1x", text).replace("x", "3"), r"bad\.txt: damaged"),
        (lambda text: "", r"bad\.txt: empty"),
    ],
)
def test_damaged(damage: object, match: str) -> None:
    Path("bad.txt").write_text(damage(Path("si.uncertainty.txt").read_text()))  # type: ignore[operator]
    refused(*EVALUATE, "--out", "new.csv", "--uncertainty", "bad.txt", match=match)


def test_outputs_do_not_replace_it() -> None:
    Path("x.csv").write_bytes(Path("si.uncertainty.txt").read_bytes())
    refused(*EVALUATE, "--out", "x.csv", "--uncertainty", "x.csv", "--overwrite", match=r"x\.csv")


def test_info() -> None:
    said = done("info", "si.uncertainty.txt").out
    assert "uncertainty file of a potential" in said
    atoms = sum(len(own) for own in expected_grades()[:14])
    assert f"grade         Si: {atoms} training atoms in 1 cluster\n" in said
