"""One member of LBFGS on the host: its state and the decisions of a step, in scalars only."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

from pyfit_gpu.optimizers.lbfgs_options import LBFGSOptions
from pyfit_gpu.optimizers.line_search import Trial, TrialRequest, other_slot, strong_wolfe

# None requests the next direction; the answer is the `Trial` of length 0 along it.
Iterations = Generator[TrialRequest | None, Trial, None]


@dataclass
class Member:
    """Everything the host knows about one member. A slot is a place for a gradient (`MemberVectors`)."""

    loss: float = math.nan
    gradient_max: float = math.nan  # largest component
    gradient_sum: float = math.nan  # sum of absolute values, where the member was evaluated without a search
    known: bool = False  # whether loss and gradient at the parameters are known
    slot: int = 0  # slot of the gradient at the parameters, if known
    previous: int | None = None  # slot of the gradient before the last move; None: the last move makes no pair
    length: float = 0.0  # length of the last move along the direction
    to_move: float = 0.0  # length along the direction by which the parameters lag behind the last move
    longest: float = math.nan  # largest component of the direction
    goes_on: bool = False  # whether another iteration may follow in this step
    n_iterations: int = 0
    n_evaluations: int = 0

    def iterate(self, settings: LBFGSOptions, step_length: float) -> Iterations:
        """Take one step, from a point at which loss and gradient are known.

        Each iteration requests a direction, then trials along it, and moves to the one it accepts.

        Args:
            step_length: length of the first trial along each direction, or of each move without a line search.
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
            length = 1.0 / self.gradient_sum * step_length if shortened else step_length
            first = TrialRequest(length, other_slot(start.slot), given=not shortened)
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

    def _stands(self, start: Trial, settings: LBFGSOptions) -> bool:
        """Whether the gradient vanishes, or the last move changed hardly anything."""
        return (
            self.gradient_max <= settings.tolerance_gradient
            or self.longest * abs(self.length) <= settings.tolerance_change
            or abs(self.loss - start.loss) < settings.tolerance_change
        )
