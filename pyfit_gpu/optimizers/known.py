"""The optimisers that the command line and run files know by name."""

from __future__ import annotations

from pyfit_gpu.optimizers.auto_settings import AutoSettings
from pyfit_gpu.optimizers.base import OptimizerSettings
from pyfit_gpu.optimizers.gauss_newton_settings import GaussNewtonSettings
from pyfit_gpu.optimizers.lbfgs_settings import LBFGSSettings

OPTIMIZERS: dict[str, type[OptimizerSettings]] = {
    kind.name: kind for kind in (LBFGSSettings, GaussNewtonSettings, AutoSettings)
}
