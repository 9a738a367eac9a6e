"""Training: full-batch LBFGS on the loss of one set, of several networks at once, with observers that write logs."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyfit_gpu.devices import total_memory
from pyfit_gpu.errors import InputError
from pyfit_gpu.fit_settings import FitSettings
from pyfit_gpu.history import History, LabelErrors, MemberHistory, Observers, Row
from pyfit_gpu.lbfgs import LBFGS
from pyfit_gpu.memory_plan import MemoryPlan, objective_options
from pyfit_gpu.networks import ElementNetworks, member_seed
from pyfit_gpu.objective import Evaluation, Objective, l2_penalty
from pyfit_gpu.potential import Potential
from pyfit_gpu.training_set import TrainingSet, require_same_inputs

if TYPE_CHECKING:
    from pyfit_gpu.distributed import Team

MAX_RESTARTS = 3
RESTART_MAX_RANDOM = 0.5
KEPT_MEMORY = 0.5  # of a device's memory, at most, holds derivatives of features for force training

_log = logging.getLogger("pyfit_gpu")


class TrainingFailure(RuntimeError):
    """The loss is no longer a number; the potential keeps the last weights for which it was."""


@dataclass(frozen=True, eq=False)
class FitState:
    """Everything a fit needs to go on bit for bit, between two steps."""

    members: list[dict[str, Any]]  # of each: its history, and what stopping looks at
    optimizer: dict[str, Tensor]  # of `LBFGS.state`
    good: Tensor  # (K, P) float64, weights of the last step whose loss was a number
    kept: Tensor  # (K, P) float64, weights of the best validation
    known: bool = True  # False: the loss is another since, what the optimiser knows of it no longer holds


def fit(
    potential: Potential,
    train: TrainingSet,
    validation: TrainingSet | None = None,
    *,
    test: TrainingSet | None = None,
    members: int | None = None,
    first_member: int = 0,
    steps: int | None = None,
    settings: FitSettings | None = None,
    observers: Observers = (),
    should_stop: Callable[[], bool] = lambda: False,
    checkpoint: Callable[[Callable[[], FitState], bool], None] | None = None,
    resume: FitState | None = None,
    plan: MemoryPlan | None = None,
    team: Team | None = None,
) -> History:
    """Train the networks' weights in place, in the dtype and on the device of the training set.

    The potential takes over the set's energy shift (unknown, if the set does not know it). Each member has its own
    optimiser, line search, end and restarts, and costs nothing once it has ended; its numbers do not depend on which
    others are trained beside it.

    Args:
        potential: its weights are the start and receive the result: those of the best validation, if there is one.
        train: structures that all have an energy; forces and stress count, where known, with the settings' weights.
        validation: structures that all have an energy; None or empty: no validation.
        test: structures that take no part; the final weights are scored on them.
        members: so many random starts, drawn by the settings' seed; the potential receives the best of them, and all
            are in the history's. None: the potential's own members.
        first_member: number of the first one, which together with the seed decides what is drawn.
        steps: overrides `settings.steps`; 0 evaluates and leaves the weights as they are.
        observers: are told about every row as soon as it is known; a function gives those of each member.
        should_stop: asked after every step.
        checkpoint: called at the start and after every step with a function that gives the state, and whether it was
            the last step.
        resume: the state from which to go on.
        plan: what is kept in memory; None: everything, but derivatives of features up to half of the memory.
        team: processes that share the work; this one is the first of them.

    Raises:
        InputError: a set made with other descriptor settings (named), a physically informed potential, or a weight
            for a label that no structure has; nothing has been changed then.
        TrainingFailure: the loss of every member is no longer a number.
    """
    settings = settings or FitSettings()
    if steps is not None:
        settings = replace(settings, steps=steps)
    potential.require_straight("train")
    sets = {"training": train, "validation": validation, "test": test}
    for name, part in sets.items():
        if part is not None and len(part):
            require_same_inputs(potential.descriptor, part.descriptor, f"the {name} set is not this potential's")
    _require_labels(train, settings)
    if test is not None and not (len(test) and bool(test.weight.sum() > 0)):
        test = None
    if test is not None and not bool(test.has_energy.all()):
        raise InputError("test: expected structures that all have an energy (split() leaves out those without)")
    trained = potential
    if members is not None:
        if members < 1:
            raise InputError(f"members: expected a whole number above 0, got {members}")
        trained = potential.random_members(range(first_member, first_member + members), settings.seed)
    run = _Run(trained, train, validation, settings, observers, first_member, plan, team)
    shift = torch.tensor(train.energy_shift or (math.nan,) * potential.descriptor.n_elements, dtype=torch.float64)
    for changed in (potential, trained):
        changed.energy_shift.copy_(shift)
    if resume is not None:
        run.restore(resume)
    history = run.until_done(should_stop, checkpoint)
    if test is not None:
        run.score(test)
    if trained is not potential:
        potential.networks.copy_member(0, trained.networks, history.ranking[0])
    return history


def _require_labels(train: TrainingSet, settings: FitSettings) -> None:
    for name, known in (("force", train.has_forces), ("stress", train.has_stress)):
        weight = getattr(settings, f"{name}_weight")
        if weight > 0 and not bool((known & (train.weight > 0)).any()):
            label = {"force": "forces", "stress": "a stress and a full cell"}[name]
            text = " (a text set holds energies alone)" if bool(torch.isnan(train.positions).all()) else ""
            raise InputError(f"{name}_weight: expected 0, got {weight}: no training structure has {label}{text}")


def kept_memory(device: torch.device, plan: MemoryPlan | None, team: Team | None) -> float:
    """Bytes, at most, of derivatives of features that one process keeps."""
    if plan is not None:
        return plan.kept_bytes
    sharing = team.size if team is not None and device.type == "cpu" else 1
    return KEPT_MEMORY * total_memory(device) / sharing


def make_objective(
    part: TrainingSet,
    settings: FitSettings,
    *,
    single: bool,
    memory: float,
    plan: MemoryPlan | None,
    team: Team | None,
) -> tuple[Objective, float]:
    """The objective of one part of a set, in float32 or in the set's precision, and the memory that is left."""
    if single:
        part = part.to(part.features.device, torch.float32)
    targets = {name: value for name, value in settings.group_targets.items() if name in part.groups}
    options = {} if plan is None else objective_options(plan)
    objective = Objective(part, settings.loss_weights, targets=targets, team=team, **{**options, "memory": memory})
    return objective, memory - objective.kept_bytes


