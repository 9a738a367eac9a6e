"""The loop of a fit: steps of all members, their rows and ends, and the state between two steps.

It uses recording.py (scores, histories, observers), stopping.py (when a member stops), restarts.py (members whose loss
is not a number or too large) and kept_parameters.py (the parameters that the potential receives).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pyfit_gpu.errors import Failure
from pyfit_gpu.formats.run_file import FitState
from pyfit_gpu.models.conditioning import Conditioning
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.optimizers.base import Gives, Optimizer, require_given
from pyfit_gpu.training.closure import Closure, scores_of
from pyfit_gpu.training.history import History, MemberHistory, Observers, Scores
from pyfit_gpu.training.kept_parameters import KeptParameters
from pyfit_gpu.training.local_parameters import warn_of_negative
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.objective_builder import ObjectiveBuilder
from pyfit_gpu.training.recording import Recorder, Validation
from pyfit_gpu.training.regularisation import EVIDENCE_INTERVAL, Regularisation
from pyfit_gpu.training.restarts import Restarts
from pyfit_gpu.training.settings import FitSettings
from pyfit_gpu.training.stopping import Stopping, status_after

Checkpoint = Callable[[Callable[[], FitState], bool], None]  # gets a function that makes the state; whether it is last


class TrainingFailure(Failure):
    """The loss is no longer a number; the potential keeps the last parameters for which it was."""


@dataclass(frozen=True)
class Starts:
    """Origin of the members' parameters."""

    first_member: int = 0  # number of the first, which together with the seed decides what is drawn
    random: bool = False  # whether others may be drawn in the place of the parameters
    conditioned: bool = False  # whether the parameters are those of the conditioned inputs


