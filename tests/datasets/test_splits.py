"""The classic split against a second implementation of its written rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pair_sum
import pytest
import torch
from sample_sets import NAN, make_set

from pyfit_gpu.datasets.splits import Split, classic_split, matching_groups
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError


def reference_split(
    groups: Sequence[str], volumes: Sequence[float], known: Sequence[bool], ratio: float, seed: int
) -> tuple[list[int], list[int]]:
    """Training rows in their order and validation rows, as the rule is written, one group at a time.

    Volumes count with the seven digits of the classic text set, so that equal ones tie.
    """
    volumes = [float("%.6E" % volume) for volume in volumes]  # noqa: UP031 - as the format says
    generator = np.random.RandomState(seed)
    train: list[int] = []
    validation: list[int] = []
    for name in sorted({group for group, is_known in zip(groups, known, strict=True) if is_known}):
        rows = [row for row in range(len(groups)) if groups[row] == name and known[row]]
        by_volume = [row for _, row in sorted((volumes[row], row) for row in rows)]
        n = len(by_volume)
        if ratio == 1.0 or n == 1:
            train.extend(by_volume)
            continue
        smallest, *others, largest = by_volume
        train.extend((smallest, largest))
        if not others:
            continue
        k = max(0, min(round((ratio - 2 / n) * n), n - 2))
        positions = list(generator.choice(n - 2, k, replace=False))
        train.extend(others[position] for position in positions)
        validation.extend(others[position] for position in range(n - 2) if position not in positions)
    return train, validation


def split(
    groups: Sequence[str],
    volumes: Sequence[float],
    ratio: float,
    seed: int,
    known: Sequence[bool] | None = None,
) -> Split:
    eligible = np.ones(len(groups), dtype=bool) if known is None else np.array(known)
    return classic_split(groups, np.array(volumes, dtype=np.float64), eligible, ratio, seed)


def random_case(case: int) -> tuple[list[str], list[float], list[bool], float, int]:
    """Groups of 1 to 30 structures in random order, volumes with ties, some energies unknown."""
    rng = np.random.default_rng(case)
    names = [f"{'bAaB_9'[k % 6]}{rng.integers(100)}" for k in range(rng.integers(1, 8))]
    groups = [name for name in names for _ in range(rng.integers(1, 31))]
    groups = [groups[k] for k in rng.permutation(len(groups))]
    volumes = rng.uniform(10, 30, len(groups))
    if case % 3 == 0:
        volumes = volumes.round(-1)  # a lot of ties
    known = rng.random(len(groups)) < rng.choice([0.6, 1.0])
    known[rng.integers(len(groups))] = True
    ratio = float(rng.choice([0.0, 0.5, 0.7, 0.9, 0.95, 1.0, rng.random(), rng.random()]))
    return groups, volumes.tolist(), known.tolist(), ratio, int(rng.integers(1, 2**32))


@pytest.mark.parametrize("block", range(4))
def test_random_groups(block: int) -> None:
    for case in range(100 * block, 100 * (block + 1)):
        groups, volumes, known, ratio, seed = random_case(case)
        found = split(groups, volumes, ratio, seed, known)
        train, validation = reference_split(groups, volumes, known, ratio, seed)
        assert found.train == train, case
        assert sorted(found.validation) == sorted(validation), case
        assert found.seed == seed


@pytest.mark.parametrize("block", range(4))
def test_what_holds_for_every_split(block: int) -> None:
    for case in range(1000 + 50 * block, 1000 + 50 * (block + 1)):
        groups, volumes, known, ratio, seed = random_case(case)
        found = split(groups, volumes, ratio, seed, known)
        assert sorted(found.train + found.validation) == np.flatnonzero(known).tolist()
        validates = {groups[row] for row in found.validation}
        assert all(isinstance(row, int) for row in found.train + found.validation)
        for name in {group for group, is_known in zip(groups, known, strict=True) if is_known}:
            members = [row for row in range(len(groups)) if groups[row] == name and known[row]]
            extremes = {min(volumes[row] for row in members), max(volumes[row] for row in members)}
            assert extremes <= {volumes[row] for row in found.train if groups[row] == name}
            if ratio < 1.0:
                assert (name in found.groups_without_validation) == (name not in validates)


def test_written_out() -> None:
    """Ten structures: NumPy's draw as a literal, so that both implementations cannot be wrong in the same way."""
    volumes = [19.0, 12.0, 17.0, 11.0, 18.0, 16.0, 13.0, 14.0, 20.0, 15.0]
    by_volume = [3, 1, 6, 7, 9, 5, 2, 4, 0, 8]
    found = split(["g"] * 10, volumes, 0.7, 2)
    drawn = [4, 1, 6, 2, 3]  # RandomState(2).choice(8, 5, replace=False): round((0.7 - 2 / 10) * 10) = 5
    assert found.train == [by_volume[0], by_volume[9], *(by_volume[1 + k] for k in drawn)]
    assert sorted(found.validation) == sorted(by_volume[1 + k] for k in (0, 5, 7))


