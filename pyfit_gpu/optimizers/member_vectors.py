"""The vectors of K LBFGS members on their device: weights, directions, gradients, curvature pairs.

On a CPU they are handled one by one, each at an aligned address: a member's numbers have the same bits whichever
others there are, and those of torch.optim.LBFGS. On a GPU they are handled together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pyfit_gpu.optimizers.curvature_pairs import CompactPairs, CurvaturePairs, Proposed, SequentialPairs, to_device
from pyfit_gpu.optimizers.line_search import SLOTS

_ALIGNMENT = 16  # elements; the padding is zero
_SAVED = (("spare", torch.int64), ("count", torch.int64), ("scale", torch.float64))  # of CurvaturePairs


class Evaluate(Protocol):
    """The objective of several members.

    It may have a method `is_recordable(n_points)`: whether a call with so many points on a GPU is the same operations
    at the same addresses each time, and worth a recording (`graphs`).
    """

    def __call__(self, points: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss (A,), its gradient (A, P) and extras (A, E), numbers that belong to the point; all detached.

        Args:
            points: (A, P), one of each of the members; not contiguous unless P is a multiple of 16.
            members: (A,) int64, on the device, ascending.
        """


class MemberVectors:
    """What both have in common. A slot holds a gradient and its extras; what is in which, the caller knows."""

    pairs: CurvaturePairs

    def __init__(self, weights: Tensor) -> None:
        """With a copy of weights (K, P)."""
        if weights.ndim != 2 or not weights.is_floating_point():
            raise ValueError(f"weights: expected floats (K, P), got {weights.dtype} {tuple(weights.shape)}")
        n_members, self.n_weights = weights.shape
        width = -(-self.n_weights // _ALIGNMENT) * _ALIGNMENT
        self.points = weights.new_zeros(n_members, width)
        self.points[:, : self.n_weights] = weights
        self.directions = weights.new_zeros(n_members, 2, width)  # of each the current one, and the next
        self.current = [0] * n_members  # which is which
        self.gradients = weights.new_zeros(n_members, SLOTS, width)
        self.extras: Tensor | None = None  # (K, SLOTS, E), from the first evaluation on

    def restart(self, member: int, weights: Tensor) -> None:
        """New weights (P,); nothing is remembered."""
        for vectors in (self.points, self.directions, self.gradients):
            vectors[member] = 0
        self.points[member, : self.n_weights] = weights
        self.pairs.forget(member)

    def along(self, members: Sequence[int], lengths: Sequence[float]) -> Tensor:
        """(A, W) so far along the current directions."""
        raise NotImplementedError

    def look_ahead(
        self, members: Sequence[int], lengths: Sequence[float], befores: Sequence[int], afters: Sequence[int]
    ) -> Tensor:
        """Compute the next direction, after a move along the current one and from its gradients before and after.

        Returns:
            (A, 4): slope along it, its largest component; 1 if its pair has curvature enough; its gamma.
        """
        raise NotImplementedError

    def measure(self, members: Sequence[int], slots: Sequence[int]) -> Tensor:
        """(A, 3) of the gradients there: |g|_max, sum |g|, slope along the current direction."""
        raise NotImplementedError

    def move(self, members: Sequence[int], lengths: Sequence[float]) -> None:
        """Move the weights along the current directions: exactly to where `along` said."""
        self.points[self.index(members)] = self.along(members, lengths)

    def store(self, members: Sequence[int], slots: Sequence[int], gradient: Tensor, extras: Tensor) -> Tensor:
        """Keep gradients (A, P) and extras (A, E); return what `measure` says."""
        self._keep(self.index(members), self.index(slots), gradient, extras)
        return self.measure(members, slots)

    def _keep(self, member: Tensor, slot: Tensor, gradient: Tensor, extras: Tensor) -> None:
        if self.extras is None:
            self.extras = extras.new_zeros(len(self.points), SLOTS, extras.shape[1])
        self.gradients[member, slot, : self.n_weights] = gradient
        self.extras[member, slot] = extras

    def turn(self, member: int, enough: bool, scale: float) -> None:
        """The direction last looked at becomes the current one; its pair is remembered if it has curvature enough."""
        self.pairs.keep(member, enough, scale)
        self.current[member] = 1 - self.current[member]

    def at(self, by_slot: Tensor, slots: Sequence[int]) -> Tensor:
        """(K, ..) from (K, SLOTS, ..): of each member what is in its slot."""
        return by_slot[torch.arange(len(slots), device=by_slot.device), self.index(slots)]

    def state(self, slots: Sequence[int], befores: Sequence[int]) -> dict[str, Tensor]:
        """All vectors without their padding, gradient and extras from these slots."""
        found = {
            "weights": self.points,
            "direction": self.at(self.directions, self.current),
            "gradient": self.at(self.gradients, slots),
            "gradient_before": self.at(self.gradients, befores),
            "steps": self.pairs.steps,
            "changes": self.pairs.changes,
        }
        found = {name: value[..., : self.n_weights] for name, value in found.items()}
        found["extras"] = self.points.new_zeros(len(slots), 0) if self.extras is None else self.at(self.extras, slots)
        for name, dtype in _SAVED:
            found[name] = torch.tensor(getattr(self.pairs, name), dtype=dtype)
        return found

    def load_state(self, state: Mapping[str, Tensor], *, slot: int, before: int) -> None:
        """What `state` returned, gradients and extras into these slots."""
        for name, place in (
            ("weights", self.points),
            ("direction", self.directions[:, 0]),
            ("gradient_before", self.gradients[:, before]),
            ("gradient", self.gradients[:, slot]),
            ("steps", self.pairs.steps),
            ("changes", self.pairs.changes),
        ):
            place[..., : self.n_weights] = state[name]
        self.current = [0] * len(self.points)
        extras = state["extras"].to(self.points.device)
        self.extras = extras[:, None].expand(-1, SLOTS, -1).clone() if extras.shape[1] else None
        for name, _ in _SAVED:
            setattr(self.pairs, name, state[name].tolist())
        self.pairs.refresh()

    def index(self, values: Sequence[int]) -> Tensor:
        return to_device(values, self.points, torch.int64)


class VectorsOneByOne(MemberVectors):
    """For a CPU: row by row, without the padding."""

    def __init__(self, weights: Tensor, history_size: int) -> None:
        super().__init__(weights)
        self.pairs: SequentialPairs = SequentialPairs(history_size, self.points, self.n_weights)

    def along(self, members: Sequence[int], lengths: Sequence[float]) -> Tensor:
        found = self.points.new_zeros(len(members), self.points.shape[1])
        for row, k, length in zip(self._rows(found), members, lengths, strict=True):
            torch.add(self._rows(self.points)[k], self._direction(k), alpha=length, out=row)
        return found

    def measure(self, members: Sequence[int], slots: Sequence[int]) -> Tensor:
        found = []
        for k, slot in zip(members, slots, strict=True):
            gradient = self._rows(self.gradients)[k, slot]
            size = gradient.abs()
            found.append(torch.stack((size.max(), size.sum(), gradient.dot(self._direction(k)))))
        return torch.stack(found)

    def look_ahead(
        self, members: Sequence[int], lengths: Sequence[float], befores: Sequence[int], afters: Sequence[int]
    ) -> Tensor:
        found = []
        for k, length, before, after in zip(members, lengths, befores, afters, strict=True):
            gradient = self._rows(self.gradients)[k, after]
            change = gradient - self._rows(self.gradients)[k, before]
            direction, enough, scale = self.pairs.propose(k, self._direction(k) * length, change, gradient)
            self._rows(self.directions)[k, 1 - self.current[k]] = direction
            found.append([float(gradient.dot(direction)), float(direction.abs().max()), float(enough), scale])
        return torch.tensor(found, dtype=torch.float64)

    def _rows(self, vectors: Tensor) -> Tensor:
        return vectors[..., : self.n_weights]

    def _direction(self, k: int) -> Tensor:
        return self._rows(self.directions)[k, self.current[k]]


@dataclass(frozen=True, eq=False)
class _Moves(Proposed):
    """Moves of A members along their current directions, as they stand in one table from the host."""

    current: Tensor  # (A,) int64, which of the two directions
    before: Tensor  # (A,) int64, slot of the gradient where the move begins
    after: Tensor  # (A,) int64, and where it ends
    length: Tensor  # (A, 1)

    @classmethod
    def of(cls, table: Tensor, dtype: torch.dtype) -> _Moves:
        """From (8, A) float64, see `VectorsTogether.table`."""
        member, spare, count, current, before, after = table[:6].long()
        scale, length = table[6:].to(dtype)
        return cls(member, spare, count, scale, current, before, after, length[:, None])


class VectorsTogether(MemberVectors):
    """For a GPU: all of them at once, and no wait for it. What is to be done comes in one table: copies cost more."""

    def __init__(self, weights: Tensor, history_size: int) -> None:
        super().__init__(weights)
        self.pairs: CompactPairs = CompactPairs(history_size, self.points)

    def table(
        self, members: Sequence[int], lengths: Sequence[float], befores: Sequence[int], afters: Sequence[int]
    ) -> Tensor:
        """(8, A) float64 on the device: moves of members, ascending, and slots of gradients before and after."""
        of_members = [(self.pairs.spare[k], self.pairs.count[k], self.current[k]) for k in members]
        scales = [self.pairs.scale[k] for k in members]
        rows = [members, *zip(*of_members, strict=True), befores, afters, scales, lengths]
        return to_device(rows, self.points, torch.float64)

    def trial(self, evaluate: Evaluate, table: Tensor) -> Tensor:
        """Evaluate at the ends of moves; keep gradients and extras, and compute the directions that would follow.

        The same operations for each table of A moves, at the same addresses (`graphs`); once the first extras are
        known.

        Returns:
            (A, 8): loss, what `measure` says, what `look_ahead` says.
        """
        moves = _Moves.of(table, self.points.dtype)
        direction = self._direction(moves)
        points = self.points[moves.member] + moves.length * direction
        with torch.enable_grad():
            loss, gradient, extras = evaluate(points[:, : self.n_weights], moves.member)
        self._keep(moves.member, moves.after, gradient, extras)
        parts = (loss[:, None], self._measure(moves, direction), self._look_ahead(moves, direction))
        return torch.cat([part.to(table.dtype) for part in parts], dim=1)

    def along(self, members: Sequence[int], lengths: Sequence[float]) -> Tensor:
        moves = self._moves(members, lengths)
        return self.points[moves.member] + moves.length * self._direction(moves)

    def measure(self, members: Sequence[int], slots: Sequence[int]) -> Tensor:
        moves = self._moves(members, afters=slots)
        return self._measure(moves, self._direction(moves))

    def look_ahead(
        self, members: Sequence[int], lengths: Sequence[float], befores: Sequence[int], afters: Sequence[int]
    ) -> Tensor:
        moves = self._moves(members, lengths, befores, afters)
        return self._look_ahead(moves, self._direction(moves))

    def _moves(
        self,
        members: Sequence[int],
        lengths: Sequence[float] = (),
        befores: Sequence[int] = (),
        afters: Sequence[int] = (),
    ) -> _Moves:
        nothing = [0] * len(members)
        table = self.table(members, lengths or nothing, befores or nothing, afters or nothing)
        return _Moves.of(table, self.points.dtype)

    def _direction(self, moves: _Moves) -> Tensor:
        return self.directions[moves.member, moves.current]

    def _measure(self, moves: _Moves, direction: Tensor) -> Tensor:
        gradient = self.gradients[moves.member, moves.after]
        size = gradient.abs()
        return torch.stack((size.amax(dim=1), size.sum(dim=1), (gradient * direction).sum(dim=1)), dim=1)

    def _look_ahead(self, moves: _Moves, direction: Tensor) -> Tensor:
        gradient = self.gradients[moves.member, moves.after]
        change = gradient - self.gradients[moves.member, moves.before]
        following, numbers = self.pairs.propose(moves, moves.length * direction, change, gradient)
        self.directions[moves.member, 1 - moves.current] = following
        slope = (gradient * following).sum(dim=1)
        return torch.cat((torch.stack((slope, following.abs().amax(dim=1)), dim=1), numbers), dim=1)
