"""Settings of a fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from pyfit_gpu.errors import InputError
from pyfit_gpu.optimizers.base import Gives, OptimizerSettings
from pyfit_gpu.optimizers.lbfgs_settings import LBFGSSettings
from pyfit_gpu.training.input_statistics import ConditioningKind
from pyfit_gpu.training.loss import check_weights, weighted_terms
from pyfit_gpu.training.penalty import PenaltyForm

Keep = Literal["best", "last"]


@dataclass(frozen=True)
class FitSettings:
    """Settings of a fit. The classic program: LBFGS without line search, learning rate 0.05, last parameters kept."""

    steps: int = 100
    optimizer: OptimizerSettings = field(default_factory=LBFGSSettings)
    learning_rate_ramp: int = 0  # steps in which the optimiser's learning rate grows to its value, in equal parts
    conditioning: ConditioningKind = "half"  # scale of the networks' inputs while they train, see input_statistics.py
    # Prefactor of the penalty (penalty.py) on the parameters of the conditioned inputs; auto: found by the evidence.
    l2: float | Literal["auto"] = 0.0
    l2_form: PenaltyForm = "norm"  # l2 is that of the norms, in eV/atom, or of the squares, in eV^2/atom^2
    force_weight: float = 0.0  # Å^2, weight of the squared error of the forces, beside 1 for energies per atom
    stress_weight: float = 0.0  # weight of the squared error of the virials per atom
    huber: float = 0.0  # eV/atom; errors of energies beyond it count linearly; 0: none do
    # Prefactors of penalties on the local parameters of physically informed networks (local_penalty.py), eV^2/atom^2.
    negative_penalty: float = 1.0
    size_penalty: float = 0.0
    spread_penalty: float = 0.0
    group_targets: Mapping[str, float] = field(default_factory=dict)  # eV/atom, RMSE of a group that is good enough
    error_restart_level: float = 0.0  # eV/atom; a loss above it draws new parameters; 0: never
    validation_interval: int = 1  # steps; 0: never
    patience: int = 0  # validations without improvement after which a member stops; 0: never
    min_improvement: float = 0.0  # eV/atom, smallest decrease that counts as an improvement
    target_rmse: float = 0.0  # eV/atom, energy RMSE (validation, or else training) at which a member stops; 0: never
    max_time: float = 0.0  # s of wall clock; training stops before the step that would pass it; 0: never
    keep: Keep = "best"  # parameters of the best validation, or of the last step
    seed: int | None = None  # seed of random parameters

    def __post_init__(self) -> None:
        whole = ("steps", "validation_interval", "learning_rate_ramp", "patience")
        for name in whole:
            if getattr(self, name) < 0:
                raise InputError(f"{name}: expected a whole number >= 0, got {getattr(self, name)}")
        penalties = [f"{name}_penalty" for name in self.local_penalties]
        for name in ("huber", *penalties, "error_restart_level", "min_improvement", "target_rmse", "max_time"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{name}: expected a number >= 0, got {getattr(self, name)}")
        self._check_penalty()
        if self.keep not in ("best", "last"):
            raise InputError(f"keep: expected best or last, got {self.keep!r}")
        if self.conditioning not in get_args(ConditioningKind):
            raise InputError(
                f"conditioning: expected {', '.join(get_args(ConditioningKind))}, got {self.conditioning!r}"
            )
        for group, target in self.group_targets.items():
            if not (math.isfinite(target) and target >= 0):
                raise InputError(f"group_targets: {group}: expected a number >= 0, got {target}")
        check_weights(self.loss_weights)
        shared = {one.name for one in fields(self)} & {one.name for one in fields(self.optimizer)}
        if shared:
            raise ValueError(f"optimizer: expected other names of settings than those of a fit, got {sorted(shared)}")

    def _check_penalty(self) -> None:
        if isinstance(self.l2, str):
            if self.l2 != "auto":
                raise InputError(f"l2: expected a number >= 0 or auto, got {self.l2!r}")
        elif not (math.isfinite(self.l2) and self.l2 >= 0):
            raise InputError(f"l2: expected a number >= 0 or auto, got {self.l2}")
        if self.l2_form not in get_args(PenaltyForm):
            raise InputError(f"l2_form: expected {' or '.join(get_args(PenaltyForm))}, got {self.l2_form!r}")
        if self.l2_form == "norm" and self.l2 != 0:
            for name, needs in (("l2 auto", self.l2 == "auto"), (self.optimizer.name, self._needs_residuals)):
                if needs:
                    raise InputError(
                        f"l2_form: expected squared with {name}, got norm, which is no sum of squares (that l2 is "
                        "another number than that of norms, in eV^2/atom^2)"
                    )

    @property
    def _needs_residuals(self) -> bool:
        return self.optimizer.needs is Gives.RESIDUALS

    @property
    def loss_weights(self) -> dict[str, float]:
        """Prefactors of the terms beside the energy, by term."""
        return {term.name: getattr(self, term.weight_name) for term in weighted_terms()}

    @property
    def local_penalties(self) -> dict[str, float]:
        """Prefactors of the penalties on local parameters, by name in `LocalPenalty`."""
        return {"negative": self.negative_penalty, "size": self.size_penalty, "spread": self.spread_penalty}

    def learning_rate_factor(self, step: int) -> float:
        """Factor of the learning rate in step 0, 1, ..: the ramp, then 1."""
        return min(1.0, (step + 1) / max(1, self.learning_rate_ramp))

    def by_name(self) -> dict[str, Any]:
        """All settings by name, with those of the optimiser among them and its name as `optimizer`; fit for JSON."""
        return asdict(self) | asdict(self.optimizer) | {"optimizer": self.optimizer.name}
