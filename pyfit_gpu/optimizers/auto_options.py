"""Options of the optimiser that is LBFGS first and Gauss-Newton once that pays. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, fields

from pyfit_gpu.optimizers.gauss_newton_options import GaussNewtonOptions
from pyfit_gpu.optimizers.lbfgs_options import LBFGSOptions


@dataclass(frozen=True)
class AutoOptions(GaussNewtonOptions, LBFGSOptions):
    """The options of both."""

    def __post_init__(self) -> None:
        GaussNewtonOptions.__post_init__(self)
        LBFGSOptions.__post_init__(self)

    @property
    def lbfgs(self) -> LBFGSOptions:
        """The options of LBFGS among these."""
        return LBFGSOptions(**{one.name: getattr(self, one.name) for one in fields(LBFGSOptions)})

    @property
    def gauss_newton(self) -> GaussNewtonOptions:
        """The options of Gauss-Newton among these."""
        return GaussNewtonOptions(**{one.name: getattr(self, one.name) for one in fields(GaussNewtonOptions)})
