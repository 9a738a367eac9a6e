"""Options of Gauss-Newton. Nothing here imports torch: the command line reads its defaults here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pyfit_gpu.errors import InputError
from pyfit_gpu.optimizers.base import option


@dataclass(frozen=True)
class GaussNewtonOptions:
    """How carefully Gauss-Newton steps."""

    # Of the largest diagonal element of J^T J at the start.
    damping: float = field(default=1e-4, metadata=option("first damping of Gauss-Newton", "D"))
    damping_trials: int = field(default=12, metadata=option("dampings that a Gauss-Newton step tries, at most", "N"))

    def __post_init__(self) -> None:
        if not (math.isfinite(self.damping) and self.damping > 0):
            raise InputError(f"damping: expected a number above 0, got {self.damping}")
        if self.damping_trials < 1:
            raise InputError(f"damping_trials: expected a whole number above 0, got {self.damping_trials}")
