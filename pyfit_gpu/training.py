"""Training: full-batch LBFGS on the loss of one set, with observers that write logs and backups as it goes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from pyfit_gpu.devices import total_memory
from pyfit_gpu.errors import InputError
from pyfit_gpu.networks import ElementNetworks
from pyfit_gpu.objective import Errors, LossWeights, Objective, l2_penalty
from pyfit_gpu.potential import Potential
from pyfit_gpu.training_set import TrainingSet, require_same_inputs

LineSearch = Literal["strong-wolfe", "none"]
MAX_RESTARTS = 3
RESTART_MAX_RANDOM = 0.5
KEPT_MEMORY = 0.5  # of a device's memory, at most, holds derivatives of features for force training

_log = logging.getLogger("pyfit_gpu")


@dataclass(frozen=True)
class FitSettings:
    """How to train. The classic program: no line search, learning rate 0.05."""

    steps: int = 100
    line_search: LineSearch = "strong-wolfe"
    learning_rate: float | None = None  # first trial step of the line search (1), or without one the step (0.05)
    max_iterations: int = 10  # LBFGS iterations inside one step
    history_size: int = 100
    l2: float = 0.0  # eV/atom, prefactor of the weights' norms
    force_weight: float = 0.0  # Å^2, of the squared error of the forces beside that of the energies per atom
    stress_weight: float = 0.0  # of the squared error of the virials per atom
    error_restart_level: float = 0.0  # eV/atom; a loss above it draws new weights; 0: never
    validation_interval: int = 1  # steps; 0: never
    seed: int | None = None  # of the weights drawn at a restart

    def __post_init__(self) -> None:
        for name in ("steps", "validation_interval"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: expected a whole number >= 0, got {getattr(self, name)}")
        for name in ("max_iterations", "history_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected a whole number above 0, got {getattr(self, name)}")
        for name in ("l2", "error_restart_level"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{name}: expected a number >= 0, got {getattr(self, name)}")
        if self.line_search not in ("strong-wolfe", "none"):
            raise InputError(f"line_search: expected strong-wolfe or none, got {self.line_search!r}")
        if not (math.isfinite(self.step_length) and self.step_length > 0):
            raise InputError(f"learning_rate: expected a number above 0, got {self.learning_rate}")
        _ = self.loss_weights  # checks them

    @property
    def loss_weights(self) -> LossWeights:
        return LossWeights(self.force_weight, self.stress_weight)

    @property
    def step_length(self) -> float:
        """The learning rate, or the line search's default."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1.0 if self.line_search == "strong-wolfe" else 0.05


@dataclass(frozen=True)
class LabelErrors:
    """Root-mean-square errors of the labels that take part in the loss."""

    energy: float  # eV/atom
    forces: float | None = None  # eV/Å, per component
    stress: float | None = None  # eV/Å^3, per component

    @classmethod
    def of(cls, errors: Errors) -> LabelErrors:
        """Of the first member."""
        known = {name: getattr(errors, name) for name in ("energy", "forces", "stress")}
        known = {name: value[0] for name, value in known.items() if value is not None}
        # One trip from the device for all of them.
        return cls(**dict(zip(known, torch.stack(list(known.values())).tolist(), strict=True)))


@dataclass(frozen=True, eq=False)
class Row:
    """The state after `step` steps."""

    step: int
    loss: float  # eV/atom, on the training structures, without the L2 term
    validation: float | None  # eV/atom, the same on the validation structures, where this step computes it
    potential: Potential
    energies_per_atom: Callable[[], Tensor]  # (B,) eV/atom of the training structures, computed when called
    errors: LabelErrors | None = None  # of the training structures
    validation_errors: LabelErrors | None = None  # of the validation structures, where this step computes them


class Observer(Protocol):
    """Sees every row as soon as it is known."""

    def begin(self) -> None:
        """Row 0 comes next: at the start, and again when training restarts with new weights."""

    def see(self, row: Row) -> None: ...


@dataclass
class History:
    """What a fit did: one entry per step, and row 0 before the first."""

    loss: list[float] = field(default_factory=list)  # eV/atom
    validation: dict[int, float] = field(default_factory=dict)  # step: eV/atom
    errors: list[LabelErrors] = field(default_factory=list)
    validation_errors: dict[int, LabelErrors] = field(default_factory=dict)
    n_restarts: int = 0
    n_evaluations: int = 0  # of loss and gradient
    interrupted: bool = False
    gave_up: bool = False  # the loss was above error_restart_level once more than MAX_RESTARTS allow


