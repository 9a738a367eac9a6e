"""Copies in a training set: found whatever their labels, and together on one side of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_sets import NAN, make_set

from pyfit_gpu.datasets.duplicates import CopiesAcross
from pyfit_gpu.datasets.splits import CLASSIC_RULE, Split
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.text_set import read_text_set, write_text_set
from pyfit_gpu.formats.training_set.reader import save_training_set
from pyfit_gpu.structures.copies import structure_key


def with_copies(training_set: TrainingSet, rows: Sequence[int]) -> TrainingSet:
    """The set, and copies of some rows after it."""
    return training_set.select([*range(len(training_set)), *rows])


def make_large(n: int = 60, groups: Sequence[str] = ("a", "b"), **settings: object) -> TrainingSet:
    return make_set([2, 3] * (n // 2), groups=[groups[k % len(groups)] for k in range(n)], **settings)


class TestKeys:
    def test_copies_share_them_whatever_their_labels(self) -> None:
        whole = with_copies(make_set(), [3, 0, 3])
        energy = whole.energy.clone()
        energy[5:] += 1.0
        whole = replace(whole, energy=energy, forces=whole.forces * 2, stress=whole.stress * 3, weight=energy)
        assert whole.first_copies.tolist() == [0, 1, 2, 3, 4, 3, 0, 3]

    @pytest.mark.parametrize("name", ["positions", "cell", "pbc", "species"])
    def test_everything_else_counts(self, name: str) -> None:
        whole = make_set((2, 2), ("Si", "C")).select([0, 0])
        assert whole.first_copies.tolist() == [0, 0]
        changed = getattr(whole, name).clone()
        changed[-1] = ~changed[-1] if name == "pbc" else 1 - changed[-1] if name == "species" else changed[-1] + 1e-4
        assert replace(whole, **{name: changed}).first_copies.tolist() == [0, 1]

    def test_digits_that_files_do_not_print_do_not(self) -> None:
        whole = make_set((2,)).select([0, 0])
        positions = whole.positions.clone()
        positions[2:] = (positions[2:] * 1e8).round() / 1e8
        positions[0, 0], positions[2, 0] = 0.0, -0.0
        assert replace(whole, positions=positions).first_copies.tolist() == [0, 0]

    def test_they_are_those_of_frames(self) -> None:
        whole = make_set((2, 1), ("Si", "C"))
        structures = whole.structures()
        for row, key in enumerate(whole.structure_keys()):
            n = structures.sizes[row]
            numbers, positions = structures.atomic_numbers[row, :n].numpy(), structures.positions[row, :n].numpy()
            assert bytes(key) == structure_key(numbers, positions, whole.cell[row].numpy(), whole.pbc[row].numpy())

    def test_no_structures(self) -> None:
        assert make_set().select([]).first_copies.tolist() == []

    @pytest.mark.parametrize("lazy", [False, True])
    def test_features_where_positions_are_not_known(self, tmp_path: Path, lazy: bool) -> None:
        """A text set has none; what is imported from it has none either."""
        write_text_set(with_copies(make_set(energy_shift=(0.5,)), [2, 4]), tmp_path / "set.dat")
        imported = read_text_set(str(tmp_path / "set.dat"))
        assert imported.positions.isnan().all()
        save_training_set(imported, tmp_path / "set.h5")
        whole = load_training_set(tmp_path / "set.h5", lazy=lazy)
        assert whole.first_copies.tolist() == [0, 1, 2, 3, 4, 2, 4]


class TestSplit:
    def test_copies_stay_together(self) -> None:
        once = make_large()
        whole = with_copies(once, range(60))
        expected, found = once.plan_split(0.7, 3), whole.plan_split(0.7, 3)
        assert len(expected.validation) > 10
        assert found.train == [*expected.train, *sorted(60 + row for row in expected.train)]
        assert found.validation == [*expected.validation, *sorted(60 + row for row in expected.validation)]
        assert CopiesAcross.of(found, whole.first_copies) == CopiesAcross(60, 0, 0)

    def test_copies_in_another_group(self) -> None:
        whole = replace(with_copies(make_large(), range(30)), groups=("a",) * 60 + ("z",) * 30)
        found = whole.plan_split(0.5, 4)
        sides = {row: name for name in ("train", "validation") for row in getattr(found, name)}
        assert sorted(sides) == list(range(90))
        assert all(sides[60 + row] == sides[row] for row in range(30))

    def test_copies_of_test_structures_take_no_part(self) -> None:
        whole = replace(with_copies(make_large(), range(10)), groups=("a",) * 60 + ("t",) * 10)
        found = whole.plan_split(0.7, 3, ["t"])
        assert found.test == list(range(60, 70))
        assert sorted([*found.train, *found.validation]) == list(range(10, 60))

    def test_nothing_left_to_train_on(self) -> None:
        whole = replace(with_copies(make_large(10), range(10)), groups=("a",) * 10 + ("t",) * 10)
        with pytest.raises(InputError, match=r"test_groups: t: .* copies"):
            whole.plan_split(test_groups=["t"])

    def test_a_copy_without_an_energy_takes_no_part(self) -> None:
        """Though it is the first one: the others are split as if it were not there."""
        whole = with_copies(make_large(), [0] * 3)
        energy = whole.energy.clone()
        energy[0] = NAN
        found = replace(whole, energy=energy).plan_split()
        assert 0 not in [*found.train, *found.validation]
        assert len({60, 61, 62} & set(found.train)) in (0, 3)
        assert len({60, 61, 62} & {*found.train, *found.validation}) == 3

    def test_without_copies_it_is_the_classic_split(self) -> None:
        whole = make_large()
        assert whole.plan_split(0.8, 5) == whole.plan_split(0.8, 5, rule=CLASSIC_RULE)

    def test_the_classic_rule_leaves_copies_where_they_are(self) -> None:
        whole = with_copies(make_large(), range(60))
        found = whole.plan_split(0.7, 3, rule=CLASSIC_RULE)
        across = CopiesAcross.of(found, whole.first_copies)
        assert across.validation > 0
        trained = {row % 60 for row in found.train}
        assert across.validation == sum(row % 60 in trained for row in found.validation)

    def test_count_of_a_split_by_hand(self) -> None:
        split = Split(
            train=[0, 1], validation=[2, 4], seed=1, groups_without_validation=(), test=[3, 5], n_structures=6
        )
        first = np.array([0, 1, 0, 1, 4, 4, 0])
        assert CopiesAcross.of(split, first) == CopiesAcross(all=3, validation=1, test=2)


class TestGroupsOfOne:
    def test_they_validate_together(self) -> None:
        """Volumes rise with the rows: the smallest and the largest train."""
        whole = make_large(40, [f"g{k}" for k in range(40)])
        volume = torch.arange(40.0, dtype=torch.float64) * whole.sizes
        found = replace(whole, volume=volume).plan_split(0.8, 3)
        assert (len(found.train), len(found.validation)) == (32, 8)
        assert {0, 39} <= set(found.train)
        assert found.groups_without_validation == ()

    def test_other_groups_keep_their_draws(self) -> None:
        groups = ["m"] * 20 + [f"a{k}" for k in range(10)] + ["z"] * 20
        whole = replace(make_large(50), groups=tuple(groups))
        found, classic = whole.plan_split(0.7, 3), whole.plan_split(0.7, 3, rule=CLASSIC_RULE)
        large = [row for row in range(50) if len(groups[row]) == 1]
        for name in ("train", "validation"):
            assert [row for row in getattr(found, name) if row in large] == [
                row for row in getattr(classic, name) if row in large
            ]
        assert {row for row in found.validation if row not in large}
        assert not {row for row in classic.validation if row not in large}
        assert classic.groups_without_validation == tuple(sorted({*groups} - {"m", "z"}))

    def test_two_train_where_they_did(self) -> None:
        whole = replace(make_large(22), groups=("b",) * 20 + ("c", "a"))
        assert whole.plan_split() == whole.plan_split(rule=CLASSIC_RULE)
        assert whole.plan_split().groups_without_validation == ("a", "c")

    def test_copies_of_one_structure_are_one_group_of_one(self) -> None:
        """A hundred groups of ten copies each: the distinct structures are pooled."""
        whole = make_large(20, [f"g{k}" for k in range(20)]).select([k // 3 for k in range(60)])
        found = whole.plan_split(0.5, 3)
        assert len(found.validation) == 30
        assert CopiesAcross.of(found, whole.first_copies).validation == 0
