"""LBFGS for K members at once, each with its own history, line search and end; with one it is torch.optim.LBFGS.

Every decision of a member is taken on the host, by a generator that asks for directions and trials; the vectors of
all members that wait for the same thing are handled together, and all trials of a round are one call of the objective
and one transfer of numbers from the device.

On a CPU vectors are handled member by member, in memory of their own whose rows start at aligned addresses: a
member's numbers have the same bits whatever the others do and however many threads torch may use, as long as the
objective's have.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.line_search import Ask, Trial, strong_wolfe
from pyfit_gpu.member_vectors import SLOTS, MemberVectors
from pyfit_gpu.parallel import one_thread


@dataclass(frozen=True)
class LBFGSSettings:
    """How far and how carefully; the names of torch in brackets."""

    line_search: Literal["strong-wolfe", "none"] = "strong-wolfe"  # [line_search_fn]
    learning_rate: float = 1.0  # first trial step of a line search, or without one the step [lr]
    max_iterations: int = 10  # inside one step [max_iter]
    max_evaluations: int | None = None  # inside one step; None: max_iterations * 5 // 4 [max_eval]
    history_size: int = 100  # pairs
    tolerance_gradient: float = 1e-7  # largest component [tolerance_grad]
    tolerance_change: float = 1e-9  # of the loss, and of the largest component of the weights
    line_search_evaluations: int = 25  # at most, of one line search

    def __post_init__(self) -> None:
        if self.line_search not in ("strong-wolfe", "none"):
            raise InputError(f"line_search: expected strong-wolfe or none, got {self.line_search!r}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"learning_rate: expected a number above 0, got {self.learning_rate}")
        for name in ("max_iterations", "max_evaluations", "history_size", "line_search_evaluations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}: expected a whole number above 0, got {value}")
        for name in ("tolerance_gradient", "tolerance_change"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{name}: expected a number >= 0, got {getattr(self, name)}")

    @property
    def evaluations_per_step(self) -> int:
        """After which no iteration begins; the one at the start counts."""
        return self.max_iterations * 5 // 4 if self.max_evaluations is None else self.max_evaluations


class Evaluate(Protocol):
    """The objective of several members."""

    def __call__(self, points: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss (A,), its gradient (A, P) and extras (A, E), numbers that belong to the point; all detached.

        Args:
            points: (A, P), one of each of the members; rows do not touch where P is no multiple of 16.
            members: (A,) int64, on the device.
        """


@dataclass
class _Member:
    """What the host knows about one member."""

    loss: float = math.nan
    gradient_max: float = math.nan  # largest component
    gradient_sum: float = math.nan  # of absolute values, where it was evaluated without a search
    known: bool = False  # loss and gradient at the weights
    slot: int = 0  # of the gradient at the weights, if known
    previous: int | None = None  # slot of the gradient before the last move; None: nothing to learn from a move
    length: float = 0.0  # of the last move along the direction
    longest: float = math.nan  # largest component of the direction
    goes_on: bool = False  # another iteration may follow in this step
    n_iterations: int = 0
    n_evaluations: int = 0


_SAVED = (
    *((name, torch.float64) for name in ("loss", "gradient_max", "gradient_sum", "length")),
    *((name, torch.int64) for name in ("n_iterations", "n_evaluations")),
    ("known", torch.bool),
)  # of _Member
_Iterations = Generator[Ask | None, Trial, None]  # None asks for the next direction; the answer is its start


