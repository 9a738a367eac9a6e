"""The optimiser's view of a set: loss and penalty with their gradient, and numbers for the logs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.optimizers.base import Gives
from pyfit_gpu.optimizers.cuda_graphs import Recorded
from pyfit_gpu.training.columns import Columns
from pyfit_gpu.training.history import LabelErrors, Scores
from pyfit_gpu.training.loss import TERMS
from pyfit_gpu.training.objective import Evaluation, Objective
from pyfit_gpu.training.penalty import NormPenalty, Penalty, SquaredPenalty


class Closure:
    """An `Objective` and the penalty as one `MemberObjective`, with extras for the logs."""

    def __init__(self, objective: Objective, template: ElementNetworks, penalty: Penalty) -> None:
        self.objective = objective
        self.template = template
        self.penalty = penalty
        self._recorded_matrix = Recorded(self._find_matrix)
        self._matrices: dict[int, tuple[Tensor, Tensor]] = {}  # by member: parameters and J^T J there, kept once
        # Columns for all terms, whether they take part or not: run files hold them.
        terms = dict.fromkeys(term.name for term in TERMS)
        self._columns = Columns({"loss": None, **terms, "groups": len(objective.groups.names)})

    @property
    def gives(self) -> frozenset[Gives]:
        """The gradient, and with a penalty that is a sum of squares or none J^T J."""
        is_norm = isinstance(self.penalty, NormPenalty) and self.penalty.l2 > 0
        return frozenset({Gives.GRADIENT}) if is_norm else frozenset(Gives)

    @property
    def recordable_points(self) -> int:
        """Most points of a call that is the same operations each time, and worth recording; 0: none is."""
        return self.objective.recordable_points

    def __call__(self, points: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate loss (A,), gradient (A, n_parameters) and numbers for `scores` at the parameters `points`."""
        found = self.objective.evaluate(points, self.template)
        assert found.gradient is not None
        loss, gradient = self.penalty.added(found.minimised, found.gradient, points, members)
        return loss, gradient, self.numbers(found)

    def normal_matrices(self, points: Tensor, members: Tensor) -> Iterator[Tensor]:
        """Yield J^T J (P, P) of each member, of residuals whose squares add up to the square of what a call gives."""
        for k, point in zip(members.tolist(), points, strict=True):
            where, matrix = self._matrices.pop(k, (None, None))
            if where is None or matrix is None or not torch.equal(where, point):
                matrix = self._matrix(point)
            yield self._with_penalty(k, matrix)

    def matrix(self, k: int, point: Tensor, *, keep: bool) -> Tensor:
        """J^T J (P, P) of member k at a point (P,), as `normal_matrices` yields it.

        Args:
            keep: whether `normal_matrices` will be asked for it next.
        """
        matrix = self._matrix(point)
        if keep:
            self._matrices[k] = (point.clone(), matrix)
        return self._with_penalty(k, matrix.clone() if keep else matrix)

    def _matrix(self, point: Tensor) -> Tensor:
        """J^T J (P, P) at a point (P,), without the penalty."""
        if self.objective.recordable_points:
            return self._recorded_matrix(point).clone()
        return self._find_matrix(point)

    def _find_matrix(self, point: Tensor) -> Tensor:
        (matrix,) = self.objective.normal_matrices(point[None], self.template)
        return matrix

    def _with_penalty(self, k: int, matrix: Tensor) -> Tensor:
        if isinstance(self.penalty, SquaredPenalty):
            matrix.diagonal().add_(self.penalty.strengths[k])
        return matrix

    def numbers(self, found: Evaluation) -> Tensor:
        """(A, C): loss without penalty, error of every label (NaN if it takes no part), energy RMSE of every group."""
        loss, groups = found.errors.loss, self.objective.group_errors(found.energies)
        unknown = torch.full_like(loss, math.nan)
        errors = {term.name: found.errors.get(term.name, unknown) for term in TERMS}
        return self._columns.pack({"loss": loss, **errors, "groups": groups})

    def scores(self, numbers: Tensor) -> list[Scores]:
        """Unpack the result of `numbers` on the host."""
        known = self._columns.unpack(numbers)
        errors = {name: known[name] for name in ("energy", *(one.term.name for one in self.objective.terms))}
        return _scores(known["loss"], errors, known["groups"], self.objective.groups.names)

    def numbers_of_any_version(self, numbers: Tensor) -> Tensor:
        """Bring numbers of a run file, perhaps of a version that knew fewer terms, to today's columns.

        Raises:
            InputError: they are no such numbers.
        """
        if numbers.ndim != 2 or numbers.dtype != torch.float64:
            found = f"{tuple(numbers.shape)} {numbers.dtype}"
            raise InputError(f"optimiser state: extras: expected (K, E) torch.float64, got {found}")
        n_groups, missing = len(self.objective.groups.names), self._columns.width - numbers.shape[1]
        if not numbers.shape[1] or missing <= 0:
            return numbers
        unknown = numbers.new_full((len(numbers), missing), math.nan)
        terms, groups = numbers.split([numbers.shape[1] - n_groups, n_groups], dim=1)
        return torch.cat([terms, unknown, groups], dim=1)


def scores_of(objective: Objective, found: Evaluation) -> list[Scores]:
    """Loss and errors of each member of an evaluation."""
    return _scores(found.errors.loss, found.errors, objective.group_errors(found.energies), objective.groups.names)


def _scores(loss: Tensor, errors: Mapping[str, Tensor], groups: Tensor, names: Sequence[str]) -> list[Scores]:
    by_label = {name: error.tolist() for name, error in errors.items()}
    return [
        Scores(
            own_loss,
            LabelErrors({name: column[k] for name, column in by_label.items()}),
            dict(zip(names, own_groups, strict=True)),
        )
        for k, (own_loss, own_groups) in enumerate(zip(loss.tolist(), groups.tolist(), strict=True))
    ]
