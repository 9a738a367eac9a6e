"""Weights of structures: rules by group and energy, and the way of a file's own weights into a fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.db import connect
from ase.io import read, write
from commands.helpers import done
from sample_sets import NAN, arrays_of, make_set

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.datasets.weighting import (
    energy_above_lowest,
    group_targets,
    weight_groups,
    weight_windows,
)
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.opening import load_training_set


@pytest.fixture
def sample() -> TrainingSet:
    """Energies per atom -0.5, -0.4, (unknown), -0.2, 0.5 with the shift: 0, 0.1, -, 0.3, 1 above the lowest."""
    return make_set(
        [2, 1, 3, 4, 2],
        groups=["bulk_a", "bulk_b", "bulk_a", "slab", "Slab"],
        energy=[-21.0, -10.4, NAN, -40.8, -19.0],
        energy_shift=(10.0,),
        weight=[1.0, 0.5, 3.0, 0.0, 2.0],
    )


def only_weight_differs(found: TrainingSet, given: TrainingSet) -> None:
    before, after = arrays_of(given), arrays_of(found)
    assert {name for name in before if before[name] != after[name]} <= {"weight"}
    assert (found.groups, found.energy_shift) == (given.groups, given.energy_shift)
    assert given.weight.tolist() == [1.0, 0.5, 3.0, 0.0, 2.0]  # what was given is not touched


class TestGroups:
    @pytest.mark.parametrize(
        ("rules", "expected"),
        [
            ([], [1.0, 0.5, 3.0, 0.0, 2.0]),
            ([("bulk_a", 2.0)], [2.0, 0.5, 6.0, 0.0, 2.0]),
            ([("bulk_*", 0.25), ("slab", 7.0)], [0.25, 0.125, 0.75, 0.0, 2.0]),
            ([("*", 3.0), ("bulk_b", 10.0)], [3.0, 5.0, 9.0, 0.0, 6.0]),  # the last that matches, not both
            ([("bulk_b", 10.0), ("*", 3.0)], [3.0, 1.5, 9.0, 0.0, 6.0]),
            ([("?lab", 0.0)], [1.0, 0.5, 3.0, 0.0, 0.0]),
        ],
    )
    def test_factors(self, sample: TrainingSet, rules: list[tuple[str, float]], expected: list[float]) -> None:
        found = weight_groups(sample, rules)
        assert found.weight.tolist() == expected
        only_weight_differs(found, sample)

    def test_a_pattern_without_a_group(self, sample: TrainingSet) -> None:
        for function in (weight_groups, group_targets):
            with pytest.raises(InputError, match=r"got 'slap', which matches none \(the nearest: slab"):
                function(sample, [("slab", 1.0), ("slap", 1.0)])

    @pytest.mark.parametrize("number", [-1.0, NAN, math.inf])
    def test_impossible_numbers(self, sample: TrainingSet, number: float) -> None:
        for function in (weight_groups, group_targets):
            with pytest.raises(InputError, match=rf"'slab': expected a number of 0 or more, got {number:g}"):
                function(sample, [("slab", number)])

    def test_targets(self, sample: TrainingSet) -> None:
        rules = [("bulk_*", 0.01), ("bulk_b", 0.0), ("Slab", 0.5)]
        assert group_targets(sample, rules) == {"bulk_a": 0.01, "bulk_b": 0.0, "Slab": 0.5}
        assert group_targets(sample, []) == {}


class TestWindows:
    def test_energy_above_lowest(self, sample: TrainingSet) -> None:
        found = energy_above_lowest(sample).numpy()
        np.testing.assert_allclose(found, [0.0, 0.1, NAN, 0.3, 1.0], rtol=0, atol=1e-14)
        assert found[0] == 0.0

    @pytest.mark.parametrize(
        ("rules", "expected"),
        [
            ([], [1, 1, 1, 1, 1]),
            ([(0.0, 0.2, 5.0)], [5, 5, 1, 1, 1]),
            ([(-math.inf, math.inf, 4.0)], [4, 4, 1, 4, 4]),
            ([(0.2, math.inf, 0.0), (0.5, math.inf, 3.0)], [1, 1, 1, 0, 3]),
            ([(-math.inf, 0.05, 2.0)], [2, 1, 1, 1, 1]),
            ([(5.0, 6.0, 2.0)], [1, 1, 1, 1, 1]),
        ],
    )
    def test_factors(self, sample: TrainingSet, rules: list[tuple[float, float, float]], expected: list[float]) -> None:
        found = weight_windows(sample, rules)
        assert found.weight.tolist() == (sample.weight * torch.tensor(expected)).tolist()
        only_weight_differs(found, sample)

    def test_ends(self) -> None:
        """LOW <= e < HIGH, with energies that binary numbers hold exactly."""
        whole = make_set([1] * 4, energy=[0.0, 0.25, 0.5, 0.75])
        assert weight_windows(whole, [(0.25, 0.75, 2.0)]).weight.tolist() == [1, 2, 2, 1]
        assert weight_windows(whole, [(0.0, 0.25, 2.0)]).weight.tolist() == [2, 1, 1, 1]

    def test_shift_of_each_element(self) -> None:
        """E_used decides, not the file's energy."""
        whole = replace(
            make_set([1, 1], ("Si", "C"), energy=[-100.0, -150.0], energy_shift=(100.0, 151.0)),
            species=torch.tensor([0, 1]),
        )
        assert weight_windows(whole, [(0.5, math.inf, 2.0)]).weight.tolist() == [1, 2]

    def test_no_energies(self) -> None:
        whole = make_set([1, 2], energy=[NAN, NAN])
        assert weight_windows(whole, [(-math.inf, math.inf, 3.0)]).weight.tolist() == [1, 1]

    @pytest.mark.parametrize("rule", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (NAN, 1.0, 1.0)])
    def test_empty_windows(self, sample: TrainingSet, rule: tuple[float, float, float]) -> None:
        with pytest.raises(InputError, match="expected a lower end below the upper one"):
            weight_windows(sample, [rule])

    def test_impossible_number(self, sample: TrainingSet) -> None:
        with pytest.raises(InputError, match="energy window 0:1: expected a number of 0 or more, got -1"):
            weight_windows(sample, [(0.0, 1.0, -1.0)])

    def test_groups_and_windows_multiply(self, sample: TrainingSet) -> None:
        both = weight_windows(weight_groups(sample, [("bulk_*", 2.0)]), [(0.05, math.inf, 10.0)])
        assert both.weight.tolist() == [2.0, 10.0, 6.0, 0.0, 20.0]


