"""Bonds of a training set: the same bits however they are cut, joined, kept or found anew, for energies and forces."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from bond_order_samples import make_bond_order

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.models.bond_order import BondOrder
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training import bond_map
from pyfit_gpu.training.bond_map import sample_bytes
from pyfit_gpu.training.objective import Evaluation, Objective

ELEMENTS = [("Si",), ("Si", "C")]
WEIGHTS = [{}, {"forces": 0.1, "stress": 0.3}]


@pytest.fixture
def made(mixed_frames: Callable[..., list[Frame]]) -> Callable[..., tuple[Potential, TrainingSet]]:
    """A bare potential, whose training has no other derivatives to keep, and a set of unlike structures."""

    def make(elements: tuple[str, ...]) -> tuple[Potential, TrainingSet]:
        potential = make_bond_order(elements, "plain", bare=True)
        shifts = dict.fromkeys(elements, 0.0)
        structures = Structures.from_frames(mixed_frames(elements))
        return potential, build_training_set(structures, potential, e_shift=shifts)

    return make


def evaluated(objective: Objective, potential: Potential) -> Evaluation:
    return objective.evaluate(potential.networks.flat(), potential.networks)


@pytest.mark.parametrize("weights", WEIGHTS, ids=["energies", "forces"])
@pytest.mark.parametrize("elements", ELEMENTS, ids="-".join)
def test_pieces_and_memory_change_no_bits(
    made: Callable[..., tuple[Potential, TrainingSet]],
    elements: tuple[str, ...],
    weights: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    potential, training_set = made(elements)
    kept = Objective(training_set, weights, potential=potential)
    reach = potential.neighbor_cutoff
    counted = sample_bytes(training_set, BondOrder(potential), reach, with_vectors=bool(weights))
    assert kept.kept_bytes == pytest.approx(counted, rel=0.002) != 0
    expected = evaluated(kept, potential)
    anew = Objective(training_set, weights, potential=potential, memory=0.0)
    assert anew.kept_bytes == 0
    part = Objective(training_set, weights, potential=potential, memory=kept.kept_bytes / 2)
    assert part.kept_bytes <= kept.kept_bytes / 2
    for name in ("_PIECE_CPU", "_FORCES_CPU"):
        monkeypatch.setattr(bond_map, name, 1)
    small = Objective(training_set, weights, potential=potential)
    for objective in (anew, part, small):
        found = evaluated(objective, potential)
        assert torch.equal(found.minimised, expected.minimised)
        assert torch.equal(found.gradient, expected.gradient)
        for name in weights:
            assert torch.equal(found.errors[name], expected.errors[name])