def test_one_generator_for_all_groups() -> None:
    """The second group is drawn with what the first has left, also where the first draws none of its structures."""
    volumes = [float(k) for k in range(20)]
    generator = np.random.RandomState(5)
    first = generator.choice(8, 7, replace=False)
    second = generator.choice(8, 7, replace=False)
    assert first.tolist() != second.tolist()
    found = split(["a"] * 10 + ["b"] * 10, volumes, 0.9, 5)
    assert found.train[9:] == [10, 19, *(11 + second).tolist()]

    generator = np.random.RandomState(5)
    assert generator.choice(1, 0, replace=False).tolist() == []
    after_none = generator.choice(8, 3, replace=False)
    found = split(["a"] * 3 + ["b"] * 10, volumes[:13], 0.5, 5)
    assert found.train == [0, 2, 3, 12, *(4 + after_none).tolist()]


def test_order_of_operations() -> None:
    """Where rounding decides: (0.35 - 2 / 10) * 10 is below 1.5 in floating point, 0.35 * 10 - 2 is not."""
    assert round((0.35 - 2 / 10) * 10) == 1
    assert round(0.35 * 10 - 2) == 2
    assert len(split(["g"] * 10, list(map(float, range(10))), 0.35, 2).train) == 2 + 1


def test_halves_go_to_even() -> None:
    """n = 8: (0.5625 - 0.25) * 8 = 2.5 exactly gives 2, (0.6875 - 0.25) * 8 = 3.5 gives 4."""
    volumes = list(map(float, range(8)))
    assert len(split(["g"] * 8, volumes, 0.5625, 2).train) == 2 + 2
    assert len(split(["g"] * 8, volumes, 0.6875, 2).train) == 2 + 4


def test_groups_are_taken_in_sorted_order() -> None:
    """By code point: capitals before small letters, Si_B10 before Si_B2."""
    groups = ["b", "B", "Si_B2", "Si_B10", "a"]
    assert split(groups, [1.0] * 5, 0.9, 2).train == [1, 3, 2, 4, 0]


def test_ties_are_in_file_order() -> None:
    found = split(["g"] * 6, [2.0, 1.0, 1.0, 3.0, 3.0, 2.0], 1.0, 2)
    assert found.train == [1, 2, 0, 5, 3, 4]
    assert split(["g"] * 6, [2.0, 1.0, 1.0, 3.0, 3.0, 2.0], 0.0, 2).train == [1, 4]


def test_volumes_that_differ_in_their_last_bits_tie() -> None:
    """The same structures from another file, or computed on another device, are split in the same way."""
    volumes = np.repeat([20.41, 15.07, 18.33], 4)
    noise = 1 + 1e-15 * np.random.default_rng(0).integers(-4, 5, 12)
    assert len(set((volumes * noise).tolist())) > 3
    expected = split(["g"] * 12, volumes.tolist(), 0.6, 2)
    assert expected.train[:2] == [4, 3]
    assert split(["g"] * 12, (volumes * noise).tolist(), 0.6, 2) == expected


def test_share_zero_and_one() -> None:
    volumes = [5.0, 3.0, 4.0, 1.0, 2.0]
    everything = split(["g"] * 5, volumes, 1.0, 2)
    assert (everything.train, everything.validation) == ([3, 4, 1, 2, 0], [])
    nothing = split(["g"] * 5, volumes, 0.0, 2)
    assert (nothing.train, sorted(nothing.validation)) == ([3, 0], [1, 2, 4])


def test_groups_without_validation_are_named() -> None:
    """With 3 structures 0.9 leaves round(0.7) = 1 of 1 to train, with 10 it leaves one to validate."""
    groups = ["three"] * 3 + ["one"] + ["ten"] * 10 + ["two"] * 2
    found = split(groups, [float(k) for k in range(16)], 0.9, 2)
    assert found.groups_without_validation == ("one", "three", "two")


