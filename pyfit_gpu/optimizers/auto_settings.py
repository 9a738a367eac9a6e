"""LBFGS first and Gauss-Newton once that pays: options, and how to build the optimiser. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from pyfit_gpu.optimizers.base import Gives, Optimizer
from pyfit_gpu.optimizers.gauss_newton_settings import GaussNewtonOptions, GaussNewtonSettings
from pyfit_gpu.optimizers.lbfgs_options import LBFGSOptions
from pyfit_gpu.optimizers.lbfgs_settings import LBFGSSettings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AutoSettings(GaussNewtonOptions, LBFGSOptions):
    """LBFGS until a step of Gauss-Newton, tried from time to time, gains more per second."""

    name: ClassVar[str] = "auto"
    needs: ClassVar[Gives] = Gives.RESIDUALS
    fixed: ClassVar[tuple[str, ...]] = ("history_size",)
    remedies: ClassVar[tuple[str, ...]] = LBFGSSettings.remedies

    def __post_init__(self) -> None:
        GaussNewtonOptions.__post_init__(self)
        LBFGSOptions.__post_init__(self)

    @property
    def lbfgs(self) -> LBFGSSettings:
        """The options of LBFGS among these."""
        return LBFGSSettings(**{one.name: getattr(self, one.name) for one in fields(LBFGSSettings)})

    @property
    def gauss_newton(self) -> GaussNewtonSettings:
        """The options of Gauss-Newton among these."""
        return GaussNewtonSettings(**{one.name: getattr(self, one.name) for one in fields(GaussNewtonSettings)})

    def build(self, parameters: Tensor) -> Optimizer:
        """Build the optimiser of parameters (K, P)."""
        from pyfit_gpu.optimizers.auto import Auto  # loads torch

        return Auto(parameters, self)

    def memory_bytes(self, n_members: int, n_parameters: int, *, on_gpu: bool) -> int:
        """Count the bytes of both optimisers."""
        both = (self.lbfgs, self.gauss_newton)
        return sum(one.memory_bytes(n_members, n_parameters, on_gpu=on_gpu) for one in both)

    def describe(self) -> str:
        return f"{self.lbfgs.describe()}, then Gauss-Newton once that pays"
