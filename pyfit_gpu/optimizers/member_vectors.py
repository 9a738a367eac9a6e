"""The vectors of K LBFGS members on their device: parameters, directions, gradients, curvature pairs.

On a CPU they are handled one by one, each at an aligned address: a member's numbers have the same bits whichever
others there are, and those of torch.optim.LBFGS. On a GPU they are handled together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.optimizers.base import MemberObjective
from pyfit_gpu.optimizers.curvature_pairs import CompactPairs, CurvaturePairs, Proposed, SequentialPairs, to_device
from pyfit_gpu.optimizers.line_search import SLOTS

_ALIGNMENT = 16  # elements; the padding is zero
_SAVED = (("spare", torch.int64), ("count", torch.int64), ("scale", torch.float64))  # attributes of CurvaturePairs


def _padded(n_parameters: int) -> int:
    return -(-n_parameters // _ALIGNMENT) * _ALIGNMENT


def memory_bytes(n_members: int, n_parameters: int, history_size: int, *, on_gpu: bool) -> int:
    """Count the bytes of the float64 vectors of LBFGS; its extras are negligible."""
    # Allocated by the constructors: points, two directions, gradients; both rings of pairs; products of CompactPairs.
    n_vectors = 1 + 2 + SLOTS + 2 * (history_size + 1)
    products = (history_size + 1) ** 2 if on_gpu else 0
    return 8 * n_members * (n_vectors * _padded(n_parameters) + products)


class MemberVectors:
    """Base of both kinds. A slot holds a gradient and its extras; the caller keeps track of the slots."""

    pairs: CurvaturePairs

    def __init__(self, parameters: Tensor) -> None:
        """Start from a copy of parameters (K, P)."""
        if parameters.ndim != 2 or not parameters.is_floating_point():
            raise ValueError(f"parameters: expected floats (K, P), got {parameters.dtype} {tuple(parameters.shape)}")
        n_members, self.n_parameters = parameters.shape
        width = _padded(self.n_parameters)
        self.points = parameters.new_zeros(n_members, width)  # the parameters, padded
        self.points[:, : self.n_parameters] = parameters
        self.directions = parameters.new_zeros(n_members, 2, width)  # the current direction and the next one
        self.current = [0] * n_members  # which of the two is the current one
        self.gradients = parameters.new_zeros(n_members, SLOTS, width)
        self.extras: Tensor | None = None  # (K, SLOTS, E), from the first evaluation on

    def restart(self, member: int, parameters: Tensor) -> None:
        """Give a member other parameters (P,), and forget everything else about it."""
        for vectors in (self.points, self.directions, self.gradients):
            vectors[member] = 0
        self.points[member, : self.n_parameters] = parameters
        self.pairs.forget(member)

    def along(self, members: Sequence[int], lengths: Sequence[float]) -> Tensor:
        """Points (A, W) at these lengths along the current directions."""
        raise NotImplementedError

    def propose_next(
        self, members: Sequence[int], lengths: Sequence[float], befores: Sequence[int], afters: Sequence[int]
    ) -> Tensor:
        """Compute the next directions, as if these moves along the current ones were accepted; `commit` accepts them.

        Args:
            lengths: of the moves.
            befores, afters: slots of the gradients before and after the moves.

        Returns:
            (A, 4): slope along the next direction, its largest component, 1 if the pair has curvature enough, gamma.
        """
        raise NotImplementedError

    def measure(self, members: Sequence[int], slots: Sequence[int]) -> Tensor:
        """Measure the gradients in these slots: (A, 3) |g|_max, sum |g|, slope along the current direction."""
        raise NotImplementedError

    def move(self, members: Sequence[int], lengths: Sequence[float]) -> None:
        """Move the parameters along the current directions, exactly to the points that `along` gives."""
        self.points[self.index(members)] = self.along(members, lengths)

    def store(self, members: Sequence[int], slots: Sequence[int], gradient: Tensor, extras: Tensor) -> Tensor:
        """Store gradients (A, P) and extras (A, E) in these slots; returns `measure` of them."""
        self._store(self.index(members), self.index(slots), gradient, extras)
        return self.measure(members, slots)

    def _store(self, member: Tensor, slot: Tensor, gradient: Tensor, extras: Tensor) -> None:
        if self.extras is None:
            self.extras = extras.new_zeros(len(self.points), SLOTS, extras.shape[1])
        self.gradients[member, slot, : self.n_parameters] = gradient
        self.extras[member, slot] = extras

    def commit(self, member: int, enough: bool, scale: float) -> None:
        """Make the direction proposed last the current one, and remember its pair if that has curvature enough."""
        self.pairs.commit(member, enough, scale)
        self.current[member] = 1 - self.current[member]

    def at(self, by_slot: Tensor, slots: Sequence[int]) -> Tensor:
        """Select one slot of each member: (K, ..) from (K, SLOTS, ..)."""
        return by_slot[torch.arange(len(slots), device=by_slot.device), self.index(slots)]

    def state(self, slots: Sequence[int], befores: Sequence[int]) -> dict[str, Tensor]:
        """Collect all vectors without their padding, gradients and extras from these slots.

        The names are those in run files, where the parameters are called weights.
        """
        found = {
            "weights": self.points,
            "direction": self.at(self.directions, self.current),
            "gradient": self.at(self.gradients, slots),
            "gradient_before": self.at(self.gradients, befores),
            "steps": self.pairs.steps,
            "changes": self.pairs.changes,
        }
        found = {name: value[..., : self.n_parameters] for name, value in found.items()}
        found["extras"] = self.points.new_zeros(len(slots), 0) if self.extras is None else self.at(self.extras, slots)
        for name, dtype in _SAVED:
            found[name] = torch.tensor(getattr(self.pairs, name), dtype=dtype)
        return found

    def load_state(self, state: Mapping[str, Tensor], *, slot: int, before: int) -> None:
        """Restore the result of `state`, with gradients and extras in these slots."""
        for name, place in (
            ("weights", self.points),
            ("direction", self.directions[:, 0]),
            ("gradient_before", self.gradients[:, before]),
            ("gradient", self.gradients[:, slot]),
            ("steps", self.pairs.steps),
            ("changes", self.pairs.changes),
        ):
            place[..., : self.n_parameters] = state[name]
        self.current = [0] * len(self.points)
        extras = state["extras"].to(self.points.device)
        self.extras = extras[:, None].expand(-1, SLOTS, -1).clone() if extras.shape[1] else None
        for name, _ in _SAVED:
            setattr(self.pairs, name, state[name].tolist())
        self.pairs.refresh()

    def index(self, values: Sequence[int]) -> Tensor:
        """Copy whole numbers to the device."""
        return to_device(values, self.points, torch.int64)


class VectorsOneByOne(MemberVectors):
    """Vectors for a CPU, handled row by row, without the padding."""

    def __init__(self, parameters: Tensor, history_size: int) -> None:
        super().__init__(parameters)
        self.pairs: SequentialPairs = SequentialPairs(history_size, self.points, self.n_parameters)

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

    def propose_next(
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
        return vectors[..., : self.n_parameters]

    def _direction(self, k: int) -> Tensor:
        return self._rows(self.directions)[k, self.current[k]]


@dataclass(frozen=True, eq=False)
class _Moves(Proposed):
    """Moves of A members along their current directions."""

    current: Tensor  # (A,) int64, which of the two directions
    before: Tensor  # (A,) int64, slot of the gradient at the start of the move
    after: Tensor  # (A,) int64, and at its end
    length: Tensor  # (A, 1)

    @classmethod
    def of(cls, table: Tensor, dtype: torch.dtype) -> _Moves:
        """Unpack the table (8, A) float64 that `VectorsTogether.table` packs."""
        member, spare, count, current, before, after = table[:6].long()
        scale, length = table[6:].to(dtype)
        return cls(member, spare, count, scale, current, before, after, length[:, None])


class VectorsTogether(MemberVectors):
    """Vectors for a GPU, handled for all members at once, without waiting for it.

    Moves come from the host as one table, because a copy costs more than the operations that unpack it.
    """

    def __init__(self, parameters: Tensor, history_size: int) -> None:
        super().__init__(parameters)
        self.pairs: CompactPairs = CompactPairs(history_size, self.points)

    def table(
        self, members: Sequence[int], lengths: Sequence[float], befores: Sequence[int], afters: Sequence[int]
    ) -> Tensor:
        """Pack the moves of members, ascending, as (8, A) float64 on the device; arguments as in `propose_next`."""
        states = [(self.pairs.spare[k], self.pairs.count[k], self.current[k]) for k in members]
        scales = [self.pairs.scale[k] for k in members]
        rows = [members, *zip(*states, strict=True), befores, afters, scales, lengths]
        return to_device(rows, self.points, torch.float64)

    def trial(self, objective: MemberObjective, table: Tensor) -> Tensor:
        """Evaluate the ends of moves; store gradients and extras, and compute the directions that would follow.

        After the first evaluation, which creates the extras, every table of A moves takes the same operations at the
        same addresses (`cuda_graphs`).

        Returns:
            (A, 8): loss, `measure`, `propose_next`.
        """
        moves = _Moves.of(table, self.points.dtype)
        direction = self._direction(moves)
        points = self.points[moves.member] + moves.length * direction
        with torch.enable_grad():
            loss, gradient, extras = objective(points[:, : self.n_parameters], moves.member)
        self._store(moves.member, moves.after, gradient, extras)
        parts = (loss[:, None], self._measure(moves, direction), self._propose_next(moves, direction))
        return torch.cat([part.to(table.dtype) for part in parts], dim=1)

    def along(self, members: Sequence[int], lengths: Sequence[float]) -> Tensor:
        moves = self._moves(members, lengths)
        return self.points[moves.member] + moves.length * self._direction(moves)

    def measure(self, members: Sequence[int], slots: Sequence[int]) -> Tensor:
        moves = self._moves(members, afters=slots)
        return self._measure(moves, self._direction(moves))

    def propose_next(
        self, members: Sequence[int], lengths: Sequence[float], befores: Sequence[int], afters: Sequence[int]
    ) -> Tensor:
        moves = self._moves(members, lengths, befores, afters)
        return self._propose_next(moves, self._direction(moves))

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

    def _propose_next(self, moves: _Moves, direction: Tensor) -> Tensor:
        gradient = self.gradients[moves.member, moves.after]
        change = gradient - self.gradients[moves.member, moves.before]
        following, numbers = self.pairs.propose(moves, moves.length * direction, change, gradient)
        self.directions[moves.member, 1 - moves.current] = following
        slope = (gradient * following).sum(dim=1)
        return torch.cat((torch.stack((slope, following.abs().amax(dim=1)), dim=1), numbers), dim=1)