def test_structures_without_an_energy_change_nothing() -> None:
    """They are not counted: the others are split as if those were not in the set, extremes in volume included."""
    groups, volumes, _, _, _ = random_case(1)
    without = split(groups, volumes, 0.8, 7)
    more_groups = ["NO_DFT_x", *groups, *groups, "only_unknown"]
    more_volumes = [1.0, *volumes, *(100.0 * volume for volume in volumes), 1.0]
    known = [False] + [True] * len(groups) + [False] * (len(groups) + 1)
    found = split(more_groups, more_volumes, 0.8, 7, known)
    assert [row - 1 for row in found.train] == without.train
    assert [row - 1 for row in found.validation] == without.validation
    assert found.groups_without_validation == without.groups_without_validation


def test_seed_zero_draws_a_seed_and_says_which() -> None:
    groups, volumes = ["g"] * 30, [float(k) for k in range(30)]
    found = [split(groups, volumes, 0.5, 0) for _ in range(5)]
    assert len({one.seed for one in found}) == 5
    assert len({tuple(one.train) for one in found}) > 1
    for one in found:
        assert 0 < one.seed < 2**32
        assert one.train == reference_split(groups, volumes, [True] * 30, 0.5, one.seed)[0]


@pytest.mark.parametrize("ratio", [-0.1, 1.0001, NAN, 90.0])
def test_share_outside(ratio: float) -> None:
    with pytest.raises(InputError, match=rf"train_fraction: expected a number from 0 to 1, got {ratio}"):
        split(["g"] * 4, [1.0] * 4, ratio, 2)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_outside(seed: int) -> None:
    with pytest.raises(InputError, match=rf"seed: expected .* 0 to 4294967295, got {seed}"):
        split(["g"] * 4, [1.0] * 4, 0.9, seed)


def test_nothing_to_train_on() -> None:
    with pytest.raises(InputError, match="no structure with an energy"):
        split(["NO_DFT"] * 4, [1.0] * 4, 0.9, 2, [False] * 4)


def test_of_a_training_set() -> None:
    """By volume per atom, not by volume; structures without an energy in neither part."""
    sizes = [1, 8, 2, 4, 1, 3, 2, 1, 6, 1, 1, 2]
    energies = [NAN if k in (4, 9) else -0.3 * n for k, n in enumerate(sizes)]
    whole = make_set(sizes, groups=["x"] * 10 + ["y"] * 2, energy=energies)
    per_atom = (whole.volume / torch.tensor(sizes)).tolist()
    assert np.argsort(per_atom).tolist() != torch.argsort(whole.volume).tolist()
    known = [k not in (4, 9) for k in range(12)]
    train, validation = reference_split(whole.groups, per_atom, known, 0.6, 11)
    plan = whole.plan_split(train_fraction=0.6, seed=11)
    assert plan.train == train
    assert sorted(plan.validation) == sorted(validation)

    training, validating = whole.split(train_fraction=0.6, seed=11)
    assert training.sizes.tolist() == [sizes[row] for row in train]
    assert torch.equal(training.energy, whole.energy[train])
    assert torch.equal(validating.energy, whole.energy[plan.validation])
    assert whole.plan_split() == whole.plan_split(0.9, 2)


