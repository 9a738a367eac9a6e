"""LBFGS, and Gauss-Newton from where it gains more in the same time.

A step of Gauss-Newton costs many evaluations (few on a GPU, tens on a CPU with forces) and is worth the more LBFGS
steps the nearer the minimum is. When it begins to pay depends on machine, set and network, so it is measured: gain is
the decrease of the logarithm of the loss, and both optimisers are judged by gain per second. From time to time two
steps of Gauss-Newton are tried from where LBFGS is. If they gain more per second than LBFGS has done lately, the member
stays with Gauss-Newton; otherwise LBFGS goes on from where it was, and trials take a tenth of the time at most.

The moment of the change depends on the clock: only fits that change after the same step have the same numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.log import log
from pyfit_gpu.optimizers.auto_options import AutoOptions
from pyfit_gpu.optimizers.base import MemberObjective
from pyfit_gpu.optimizers.gauss_newton import GaussNewton
from pyfit_gpu.optimizers.lbfgs import LBFGS

_FIRST_TRIAL = 8  # steps of LBFGS before the first trial: at the start its steps are worth most
_TRIAL_STEPS = 2  # the first may have to find its damping
_SHARE = 0.1  # of the time that trials take, at most
_RECENT = 5  # steps by which LBFGS is judged

clock = time.monotonic


@dataclass
class _Member:
    changed: bool = False  # whether it has gone over to Gauss-Newton
    n_steps: int = 0  # of LBFGS
    wait: float = 0.0  # s of LBFGS before the next trial
    recent: list[tuple[float, float]] = field(default_factory=list)  # gain and seconds of the last steps


class Auto:
    """The optimiser of K members (`Optimizer`)."""

    def __init__(self, parameters: Tensor, settings: AutoOptions) -> None:
        """Start from a copy of parameters (K, P), on their device, in their dtype."""
        self._lbfgs = LBFGS(parameters, settings.lbfgs)
        self._gauss_newton = GaussNewton(parameters, settings.gauss_newton)
        self._members = [_Member() for _ in range(len(parameters))]

    def _chosen(self, members: Sequence[int], *, changed: bool) -> list[int]:
        return [k for k in sorted(set(members)) if self._members[k].changed == changed]

    def _merged(self, of_lbfgs: Tensor, of_gauss_newton: Tensor) -> Tensor:
        changed = torch.tensor([member.changed for member in self._members], device=of_lbfgs.device)
        if of_lbfgs.shape != of_gauss_newton.shape:  # extras before the first evaluation of one of them
            return of_lbfgs if of_lbfgs.numel() else of_gauss_newton
        return torch.where(changed[:, None], of_gauss_newton, of_lbfgs)

    @property
    def parameters(self) -> Tensor:
        """(K, P), a copy."""
        return self._merged(self._lbfgs.parameters, self._gauss_newton.parameters)

    @property
    def extras(self) -> Tensor:
        """(K, E) extras at the parameters of members evaluated there."""
        return self._merged(self._lbfgs.extras, self._gauss_newton.extras)

    @property
    def n_evaluations(self) -> list[int]:
        """Evaluations of each member so far, those of trials included."""
        return [a + b for a, b in zip(self._lbfgs.n_evaluations, self._gauss_newton.n_evaluations, strict=True)]

    def evaluate(self, objective: MemberObjective, members: Sequence[int]) -> None:
        """Evaluate the objective for these members at their parameters, where the last step has not done so."""
        for optimizer, changed in ((self._lbfgs, False), (self._gauss_newton, True)):
            chosen = self._chosen(members, changed=changed)
            if chosen:
                optimizer.evaluate(objective, chosen)

    def step(self, objective: MemberObjective, members: Sequence[int], learning_rate_factor: float = 1.0) -> None:
        """Take one step of each of these members, with the optimiser that each has come to."""
        changed = self._chosen(members, changed=True)
        if changed:
            self._gauss_newton.step(objective, changed)
        others = self._chosen(members, changed=False)
        if others:
            self._lbfgs.evaluate(objective, others)
            before, started = self._lbfgs.loss.tolist(), clock()
            self._lbfgs.step(objective, others, learning_rate_factor)
            self._lbfgs.evaluate(objective, others)  # as whoever asked for the step will do
            seconds = (clock() - started) / len(others)
            after = self._lbfgs.loss.tolist()
            for k in others:
                member = self._members[k]
                member.n_steps += 1
                member.wait -= seconds
                member.recent = [*member.recent[1 - _RECENT :], (_gain(before[k], after[k]), seconds)]
                if member.n_steps >= _FIRST_TRIAL and member.wait <= 0 and math.isfinite(after[k]):
                    self._try(objective, k, after[k])

    def _try(self, objective: MemberObjective, k: int, loss: float) -> None:
        """Try Gauss-Newton from where LBFGS is."""
        member, started = self._members[k], clock()
        self._gauss_newton.move(k, self._lbfgs.parameters[k])
        self._gauss_newton.evaluate(objective, [k])
        for _ in range(_TRIAL_STEPS):
            self._gauss_newton.step(objective, [k])
        seconds = max(clock() - started, 1e-9)
        gain = _gain(loss, self._gauss_newton.loss[k])
        recent = sum(gain for gain, _ in member.recent) / max(sum(own for _, own in member.recent), 1e-9)
        member.changed = gain / seconds > recent
        member.wait = seconds / _SHARE
        log.info(
            "after %d steps of LBFGS, decrease of ln(loss) a second: %.3g, of Gauss-Newton %.3g%s",
            member.n_steps,
            recent,
            gain / seconds,
            ": Gauss-Newton from here on" if member.changed else "",
        )

    def forget(self, member: int) -> None:
        """Forget the loss at this member's parameters: the objective has changed."""
        self._lbfgs.forget(member)
        self._gauss_newton.forget(member)

    def restart(self, member: int, parameters: Tensor) -> None:
        """Give a member other parameters (P,), from which LBFGS starts again."""
        self._lbfgs.restart(member, parameters)
        self._gauss_newton.restart(member, parameters)
        self._members[member] = _Member()

    def state(self) -> dict[str, Tensor]:
        """Copy everything that later steps depend on to the CPU, but for the clock; the first axis is K."""
        parts = {"lbfgs": self._lbfgs.state(), "gauss_newton": self._gauss_newton.state()}
        found = {f"{part}_{name}": value for part, state in parts.items() for name, value in state.items()}
        return self._own_state() | found | {"extras": self.extras.cpu().clone()}

    def _own_state(self) -> dict[str, Tensor]:
        """Everything but the states of the two optimisers."""
        recent = torch.zeros(len(self._members), _RECENT, 2, dtype=torch.float64)
        for k, member in enumerate(self._members):
            for row, pair in enumerate(member.recent):
                recent[k, row] = torch.tensor(pair, dtype=torch.float64)
        return {
            "changed": torch.tensor([member.changed for member in self._members]),
            "n_steps": torch.tensor([member.n_steps for member in self._members]),
            "wait": torch.tensor([member.wait for member in self._members], dtype=torch.float64),
            "recent": recent,
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the result of `state`.

        Raises:
            InputError: the state of another optimiser, or of other sizes; nothing has been changed then.
        """
        for name, value in self._own_state().items():
            found = state.get(name)
            if found is None or (found.shape, found.dtype) != (value.shape, value.dtype):
                shown = "nothing" if found is None else f"{tuple(found.shape)} {found.dtype}"
                raise InputError(f"optimiser state: {name}: expected {tuple(value.shape)} {value.dtype}, got {shown}")
        before = self._lbfgs.state()
        self._lbfgs.load_state(_part_of(state, "lbfgs"))
        try:
            self._gauss_newton.load_state(_part_of(state, "gauss_newton"))
        except InputError:
            self._lbfgs.load_state(before)
            raise
        rows = zip(*(state[name].tolist() for name in ("changed", "n_steps", "wait", "recent")), strict=True)
        self._members = [
            _Member(changed, n_steps, wait, [(gain, seconds) for gain, seconds in recent[: min(n_steps, _RECENT)]])
            for changed, n_steps, wait, recent in rows
        ]


def _part_of(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """State of one of the two optimisers."""
    return {name.removeprefix(f"{part}_"): value for name, value in state.items() if name.startswith(f"{part}_")}


def _gain(before: float, after: float) -> float:
    """Decrease of the logarithm of the loss."""
    return math.log(before / after) if 0 < after < math.inf and 0 < before < math.inf else 0.0
