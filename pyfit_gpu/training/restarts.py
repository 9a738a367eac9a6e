"""Members whose loss is too large or not a number: they get new parameters, or stop."""

from __future__ import annotations

import math

from torch import Tensor

from pyfit_gpu.log import log
from pyfit_gpu.models.networks import member_seed
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.training.history import MemberHistory
from pyfit_gpu.training.settings import FitSettings

MAX_RESTARTS = 3
RESTART_MAX_RANDOM = 0.5


class Restarts:
    """Decides which members start again, and draws their parameters."""

    def __init__(self, potential: Potential, settings: FitSettings, first_member: int, *, random_starts: bool) -> None:
        """Note the members and their settings.

        Args:
            potential: all members.
            first_member: number of the first, which together with the seed decides what is drawn.
            random_starts: whether the parameters were drawn, so that a member whose loss is not a number may draw
                others.
        """
        self.potential = potential
        self.settings = settings
        self.first_member = first_member
        self.random_starts = random_starts
        self.failure = ""  # message about the last member that failed

    def is_lost(self, loss: float) -> bool:
        """Whether a loss is not a number, or above the level, which counts only if there are steps to take."""
        level = self.settings.error_restart_level
        return not math.isfinite(loss) or (level > 0 and self.settings.steps > 0 and loss > level)

    def may_restart(self, history: MemberHistory) -> bool:
        """Whether a member whose loss is lost may restart: if there is a level, or if the starts were drawn."""
        wanted = self.settings.error_restart_level > 0 or self.random_starts
        return wanted and self.settings.steps > 0 and history.n_restarts < MAX_RESTARTS

    def draw(self, k: int, history: MemberHistory, loss: float) -> Tensor:
        """Draw new parameters (P,) for member k, and count the restart in its history."""
        level = self.settings.error_restart_level
        history.n_restarts += 1
        log.warning(
            "%sstep %d: the loss %.6g eV/atom is %s: restart %d of %d with new parameters",
            self._named(k),
            len(history.loss),
            loss,
            f"above error_restart_level {level:g}" if level else "not a number",
            history.n_restarts,
            MAX_RESTARTS,
        )
        seed = member_seed(self.settings.seed, history.n_restarts, self.first_member + k)
        return self.potential.member(k).randomized(seed, RESTART_MAX_RANDOM).networks.flat()[0]

    def end(self, k: int, history: MemberHistory, loss: float) -> None:
        """Set the status of a member that has no restarts or none left, see `history.Status`."""
        if self.settings.error_restart_level > 0 and self.settings.steps > 0:
            history.status = "gave up"
            return
        history.status = "failed"
        step = len(history.loss)
        remedies = ", ".join((*self.settings.optimizer.remedies, "or an error_restart_level"))
        self.failure = (
            f"after step {step} the loss is {loss}: the parameters of step {max(step - 1, 0)} are kept; try {remedies}"
        )
        if not history.loss:
            history.loss.append(loss)
        if self.potential.networks.n_members > 1:
            log.warning("%s", self._named(k) + self.failure)

    def _named(self, k: int) -> str:
        several = self.potential.networks.n_members > 1 or self.first_member
        return f"member {self.first_member + k}: " if several else ""