class LBFGS:
    """K members' weights, and what their optimiser remembers."""

    def __init__(self, weights: Tensor, settings: LBFGSSettings) -> None:
        """Start from a copy of weights (K, P), on their device, in their dtype."""
        self.settings = settings
        self._vectors = MemberVectors(weights.detach(), settings.history_size)
        self._members = [_Member() for _ in range(len(weights))]
        self._moves: dict[int, float] = {}  # members whose weights have yet to follow, and how far
        # Next directions, by slot and length of the move before them. To compute them with every trial, most of which
        # are accepted, is cheaper than a second transfer; on a CPU a transfer costs nothing.
        self._foreseen: dict[int, tuple[int, float, list[float]]] = {}
        self._stepping = False
        self._foresees = weights.device.type != "cpu"

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
        unknown = [k for k in self._checked(members) if not self._members[k].known]
        if unknown:
            with one_thread():
                self._find(evaluate, unknown)

    def _find(self, evaluate: Evaluate, unknown: Sequence[int]) -> None:
        slots = [1 if self._members[k].previous == 0 else 0 for k in unknown]
        points = self._vectors.points[torch.tensor(unknown, device=self.weights.device)]
        loss, numbers = self._evaluate(evaluate, unknown, points, slots)
        (found,) = _transfer(torch.cat((loss, numbers), dim=1))
        for k, slot, (value, gradient_max, gradient_sum, _) in zip(unknown, slots, found, strict=True):
            m = self._members[k]
            m.loss, m.gradient_max, m.gradient_sum = _checked_loss(value, gradient_max), gradient_max, gradient_sum
            m.slot, m.known = slot, True

    @torch.no_grad()
    def step(self, evaluate: Evaluate, members: Sequence[int], learning_rate: float | None = None) -> None:
        """Up to `max_iterations` iterations of each of these members.

        A member whose direction does not lead down, because its loss or gradient is not a number or because it has
        arrived, ends its step where it is; the others go on.

        Args:
            learning_rate: in this step; None: the settings'.
        """
        members = self._checked(members)
        self.evaluate(evaluate, members)
        with one_thread():
            self._step(evaluate, members, self.settings.learning_rate if learning_rate is None else learning_rate)

    def _step(self, evaluate: Evaluate, members: Sequence[int], rate: float) -> None:
        self._stepping = True
        self._foreseen.clear()
        running = {k: self._iterate(self._members[k], k, rate) for k in members}
        asked: dict[int, Ask | None] = {}
        _advance(running, asked, dict.fromkeys(members))
        while asked:
            turning = [k for k, ask in asked.items() if ask is None]
            trials = {k: ask for k, ask in asked.items() if ask is not None}
            _advance(running, asked, self._turn(turning) if turning else self._try(evaluate, trials))
        self._move()
        self._stepping = False

    def forget(self, member: int) -> None:
        """Loss and gradient at a member's weights are no longer known: the objective has changed."""
        self._members[member].known = False

    def restart(self, member: int, weights: Tensor) -> None:
        """Give a member new weights (P,); it remembers nothing but how often it was evaluated."""
        (member,) = self._checked([member])
        if weights.shape != (self._vectors.n_weights,):
            raise ValueError(f"weights: expected shape ({self._vectors.n_weights},), got {tuple(weights.shape)}")
        self._vectors.restart(member, weights.detach())
        self._members[member] = _Member(n_evaluations=self._members[member].n_evaluations)

    def state(self) -> dict[str, Tensor]:
        """All that later steps depend on, and what is known at the weights, on the CPU; the first axis is K.

        Raises:
            RuntimeError: the last step was cut off by an exception.
        """
        if self._stepping:
            raise RuntimeError("state: the last step was cut off by an exception; take the state before it")
        found = {name: torch.tensor([getattr(m, name) for m in self._members], dtype=dtype) for name, dtype in _SAVED}
        before = [m.slot if m.previous is None else m.previous for m in self._members]
        found |= self._vectors.state([m.slot for m in self._members], before)
        found["moved"] = torch.tensor([m.previous is not None for m in self._members])
        return {name: value.detach().cpu().clone() for name, value in found.items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned, of as many members with as many weights and the same history size.

        Raises:
            InputError: something is missing or has another shape; nothing has been changed then.
        """
        expected = {name: value.shape for name, value in self.state().items()}
        for name, shape in expected.items():
            found = tuple(state[name].shape) if name in state else None
            if found is None or (name != "extras" and found != shape):
                raise InputError(f"optimiser state: {name}: expected shape {tuple(shape)}, got {found or 'nothing'}")
        self._vectors.load_state(state, slot=0, before=1)
        columns = [state[name].tolist() for name, _ in _SAVED]
        names = [name for name, _ in _SAVED]
        self._members = [_Member(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]
        for m, moved in zip(self._members, state["moved"].tolist(), strict=True):
            m.previous = 1 if moved else None

    def _iterate(self, m: _Member, k: int, rate: float) -> _Iterations:
        """One step of one member."""
        settings = self.settings
        if m.gradient_max <= settings.tolerance_gradient:
            return
        budget = settings.evaluations_per_step + m.n_evaluations - 1
        for iteration in range(1, settings.max_iterations + 1):
            m.n_iterations += 1
            m.goes_on = iteration < settings.max_iterations
            start = yield None
            if not start.slope <= -settings.tolerance_change:
                return
            length = rate if m.n_iterations > 1 else min(1.0, 1.0 / m.gradient_sum) * rate
            if settings.line_search == "strong-wolfe":
                most = min(budget - m.n_evaluations, settings.line_search_evaluations - 1)
                accepted = yield from strong_wolfe(
                    start, length, longest=m.longest, tolerance=settings.tolerance_change, max_trials=most
                )
            elif m.goes_on:
                accepted = yield Ask(length, (start.slot + 1) % SLOTS)
            else:
                self._moves[k] = m.length = length
                m.previous, m.known = start.slot, False
                return
            self._moves[k] = m.length = accepted.length
            m.previous, m.slot, m.loss, m.gradient_max = start.slot, accepted.slot, accepted.loss, accepted.gradient_max
            if (
                m.n_evaluations >= budget
                or m.gradient_max <= settings.tolerance_gradient
                or m.longest * abs(m.length) <= settings.tolerance_change
                or abs(m.loss - start.loss) < settings.tolerance_change
            ):
                return

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

    def _try(self, evaluate: Evaluate, asked: dict[int, Ask]) -> dict[int, Trial]:
        """Evaluate all of these trials."""
        members = list(asked)
        slots, lengths = [ask.slot for ask in asked.values()], [ask.length for ask in asked.values()]
        points = self._vectors.along(members, lengths)
        parts = list(self._evaluate(evaluate, members, points, slots))
        ahead = [k for k in members if self._foresees and self._members[k].goes_on]
        if ahead:
            moves = [(asked[k].length, self._members[k].slot, asked[k].slot) for k in ahead]
            parts.append(self._vectors.look_ahead(ahead, *zip(*moves, strict=True)))
        losses, numbers, *foreseen = _transfer(*parts)
        for k, found in zip(ahead, *foreseen, strict=True):
            self._foreseen[k] = (asked[k].slot, asked[k].length, found)
        rows = zip(members, lengths, slots, losses, numbers, strict=True)
        return {
            k: Trial(length, _checked_loss(loss, gradient_max), slope, slot, gradient_max)
            for k, length, slot, (loss,), (gradient_max, _, slope) in rows
        }

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
            (found,) = _transfer(self._vectors.look_ahead(unforeseen, *zip(*moves, strict=True)))
            for k, (length, _, slot), numbers in zip(unforeseen, moves, found, strict=True):
                self._foreseen[k] = (slot, length, numbers)
        return {k: self._start(k, *self._foreseen.pop(k)[2]) for k in members}

    def _start(self, k: int, slope: float, longest: float, enough: float, scale: float) -> Trial:
        """Where a member stands on its next direction, which becomes the current one."""
        m = self._members[k]
        self._vectors.turn(k, enough > 0, scale)
        m.previous, m.length, m.longest = None, 0.0, longest
        return Trial(0.0, m.loss, slope, m.slot, m.gradient_max)

    def _move(self) -> None:
        if self._moves:
            self._vectors.move(list(self._moves), list(self._moves.values()))
            self._moves.clear()

    def _checked(self, members: Sequence[int]) -> list[int]:
        found = sorted(set(members))
        if found and not (found[0] >= 0 and found[-1] < len(self._members)):
            raise ValueError(f"members: expected numbers from 0 to {len(self._members) - 1}, got {list(members)}")
        return found


def _advance(
    running: dict[int, _Iterations], asked: dict[int, Ask | None], answers: Mapping[int, Trial | None]
) -> None:
    """Let members go on with their answers (None: begin); what they ask next, or nothing where they have ended."""
    for k, answer in answers.items():
        try:
            asked[k] = next(running[k]) if answer is None else running[k].send(answer)
        except StopIteration:
            asked.pop(k, None)


def _transfer(*tensors: Tensor) -> list[list[list[float]]]:
    """Tables (A, n) to the host, all at once."""
    numbers = torch.cat([tensor.flatten().to(torch.float64) for tensor in tensors]).tolist()
    tables, start = [], 0
    for n_rows, n_columns in (tensor.shape for tensor in tensors):
        rows = range(start, start + n_rows * n_columns, n_columns)
        tables.append([numbers[row : row + n_columns] for row in rows])
        start += n_rows * n_columns
    return tables


def _checked_loss(loss: float, gradient_max: float) -> float:
    """A loss whose gradient is not finite is of no use, so that callers need only look at the loss."""
    return loss if math.isfinite(gradient_max) else math.nan
