"""Members whose loss is too large or no number: new parameters for them, or their end."""

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
        """
        Args:
            potential: all members.
            first_member: number of the first, which together with the seed decides what is drawn.
            random_starts: the parameters were drawn: a member whose loss is no number may draw others.
        """
        self.potential = potential
        self.settings = settings
        self.first_member = first_member
        self.random_starts = random_starts
        self.failure = ""  # of the last member that failed

    def is_lost(self, loss: float) -> bool:
        """Whether a loss is no number, or above the level; without steps there is nothing to start again."""
        level = self.settings.error_restart_level
        return not math.isfinite(loss) or (level > 0 and self.settings.steps > 0 and loss > level)

    def may_restart(self, history: MemberHistory) -> bool:
        """Where a level is given; of random starts, and of several members, also where the loss of one is lost."""
        wanted = self.settings.error_restart_level > 0 or self.random_starts
        return wanted and self.settings.steps > 0 and history.n_restarts < MAX_RESTARTS

    def draw(self, k: int, history: MemberHistory, loss: float) -> Tensor:
        """New parameters (P,) for member k; its history counts the restart."""
        level = self.settings.error_restart_level
        history.n_restarts += 1
        log.warning(
            "%sstep %d: the loss %.6g eV/atom is %s: restart %d of %d with new weights",
            self._named(k),
            len(history.loss),
            loss,
            f"above error_restart_level {level:g}" if level else "no number",
            history.n_restarts,
            MAX_RESTARTS,
        )
        seed = member_seed(self.settings.seed, history.n_restarts, self.first_member + k)
        return self.potential.member(k).randomized(seed, RESTART_MAX_RANDOM).networks.flat()[0]

    def end(self, k: int, history: MemberHistory, loss: float) -> None:
        """Set the status of a member for which there are no restarts (left), see `history.Status`."""
        if self.settings.error_restart_level > 0 and self.settings.steps > 0:
            history.status = "gave up"
            return
        history.status = "failed"
        step = len(history.loss)
        remedies = ", ".join((*self.settings.optimizer.remedies, "or an error_restart_level"))
        self.failure = (
            f"after step {step} the loss is {loss}: the weights of step {max(step - 1, 0)} are kept; try {remedies}"
        )
        if not history.loss:
            history.loss.append(loss)
        if self.potential.networks.n_members > 1:
            log.warning("%s", self._named(k) + self.failure)

    def _named(self, k: int) -> str:
        several = self.potential.networks.n_members > 1 or self.first_member
        return f"member {self.first_member + k}: " if several else ""
