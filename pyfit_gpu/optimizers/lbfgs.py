"""LBFGS for K members at once, each with its own history, line search and end; with one it is torch.optim.LBFGS.

Every decision of a member is taken on the host, by a generator that asks for directions and trials. The vectors of
all members that wait for the same thing are handled together, and all trials of a round are one call of the objective
and one transfer of numbers from the device.

On a CPU vectors are handled member by member: a member's numbers have the same bits whatever the others do, as long
as the objective's have, and those of torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.optimizers.cuda_graphs import Recorded
from pyfit_gpu.optimizers.lbfgs_member import Iterations, LBFGSSettings, Member
from pyfit_gpu.optimizers.line_search import Ask, Trial, other_slot
from pyfit_gpu.optimizers.member_vectors import Evaluate, MemberVectors, VectorsOneByOne, VectorsTogether
from pyfit_gpu.parallel import one_thread

__all__ = ["LBFGS", "Evaluate", "LBFGSSettings"]

_SAVED = (
    *((name, torch.float64) for name in ("loss", "gradient_max", "gradient_sum", "length")),
    *((name, torch.int64) for name in ("n_iterations", "n_evaluations")),
    ("known", torch.bool),
)  # of Member


class LBFGS:
    """K members' weights, and what their optimiser remembers."""

    def __init__(self, weights: Tensor, settings: LBFGSSettings) -> None:
        """Start from a copy of weights (K, P), on their device, in their dtype."""
        self.settings = settings
        on_cpu = weights.device.type == "cpu"
        kind = VectorsOneByOne if on_cpu else VectorsTogether
        self._vectors: MemberVectors = kind(weights.detach(), settings.history_size)
        self._members = [Member() for _ in range(len(weights))]
        self._cut_off = False  # the last step, by an exception
        self._recorded: tuple[Evaluate, Recorded] | None = None  # trials of this objective
        # Next directions, by slot and length of the move before them. To compute them with every trial, most of which
        # are accepted, is cheaper than a second transfer; on a CPU a transfer costs nothing.
        self._foreseen: dict[int, tuple[int, float, list[float]]] = {}

    @property
    def weights(self) -> Tensor:
        """(K, P), a view that later steps change."""
        return self._vectors.points[:, : self._vectors.n_weights]

    @property
    def loss(self) -> Tensor:
        """(K,) float64 at the weights; NaN where not known."""
        loss = [m.loss if m.known else math.nan for m in self._members]
        return torch.tensor(loss, dtype=torch.float64, device=self.weights.device)

    @property
    def gradient(self) -> Tensor:
        """(K, P) at the weights, of members for which `known`."""
        slots = [m.slot for m in self._members]
        return self._vectors.at(self._vectors.gradients, slots)[:, : self._vectors.n_weights]

    @property
    def extras(self) -> Tensor:
        """(K, E) at the weights, of members for which `known`; E = 0 before the first evaluation."""
        if self._vectors.extras is None:
            return self.weights.new_zeros(len(self._members), 0)
        return self._vectors.at(self._vectors.extras, [m.slot for m in self._members])

    @property
    def known(self) -> list[bool]:
        """Per member, whether loss, gradient and extras at the weights are."""
        return [m.known for m in self._members]

    @property
    def n_evaluations(self) -> list[int]:
        """Per member, restarts included."""
        return [m.n_evaluations for m in self._members]

    @torch.no_grad()
    def evaluate(self, evaluate: Evaluate, members: Sequence[int]) -> None:
        """Make loss, gradient and extras known at the weights of these members."""
        unknown = [k for k in self._existing(members) if not self._members[k].known]
        if unknown:
            with one_thread():
                self._find(evaluate, unknown)

    def _find(self, evaluate: Evaluate, unknown: Sequence[int]) -> None:
        slots = [other_slot(self._members[k].previous) for k in unknown]
        points = self._vectors.points[self._vectors.index(unknown)]
        found = _transfer(torch.cat(self._evaluate(evaluate, unknown, points, slots), dim=1))
        for k, slot, (loss, gradient_max, gradient_sum, _) in zip(unknown, slots, found, strict=True):
            m = self._members[k]
            m.loss, m.gradient_max, m.gradient_sum = _usable(loss, gradient_max), gradient_max, gradient_sum
            m.slot, m.known = slot, True

    @torch.no_grad()
    def step(self, evaluate: Evaluate, members: Sequence[int], learning_rate: float | None = None) -> None:
        """Up to `max_iterations` iterations of each of these members.

        A member whose direction does not lead down, because it has arrived or because its loss or gradient is not a
        number, ends its step where it is; the others go on. A loss whose gradient is not finite counts as NaN.

        Args:
            learning_rate: in this step; None: the settings'.
        """
        with one_thread():
            self._step(evaluate, self._existing(members), learning_rate)

    def _step(self, evaluate: Evaluate, members: Sequence[int], learning_rate: float | None) -> None:
        self._cut_off = True
        self._foreseen.clear()
        try:
            self.evaluate(evaluate, members)
            rate = self.settings.learning_rate if learning_rate is None else learning_rate
            running = {k: self._members[k].iterate(self.settings, rate) for k in members}
            asked: dict[int, Ask | None] = {}
            _advance(running, asked, dict.fromkeys(members))
            while asked:
                turning = [k for k in members if k in asked and asked[k] is None]
                trials = {k: ask for k in members if (ask := asked.get(k)) is not None}
                _advance(running, asked, self._turn(turning) if turning else self._try(evaluate, trials))
        finally:
            self._move()
        self._cut_off = False

    def forget(self, member: int) -> None:
        """Loss and gradient at a member's weights are no longer known: the objective has changed."""
        self._members[member].known = False

    def restart(self, member: int, weights: Tensor) -> None:
        """Give a member new weights (P,); it remembers nothing but how often it was evaluated."""
        (member,) = self._existing([member])
        if weights.shape != (self._vectors.n_weights,):
            raise ValueError(f"weights: expected shape ({self._vectors.n_weights},), got {tuple(weights.shape)}")
        self._vectors.restart(member, weights.detach())
        self._members[member] = Member(n_evaluations=self._members[member].n_evaluations)

    def state(self) -> dict[str, Tensor]:
        """All that later steps depend on, and what is known at the weights: copies on the CPU; the first axis is K.

        Raises:
            RuntimeError: an exception cut off the last step; what is left does not continue it.
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
        """Take over what `state` returned, of as many members with as many weights and the same history size.

        Raises:
            InputError: something is missing or has another shape; nothing has been changed then.
        """
        for name, value in self._state().items():
            found = tuple(state[name].shape) if name in state else None
            expected = tuple(value.shape[:1] if name == "extras" else value.shape)
            if found is None or found[: len(expected)] != expected:
                raise InputError(f"optimiser state: {name}: expected shape {expected}, got {found or 'nothing'}")
        self._vectors.load_state(state, slot=0, before=1)
        self._recorded = None
        names = [name for name, _ in _SAVED]
        rows = zip(*(state[name].tolist() for name in names), strict=True)
        self._members = [Member(**dict(zip(names, row, strict=True))) for row in rows]
        for m, moved in zip(self._members, state["moved"].tolist(), strict=True):
            m.previous = 1 if moved else None
        self._cut_off = False

    def _evaluate(
        self, evaluate: Evaluate, members: Sequence[int], points: Tensor, slots: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Loss (A, 1), and what `MemberVectors.store` says of its gradient (A, 3)."""
        vectors = self._vectors
        with torch.enable_grad():
            loss, gradient, extras = evaluate(points[:, : vectors.n_weights], vectors.index(members))
        for k in members:
            self._members[k].n_evaluations += 1
        return loss[:, None], vectors.store(members, slots, gradient, extras)

    def _try(self, evaluate: Evaluate, asked: Mapping[int, Ask]) -> dict[int, Trial]:
        """Evaluate all of these trials."""
        members = list(asked)
        slots, lengths = [ask.slot for ask in asked.values()], [ask.length for ask in asked.values()]
        if isinstance(self._vectors, VectorsTogether):
            found = self._try_together(self._vectors, evaluate, members, lengths, slots)
        else:
            points = self._vectors.along(members, lengths)
            found = _transfer(torch.cat(self._evaluate(evaluate, members, points, slots), dim=1))
        rows = zip(asked.items(), found, strict=True)
        return {
            k: Trial(ask.length, _usable(loss, gradient_max), slope, ask.slot, gradient_max, ask.given)
            for (k, ask), (loss, gradient_max, _, slope) in rows
        }

    def _try_together(
        self,
        vectors: VectorsTogether,
        evaluate: Evaluate,
        members: Sequence[int],
        lengths: Sequence[float],
        slots: Sequence[int],
    ) -> list[list[float]]:
        """Loss and what `MemberVectors.measure` says of each; the directions that would follow are then foreseen."""
        trial: Callable[[Tensor], Tensor] = partial(vectors.trial, evaluate)
        is_recordable = getattr(evaluate, "is_recordable", None)
        if is_recordable is not None and is_recordable(len(members)) and vectors.extras is not None:
            if self._recorded is None or self._recorded[0] is not evaluate:
                self._recorded = (evaluate, Recorded(trial))
            trial = self._recorded[1]
        befores = [self._members[k].slot for k in members]
        found = _transfer(trial(vectors.table(members, lengths, befores, slots)))
        for k, length, slot, row in zip(members, lengths, slots, found, strict=True):
            self._members[k].n_evaluations += 1
            if self._members[k].goes_on:
                self._foreseen[k] = (slot, length, row[4:])
        return [row[:4] for row in found]

    def _turn(self, members: Sequence[int]) -> dict[int, Trial]:
        """Turn these members into their next directions, learning from their last moves."""
        self._move()
        unforeseen, moves = [], []
        for k in members:
            m = self._members[k]
            if self._foreseen.get(k, (None, None))[:2] != (m.slot, m.length):
                unforeseen.append(k)
                moves.append((m.length, m.slot if m.previous is None else m.previous, m.slot))
        if unforeseen:
            found = _transfer(self._vectors.look_ahead(unforeseen, *zip(*moves, strict=True)))
            for k, (length, _, slot), numbers in zip(unforeseen, moves, found, strict=True):
                self._foreseen[k] = (slot, length, numbers)
        return {k: self._start(k, *self._foreseen.pop(k)[2]) for k in members}

    def _start(self, k: int, slope: float, longest: float, enough: float, scale: float) -> Trial:
        """Where a member stands on the direction last looked at, which becomes the current one."""
        m = self._members[k]
        self._vectors.turn(k, enough > 0, scale)
        m.previous, m.length, m.longest = None, 0.0, longest
        return Trial(0.0, m.loss, slope, m.slot, m.gradient_max)

    def _move(self) -> None:
        """Let the weights follow the moves that members have decided on."""
        moves = {k: m.to_move for k, m in enumerate(self._members) if m.to_move}
        if moves:
            self._vectors.move(list(moves), list(moves.values()))
        for k in moves:
            self._members[k].to_move = 0.0

    def _existing(self, members: Sequence[int]) -> list[int]:
        """Ascending, each once."""
        found = sorted(set(members))
        if found and not (found[0] >= 0 and found[-1] < len(self._members)):
            raise ValueError(f"members: expected numbers from 0 to {len(self._members) - 1}, got {list(members)}")
        return found


def _advance(
    running: Mapping[int, Iterations], asked: dict[int, Ask | None], answers: Mapping[int, Trial | None]
) -> None:
    """Let members go on with their answers (None: begin); what they ask next, or nothing where they have ended."""
    for k, answer in answers.items():
        try:
            asked[k] = next(running[k]) if answer is None else running[k].send(answer)
        except StopIteration:
            asked.pop(k, None)


def _transfer(table: Tensor) -> list[list[float]]:
    """(A, n) to the host: what a round waits for."""
    found: list[list[float]] = table.tolist()
    return found


def _usable(loss: float, gradient_max: float) -> float:
    """NaN where the gradient is not finite: callers and the line search need only look at the loss."""
    return loss if math.isfinite(gradient_max) else math.nan