class TrainingFailure(RuntimeError):
    """The loss is no longer a number; the potential keeps the last weights for which it was."""


class _Closure:
    """Loss and gradient at the current weights; a second call at the same weights costs nothing."""

    def __init__(self, objective: Objective, networks: ElementNetworks, l2: float) -> None:
        self.objective = objective
        self.shape = networks
        self.l2 = l2
        self.weights = networks.flat().requires_grad_(True)
        self.n_evaluations = 0
        self._known_at: Tensor | None = None
        self._loss = math.nan
        self._optimised = math.nan
        self.errors = LabelErrors(math.nan)  # of the last evaluation

    def networks(self) -> ElementNetworks:
        return ElementNetworks.from_flat(
            self.weights,
            self.shape.layer_sizes,
            n_elements=self.shape.n_elements,
            activation=self.shape.activation,
        )

    def evaluate(self) -> float:
        """The loss; the gradient of loss and penalty is left in the weights."""
        if self._known_at is None or not torch.equal(self._known_at, self.weights):
            networks = self.networks()
            errors = self.objective.errors(networks)
            loss = errors.loss.sum()
            optimised = loss + self.l2 * l2_penalty(networks).sum() if self.l2 else loss
            (self.weights.grad,) = torch.autograd.grad(optimised, self.weights)
            self._loss, self._optimised = torch.stack((loss, optimised)).tolist()
            self.errors = LabelErrors.of(errors)
            self._known_at = self.weights.detach().clone()
            self.n_evaluations += 1
        return self._loss

    def optimised(self) -> float:
        self.evaluate()
        return self._optimised

    def optimizer(self, settings: FitSettings) -> torch.optim.LBFGS:
        return torch.optim.LBFGS(
            [self.weights],
            lr=settings.step_length,
            max_iter=settings.max_iterations,
            history_size=settings.history_size,
            line_search_fn="strong_wolfe" if settings.line_search == "strong-wolfe" else None,
        )


