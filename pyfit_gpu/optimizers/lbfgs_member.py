"""LBFGS as one member sees it: settings, what the host knows, and the decisions of a step, without a vector."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from pyfit_gpu.errors import InputError
from pyfit_gpu.optimizers.line_search import Ask, Trial, other_slot, strong_wolfe

Iterations = Generator[Ask | None, Trial, None]  # None asks for the next direction; the answer is its start


@dataclass(frozen=True)
class LBFGSSettings:
    """How far and how carefully; the names of torch in brackets."""

    line_search: Literal["strong-wolfe", "none"] = "strong-wolfe"  # [line_search_fn]
    learning_rate: float = 1.0  # first trial step of a line search, or without one the step [lr]
    max_iterations: int = 10  # inside one step [max_iter]
    max_evaluations: int | None = None  # inside one step; None: max_iterations * 5 // 4 [max_eval]
    history_size: int = 100  # pairs
    tolerance_gradient: float = 1e-7  # largest component [tolerance_grad]
    tolerance_change: float = 1e-9  # of the loss, and of the largest component of the weights
    line_search_evaluations: int = 25  # at most, of one line search

    def __post_init__(self) -> None:
        if self.line_search not in ("strong-wolfe", "none"):
            raise InputError(f"line_search: expected strong-wolfe or none, got {self.line_search!r}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"learning_rate: expected a number above 0, got {self.learning_rate}")
        for name in ("max_iterations", "max_evaluations", "history_size", "line_search_evaluations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}: expected a whole number above 0, got {value}")
        for name in ("tolerance_gradient", "tolerance_change"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{name}: expected a number >= 0, got {getattr(self, name)}")

    @property
    def evaluations_per_step(self) -> int:
        """After which no iteration begins; the one at the start counts."""
        return self.max_iterations * 5 // 4 if self.max_evaluations is None else self.max_evaluations


@dataclass
class Member:
    """What the host knows about one member."""

    loss: float = math.nan
    gradient_max: float = math.nan  # largest component
    gradient_sum: float = math.nan  # of absolute values, where it was evaluated without a search
    known: bool = False  # loss and gradient at the weights
    slot: int = 0  # of the gradient at the weights, if known
    previous: int | None = None  # slot of the gradient before the last move; None: nothing to learn from a move
    length: float = 0.0  # of the last move along the direction
    to_move: float = 0.0  # so far along the direction the weights have yet to follow
    longest: float = math.nan  # largest component of the direction
    goes_on: bool = False  # another iteration may follow in this step
    n_iterations: int = 0
    n_evaluations: int = 0

    def iterate(self, settings: LBFGSSettings, rate: float) -> Iterations:
        """One step, from where loss and gradient are known; `rate`: the learning rate.

        Each iteration asks for a direction, then for trials along it, and moves to the one it accepts.
        """
        if self.gradient_max <= settings.tolerance_gradient:
            return
        budget = settings.evaluations_per_step + self.n_evaluations - 1
        for iteration in range(1, settings.max_iterations + 1):
            self.n_iterations += 1
            self.goes_on = iteration < settings.max_iterations
            start = yield None
            if not start.slope <= -settings.tolerance_change:
                return
            shortened = self.n_iterations == 1 and self.gradient_sum > 1
            length = 1.0 / self.gradient_sum * rate if shortened else rate
            first = Ask(length, other_slot(start.slot), given=not shortened)
            if settings.line_search == "strong-wolfe":
                most = min(budget - self.n_evaluations, settings.line_search_evaluations - 1)
                limits = {"longest": self.longest, "tolerance": settings.tolerance_change}
                accepted = yield from strong_wolfe(start, first, **limits, max_trials=most)
            elif self.goes_on:
                accepted = yield first
            else:
                self.previous, self.length, self.to_move, self.known = start.slot, length, length, False
                return
            self._accept(start, accepted)
            if self.n_evaluations >= budget or self._stands(start, settings):
                return

    def _accept(self, start: Trial, accepted: Trial) -> None:
        self.length = self.to_move = accepted.length
        self.previous, self.slot = start.slot, accepted.slot
        self.loss, self.gradient_max = accepted.loss, accepted.gradient_max

    def _stands(self, start: Trial, settings: LBFGSSettings) -> bool:
        """Whether the gradient vanishes, or the last move changed next to nothing."""
        return (
            self.gradient_max <= settings.tolerance_gradient
            or self.longest * abs(self.length) <= settings.tolerance_change
            or abs(self.loss - start.loss) < settings.tolerance_change
        )
