"""Gauss-Newton with Levenberg-Marquardt damping, for K members that do not influence each other.

The function f of an objective that gives its residuals is a root of a sum of squares, f^2 = r^T r. With J = dr/dw and
J^T r = f grad f, a step s of the parameters w solves

    (J^T J + lambda d I) s = -J^T r

d is the largest diagonal element of J^T J at the start, so that lambda has no unit. The gain ratio is the decrease of
f^2 over that of its linear model, 2 lambda d s^T s + s^T J^T J s. Nielsen's rule [1] makes of it the next lambda: after
a gain lambda max(1/5, 1 - (2 rho - 1)^3), else lambda nu with nu = 2, 4, 8, .. and another trial from the same matrix.
(The rule has 1/3: then most of the first twenty steps wait for the damping. J^T J costs much more than a trial.)
(Marquardt's scaling, diag(J^T J) in the place of d I, gets stuck from random starts.)

[1] K. Madsen, H. B. Nielsen, O. Tingleff, Methods for non-linear least squares problems, 2nd ed., DTU, 2004.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.optimizers.base import MemberObjective
from pyfit_gpu.optimizers.cuda_graphs import RecordedObjective
from pyfit_gpu.optimizers.gauss_newton_options import GaussNewtonOptions
from pyfit_gpu.parallel import one_thread

_LEAST_DECREASE = 1e-13  # relative, of f^2 by the linear model: below it rounding decides whether there is a gain
_LEAST_DAMPING = 1e-15
_LEAST_FACTOR = 1 / 5  # of the damping after a gain
# Most members whose trials are evaluated together: on a GPU that takes little longer than one, on a CPU as long.
GPU_MEMBERS = 8
CPU_MEMBERS = 1


@dataclass
class _Member:
    loss: float = math.nan
    damping: float = math.nan  # lambda; NaN: no step yet
    growth: float = 2.0  # nu
    scale: float = math.nan  # d
    n_evaluations: int = 0
    known: bool = False  # whether loss, gradient and extras are those at the parameters
    ended: bool = False  # whether no step can lower the function any more


@dataclass(frozen=True, eq=False)
class _Trial:
    step: Tensor  # (P,)
    decrease: float  # of f^2 by the linear model; 0: below what rounding leaves


_SAVED = {
    "loss": torch.float64,
    "damping": torch.float64,
    "growth": torch.float64,
    "scale": torch.float64,
    "n_evaluations": torch.int64,
    "known": torch.bool,
    "ended": torch.bool,
}


class GaussNewton:
    """The optimiser of K members (`Optimizer`). A step is one accepted change of the parameters."""

    def __init__(self, parameters: Tensor, settings: GaussNewtonOptions) -> None:
        """Start from a copy of parameters (K, P), on their device, in their dtype."""
        self.settings = settings
        self._parameters = parameters.detach().clone()
        self._gradient = torch.zeros_like(self._parameters)
        self._extras: Tensor | None = None
        self._calls: RecordedObjective | None = None
        self._members = [_Member() for _ in range(len(parameters))]

    @property
    def parameters(self) -> Tensor:
        """(K, P); steps change this tensor in place."""
        return self._parameters

    @property
    def extras(self) -> Tensor:
        """(K, E) extras at the parameters of members evaluated there; E = 0 before any evaluation."""
        return self._parameters[:, :0] if self._extras is None else self._extras

    @property
    def n_evaluations(self) -> list[int]:
        """Evaluations of each member so far, those before a restart included."""
        return [member.n_evaluations for member in self._members]

    @property
    def loss(self) -> list[float]:
        """Loss of each member at its parameters; NaN where it was never evaluated."""
        return [member.loss for member in self._members]

    @torch.no_grad()
    def evaluate(self, objective: MemberObjective, members: Sequence[int]) -> None:
        """Make loss, gradient and extras known at the parameters of these members."""
        unknown = [k for k in sorted(set(members)) if not self._members[k].known]
        if unknown:
            with one_thread():
                found = self._evaluate(objective, unknown, self._parameters[unknown])
                for row, k in enumerate(unknown):
                    self._keep(k, row, *found)

    @torch.no_grad()
    def step(self, objective: MemberObjective, members: Sequence[int], learning_rate_factor: float = 1.0) -> None:
        """Take one step of each of these members; one that cannot lower its function stays where it is."""
        del learning_rate_factor
        self.evaluate(objective, members)
        with one_thread():
            running = [k for k in sorted(set(members)) if self._may_move(k)]
            index = torch.tensor(running, device=self._parameters.device)
            matrices = iter(objective.normal_matrices(self._parameters[index], index) if running else ())
            at_once = GPU_MEMBERS if self._is_on_gpu else CPU_MEMBERS
            for first in range(0, len(running), at_once):
                group = running[first : first + at_once]
                self._step(objective, dict(zip(group, matrices, strict=False)))

    @property
    def _is_on_gpu(self) -> bool:
        return self._parameters.device.type != "cpu"

    def _may_move(self, k: int) -> bool:
        member = self._members[k]
        return not member.ended and math.isfinite(member.loss) and member.loss > 0

    def _step(self, objective: MemberObjective, matrices: dict[int, Tensor]) -> None:
        """Try dampings until the function of each member decreases; the members are evaluated together.

        Args:
            matrices: (P, P), J^T J of each member; those that are done with are taken out.
        """
        for k, matrix in matrices.items():
            member = self._members[k]
            if math.isnan(member.damping):
                member.damping, member.scale = self.settings.damping, float(matrix.diagonal().max())
        for _ in range(self.settings.damping_trials):
            trials = {k: self._trial(k, matrix) for k, matrix in matrices.items()}
            for k in [k for k, trial in trials.items() if trial is not None and trial.decrease <= 0]:
                self._members[k].ended = True
                del matrices[k], trials[k]
            self._judge(objective, {k: trial for k, trial in trials.items() if trial is not None}, matrices)
            for k in matrices:
                member = self._members[k]
                member.damping *= member.growth
                member.growth *= 2
            if not matrices:
                return

    def _trial(self, k: int, matrix: Tensor) -> _Trial | None:
        """The step for the damping of a member; None where the damped matrix is not positive definite to rounding."""
        member = self._members[k]
        shift = member.damping * member.scale
        step = _solve(matrix, shift, member.loss * self._gradient[k])
        if step is None:
            return None
        decrease = float(2 * shift * (step @ step) + step @ (matrix @ step))
        return _Trial(step, decrease if decrease > _LEAST_DECREASE * member.loss**2 else 0.0)

    def _judge(self, objective: MemberObjective, trials: Mapping[int, _Trial], matrices: dict[int, Tensor]) -> None:
        """Evaluate trials, and take the steps of those with a gain, which need their matrix no longer."""
        if not trials:
            return
        members = list(trials)
        points = self._parameters[members] + torch.stack([trial.step for trial in trials.values()])
        loss, gradient, extras = self._evaluate(objective, members, points)
        finite = gradient.isfinite().all(dim=1).tolist()
        for row, (k, trial) in enumerate(trials.items()):
            member = self._members[k]
            gain = (member.loss**2 - float(loss[row]) ** 2) / trial.decrease
            if gain > 0 and finite[row]:
                self._parameters[k] += trial.step
                self._keep(k, row, loss, gradient, extras)
                member.damping *= max(_LEAST_FACTOR, 1 - (2 * gain - 1) ** 3)
                member.damping, member.growth = max(member.damping, _LEAST_DAMPING), 2.0
                del matrices[k]

    def _evaluate(self, objective: MemberObjective, members: Sequence[int], points: Tensor) -> tuple[Tensor, ...]:
        for k in members:
            self._members[k].n_evaluations += 1
        evaluate: Callable[..., tuple[Tensor, ...]] = objective
        if self._is_on_gpu:
            if self._calls is None or self._calls.objective is not objective:
                self._calls = RecordedObjective(objective)
            evaluate = self._calls
        with torch.enable_grad():
            return evaluate(points, torch.tensor(list(members), device=points.device))

    def _keep(self, k: int, row: int, loss: Tensor, gradient: Tensor, extras: Tensor) -> None:
        """Take row `row` of an evaluation for what belongs to the parameters of member k."""
        if self._extras is None:
            self._extras = extras.new_zeros(len(self._members), extras.shape[1])
        self._extras[k] = extras[row]
        self._gradient[k] = gradient[row]
        self._members[k].loss, self._members[k].known = float(loss[row]), True

    def forget(self, member: int) -> None:
        """Forget the loss at this member's parameters: the objective has changed."""
        self._members[member].known = self._members[member].ended = False

    def move(self, member: int, parameters: Tensor) -> None:
        """Give a member other parameters (P,), and keep what it has learnt of the damping."""
        self._parameters[member] = parameters.detach()
        self.forget(member)

    def restart(self, member: int, parameters: Tensor) -> None:
        """Give a member other parameters (P,), and forget everything about it but how often it was evaluated."""
        self._parameters[member] = parameters.detach()
        self._members[member] = _Member(n_evaluations=self._members[member].n_evaluations)

    def state(self) -> dict[str, Tensor]:
        """Copy everything that later steps depend on to the CPU; the first axis of each tensor is K."""
        found = {
            name: torch.tensor([getattr(member, name) for member in self._members], dtype=dtype)
            for name, dtype in _SAVED.items()
        }
        vectors = {"parameters": self._parameters, "gradient": self._gradient, "extras": self.extras}
        return found | {name: vector.detach().cpu().clone() for name, vector in vectors.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the result of `state`.

        Raises:
            InputError: a tensor is missing, or has another shape or type; nothing has been changed then.
        """
        for name, value in self.state().items():
            found = state.get(name)
            expected = tuple(value.shape[:1] if name == "extras" else value.shape)
            if found is None or tuple(found.shape)[: len(expected)] != expected or found.dtype != value.dtype:
                shown = "nothing" if found is None else f"{tuple(found.shape)} {found.dtype}"
                raise InputError(f"optimiser state: {name}: expected {expected} {value.dtype}, got {shown}")
        if state["extras"].ndim != 2:
            raise InputError(f"optimiser state: extras: expected (K, E), got {tuple(state['extras'].shape)}")
        self._parameters.copy_(state["parameters"])
        self._gradient.copy_(state["gradient"])
        extras = state["extras"].to(self._parameters)
        self._extras = extras if extras.shape[1] else None  # none before the first evaluation
        rows = zip(*(state[name].tolist() for name in _SAVED), strict=True)
        self._members = [_Member(**dict(zip(_SAVED, row, strict=True))) for row in rows]


def _solve(matrix: Tensor, shift: float, right: Tensor) -> Tensor | None:
    """Solve (matrix + shift I) s = -right; None where the matrix is not positive definite to rounding."""
    damped = matrix.clone()
    damped.diagonal().add_(shift)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if bool(failed):
        return None
    return -torch.cholesky_solve(right[:, None], factor)[:, 0]
