"""LBFGS as a fit chooses it: its options, and how to build the optimiser."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pyfit_gpu.optimizers.base import Gives, Optimizer
from pyfit_gpu.optimizers.lbfgs_options import LBFGSOptions

if TYPE_CHECKING:
    from torch import Tensor


class LBFGSSettings(LBFGSOptions):  # a dataclass like its base, without fields of its own
    """LBFGS of many members at once. The classic program: no line search, learning rate 0.05."""

    name: ClassVar[str] = "lbfgs"
    needs: ClassVar[Gives] = Gives.GRADIENT
    fixed: ClassVar[tuple[str, ...]] = ("history_size",)
    remedies: ClassVar[tuple[str, ...]] = ("a smaller learning_rate", "strong-wolfe as line_search")

    def build(self, parameters: Tensor) -> Optimizer:
        """Build the optimiser of parameters (K, P)."""
        from pyfit_gpu.optimizers.lbfgs import LBFGS  # loads torch, which the command line's help does without

        return LBFGS(parameters, self)

    def memory_bytes(self, n_members: int, n_parameters: int, *, on_gpu: bool) -> int:
        """Count the bytes of all vectors and curvature pairs."""
        from pyfit_gpu.optimizers.member_vectors import memory_bytes

        return memory_bytes(n_members, n_parameters, self.history_size, on_gpu=on_gpu)

    def describe(self) -> str:
        return f"LBFGS, line search {self.line_search}, up to {self.max_iterations} iterations each"
