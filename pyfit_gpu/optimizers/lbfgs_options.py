"""Options of LBFGS. Nothing here imports torch: the command line reads its defaults here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from pyfit_gpu.errors import InputError
from pyfit_gpu.optimizers.base import option

LineSearch = Literal["strong-wolfe", "none"]
_STEP_LENGTH: dict[str, float] = {"strong-wolfe": 1.0, "none": 0.05}


@dataclass(frozen=True)
class LBFGSOptions:
    """How far a step of LBFGS goes, and how carefully; names of torch.optim.LBFGS in brackets."""

    # [line_search_fn]
    line_search: LineSearch = field(default="strong-wolfe", metadata=option("how far along a direction"))
    # First trial step of the line search, or without one the step [lr].
    learning_rate: float | None = field(default=None, metadata=option("LBFGS step (1; without line search 0.05)", "R"))
    max_iterations: int = field(default=10, metadata=option("LBFGS iterations inside a step", "N"))  # [max_iter]
    # No iteration begins after so many; the evaluation at the start of a step counts [max_eval].
    max_evaluations: int | None = field(default=None, metadata=option("inside a step (5/4 of the iterations)", "N"))
    history_size: int = field(default=100, metadata=option("pairs that LBFGS remembers", "N"))
    # Unit of the loss (in a fit eV/atom); a step ends where no component is larger [tolerance_grad].
    tolerance_gradient: float = field(default=1e-7, metadata=option("largest component, ends a step", "G"))
    # A step ends where the loss, or the largest component of the parameters, changes less [tolerance_change].
    tolerance_change: float = field(default=1e-9, metadata=option("of the loss, ends a step", "C"))
    line_search_evaluations: int = field(default=25, metadata=option("of one line search, at most", "N"))

    def __post_init__(self) -> None:
        if self.line_search not in _STEP_LENGTH:
            raise InputError(f"line_search: expected strong-wolfe or none, got {self.line_search!r}")
        if not (math.isfinite(self.step_length) and self.step_length > 0):
            raise InputError(f"learning_rate: expected a number above 0, got {self.learning_rate}")
        for name in ("max_iterations", "max_evaluations", "history_size", "line_search_evaluations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}: expected a whole number above 0, got {value}")
        for name in ("tolerance_gradient", "tolerance_change"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{name}: expected a number >= 0, got {getattr(self, name)}")

    @property
    def step_length(self) -> float:
        """The learning rate, or the default of the line search."""
        return _STEP_LENGTH[self.line_search] if self.learning_rate is None else self.learning_rate

    @property
    def evaluations_per_step(self) -> int:
        """Number of evaluations after which no iteration begins; the one at the start of the step counts."""
        return self.max_iterations * 5 // 4 if self.max_evaluations is None else self.max_evaluations
