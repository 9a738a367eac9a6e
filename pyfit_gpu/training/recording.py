"""Rows of the members: validation scores, histories, and observers that are told about them."""

from __future__ import annotations

from torch import Tensor

from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.training.closure import scores_of
from pyfit_gpu.training.history import MemberHistory, Observers, Scores, StepRecord
from pyfit_gpu.training.objective import Objective


class Validation:
    """Scores on the validation structures, at regular intervals."""

    def __init__(self, objective: Objective | None, template: ElementNetworks, interval: int) -> None:
        """Choose when to validate.

        Args:
            objective: None: no structure validates.
            interval: steps; 0: never.
        """
        self.objective = objective if interval else None
        self.template = template
        self.interval = interval

    def __bool__(self) -> bool:
        """Whether anything is ever validated."""
        return self.objective is not None

    def is_due(self, step: int) -> bool:
        return self.objective is not None and step % self.interval == 0

    def scores(self, points: Tensor) -> list[Scores]:
        """Score each of the parameters (A, P)."""
        assert self.objective is not None
        return scores_of(self.objective, self.objective.evaluate(points, self.template, gradient=False))


class Recorder:
    """Writes rows into the members' histories, and tells their observers."""

    def __init__(
        self, potential: Potential, objective: Objective, template: ElementNetworks, observers: Observers
    ) -> None:
        """Gather the observers of every member.

        Args:
            potential: all members, as observers see it.
            objective: objective of the training structures.
            observers: observers of every member, or a function that gives those of each.
        """
        self.potential = potential
        self.objective = objective
        self.template = template
        n_members = potential.networks.n_members
        self.observers = [list(observers(k) if callable(observers) else observers) for k in range(n_members)]

    def start(self, k: int, history: MemberHistory) -> None:
        """Tell the observers of member k that row 0 comes next."""
        history.forget_attempt()
        for observer in self.observers[k]:
            observer.on_start()

    def note(self, history: MemberHistory, training: Scores, validation: Scores | None) -> None:
        """Append a row to a member's history."""
        history.loss.append(training.loss)
        history.errors.append(training.errors)
        if validation is not None:
            history.validation[history.step] = validation.loss
            history.validation_errors[history.step] = validation.errors

    def tell(self, k: int, step: int, training: Scores, validation: Scores | None, parameters: Tensor) -> None:
        """Tell the observers of member k about a row.

        Args:
            parameters: (P,), the member's.
        """
        row = StepRecord(
            step=step,
            loss=training.loss,
            validation=None if validation is None else validation.loss,
            errors=training.errors,
            validation_errors=None if validation is None else validation.errors,
            potential=self.potential,
            energies_per_atom=lambda: self.objective.evaluate(parameters[None], self.template, gradient=False).energies[
                0
            ],
            group_errors=training.groups,
            validation_group_errors={} if validation is None else validation.groups,
            member=k,
        )
        for observer in self.observers[k]:
            observer.on_step(row)