class FitRun:
    """All members of a potential in training."""

    def __init__(
        self,
        potential: Potential,
        objectives: ObjectiveBuilder,
        settings: FitSettings,
        starts: Starts | None = None,
        observers: Observers = (),
    ) -> None:
        """Build objectives and optimiser.

        Args:
            potential: the parameters to start from; receives the result.
            objectives: makes the objectives of the parts of the set.
            starts: origin of these parameters.
            observers: observers of every member, or a function that gives those of each.
        """
        starts = starts or Starts()
        self.potential = potential
        self.objectives = objectives
        self.settings = settings
        objective = objectives.build("training")
        self.conditioning = objectives.conditioning or Conditioning.none(
            potential.networks.n_elements, potential.networks.layer_sizes[0]
        )
        # The optimiser works in float64 whatever the objective computes in: its vectors are small.
        self.template = potential.networks.to(objective.target.device, torch.float64)
        if not starts.conditioned:
            self.template = self.conditioning.unfold(self.template)
        self.regularisation = Regularisation(self.template, settings, objective.n_residuals)
        self.closure = Closure(objective, self.template, self.regularisation.penalty)
        require_given(settings.optimizer, self.closure)
        self.optimizer: Optimizer = settings.optimizer.build(self.template.flat())
        single = objective.dtype != torch.float64
        self.kept = KeptParameters(potential, self.template, self.conditioning, single=single)
        self.validation = Validation(self._validation_objective(), self.template, settings.validation_interval)
        self.recorder = Recorder(potential, objective, self.template, observers)
        self.restarts = Restarts(potential, settings, starts.first_member, random_starts=starts.random)
        self.histories = [MemberHistory() for _ in range(potential.networks.n_members)]
        self.stopping = [Stopping() for _ in self.histories]
        self.history = History(self.histories, potential)

    def _validation_objective(self) -> Objective | None:
        """Objective of the validation structures; None if there are none with a weight."""
        part = self.objectives.parts["validation"]
        if part is None or not (len(part) and bool(part.weight.sum() > 0)):
            return None
        return self.objectives.build("validation")

    # State

    def state(self) -> FitState:
        """Everything that `restore` needs to go on bit for bit."""
        members = [
            {"history": history.to_json(), "stopping": vars(stopping).copy(), **self.regularisation.state(k)}
            for k, (history, stopping) in enumerate(zip(self.histories, self.stopping, strict=True))
        ]
        kept = self.kept
        parameters = (kept.last_finite.cpu().clone(), kept.best.cpu().clone())
        return FitState(members, self.optimizer.state(), *parameters, conditioning=self.objectives.conditioning)

    def restore(self, state: FitState) -> None:
        """Go on from the state of another fit."""
        for k, member in enumerate(state.members):
            self.histories[k] = MemberHistory.from_json(member["history"])
            self.stopping[k] = Stopping(**member["stopping"])
            self.regularisation.restore(k, member, self.histories[k].loss)
        self.history.members = self.histories
        optimizer = dict(state.optimizer)
        if "extras" in optimizer:  # an optimiser may keep them under another name, or not at all
            optimizer["extras"] = self.closure.numbers_of_any_version(optimizer["extras"])
        self.optimizer.load_state(optimizer)
        self.kept.last_finite.copy_(state.last_finite)
        self.kept.best.copy_(state.best)
        for k, history in enumerate(self.histories):
            # Settings that stop a member may have changed since: more steps, fewer, more patience.
            if history.loss and history.status in ("running", "steps", "patience", "target"):
                self._judge(k)
            if history.step or history.n_restarts:
                self.kept.write_back(k, self.kept.last_finite)
            if not state.known:
                self._forget_loss(k)

    def _forget_loss(self, k: int) -> None:
        """Forget loss, validations and best parameters: the loss has changed, and the old one no longer counts."""
        self.optimizer.forget(k)
        self.stopping[k] = Stopping()
        self.histories[k].validation.clear()
        self.histories[k].validation_errors.clear()

    def write_starts(self) -> None:
        """Write the parameters of members that have taken no step, drawn for conditioned inputs, into the potential."""
        for k, history in enumerate(self.histories):
            if not (history.step > 0 or history.n_restarts):
                self.kept.write_start(k)

    # The loop

    def until_done(self, should_stop: Callable[[], bool], checkpoint: Checkpoint | None) -> History:
        """Train until every member has stopped, or `should_stop`; see `fit`."""
        try:
            self._loop(should_stop, checkpoint)
        finally:  # whatever ends it
            self._finish()
        return self.history

    def _loop(self, should_stop: Callable[[], bool], checkpoint: Checkpoint | None) -> None:
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
            self._regularise(running)
            self._step(running)
            running = self._look(running)
            longest = max(longest, time.monotonic() - before)
        self._validate_ends()

    def _out_of_time(self, elapsed: float, longest: float) -> bool:
        return self.settings.max_time > 0 and elapsed + 1.2 * longest > self.settings.max_time

    def _begin(self, k: int) -> None:
        self.stopping[k] = Stopping()
        self.recorder.start(k, self.histories[k])

    def _step(self, running: Sequence[int]) -> None:
        """Take one step of every running member; those that were restarted are at another step than the others."""
        by_step: dict[int, list[int]] = {}
        for k in running:
            by_step.setdefault(self.histories[k].step, []).append(k)
        for step, chosen in by_step.items():
            self.optimizer.step(self.closure, chosen, self.settings.learning_rate_factor(step))

    def _look(self, running: Sequence[int]) -> list[int]:
        """Record the rows of these members at their new parameters; returns the members that go on."""
        seen = self._scores(running)
        self._record(seen)
        for k in seen:
            self._decide(k)
        if all(history.status == "failed" for history in self.histories):
            raise TrainingFailure(self.restarts.failure)
        return [k for k in seen if self.histories[k].status == "running"]

    def _regularise(self, running: Sequence[int]) -> None:
        """Choose the penalties of members for which it is time.

        This comes before a step, not after one: members that end there have the state of those that go on.
        """
        for k in running if self.regularisation.chooses else ():
            history = self.histories[k]
            if history.step == 0:
                self.regularisation.begin(k, history.loss[0])
                self.optimizer.forget(k)
            elif history.step % EVIDENCE_INTERVAL == 0:
                keep = self.settings.optimizer.needs is Gives.RESIDUALS
                loss, errors = history.loss[-1], history.errors[-1]
                if self.regularisation.update(k, self.closure, self.optimizer.parameters[k], loss, errors, keep=keep):
                    self.optimizer.forget(k)

    def _scores(self, running: Sequence[int]) -> dict[int, Scores]:
        """Training scores by member: of restarted members at their new start, and none for those that fail."""
        found: dict[int, Scores] = {}
        pending = list(running)
        while pending:  # members with new parameters are evaluated again
            self.optimizer.evaluate(self.closure, pending)
            scores = dict(zip(pending, self.closure.scores(self.optimizer.extras.cpu()[pending]), strict=True))
            pending = []
            for k, own in scores.items():
                history = self.histories[k]
                if not self.restarts.is_lost(own.loss):
                    found[k] = own
                elif self.restarts.may_restart(history):
                    drawn = self.restarts.draw(k, history, own.loss)
                    self.optimizer.restart(k, drawn.to(self.kept.last_finite))
                    self._begin(k)
                    pending.append(k)
                else:
                    self.restarts.end(k, history, own.loss)
                    if history.status == "gave up":
                        found[k] = own
        return {k: found[k] for k in sorted(found)}

    @torch.no_grad()
    def _record(self, seen: dict[int, Scores]) -> None:
        """Record and report the rows of these members."""
        validated = self._validate([k for k in seen if self.validation.is_due(len(self.histories[k].loss))])
        for k, scores in seen.items():
            history, parameters = self.histories[k], self.optimizer.parameters[k]
            validation = validated.get(k)
            self.recorder.note(history, scores, validation)
            history.n_evaluations = self.optimizer.n_evaluations[k]
            if (history.step or history.n_restarts) and math.isfinite(scores.loss):
                self.kept.last_finite[k] = parameters
                self.kept.write_back(k, self.kept.last_finite)
            self.recorder.tell(k, history.step, scores, validation, parameters)

    def _validate(self, chosen: Sequence[int]) -> dict[int, Scores]:
        if not chosen:
            return {}
        return dict(zip(chosen, self.validation.scores(self.optimizer.parameters[list(chosen)]), strict=True))

    def _decide(self, k: int) -> None:
        """Decide whether these are the member's best parameters, and whether it goes on."""
        history = self.histories[k]
        validation = history.validation.get(history.step)
        if validation is not None and self.stopping[k].count(validation, self.settings.min_improvement):
            history.kept_step = history.step
            self.kept.best[k] = self.optimizer.parameters[k]
        if history.status != "gave up":
            self._judge(k)

    def _judge(self, k: int) -> None:
        history = self.histories[k]
        history.status = status_after(history, self.stopping[k], self.settings, validates=bool(self.validation))

    # The end

    def _validate_ends(self) -> None:
        """Validate members whose last row did not: their last parameters may be the best, and are what is scored.

        This comes after the last state was taken, and stays out of the rows: a resumed fit must not know of it.
        """
        if not self.validation:
            return
        ended = [
            k
            for k, history in enumerate(self.histories)
            if history.status not in ("failed", "gave up") and history.step not in history.validation
        ]
        for k, scores in self._validate(ended).items():
            history, stopping = self.histories[k], self.stopping[k]
            if scores.loss < stopping.best or self.settings.keep == "last":
                stopping.best, history.kept_step = scores.loss, history.step
                self.kept.best[k] = self.optimizer.parameters[k]
                history.kept_validation, history.kept_validation_errors = scores.loss, scores.errors

    def _finish(self) -> None:
        """Copy the parameters to keep into the potential."""
        for k, history in enumerate(self.histories):
            history.n_evaluations = self.optimizer.n_evaluations[k]
            if self.settings.keep == "best" and math.isfinite(self.stopping[k].best):
                if history.step or history.n_restarts:
                    self.kept.write_back(k, self.kept.best)
            else:
                history.kept_step = history.step
            if history.kept_step in history.validation:
                history.kept_validation = history.validation[history.kept_step]
                history.kept_validation_errors = history.validation_errors[history.kept_step]

    def whole(self) -> Objective:
        """Objective of all training structures, for `Objective.local`: of several processes each has some alone."""
        objective = self.closure.objective
        return objective if objective.processes is None else self.objectives.energies("training")

    def warn_of_negative(self, k: int) -> None:
        """Log which local parameters of member k are negative that should not be, at the parameters that are kept."""
        written = self.potential.networks.to(self.template.weights[0].device, torch.float64)
        point = self.conditioning.unfold(written).flat()[k : k + 1]
        warn_of_negative(self.whole(), point, self.template)

    def score_test(self) -> None:
        """Score the kept parameters on structures that took no part."""
        objective = self.objectives.build("test")
        written = self.potential.networks.to(objective.target.device, torch.float64)
        parameters = self.conditioning.unfold(written).flat()
        found = objective.evaluate(parameters, self.template, gradient=False)
        for history, scores in zip(self.histories, scores_of(objective, found), strict=True):
            history.test, history.test_group_errors = scores.errors, dict(scores.groups)
