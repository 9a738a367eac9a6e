"""LBFGS for K members at once, each with its own history, line search and end; with one it is torch.optim.LBFGS.

Every decision of a member is taken on the host, by a generator that requests directions and trials. The vectors of
all members that wait for the same thing are handled together, and all trials of a round are one call of the objective
and one transfer of numbers from the device.

On a CPU vectors are handled member by member: a member's numbers have the bits of torch.optim.LBFGS, and the same bits
whatever the others do, if the objective's have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.optimizers.base import MemberObjective
from pyfit_gpu.optimizers.cuda_graphs import Recorded
from pyfit_gpu.optimizers.lbfgs_member import Iterations, Member
from pyfit_gpu.optimizers.lbfgs_options import LBFGSOptions
from pyfit_gpu.optimizers.line_search import Trial, TrialRequest, other_slot
from pyfit_gpu.optimizers.member_vectors import MemberVectors, VectorsOneByOne, VectorsTogether
from pyfit_gpu.parallel import one_thread

_SAVED = (
    *((name, torch.float64) for name in ("loss", "gradient_max", "gradient_sum", "length")),
    *((name, torch.int64) for name in ("n_iterations", "n_evaluations")),
    ("known", torch.bool),
)  # attributes of Member


class LBFGS:
    """The optimiser of K members (`Optimizer`)."""

    def __init__(self, parameters: Tensor, settings: LBFGSOptions) -> None:
        """Start from a copy of parameters (K, P), on their device, in their dtype."""
        self.settings = settings
        on_cpu = parameters.device.type == "cpu"
        kind = VectorsOneByOne if on_cpu else VectorsTogether
        self._vectors: MemberVectors = kind(parameters.detach(), settings.history_size)
        self._members = [Member() for _ in range(len(parameters))]
        self._cut_off = False  # whether an exception cut off the last step
        self._recorded: tuple[MemberObjective, Recorded] | None = None  # trials of this objective
        # Slot and length of a trial, and `propose_next` after it. Proposing with every trial, most of which are
        # accepted, is cheaper than a second transfer; on a CPU a transfer costs nothing.
        self._proposed: dict[int, tuple[int, float, list[float]]] = {}

    @property
    def parameters(self) -> Tensor:
        """(K, P), a view that later steps change."""
        return self._vectors.points[:, : self._vectors.n_parameters]

    @property
    def loss(self) -> Tensor:
        """(K,) float64, loss at the parameters; NaN where not known."""
        loss = [m.loss if m.known else math.nan for m in self._members]
        return torch.tensor(loss, dtype=torch.float64, device=self.parameters.device)

    @property
    def gradient(self) -> Tensor:
        """(K, P) gradient at the parameters, valid for members whose `known` is true."""
        slots = [m.slot for m in self._members]
        return self._vectors.at(self._vectors.gradients, slots)[:, : self._vectors.n_parameters]

    @property
    def extras(self) -> Tensor:
        """(K, E) extras at the parameters, valid for members whose `known` is true; E = 0 before any evaluation."""
        if self._vectors.extras is None:
            return self.parameters.new_zeros(len(self._members), 0)
        return self._vectors.at(self._vectors.extras, [m.slot for m in self._members])

    @property
    def known(self) -> list[bool]:
        """Whether loss, gradient and extras at the parameters are known, by member."""
        return [m.known for m in self._members]

    @property
    def n_evaluations(self) -> list[int]:
        """Evaluations of each member so far, those before a restart included."""
        return [m.n_evaluations for m in self._members]

    @torch.no_grad()
    def evaluate(self, objective: MemberObjective, members: Sequence[int]) -> None:
        """Make loss, gradient and extras known at the parameters of these members."""
        unknown = [k for k in self._existing(members) if not self._members[k].known]
        if unknown:
            with one_thread():
                self._find(objective, unknown)

    def _find(self, objective: MemberObjective, unknown: Sequence[int]) -> None:
        slots = [other_slot(self._members[k].previous) for k in unknown]
        points = self._vectors.points[self._vectors.index(unknown)]
        found = _transfer(torch.cat(self._evaluate(objective, unknown, points, slots), dim=1))
        for k, slot, (loss, gradient_max, gradient_sum, _) in zip(unknown, slots, found, strict=True):
            m = self._members[k]
            m.loss, m.gradient_max, m.gradient_sum = _usable(loss, gradient_max), gradient_max, gradient_sum
            m.slot, m.known = slot, True

    @torch.no_grad()
    def step(self, objective: MemberObjective, members: Sequence[int], learning_rate_factor: float = 1.0) -> None:
        """Take up to `max_iterations` iterations of each of these members.

        A member whose direction does not lead downhill, because it has converged or because its loss or gradient is
        not a number, ends its step where it is; the others go on. A loss whose gradient is not finite counts as NaN.

        Args:
            learning_rate_factor: factor of the settings' learning rate in this step.
        """
        with one_thread():
            self._step(objective, self._existing(members), self.settings.step_length * learning_rate_factor)

    def _step(self, objective: MemberObjective, members: Sequence[int], step_length: float) -> None:
        self._cut_off = True
        self._proposed.clear()
        try:
            self.evaluate(objective, members)
            running = {k: self._members[k].iterate(self.settings, step_length) for k in members}
            requests: dict[int, TrialRequest | None] = {}
            _send(running, requests, dict.fromkeys(members))
            while requests:
                advancing = [k for k in members if k in requests and requests[k] is None]
                trials = {k: request for k in members if (request := requests.get(k)) is not None}
                _send(running, requests, self._advance(advancing) if advancing else self._try(objective, trials))
        finally:
            self._move()
        self._cut_off = False

    def forget(self, member: int) -> None:
        """Forget loss and gradient at this member's parameters: the objective has changed."""
        self._members[member].known = False

    def restart(self, member: int, parameters: Tensor) -> None:
        """Give a member other parameters (P,), and forget everything about it but how often it was evaluated."""
        (member,) = self._existing([member])
        expected = (self._vectors.n_parameters,)
        if parameters.shape != expected:
            raise ValueError(f"parameters: expected shape {expected}, got {tuple(parameters.shape)}")
        self._vectors.restart(member, parameters.detach())
        self._members[member] = Member(n_evaluations=self._members[member].n_evaluations)

    def state(self) -> dict[str, Tensor]:
        """Copy everything that later steps depend on to the CPU; the first axis of each tensor is K.

        Raises:
            RuntimeError: an exception cut off the last step, so that there is no state to go on from.
        """
        if self._cut_off:
            raise RuntimeError("state: an exception cut off the last step; use the state before it")
        return {name: value.detach().cpu().clone() for name, value in self._state().items()}

    def _state(self) -> dict[str, Tensor]:
        found = {name: torch.tensor([getattr(m, name) for m in self._members], dtype=dtype) for name, dtype in _SAVED}
        found["moved"] = torch.tensor([m.previous is not None for m in self._members])
        before = [m.slot if m.previous is None else m.previous for m in self._members]
        return found | self._vectors.state([m.slot for m in self._members], before)

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the result of `state`, for the same numbers of members and parameters and the same history size.

        Raises:
            InputError: a tensor is missing, has another shape or type, or holds what no fit leaves; nothing has been
                changed then.
        """
        for name, value in self._state().items():
            found = tuple(state[name].shape) if name in state else None
            expected = tuple(value.shape[:1] if name == "extras" else value.shape)
            if found is None or found[: len(expected)] != expected:
                raise InputError(f"optimiser state: {name}: expected shape {expected}, got {found or 'nothing'}")
            if name != "extras" and state[name].dtype != value.dtype:
                raise InputError(f"optimiser state: {name}: expected {value.dtype}, got {state[name].dtype}")
        if state["extras"].ndim != 2:
            raise InputError(f"optimiser state: extras: expected shape (K, E), got {tuple(state['extras'].shape)}")
        self._vectors.pairs.check_state(state)
        self._vectors.load_state(state, slot=0, before=1)
        self._recorded = None
        names = [name for name, _ in _SAVED]
        rows = zip(*(state[name].tolist() for name in names), strict=True)
        self._members = [Member(**dict(zip(names, row, strict=True))) for row in rows]
        for m, moved in zip(self._members, state["moved"].tolist(), strict=True):
            m.previous = 1 if moved else None
        self._cut_off = False

    def _evaluate(
        self, objective: MemberObjective, members: Sequence[int], points: Tensor, slots: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Evaluate the objective at points, and store gradients and extras.

        Returns:
            loss (A, 1), and `MemberVectors.measure`.
        """
        vectors = self._vectors
        with torch.enable_grad():
            loss, gradient, extras = objective(points[:, : vectors.n_parameters], vectors.index(members))
        for k in members:
            self._members[k].n_evaluations += 1
        return loss[:, None], vectors.store(members, slots, gradient, extras)

    def _try(self, objective: MemberObjective, requests: Mapping[int, TrialRequest]) -> dict[int, Trial]:
        """Evaluate all of these trials."""
        members = list(requests)
        slots, lengths = [one.slot for one in requests.values()], [one.length for one in requests.values()]
        if isinstance(self._vectors, VectorsTogether):
            found = self._try_together(self._vectors, objective, members, lengths, slots)
        else:
            points = self._vectors.along(members, lengths)
            found = _transfer(torch.cat(self._evaluate(objective, members, points, slots), dim=1))
        rows = zip(requests.items(), found, strict=True)
        return {
            k: Trial(one.length, _usable(loss, gradient_max), slope, one.slot, gradient_max, one.given)
            for (k, one), (loss, gradient_max, _, slope) in rows
        }

    def _try_together(
        self,
        vectors: VectorsTogether,
        objective: MemberObjective,
        members: Sequence[int],
        lengths: Sequence[float],
        slots: Sequence[int],
    ) -> list[list[float]]:
        """Evaluate trials, with `propose_next` after each; returns loss and `MemberVectors.measure`."""
        trial: Callable[[Tensor], Tensor] = partial(vectors.trial, objective)
        most = objective.recordable_points
        if vectors.extras is not None and most:
            if self._recorded is None or self._recorded[0] is not objective:
                self._recorded = (objective, Recorded(trial))
            trial = self._recorded[1]
        befores = [self._members[k].slot for k in members]
        table = vectors.table(members, lengths, befores, slots)
        if most and len(members) > most:  # parts of one shape are one recording, whose result each of them overwrites
            found = _transfer(torch.cat([trial(part).clone() for part in table.split(most, dim=1)]))
        else:
            found = _transfer(trial(table))
        for k, length, slot, row in zip(members, lengths, slots, found, strict=True):
            self._members[k].n_evaluations += 1
            if self._members[k].goes_on:
                self._proposed[k] = (slot, length, row[4:])
        return [row[:4] for row in found]

    def _advance(self, members: Sequence[int]) -> dict[int, Trial]:
        """Move these members and give them their next directions; returns their trials of length 0 along them."""
        self._move()
        unproposed, moves = [], []
        for k in members:
            m = self._members[k]
            if self._proposed.get(k, (None, None))[:2] != (m.slot, m.length):
                unproposed.append(k)
                moves.append((m.length, m.slot if m.previous is None else m.previous, m.slot))
        if unproposed:
            found = _transfer(self._vectors.propose_next(unproposed, *zip(*moves, strict=True)))
            for k, (length, _, slot), numbers in zip(unproposed, moves, found, strict=True):
                self._proposed[k] = (slot, length, numbers)
        return {k: self._start(k, *self._proposed.pop(k)[2]) for k in members}

    def _start(self, k: int, slope: float, longest: float, enough: float, scale: float) -> Trial:
        """Commit the direction proposed last; returns the trial of length 0 along it."""
        m = self._members[k]
        self._vectors.commit(k, enough > 0, scale)
        m.previous, m.length, m.longest = None, 0.0, longest
        return Trial(0.0, m.loss, slope, m.slot, m.gradient_max)

    def _move(self) -> None:
        """Apply the moves that members have decided on to the parameters."""
        moves = {k: m.to_move for k, m in enumerate(self._members) if m.to_move}
        if moves:
            self._vectors.move(list(moves), list(moves.values()))
        for k in moves:
            self._members[k].to_move = 0.0

    def _existing(self, members: Sequence[int]) -> list[int]:
        """Sort members, without duplicates, and check that they exist."""
        found = sorted(set(members))
        if found and not (found[0] >= 0 and found[-1] < len(self._members)):
            raise ValueError(f"members: expected numbers from 0 to {len(self._members) - 1}, got {list(members)}")
        return found


def _send(
    running: Mapping[int, Iterations], requests: dict[int, TrialRequest | None], answers: Mapping[int, Trial | None]
) -> None:
    """Send members their answers (None: begin), and replace their requests; members that have ended have none."""
    for k, answer in answers.items():
        try:
            requests[k] = next(running[k]) if answer is None else running[k].send(answer)
        except StopIteration:
            requests.pop(k, None)


def _transfer(table: Tensor) -> list[list[float]]:
    """Copy (A, n) to the host: the one point at which a round waits for the device."""
    found: list[list[float]] = table.tolist()
    return found


def _usable(loss: float, gradient_max: float) -> float:
    """Loss, or NaN if the gradient is not finite, so that the line search need only look at the loss."""
    return loss if math.isfinite(gradient_max) else math.nan
