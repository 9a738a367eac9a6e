"""LBFGS first and Gauss-Newton once that pays, as a fit chooses it: options, and how to build the optimiser."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pyfit_gpu.optimizers.auto_options import AutoOptions
from pyfit_gpu.optimizers.base import Gives, Optimizer
from pyfit_gpu.optimizers.gauss_newton_settings import GaussNewtonSettings
from pyfit_gpu.optimizers.lbfgs_settings import LBFGSSettings

if TYPE_CHECKING:
    from torch import Tensor


class AutoSettings(AutoOptions):  # a dataclass like its base, without fields of its own
    """LBFGS until a step of Gauss-Newton, tried from time to time, gains more per second."""

    name: ClassVar[str] = "auto"
    needs: ClassVar[Gives] = Gives.RESIDUALS
    fixed: ClassVar[tuple[str, ...]] = LBFGSSettings.fixed
    remedies: ClassVar[tuple[str, ...]] = LBFGSSettings.remedies

    def build(self, parameters: Tensor) -> Optimizer:
        """Build the optimiser of parameters (K, P)."""
        from pyfit_gpu.optimizers.auto import Auto  # loads torch

        return Auto(parameters, self)

    def memory_bytes(self, n_members: int, n_parameters: int, *, on_gpu: bool) -> int:
        """Count the bytes of both optimisers."""
        lbfgs, gauss_newton = LBFGSSettings(**vars(self.lbfgs)), GaussNewtonSettings(**vars(self.gauss_newton))
        return sum(one.memory_bytes(n_members, n_parameters, on_gpu=on_gpu) for one in (lbfgs, gauss_newton))

    def describe(self) -> str:
        return f"{LBFGSSettings(**vars(self.lbfgs)).describe()}, then Gauss-Newton once that pays"
