"""Gauss-Newton as a fit chooses it: its options, and how to build the optimiser. Nothing here imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pyfit_gpu.errors import InputError
from pyfit_gpu.optimizers.base import Gives, Optimizer, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GaussNewtonOptions:
    """How carefully Gauss-Newton steps."""

    # Of the largest diagonal element of J^T J at the start.
    damping: float = field(default=1e-3, metadata=option("first damping of Gauss-Newton", "D"))
    damping_trials: int = field(default=12, metadata=option("dampings that a Gauss-Newton step tries, at most", "N"))

    def __post_init__(self) -> None:
        if not (math.isfinite(self.damping) and self.damping > 0):
            raise InputError(f"damping: expected a number above 0, got {self.damping}")
        if self.damping_trials < 1:
            raise InputError(f"damping_trials: expected a whole number above 0, got {self.damping_trials}")


class GaussNewtonSettings(GaussNewtonOptions):  # a dataclass like its base, without fields of its own
    """Gauss-Newton with Levenberg-Marquardt damping, of many members at once."""

    name: ClassVar[str] = "gauss-newton"
    needs: ClassVar[Gives] = Gives.RESIDUALS
    fixed: ClassVar[tuple[str, ...]] = ()
    remedies: ClassVar[tuple[str, ...]] = ("a larger damping",)

    def build(self, parameters: Tensor) -> Optimizer:
        """Build the optimiser of parameters (K, P)."""
        from pyfit_gpu.optimizers.gauss_newton import GaussNewton  # loads torch

        return GaussNewton(parameters, self)

    def memory_bytes(self, n_members: int, n_parameters: int, *, on_gpu: bool) -> int:
        """Count the bytes of parameters, gradients and trials; matrices are the objective's."""
        del on_gpu
        return 8 * n_parameters * (2 * n_members + 4)

    def describe(self) -> str:
        return "Gauss-Newton, damped"