class TestTestGroups:
    NAMES = ("bulk_a", "bulk_b", "slab", "Slab", "dimer[1]", "NO_DFT_x")

    def whole(self, seed: int = 0) -> TrainingSet:
        """40 structures of six groups in mixed order; those of NO_DFT_x and some others have no energy."""
        rng = np.random.default_rng(seed)
        groups = [self.NAMES[k] for k in rng.integers(0, 6, 40)]
        energy = [NAN if group == "NO_DFT_x" or rng.random() < 0.15 else -0.5 for group in groups]
        return make_set([1] * 40, groups=groups, energy=energy, seed=seed)

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize(
        ("patterns", "expected"),
        [
            (("slab",), {"slab"}),
            (("bulk_*",), {"bulk_a", "bulk_b"}),
            (("?lab", "bulk_a"), {"slab", "Slab", "bulk_a"}),
            (("[sS]lab",), {"slab", "Slab"}),
            (("*_b", "*_[!x]"), {"bulk_a", "bulk_b"}),
            (("dimer[1]",), {"dimer[1]"}),  # a name matches itself, whatever its brackets mean
        ],
    )
    def test_whole_groups(self, patterns: tuple[str, ...], expected: set[str], seed: int) -> None:
        """The test groups' structures with an energy, and the others divided as in a set without the test groups."""
        whole = self.whole(seed)
        known = whole.has_energy.tolist()
        found = whole.plan_split(0.7, 5, test_groups=patterns)
        assert found.test == [k for k in range(40) if whole.groups[k] in expected and known[k]]
        volumes = whole.volume_per_atom.tolist()
        others = [k for k in range(40) if whole.groups[k] not in expected]
        train, validation = reference_split(
            [whole.groups[k] for k in others], [volumes[k] for k in others], [known[k] for k in others], 0.7, 5
        )
        assert found.train == [others[k] for k in train]
        assert sorted(found.validation) == sorted(others[k] for k in validation)
        assert (found.train_fraction, found.seed, found.test_groups, found.n_structures) == (0.7, 5, patterns, 40)

        alone = whole.select(others).plan_split(0.7, 5)
        assert found.train == [others[k] for k in alone.train]
        assert found.validation == [others[k] for k in alone.validation]
        assert found.groups_without_validation == alone.groups_without_validation

    def test_nothing_changes_without(self) -> None:
        """The rows and their order, against the rule itself."""
        whole = self.whole(3)
        known = whole.has_energy.numpy()
        for patterns in ((), []):
            found = whole.plan_split(0.8, 9, patterns)
            classic = classic_split(whole.groups, whole.volume_per_atom.numpy(), known, 0.8, 9)
            assert found == classic
            assert (found.test, found.test_groups) == ([], ())
            assert found.train == reference_split(whole.groups, whole.volume_per_atom.tolist(), known, 0.8, 9)[0]

    @pytest.mark.parametrize(
        ("pattern", "hint"),
        [("bulk_c*", "bulk_"), ("BULK_A", "the nearest: bulk_a"), ("", "there are"), ("zzz", "there are NO_.*, slab")],
    )
    def test_a_pattern_without_a_group(self, pattern: str, hint: str) -> None:
        match = rf"test_groups: expected .* got '{re.escape(pattern)}', which matches none \(.*{hint}"
        with pytest.raises(InputError, match=match):
            self.whole().plan_split(test_groups=("slab", pattern))

    def test_a_group_without_an_energy(self) -> None:
        with pytest.raises(InputError, match=r"test_groups: 'NO_\*': no structure of NO_DFT_x has an energy"):
            self.whole().plan_split(test_groups=["NO_*"])

    @pytest.mark.parametrize("patterns", [("*",), ("[!N]*",), ("bulk*", "*lab", "dimer*")])
    def test_nothing_left_to_train(self, patterns: tuple[str, ...]) -> None:
        whole = self.whole()
        match = rf"take all {int(whole.has_energy.sum())} structures with an energy: nothing is left to train on"
        with pytest.raises(InputError, match=match):
            whole.plan_split(test_groups=patterns)

    def test_names_are_listed_once_and_few(self) -> None:
        with pytest.raises(InputError, match=r"--x: .* 'Q\*', .* \(there are 0, 1, 2, 3, 4, 5, \.\.\. \(2 more\)\)"):
            matching_groups("Q*", [str(k % 8) for k in range(99)], "--x")


def test_nist_silicon(reference_data: Path) -> None:
    """The real set in the optional folder of reference data: 3,097 structures in 79 groups, ratio 0.9, seed 2."""
    path = reference_data.parent / "data" / "silicon_nist.poscar.dat"
    structures = pair_sum.read_poscar_dat(path)
    groups = [structure.label.split()[0] for structure in structures]
    volumes = [abs(np.linalg.det(structure.cell)) / len(structure.positions) for structure in structures]
    assert (len(structures), len(set(groups))) == (3097, 79)
    known = [not group.startswith("NO_DFT") for group in groups]
    found = split(groups, volumes, 0.9, 2, known)
    train, validation = reference_split(groups, volumes, known, 0.9, 2)
    assert found.train == train
    assert sorted(found.validation) == sorted(validation)
    assert len(train) + len(validation) == sum(known)
    assert 0.88 < len(train) / sum(known) < 0.93
