"""Memory of the indices by which rows of J are made, against the tensors themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from held_memory import held_bytes
from sample_sets import make_potential, make_set

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.optimizers.gauss_newton_settings import GaussNewtonSettings
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.memory_plan import MemoryPlan, plan_memory
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.settings import FitSettings

LABELS = {"force_weight": 0.3, "stress_weight": 0.7}
PLAIN = FitSettings(**LABELS)
NEED_MATRICES = [
    FitSettings(**LABELS, optimizer=GaussNewtonSettings()),
    FitSettings(**LABELS, l2="auto", l2_form="squared"),
]


def bytes_of(plan: MemoryPlan, name: str) -> int:
    return sum(item.host for item in plan.items if item.name == name)


@pytest.mark.parametrize("elements", [("Si",), ("Si", "C")], ids="-".join)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_places_of_derivatives(
    mixed_frames: Callable[..., list[Frame]], elements: tuple[str, ...], dtype: torch.dtype
) -> None:
    """They stay after the first matrix, and are counted among the neighbours."""
    frames = [frame for seed in range(20) for frame in mixed_frames(elements, seed)]
    potential = make_potential(elements)
    training_set = build_training_set(Structures.from_frames(frames), potential)
    plain, *others = (
        plan_memory(training_set, potential, settings, memory=2**40, n_threads=1, dtype=dtype)
        for settings in (PLAIN, *NEED_MATRICES)
    )
    objective = Objective(training_set.to("cpu", dtype), PLAIN.loss_weights)
    before = held_bytes(objective.lanes)
    list(objective.normal_matrices(potential.networks.flat(), potential.networks))
    found = held_bytes(objective.lanes) - before
    for plan in others:
        assert found <= bytes_of(plan, "neighbours") - bytes_of(plain, "neighbours") <= 1.7 * found, (
            found,
            bytes_of(plan, "neighbours") - bytes_of(plain, "neighbours"),
        )


def test_nothing_without_matrices() -> None:
    plan = plan_memory(make_set(), make_potential(), FitSettings(), memory=2**40)
    assert bytes_of(plan, "J^T J") == 0


def test_members_keep_matrices_for_the_optimiser_with_the_evidence_alone() -> None:
    potential = make_potential()
    own = 8 * potential.networks.flat().shape[1] ** 2

    def matrices(settings: FitSettings, members: int) -> int:
        plan = plan_memory(make_set(), potential, settings, members=members, memory=2**40, n_threads=1)
        return bytes_of(plan, "J^T J")

    given, chosen = (replace(settings, force_weight=0.0, stress_weight=0.0) for settings in NEED_MATRICES)
    assert matrices(given, 5) == matrices(given, 1) > 0
    assert matrices(chosen, 5) - matrices(chosen, 1) == 4 * own
