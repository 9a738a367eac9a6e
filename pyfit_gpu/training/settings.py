"""How to train."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pyfit_gpu.errors import InputError
from pyfit_gpu.optimizers.lbfgs import LBFGSSettings
from pyfit_gpu.training.loss import check_weights, weighted_terms

LineSearch = Literal["strong-wolfe", "none"]
Keep = Literal["best", "last"]


@dataclass(frozen=True)
class FitSettings:
    """How to train. The classic program: no line search, learning rate 0.05, keep the last parameters."""

    steps: int = 100
    line_search: LineSearch = "strong-wolfe"
    learning_rate: float | None = None  # first trial step of the line search (1), or without one the step (0.05)
    learning_rate_ramp: int = 0  # steps in which the learning rate grows to its value, in equal parts
    max_iterations: int = 10  # LBFGS iterations inside one step
    max_evaluations: int | None = None  # inside one step, after which no iteration begins; None: 5/4 of the iterations
    history_size: int = 100
    tolerance_gradient: float = 1e-7  # eV/atom; a step ends where no component of the gradient is larger
    tolerance_change: float = 1e-9  # eV/atom; a step ends where the loss changes less
    line_search_evaluations: int = 25  # at most, of one line search
    l2: float = 0.0  # eV/atom, prefactor of the norms of the parameters
    force_weight: float = 0.0  # Å^2, of the squared error of the forces beside that of the energies per atom
    stress_weight: float = 0.0  # of the squared error of the virials per atom
    group_targets: Mapping[str, float] = field(default_factory=dict)  # eV/atom, RMSE of a group that is good enough
    error_restart_level: float = 0.0  # eV/atom; a loss above it draws new parameters; 0: never
    validation_interval: int = 1  # steps; 0: never
    patience: int = 0  # validations without improvement after which a member stops; 0: never
    min_improvement: float = 0.0  # eV/atom, what counts as one
    target_rmse: float = 0.0  # eV/atom, energy RMSE (validation, or else training) at which a member stops; 0: never
    max_time: float = 0.0  # s of wall clock; training stops before the step that would pass it; 0: never
    keep: Keep = "best"  # parameters of the best validation, or of the last step
    seed: int | None = None  # of parameters that are drawn

    def __post_init__(self) -> None:
        whole = ("steps", "validation_interval", "learning_rate_ramp", "patience")
        for name in whole:
            if getattr(self, name) < 0:
                raise InputError(f"{name}: expected a whole number >= 0, got {getattr(self, name)}")
        for name in ("l2", "error_restart_level", "min_improvement", "target_rmse", "max_time"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{name}: expected a number >= 0, got {getattr(self, name)}")
        if self.keep not in ("best", "last"):
            raise InputError(f"keep: expected best or last, got {self.keep!r}")
        for group, target in self.group_targets.items():
            if not (math.isfinite(target) and target >= 0):
                raise InputError(f"group_targets: {group}: expected a number >= 0, got {target}")
        check_weights(self.loss_weights)
        _ = self.optimizer  # which checks its own

    @property
    def loss_weights(self) -> dict[str, float]:
        """Prefactors of the terms beside the energy, by term."""
        return {term.name: getattr(self, term.weight_name) for term in weighted_terms()}

    @property
    def optimizer(self) -> LBFGSSettings:
        return LBFGSSettings(
            line_search=self.line_search,
            learning_rate=self.step_length,
            max_iterations=self.max_iterations,
            max_evaluations=self.max_evaluations,
            history_size=self.history_size,
            tolerance_gradient=self.tolerance_gradient,
            tolerance_change=self.tolerance_change,
            line_search_evaluations=self.line_search_evaluations,
        )

    @property
    def step_length(self) -> float:
        """The learning rate, or the line search's default."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1.0 if self.line_search == "strong-wolfe" else 0.05

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step 0, 1, ..: the ramp, then the learning rate itself."""
        return self.step_length * min(1.0, (step + 1) / max(1, self.learning_rate_ramp))
