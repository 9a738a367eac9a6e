"""Gauss-Newton as a fit chooses it: its options, and how to build the optimiser."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pyfit_gpu.optimizers.base import Gives, Optimizer
from pyfit_gpu.optimizers.gauss_newton_options import GaussNewtonOptions

if TYPE_CHECKING:
    from torch import Tensor


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
