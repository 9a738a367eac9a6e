"""The loop of a fit: steps of all members, their rows, restarts and ends, and the state between two steps."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.formats.run_file import FitState
from pyfit_gpu.models.networks import member_seed
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.optimizers.lbfgs import LBFGS
from pyfit_gpu.training.closure import Closure, kept_memory, make_objective
from pyfit_gpu.training.history import History, LabelErrors, MemberHistory, Observers, Row
from pyfit_gpu.training.memory_plan import MemoryPlan
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.settings import FitSettings

if TYPE_CHECKING:
    from pyfit_gpu.training.distributed import Team

MAX_RESTARTS = 3
RESTART_MAX_RANDOM = 0.5

_log = logging.getLogger("pyfit_gpu")


class TrainingFailure(RuntimeError):
    """The loss is no longer a number; the potential keeps the last weights for which it was."""


@dataclass
class _Stopping:
    """What decides when a member stops."""

    best: float = math.inf  # eV/atom, least validation loss
    improved: float = math.inf  # eV/atom, the validation loss that the next improvement is measured from
    waiting: int = 0  # validations since


class FitRun:
    def __init__(
        self,
        potential: Potential,
        train: TrainingSet,
        validation: TrainingSet | None,
        settings: FitSettings,
        observers: Observers,
        first_member: int,
        random_starts: bool,
        plan: MemoryPlan | None,
        team: Team | None,
    ) -> None:
        self.potential = potential
        self.settings = settings
        self.plan = plan
        self.team = team
        self.first_member = first_member
        self.random_starts = random_starts
        n_members = potential.networks.n_members
        self.observers = [list(observers(k) if callable(observers) else observers) for k in range(n_members)]
        self.parts = {"training": train, "validation": validation}
        self._memory = kept_memory(train.features.device, plan, team)
        self.double = train.features.dtype == torch.float64
        self.objective = self._objective("training")
        # Structures of weight 0 have no say; a set of nothing else says nothing.
        self.validation: Objective | None = None
        if validation is not None and len(validation) and bool(validation.weight.sum() > 0):
            self.validation = self._objective("validation")
        self.histories = [MemberHistory() for _ in range(n_members)]
        self.stopping = [_Stopping() for _ in range(n_members)]
        self.history = History(self.histories, potential)
        # The optimiser works in float64 whatever the objective computes in: its vectors are small.
        device = train.features.device
        self.like = potential.networks.to(device, torch.float64)
        weights = self.like.flat()
        self.closure = Closure(self.objective, self.like, settings.l2)
        self.optimizer = LBFGS(weights, settings.optimizer)
        self.good = weights.clone()
        self.kept = weights.clone()
        self.failure = ""  # of the last member that failed

    def _objective(self, name: str) -> Objective:
        """Of one part of the set."""

        def make() -> Objective:
            part = self.parts[name]
            assert part is not None
            objective, self._memory = make_objective(
                part, self.settings, memory=self._memory, plan=self.plan, team=self.team
            )
            return objective

        return make() if self.team is None else self.team.build(name, make)

    # State

    def state(self) -> FitState:
        members = [
            {"history": history.to_json(), "stopping": vars(stopping).copy()}
            for history, stopping in zip(self.histories, self.stopping, strict=True)
        ]
        return FitState(members, self.optimizer.state(), self.good.cpu().clone(), self.kept.cpu().clone())

    def restore(self, state: FitState) -> None:
        for k, member in enumerate(state.members):
            self.histories[k] = MemberHistory.from_json(member["history"])
            self.stopping[k] = _Stopping(**member["stopping"])
        self.history.members = self.histories
        self.optimizer.load_state(state.optimizer)
        self.good.copy_(state.good)
        self.kept.copy_(state.kept)
        for k, history in enumerate(self.histories):
            # What stops a member may have changed since: more steps, fewer, more patience.
            if history.loss and history.status in ("running", "steps", "patience", "target"):
                history.status = "running"
                self._judge(k)
            if history.step or history.n_restarts:
                self._write_back(k, self.good)
            if not state.known:
                self._forget_loss(k)

    def _forget_loss(self, k: int) -> None:
        """The loss is another than before: what was best by the old one counts no longer."""
        self.optimizer.forget(k)
        self.stopping[k] = _Stopping()
        self.histories[k].validation.clear()
        self.histories[k].validation_errors.clear()

    # The loop

    def until_done(
        self,
        should_stop: Callable[[], bool],
        checkpoint: Callable[[Callable[[], FitState], bool], None] | None,
    ) -> History:
        try:
            self._loop(should_stop, checkpoint)
        finally:  # whatever ends it
            self._finish()
        return self.history

    def _loop(
        self,
        should_stop: Callable[[], bool],
        checkpoint: Callable[[Callable[[], FitState], bool], None] | None,
    ) -> None:
        started, longest = time.monotonic(), 0.0
        if checkpoint is not None:
            checkpoint(self.state, False)
        running = [k for k, history in enumerate(self.histories) if history.status == "running"]
        fresh = [k for k in running if not self.histories[k].loss]
        if fresh:
            for k in fresh:
                self._begin(k)
            stopped = set(fresh) - set(self._look(fresh))
            running = [k for k in running if k not in stopped]
        while True:
            if running and self._out_of_time(time.monotonic() - started, longest):
                self.history.end = "time"
            elif running and should_stop():
                self.history.end = "interrupted"
            last = not running or self.history.end != "done"
            if checkpoint is not None:
                checkpoint(self.state, last)
            if last:
                break
            before = time.monotonic()
            self._step(running)
            running = self._look(running)
            longest = max(longest, time.monotonic() - before)
        self._validate_ends()

    def _out_of_time(self, elapsed: float, longest: float) -> bool:
        return self.settings.max_time > 0 and elapsed + 1.2 * longest > self.settings.max_time

    def _step(self, running: Sequence[int]) -> None:
        """One step of every running member; those that were restarted are at another step than the others."""
        by_step: dict[int, list[int]] = {}
        for k in running:
            by_step.setdefault(self.histories[k].step, []).append(k)
        for step, chosen in by_step.items():
            self.optimizer.step(self.closure, chosen, self.settings.learning_rate_at(step))

    def _look(self, running: Sequence[int]) -> list[int]:
        """Rows of these members at their new weights; which of them go on."""
        pending = list(running)
        known: dict[int, list[float]] = {}  # numbers of those that are seen
        while pending:  # members that are given new weights are looked at again
            self.optimizer.evaluate(self.closure, pending)
            numbers = self.optimizer.extras.tolist()
            restarted = []
            for k in pending:
                if self._acceptable(k, numbers[k][0]):
                    known[k] = numbers[k]
                elif self._may_restart(k):
                    self._restart(k, numbers[k][0])
                    restarted.append(k)
                else:
                    self._lost(k, numbers[k][0])
                    if self.histories[k].status == "gave up":
                        known[k] = numbers[k]
            pending = restarted
        seen = sorted(known)
        self._record({k: known[k] for k in seen})
        for k in seen:
            self._decide(k)
        if all(history.status == "failed" for history in self.histories):
            raise TrainingFailure(self.failure)
        return [k for k in seen if self.histories[k].status == "running"]

    # One member

    def _begin(self, k: int) -> None:
        self.histories[k].begin()
        self.stopping[k] = _Stopping()
        for observer in self.observers[k]:
            observer.begin()

    def _acceptable(self, k: int, loss: float) -> bool:
        level = self.settings.error_restart_level
        # NaN is too large as well; without steps there is nothing to start again.
        return math.isfinite(loss) and not (level > 0 and self.settings.steps > 0 and loss > level)

    def _may_restart(self, k: int) -> bool:
        """Where a level is given; of random starts, and of several members, also where the loss of one is lost."""
        wanted = self.settings.error_restart_level > 0 or self.random_starts
        return wanted and self.settings.steps > 0 and self.histories[k].n_restarts < MAX_RESTARTS

    def _restart(self, k: int, loss: float) -> None:
        history, level = self.histories[k], self.settings.error_restart_level
        history.n_restarts += 1
        _log.warning(
            "%sstep %d: the loss %.6g eV/atom is %s: restart %d of %d with new weights",
            self._named(k),
            len(history.loss),
            loss,
            f"above error_restart_level {level:g}" if level else "no number",
            history.n_restarts,
            MAX_RESTARTS,
        )
        seed = member_seed(self.settings.seed, history.n_restarts, self.first_member + k)
        drawn = self.potential.member(k).randomized(seed, RESTART_MAX_RANDOM).networks.flat()[0]
        self.optimizer.restart(k, drawn.to(self.good))
        self._begin(k)

    def _lost(self, k: int, loss: float) -> None:
        """The loss is too large or no number, and there are no restarts (left)."""
        history = self.histories[k]
        if self.settings.error_restart_level > 0 and self.settings.steps > 0:
            history.status = "gave up"
            return
        history.status = "failed"
        step = len(history.loss)
        self.failure = (
            f"after step {step} the loss is {loss}: the weights of step {max(step - 1, 0)} are kept; try a "
            "smaller learning_rate, strong-wolfe as line_search, or an error_restart_level"
        )
        if not history.loss:
            history.loss.append(loss)
        if len(self.histories) > 1:
            _log.warning("%s", self._named(k) + self.failure)

    def _named(self, k: int) -> str:
        return f"member {self.first_member + k}: " if len(self.histories) > 1 or self.first_member else ""

    @torch.no_grad()
    def _record(self, numbers: dict[int, list[float]]) -> None:
        """Rows of these members, from what `Closure.numbers` says of each."""
        interval = self.settings.validation_interval
        chosen: list[int] = []
        if self.validation is not None and interval:
            chosen = [k for k in numbers if len(self.histories[k].loss) % interval == 0]
        validated = self._validate(chosen) if chosen else {}
        for k, own in numbers.items():
            self._record_member(k, own, validated.get(k))

    def _validate(self, chosen: Sequence[int]) -> dict[int, tuple[float, LabelErrors, dict[str, float]]]:
        assert self.validation is not None
        found = self.validation.evaluate(self.optimizer.weights[list(chosen)], self.like, gradient=False)
        groups = self.validation.group_errors(found.energies).tolist()
        losses = found.errors.loss.tolist()
        return {
            k: (
                losses[a],
                LabelErrors.of(found.errors, a),
                dict(zip(self.validation.groups.names, groups[a], strict=True)),
            )
            for a, k in enumerate(chosen)
        }

    def _record_member(
        self, k: int, numbers: list[float], validated: tuple[float, LabelErrors, dict[str, float]] | None
    ) -> None:
        history = self.histories[k]
        loss, energy, forces, stress, *of_groups = numbers
        known = (
            None if math.isnan(value) and not weight else value
            for value, weight in ((forces, self.objective.force_weight), (stress, self.objective.stress_weight))
        )
        errors = LabelErrors(energy, *known)
        step = len(history.loss)
        history.loss.append(loss)
        history.errors.append(errors)
        history.n_evaluations = self.optimizer.n_evaluations[k]
        weights = self.optimizer.weights[k]
        if (step or history.n_restarts) and math.isfinite(loss):
            self.good[k] = weights
            self._write_back(k, self.good)
        validation, validation_errors, of_validation_groups = validated or (None, None, {})
        if validation is not None and validation_errors is not None:
            history.validation[step], history.validation_errors[step] = validation, validation_errors
        row = Row(
            step=step,
            loss=loss,
            validation=validation,
            errors=errors,
            validation_errors=validation_errors,
            potential=self.potential,
            energies_per_atom=lambda: self.objective.evaluate(weights[None], self.like, gradient=False).energies[0],
            group_errors=dict(zip(self.objective.groups.names, of_groups, strict=True)),
            validation_group_errors=of_validation_groups,
            member=k,
        )
        for observer in self.observers[k]:
            observer.see(row)

    def _decide(self, k: int) -> None:
        """Whether these are the member's best weights, and whether it goes on."""
        settings, history, stopping = self.settings, self.histories[k], self.stopping[k]
        validation = history.validation.get(history.step)
        if validation is not None:
            if validation < stopping.best:
                stopping.best = validation
                history.kept_step = history.step
                self.kept[k] = self.optimizer.weights[k]
            stopping.waiting += 1
            if validation < stopping.improved - settings.min_improvement:
                stopping.improved, stopping.waiting = validation, 0
        if history.status != "gave up":
            self._judge(k)

    def _judge(self, k: int) -> None:
        """Whether the member goes on from here."""
        settings, history, stopping = self.settings, self.histories[k], self.stopping[k]
        validates = self.validation is not None and settings.validation_interval
        reached = history.validation_errors.get(history.step) if validates else history.errors[-1]
        # The steps come last: a fit that is given more of them later goes on only if nothing else stopped it.
        if settings.target_rmse and reached is not None and reached.energy <= settings.target_rmse:
            history.status = "target"
        elif settings.patience and stopping.waiting >= settings.patience:
            history.status = "patience"
        elif history.step >= settings.steps:
            history.status = "steps"

    def _validate_ends(self) -> None:
        """Members whose last row did not validate: their last weights may be the best, and their score is of these.

        After the last state was taken, and apart from the rows: a fit that goes on must not know of it.
        """
        if self.validation is None or not self.settings.validation_interval:
            return
        ended = [
            k
            for k, history in enumerate(self.histories)
            if history.status not in ("failed", "gave up") and history.step not in history.validation
        ]
        for k, (loss, errors, _) in (self._validate(ended) if ended else {}).items():
            history, stopping = self.histories[k], self.stopping[k]
            if loss < stopping.best or self.settings.keep == "last":
                stopping.best, history.kept_step = loss, history.step
                self.kept[k] = self.optimizer.weights[k]
                history.kept_validation, history.kept_validation_errors = loss, errors

    def _finish(self) -> None:
        """The weights to keep go into the potential."""
        for k, history in enumerate(self.histories):
            history.n_evaluations = self.optimizer.n_evaluations[k]
            if self.settings.keep == "best" and math.isfinite(self.stopping[k].best):
                if history.step or history.n_restarts:
                    self._write_back(k, self.kept)
            else:
                history.kept_step = history.step
            if history.kept_step in history.validation:
                history.kept_validation = history.validation[history.kept_step]
                history.kept_validation_errors = history.validation_errors[history.kept_step]

    @torch.no_grad()
    def _write_back(self, k: int, weights: Tensor) -> None:
        """Into the potential's own tensors, as numbers of the precision in which the set was computed."""
        found = weights[k : k + 1]
        if not self.double:
            found = found.float()
        self.potential.networks.copy_member(k, self.like.with_flat(found.to(weights.dtype)), 0)

    def score(self, test: TrainingSet) -> None:
        """The kept weights on structures that took no part."""
        self.parts["test"] = test
        objective = self._objective("test")
        found = objective.evaluate(self.potential.networks.to(self.good.device).flat(), self.like, gradient=False)
        groups = objective.group_errors(found.energies).tolist()
        for k, history in enumerate(self.histories):
            history.test = LabelErrors.of(found.errors, k)
            history.test_group_errors = dict(zip(objective.groups.names, groups[k], strict=True))
