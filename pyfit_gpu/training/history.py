"""The course of a fit: rows for observers as they come, and the history of every member."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

from pyfit_gpu.models.potential import Potential
from pyfit_gpu.training.loss import TERMS, ByLabel


class LabelErrors(ByLabel[float]):
    """Root-mean-square errors of the labels that take part in the loss, in the units of `loss.TERMS`."""

    def to_json(self) -> list[float | None]:
        """Errors of all terms in their order, for the run file; None for terms that take no part."""
        return [self.get(term.name) for term in TERMS]

    @classmethod
    def from_json(cls, values: Sequence[float | None]) -> LabelErrors:
        """Build errors from the values of `to_json`, perhaps of a version that knew fewer terms."""
        known = zip(TERMS, values, strict=False)
        return cls({term.name: value for term, value in known if value is not None})


@dataclass(frozen=True)
class Scores:
    """Loss and errors of one member on one set of structures."""

    loss: float  # eV/atom, without the L2 term
    errors: LabelErrors
    groups: Mapping[str, float]  # eV/atom, energy RMSE of each group


@dataclass(frozen=True, eq=False)
class StepRecord:
    """The state of one member after `step` steps: a row of its logs."""

    step: int
    loss: float  # eV/atom, on the training structures, without the L2 term
    validation: float | None  # eV/atom, the same on the validation structures, where this step computes it
    potential: Potential
    energies_per_atom: Callable[[], Tensor]  # (B,) eV/atom of the training structures, computed when called
    errors: LabelErrors | None = None  # on the training structures
    validation_errors: LabelErrors | None = None  # on the validation structures, where this step computes them
    group_errors: Mapping[str, float] = field(default_factory=dict)  # eV/atom, energy RMSE of the training structures
    validation_group_errors: Mapping[str, float] = field(default_factory=dict)  # where this step computes them
    member: int = 0  # which of the potential's members


class Observer(Protocol):
    """Receives every row of one member as soon as it is known."""

    def on_start(self) -> None:
        """Called before row 0: at the start, and again when training restarts with new parameters."""

    def on_step(self, row: StepRecord) -> None:
        """Called with every row."""


# Why a member stopped. Two statuses mean that it has no result. "gave up": its loss was above `error_restart_level`, or
# not a number, after every restart that such a level allows; the parameters of that last attempt are kept, and its row
# is recorded. "failed": its loss was not a number where no level is given (or after the restarts of random starts); the
# last finite parameters are kept. Both rank last; a fit all of whose members failed raises `TrainingFailure`.
Status = Literal["running", "steps", "patience", "target", "gave up", "failed"]


@dataclass
class MemberHistory:
    """Rows of one member, one for each step and row 0 before the first, and how it ended."""

    loss: list[float] = field(default_factory=list)  # eV/atom
    validation: dict[int, float] = field(default_factory=dict)  # step: eV/atom
    errors: list[LabelErrors] = field(default_factory=list)
    validation_errors: dict[int, LabelErrors] = field(default_factory=dict)
    n_restarts: int = 0
    n_evaluations: int = 0  # evaluations of loss and gradient
    status: Status = "running"  # why it stopped; running: it would have gone on
    kept_step: int = 0  # step whose parameters the potential has at the end
    kept_validation: float | None = None  # eV/atom, validation loss of the kept parameters, if anything validates
    kept_validation_errors: LabelErrors | None = None
    test: LabelErrors | None = None  # errors of the kept parameters on structures that took no part
    test_group_errors: dict[str, float] = field(default_factory=dict)  # eV/atom, energy RMSE of each of their groups

    @property
    def step(self) -> int:
        return len(self.loss) - 1

    @property
    def gave_up(self) -> bool:
        """Whether it ended as "gave up", see `Status`."""
        return self.status == "gave up"

    @property
    def score(self) -> float:
        """Number that ranks members: validation loss of the kept parameters, or else the training loss, eV/atom."""
        if self.status in ("gave up", "failed"):
            return math.inf
        score = self.loss[-1] if self.kept_validation is None else self.kept_validation
        return score if math.isfinite(score) else math.inf

    def forget_attempt(self) -> None:
        """Forget all rows, before new parameters are drawn."""
        for record in (self.loss, self.validation, self.errors, self.validation_errors):
            record.clear()
        self.kept_step = 0

    def to_json(self) -> dict[str, Any]:
        """Everything, for the run file."""
        return {
            "loss": list(self.loss),  # which grows while someone keeps the state
            "validation": [[step, value] for step, value in self.validation.items()],
            "errors": [errors.to_json() for errors in self.errors],
            "validation_errors": [[step, errors.to_json()] for step, errors in self.validation_errors.items()],
            "n_restarts": self.n_restarts,
            "n_evaluations": self.n_evaluations,
            "status": self.status,
            "kept_step": self.kept_step,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> MemberHistory:
        return cls(
            loss=list(content["loss"]),
            validation={int(step): value for step, value in content["validation"]},
            errors=[LabelErrors.from_json(values) for values in content["errors"]],
            validation_errors={
                int(step): LabelErrors.from_json(values) for step, values in content["validation_errors"]
            },
            n_restarts=content["n_restarts"],
            n_evaluations=content["n_evaluations"],
            status=content["status"],
            kept_step=content["kept_step"],
        )


@dataclass
class History:
    """Histories of all members; attributes of `MemberHistory` are those of the best one."""

    members: list[MemberHistory]
    potential: Potential  # all members, with the parameters that are kept
    end: Literal["done", "interrupted", "time"] = "done"

    @property
    def ranking(self) -> list[int]:
        """Members from the best score to the worst."""
        return sorted(range(len(self.members)), key=lambda k: (self.members[k].score, k))

    @property
    def best(self) -> MemberHistory:
        return self.members[self.ranking[0]]

    @property
    def interrupted(self) -> bool:
        return self.end == "interrupted"

    @property
    def loss(self) -> list[float]:
        return self.best.loss

    @property
    def validation(self) -> dict[int, float]:
        return self.best.validation

    @property
    def errors(self) -> list[LabelErrors]:
        return self.best.errors

    @property
    def validation_errors(self) -> dict[int, LabelErrors]:
        return self.best.validation_errors

    @property
    def n_restarts(self) -> int:
        return self.best.n_restarts

    @property
    def gave_up(self) -> bool:
        return self.best.gave_up

    @property
    def n_evaluations(self) -> int:
        """Evaluations of all members together."""
        return sum(member.n_evaluations for member in self.members)


Observers = Sequence[Observer] | Callable[[int], Sequence[Observer]]