WEIGHTS = [2.5, 1.0, 0.0, 1 / 3]


def _atoms(weight: float | None, k: int) -> Atoms:
    atoms = Atoms("Si2", [[0, 0, 0], [0, 0, 2.2 + 0.1 * k]], cell=[8, 8, 8], pbc=True)
    atoms.info |= {"energy": -5.0, **({} if weight is None else {"weight": weight})}
    return atoms


def _text(path: Path) -> None:
    lines = []
    for k, weight in enumerate(WEIGHTS):
        lines += [f"g weight={weight!r}", "1.0", "8 0 0", "0 8 0", "0 0 8", "2", "cartesian", "0 0 0"]
        lines += [f"0 0 {2.2 + 0.1 * k}", "-5.0"]
    path.write_text("\n".join(lines) + "\n")


def _database(path: Path) -> None:
    with connect(path) as database:
        for k, weight in enumerate(WEIGHTS):
            database.write(_atoms(None, k), weight=weight)


def _ase(path: Path) -> None:
    write(path, [_atoms(weight if weight != 1.0 else None, k) for k, weight in enumerate(WEIGHTS)])


# Of what ASE reads, VASP's files and CIF have no place for a weight.
CARRIERS: dict[str, Callable[[Path], Any]] = {
    "w.poscar.dat": _text,
    "w.extxyz": _ase,
    "w.traj": _ase,
    "w.db": _database,
    "w.json": _database,
}


class TestWeightsOfFiles:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        done("new", "--elements", "Si", "--cutoff", "4", "--out", "si.nn.dat")

    @pytest.mark.parametrize("name", CARRIERS)
    def test_into_a_set(self, name: str) -> None:
        """Every digit, through HDF5, shards, append and back to structures."""
        CARRIERS[name](Path(name))
        words = ("--potential", "si.nn.dat", "--dtype", "float32")
        digits = 1e-8 if name == "w.extxyz" else 0.0  # ASE's writer rounds
        done("prepare", name, "--out", "set.h5", *words)
        weights = load_training_set("set.h5").weight.tolist()
        assert weights == pytest.approx(WEIGHTS, rel=digits, abs=0)
        for index in range(3):
            done("prepare", name, "--out", "parts.h5", "--shard", f"{index}/3", *words)
        assert load_training_set("parts.json").weight.tolist() == weights
        done("prepare", name, "--out", "set.h5", "--append", *words)
        assert load_training_set("set.h5").weight.tolist() == weights * 2
        done("convert", "parts.json", "joined.h5")
        assert load_training_set("joined.h5").weight.tolist() == weights

    def test_between_structures(self) -> None:
        """`convert` keeps them from the classic text to extended XYZ and back."""
        _text(Path("w.poscar.dat"))
        done("convert", "w.poscar.dat", "w.extxyz")
        assert [atoms.info.get("weight", 1.0) for atoms in read("w.extxyz", ":")] == WEIGHTS
        done("convert", "w.extxyz", "back.poscar.dat")
        assert Path("back.poscar.dat").read_text().count("weight=") == 3
        done("prepare", "back.poscar.dat", "--potential", "si.nn.dat", "--out", "set.h5")
        assert load_training_set("set.h5").weight.tolist() == WEIGHTS

    def test_a_text_set_has_none(self) -> None:
        """The format has no place for them: 1 after the way through it."""
        _text(Path("w.poscar.dat"))
        done("prepare", "w.poscar.dat", "--potential", "si.nn.dat", "--out", "set.h5")
        done("convert", "set.h5", "set.dat")
        assert load_training_set("set.dat").weight.tolist() == [1.0] * 4