def fit(
    potential: Potential,
    train: TrainingSet,
    validation: TrainingSet | None = None,
    *,
    steps: int | None = None,
    settings: FitSettings | None = None,
    observers: Sequence[Observer] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> History:
    """Train the networks' weights in place, in the dtype and on the device of the training set.

    The potential takes over the set's energy shift (unknown, if the set does not know it).

    Args:
        potential: its weights are the start and receive the result.
        train: structures that all have an energy; forces and stress count, where known, with the settings' weights.
        validation: structures that all have an energy; None or empty: no validation.
        steps: overrides `settings.steps`; 0 evaluates and leaves the weights as they are.
        observers: are told about every row as soon as it is known.
        should_stop: asked after every step.

    Raises:
        InputError: a set made with other descriptor settings (named), a physically informed potential, or a weight
            for a label that no structure has; nothing has been changed then.
        ValueError: a potential of several members.
        TrainingFailure: the loss is no longer a number.
    """
    settings = settings or FitSettings()
    if steps is not None:
        settings = replace(settings, steps=steps)
    potential.require_straight("train")
    if potential.networks.n_members != 1:
        raise ValueError(f"fit: expected a potential of one member, got {potential.networks.n_members}")
    require_same_inputs(potential.descriptor, train.descriptor, "the training set is not this potential's")
    if validation is not None and len(validation):
        require_same_inputs(potential.descriptor, validation.descriptor, "the validation set is not this potential's")
    _require_labels(train, settings)
    run = _Run(potential, train, validation, settings, observers)
    shift = train.energy_shift or (math.nan,) * potential.descriptor.n_elements
    potential.energy_shift.copy_(torch.tensor(shift, dtype=torch.float64))
    with torch.enable_grad():
        return run.until_done(should_stop)


def _require_labels(train: TrainingSet, settings: FitSettings) -> None:
    for name, known in (("force", train.has_forces), ("stress", train.has_stress)):
        weight = getattr(settings, f"{name}_weight")
        if weight > 0 and not bool((known & (train.weight > 0)).any()):
            label = {"force": "forces", "stress": "a stress and a full cell"}[name]
            text = " (a text set holds energies alone)" if bool(torch.isnan(train.positions).all()) else ""
            raise InputError(f"{name}_weight: expected 0, got {weight}: no training structure has {label}{text}")


class _Run:
    def __init__(
        self,
        potential: Potential,
        train: TrainingSet,
        validation: TrainingSet | None,
        settings: FitSettings,
        observers: Sequence[Observer],
    ) -> None:
        self.potential = potential
        self.settings = settings
        self.observers = observers
        weights = settings.loss_weights
        memory = KEPT_MEMORY * total_memory(train.features.device)
        self.objective = Objective(train, weights, memory=memory)
        # Structures of weight 0 have no say; a set of nothing else says nothing.
        scored = validation is not None and len(validation) > 0 and bool(validation.weight.sum() > 0)
        self.validation = None
        if validation is not None and scored:
            self.validation = Objective(validation, weights, memory=memory - self.objective.kept_bytes)
        self.history = History()
        like = train.features
        self.closure = _Closure(self.objective, potential.networks.to(like.device, like.dtype), settings.l2)
        self.optimizer = self.closure.optimizer(settings)

    def until_done(self, should_stop: Callable[[], bool]) -> History:
        self._begin()
        step = 0
        while True:
            loss = self.closure.evaluate()
            if self._too_large(loss):
                if self.history.n_restarts == MAX_RESTARTS:
                    self.history.gave_up = True
                    self._record(step, loss)
                    break
                self._restart(step, loss)
                step = 0
                continue
            if not math.isfinite(loss):
                raise TrainingFailure(
                    f"after step {step} the loss is {loss}: the weights of step {max(step - 1, 0)} are kept; try a "
                    "smaller learning_rate, strong-wolfe as line_search, or an error_restart_level"
                )
            self._record(step, loss)
            if step == self.settings.steps:
                break
            if should_stop():
                self.history.interrupted = True
                break
            self.optimizer.step(self.closure.optimised)
            step += 1
        self.history.n_evaluations = self.closure.n_evaluations
        return self.history

    def _begin(self) -> None:
        self.history.loss.clear()
        self.history.validation.clear()
        self.history.errors.clear()
        self.history.validation_errors.clear()
        for observer in self.observers:
            observer.begin()

    def _too_large(self, loss: float) -> bool:
        level = self.settings.error_restart_level
        # NaN is too large as well; without steps there is nothing to start again.
        return self.settings.steps > 0 and level > 0 and not loss <= level

    def _restart(self, step: int, loss: float) -> None:
        self.history.n_restarts += 1
        _log.warning(
            "step %d: the loss %.6g eV/atom is above error_restart_level %g: restart %d of %d with new weights",
            step,
            loss,
            self.settings.error_restart_level,
            self.history.n_restarts,
            MAX_RESTARTS,
        )
        # A pair, not a sum: neighbouring seeds of a job array must not draw one another's weights.
        seed = None if self.settings.seed is None else (self.settings.seed, self.history.n_restarts)
        drawn = self.potential.randomized(seed, RESTART_MAX_RANDOM).networks.flat()
        with torch.no_grad():
            self.closure.weights.copy_(drawn)
        self.optimizer = self.closure.optimizer(self.settings)
        self._begin()

    @torch.no_grad()
    def _record(self, step: int, loss: float) -> None:
        self.history.loss.append(loss)
        networks = self.closure.networks()
        if (step or self.history.n_restarts) and math.isfinite(loss):
            self._write_back(networks)
        validation, validation_errors = None, None
        interval = self.settings.validation_interval
        if self.validation is not None and interval and step % interval == 0:
            found = self.validation.errors(networks)
            validation, validation_errors = float(found.loss), LabelErrors.of(found)
            self.history.validation[step], self.history.validation_errors[step] = validation, validation_errors
        row = Row(
            step=step,
            loss=loss,
            validation=validation,
            errors=self.closure.errors,
            validation_errors=validation_errors,
            potential=self.potential,
            energies_per_atom=lambda: self.objective.energies_per_atom(networks)[0],
        )
        self.history.errors.append(self.closure.errors)
        for observer in self.observers:
            observer.see(row)

    def _write_back(self, networks: ElementNetworks) -> None:
        """The result goes into the potential's own tensors; before the first step there is none."""
        for mine, new in zip(self.potential.networks.weights, networks.weights, strict=True):
            mine.copy_(new)
        for mine, new in zip(self.potential.networks.biases, networks.biases, strict=True):
            mine.copy_(new)
