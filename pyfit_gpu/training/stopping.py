"""Decisions about when a member stops, and which of its validations was the best."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pyfit_gpu.training.history import MemberHistory, Status
from pyfit_gpu.training.settings import FitSettings


@dataclass
class Stopping:
    """Validations of one member so far; the fields are in the run file."""

    best: float = math.inf  # eV/atom, least validation loss
    improved: float = math.inf  # eV/atom, the validation loss that the next improvement is measured from
    waiting: int = 0  # validations since that improvement

    def count(self, validation: float, min_improvement: float) -> bool:
        """Take in a validation loss, eV/atom; returns whether it is the least so far."""
        is_best = validation < self.best
        if is_best:
            self.best = validation
        self.waiting += 1
        if validation < self.improved - min_improvement:
            self.improved, self.waiting = validation, 0
        return is_best


def status_after(history: MemberHistory, stopping: Stopping, settings: FitSettings, *, validates: bool) -> Status:
    """Decide why a member stops after its last row, or that it is "running".

    Args:
        validates: whether `target_rmse` is compared with the validation error, or else with the training error.
    """
    reached = history.validation_errors.get(history.step) if validates else history.errors[-1]
    # The steps come last: a fit that is given more of them later goes on only if nothing else stopped it.
    if settings.target_rmse and reached is not None and reached["energy"] <= settings.target_rmse:
        return "target"
    if settings.patience and stopping.waiting >= settings.patience:
        return "patience"
    return "steps" if history.step >= settings.steps else "running"
