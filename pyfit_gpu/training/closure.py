"""What the optimiser sees of a set: loss and penalty with their gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.devices import total_memory
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.training.memory_plan import MemoryPlan, objective_options
from pyfit_gpu.training.objective import Evaluation, Objective, l2_penalty
from pyfit_gpu.training.settings import FitSettings

if TYPE_CHECKING:
    from pyfit_gpu.training.distributed import Team

KEPT_MEMORY = 0.5  # of a device's memory, at most, holds derivatives of features, where there is no plan


def kept_memory(device: torch.device, plan: MemoryPlan | None, team: Team | None) -> float:
    """Bytes, at most, of derivatives of features that one process keeps."""
    if plan is not None:
        return plan.kept_bytes
    sharing = team.size if team is not None and device.type == "cpu" else 1
    return KEPT_MEMORY * total_memory(device) / sharing


def make_objective(
    part: TrainingSet,
    settings: FitSettings,
    *,
    memory: float,
    plan: MemoryPlan | None,
    team: Team | None,
) -> tuple[Objective, float]:
    """The objective of one part of a set, and the memory that is left."""
    targets = {name: value for name, value in settings.group_targets.items() if name in part.groups}
    options = {} if plan is None else objective_options(plan)
    objective = Objective(part, settings.loss_weights, targets=targets, team=team, **{**options, "memory": memory})
    return objective, memory - objective.kept_bytes


class Closure:
    """What the optimiser sees: loss and penalty with their gradient, and numbers for the rows."""

    def __init__(self, objective: Objective, like: ElementNetworks, l2: float) -> None:
        self.objective = objective
        self.like = like
        self.l2 = l2

    def is_recordable(self, n_points: int) -> bool:
        """Whether a call with so many points is the same operations each time, and worth a recording (`graphs`)."""
        return self.objective.is_recordable(n_points)

    def __call__(self, points: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.objective.evaluate(points, self.like)
        assert found.gradient is not None
        loss, gradient = found.errors.loss, found.gradient
        if self.l2:
            penalty, of_penalty = _penalty(points, self.like)
            loss, gradient = loss + self.l2 * penalty, gradient + self.l2 * of_penalty
        return loss, gradient, self.numbers(found)

    def numbers(self, found: Evaluation) -> Tensor:
        """(A, 4 + n_groups): loss without penalty, RMSE of energy, forces and stress, energy RMSE of each group."""
        errors = found.errors
        unknown = torch.full_like(errors.loss, math.nan)
        columns = [errors.loss, errors.energy, errors.forces, errors.stress]
        known = torch.stack([unknown if column is None else column for column in columns], dim=1)
        return torch.cat((known, self.objective.group_errors(found.energies)), dim=1)


def _penalty(points: Tensor, like: ElementNetworks) -> tuple[Tensor, Tensor]:
    """(A,) and its gradient (A, P)."""
    # On a CPU one after the other: the bits of a norm depend on how many are computed at once.
    parts = points.detach().split(1 if points.device.type == "cpu" else len(points))
    found = []
    for part in parts:
        leaf = part.clone().requires_grad_()
        with torch.enable_grad():
            penalty = l2_penalty(like.with_flat(leaf))
            (gradient,) = torch.autograd.grad(penalty.sum(), leaf)
        found.append((penalty.detach(), gradient))
    return torch.cat([penalty for penalty, _ in found]), torch.cat([gradient for _, gradient in found])