class _Closure:
    """What the optimiser sees: loss and penalty with their gradient, and numbers for the rows."""

    def __init__(self, objective: Objective, like: ElementNetworks, l2: float) -> None:
        self.objective = objective
        self.like = like
        self.l2 = l2

    def __call__(self, points: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.objective.evaluate(points, self.like)
        assert found.gradient is not None
        loss, gradient = found.errors.loss, found.gradient
        if self.l2:
            penalty, of_penalty = _penalty(points, self.like)
            loss, gradient = loss + self.l2 * penalty, gradient + self.l2 * of_penalty
        return loss, gradient, self.numbers(found)

    def numbers(self, found: Evaluation) -> Tensor:
        """(A, 4 + n_groups): loss without penalty, RMSE of energy, forces and stress, energy RMSE of each group."""
        errors = found.errors
        unknown = torch.full_like(errors.loss, math.nan)
        columns = [errors.loss, errors.energy, errors.forces, errors.stress]
        known = torch.stack([unknown if column is None else column for column in columns], dim=1)
        return torch.cat((known, self.objective.group_errors(found.energies)), dim=1)


def _penalty(points: Tensor, like: ElementNetworks) -> tuple[Tensor, Tensor]:
    """(A,) and its gradient (A, P)."""
    # On a CPU one after the other: the bits of a norm depend on how many are computed at once.
    parts = points.detach().split(1 if points.device.type == "cpu" else len(points))
    found = []
    for part in parts:
        leaf = part.clone().requires_grad_()
        with torch.enable_grad():
            penalty = l2_penalty(like.with_flat(leaf))
            (gradient,) = torch.autograd.grad(penalty.sum(), leaf)
        found.append((penalty.detach(), gradient))
    return torch.cat([penalty for penalty, _ in found]), torch.cat([gradient for _, gradient in found])


@dataclass
class _Stopping:
    """What decides when a member stops."""

    best: float = math.inf  # eV/atom, least validation loss
    improved: float = math.inf  # eV/atom, the validation loss that the next improvement is measured from
    waiting: int = 0  # validations since


class _Run:
    def __init__(
        self,
        potential: Potential,
        train: TrainingSet,
        validation: TrainingSet | None,
        settings: FitSettings,
        observers: Observers,
        first_member: int,
        plan: MemoryPlan | None,
        team: Team | None,
    ) -> None:
        self.potential = potential
        self.settings = settings
        self.plan = plan
        self.team = team
        self.first_member = first_member
        n_members = potential.networks.n_members
        self.observers = [list(observers(k) if callable(observers) else observers) for k in range(n_members)]
        self.parts = {"training": train, "validation": validation}
        self._memory = kept_memory(train.features.device, plan, team)
        self.double = train.features.dtype == torch.float64
        self.objective = self._objective("training", single=self._single(0))
        self._idle: Objective | None = None  # of the other precision, while members need both
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
        self.closure = _Closure(self.objective, self.like, settings.l2)
        self.optimizer = LBFGS(weights, settings.optimizer)
        self.good = weights.clone()
        self.kept = weights.clone()
        self.failure = ""  # of the last member that failed

    def _objective(self, name: str, *, single: bool = False) -> Objective:
        """Of one part of the set, in float32 or in the set's precision."""

        def make() -> Objective:
            part = self.parts[name]
            assert part is not None
            objective, self._memory = make_objective(
                part, self.settings, single=single, memory=self._memory, plan=self.plan, team=self.team
            )
            return objective

        return make() if self.team is None else self.team.build(name, single=single, make=make)

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
        # A fit may be given more steps than it was first asked for.
        for k, history in enumerate(self.histories):
            if history.status == "steps" and history.step < self.settings.steps:
                history.status = "running"
            if history.step or history.n_restarts:
                self._write_back(k, self.good)
            if not state.known:
                self.optimizer.forget(k)

    # The loop

    def until_done(
        self,
        should_stop: Callable[[], bool],
        checkpoint: Callable[[Callable[[], FitState], bool], None] | None,
    ) -> History:
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
        self._finish()
        return self.history

    def _out_of_time(self, elapsed: float, longest: float) -> bool:
        return self.settings.max_time > 0 and elapsed + 1.2 * longest > self.settings.max_time

    def _step(self, running: Sequence[int]) -> None:
        """One step of every running member; those that were restarted are at another step than the others."""
        by_step: dict[int, list[int]] = {}
        for k in running:
            by_step.setdefault(self.histories[k].step, []).append(k)
        for step, chosen in by_step.items():
            self._use(single=self._single(step + 1))
            if self.double and step == self.settings.float32_steps:
                for k in chosen:
                    self.optimizer.forget(k)
            self.optimizer.step(self.closure, chosen, self.settings.learning_rate_at(step))

    def _single(self, row: int) -> bool:
        """Whether a row, and the step that leads to it, are computed in float32 instead of the set's float64."""
        return self.double and max(row - 1, 0) < self.settings.float32_steps

    def _use(self, *, single: bool) -> None:
        """Evaluate in this precision from here on."""
        if not self.double or single == (self.objective.dtype == torch.float32):
            return
        before, idle = self.objective, self._idle
        self._idle = None
        if any(h.status == "running" and self._single(len(h.loss)) != single for h in self.histories):
            self._idle = before
        else:
            self._memory += before.kept_bytes  # which the other one may need
        self.objective = idle or self._objective("training", single=single)
        self.closure.objective = self.objective

    def _look(self, running: Sequence[int]) -> list[int]:
        """Rows of these members at their new weights; which of them go on."""
        pending, seen = list(running), []
        while pending:  # members that are given new weights are looked at again
            # Restarted members may be in another precision than the others.
            for single in (True, False):
                chosen = [k for k in pending if self._single(len(self.histories[k].loss)) == single]
                if chosen:
                    self._use(single=single)
                    self.optimizer.evaluate(self.closure, chosen)
            numbers = self.optimizer.extras.tolist()
            restarted = []
            for k in pending:
                if self._acceptable(k, numbers[k][0]):
                    seen.append(k)
                elif self._may_restart(k):
                    self._restart(k, numbers[k][0])
                    restarted.append(k)
                else:
                    self._lost(k, numbers[k][0])
                    if self.histories[k].status == "gave up":
                        seen.append(k)
            pending = restarted
        seen.sort()
        self._record(seen, numbers_of=self.optimizer.extras.tolist())
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
        """Where a level is given; of several members also where the loss of one is lost."""
        wanted = self.settings.error_restart_level > 0 or len(self.histories) > 1
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
    def _record(self, seen: Sequence[int], numbers_of: list[list[float]]) -> None:
        interval = self.settings.validation_interval
        chosen: list[int] = []
        if self.validation is not None and interval:
            chosen = [k for k in seen if len(self.histories[k].loss) % interval == 0]
        validated = self._validate(chosen) if chosen else {}
        for k in seen:
            self._record_member(k, numbers_of[k], validated.get(k))

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
        self._use(single=self._single(step))
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
        """Whether the member goes on, and whether these are its best weights."""
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
        validates = self.validation is not None and settings.validation_interval
        reached = history.validation_errors.get(history.step) if validates else history.errors[-1]
        if history.status == "gave up":
            return
        # The steps come last: a fit that is given more of them later goes on only if nothing else stopped it.
        if settings.target_rmse and reached is not None and reached.energy <= settings.target_rmse:
            history.status = "target"
        elif settings.patience and stopping.waiting >= settings.patience:
            history.status = "patience"
        elif history.step >= settings.steps:
            history.status = "steps"

    def _finish(self) -> None:
        """The weights to keep go into the potential."""
        for k, history in enumerate(self.histories):
            history.n_evaluations = self.optimizer.n_evaluations[k]
            if self.settings.keep == "best" and math.isfinite(self.stopping[k].best):
                if history.step or history.n_restarts:
                    self._write_back(k, self.kept)
            else:
                history.kept_step = history.step

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
