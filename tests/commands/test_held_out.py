"""`evaluate --held-out`: the structures of a set that a stored split keeps from training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands.helpers import done, refused, set_up

import pyfit_gpu as pf
from pyfit_gpu.commands.held_out import held_out_frames


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set with a split in which one group tests."""
    set_up(tmp_path, monkeypatch)
    done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--e-shift", "fit", "--out", "si.h5")
    words = ("--split", "one", "--test-groups", "odd", "--steps", 1, "--train-fraction", "0.5", "--device", "cpu")
    done("train", "si.h5", "--potential", "si.nn.dat", "--out", "fit.nn.dat", *words)


def rows_of_split() -> list[int]:
    split = pf.load_training_set("si.h5").splits["one"]
    assert len(split.validation) > 0
    return [*split.validation, *split.test]


def test_frames() -> None:
    rows = rows_of_split()
    found = held_out_frames("si.h5", "one")
    assert [frame.source for frame in found] == [f"si.h5, structure {row + 1}" for row in rows]
    expected = pf.load_structures("si.poscar.dat")
    assert np.allclose([frame.energy for frame in found], expected.energy[rows].numpy(), rtol=1e-12)


def test_errors_are_those_of_the_files() -> None:
    """The table has the rows that `evaluate` of the files has for these structures."""
    rows = rows_of_split()
    done("evaluate", "si.h5", "--held-out", "one", "--potential", "fit.nn.dat", "--out", "own.csv")
    done("evaluate", "si.poscar.dat", "--potential", "fit.nn.dat", "--out", "all.csv")
    own, every = ([line.split(",") for line in Path(name).read_text().splitlines()[1:]]
                  for name in ("own.csv", "all.csv"))  # fmt: skip
    assert [row[1:4] for row in own] == [every[row][1:4] for row in rows]
    numbers = [np.array([row[4:] for row in table], dtype=float) for table in (own, every)]
    assert np.allclose(numbers[0], numbers[1][rows], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("path", "split", "match"),
    [
        ("si.h5", "other", "si.h5: split 'other': expected one that the set stores, found one"),
        ("si.poscar.dat", "one", "si.poscar.dat"),
        ("absent.h5", "one", "absent.h5: cannot read"),
    ],
)
def test_refused(path: str, split: str, match: str) -> None:
    refused("evaluate", path, "--held-out", split, "--potential", "fit.nn.dat", "--out", "own.csv", match=match)


def test_a_split_in_which_all_train() -> None:
    words = ("--split", "all", "--train-fraction", "1", "--steps", 1, "--device", "cpu")
    done("train", "si.h5", "--potential", "si.nn.dat", "--out", "other.nn.dat", *words)
    refused("evaluate", "si.h5", "--held-out", "all", "--potential", "fit.nn.dat", "--out", "own.csv",
            match="split 'all': expected structures that do not train, found none")  # fmt: skip
