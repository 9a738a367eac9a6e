"""Summaries of a set, added up from its parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sample_sets import NAN, make_set

from pyfit_gpu.datasets.summary import LabelCounts, SetSummary, describe_set, describe_shift
from pyfit_gpu.datasets.training_set import TrainingSet


@pytest.fixture
def whole() -> TrainingSet:
    made = make_set(
        [2, 1, 3, 4],
        ("Si", "C"),
        groups=["b", "a", "b", "c"],
        energy=[-6.0, NAN, -9.0, -20.0],
        energy_shift=(1.0, 1.0),
    )
    forces, stress = made.forces.clone(), made.stress.clone()
    forces[2] = NAN
    stress[2:] = NAN
    return replace(made, forces=forces, stress=stress)


def test_numbers(whole: TrainingSet) -> None:
    assert SetSummary.of(whole) == SetSummary(
        elements=("Si", "C"),
        energy_shift=(1.0, 1.0),
        n_features=whole.features.shape[1],
        n_structures=4,
        n_atoms=10,
        labels=LabelCounts(energy=3, forces=3, stress=2),
        groups=frozenset("abc"),
        energy_sum=-2.0 - 2.0 - 4.0,
    )


@pytest.mark.parametrize("end", [1, 2, 3])
def test_parts(whole: TrainingSet, end: int) -> None:
    first, second = whole.select(range(end)), whole.select(range(end, 4))
    assert SetSummary.of(first) + SetSummary.of(second) == SetSummary.of(whole)


def test_in_words(whole: TrainingSet) -> None:
    assert describe_set(whole) == (
        "4 structures (3 with an energy, 3 with forces, 2 with stress) in 3 groups, 10 atoms x 18 features, "
        "e_shift Si 1, C 1"
    )
    assert describe_shift(("Si",), (0.25,)) == "e_shift 0.25"
    assert describe_shift(("Si",), None) == "e_shift unknown"


def test_no_energies(whole: TrainingSet) -> None:
    unknown = replace(whole, energy=torch.full_like(whole.energy, NAN))
    assert (SetSummary.of(unknown).labels.energy, SetSummary.of(unknown).energy_sum) == (0, 0.0)
