"""The vectors of K LBFGS members on their device: weights, directions, gradients, curvature pairs.

On a CPU they are handled member by member, and every vector starts at an aligned address and has a padded width: a
member's numbers have the same bits whichever others are handled with it. Elsewhere they are handled together. No
method waits for a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pyfit_gpu.curvature_pairs import CurvaturePairs, to_device
from pyfit_gpu.line_search import SLOTS

_ALIGNMENT = 16  # elements; the padding is zero
_SAVED = (("spare", torch.int64), ("count", torch.int64), ("scale", torch.float64))  # of CurvaturePairs


class MemberVectors:
    """`slot`: where a member keeps a gradient and its extras; what is in which slot, the caller knows."""

    def __init__(self, weights: Tensor, history_size: int) -> None:
        """With a copy of weights (K, P)."""
        if weights.ndim != 2 or not weights.is_floating_point():
            raise ValueError(f"weights: expected floats (K, P), got {weights.dtype} {tuple(weights.shape)}")
        n_members, self.n_weights = weights.shape
        width = -(-self.n_weights // _ALIGNMENT) * _ALIGNMENT
        self.together = weights.device.type != "cpu"
        self.points = weights.new_zeros(n_members, width)
        self.points[:, : self.n_weights] = weights
        self.directions = weights.new_zeros(n_members, 2, width)  # of each the current one, and the next
        self.current = [0] * n_members  # which is which
        self.gradients = weights.new_zeros(n_members, SLOTS, width)
        self.extras: Tensor | None = None  # (K, SLOTS, E), from the first evaluation on
        self.pairs = CurvaturePairs(n_members, history_size, self.points)

    def restart(self, member: int, weights: Tensor) -> None:
        """New weights (P,); nothing is remembered."""
        for vectors in (self.points, self.directions, self.gradients):
            vectors[member] = 0
        self.points[member, : self.n_weights] = weights
        self.pairs.forget(member)

    def along(self, members: Sequence[int], lengths: Sequence[float]) -> Tensor:
        """(A, W) so far along the current directions."""
        found = []
        for index, (group, length) in self._batches(members, lengths):
            step = self._numbers(length)[:, None] * self._direction(index, group)
            found.append(self.points[index] + step)
        return torch.cat(found)

    def move(self, members: Sequence[int], lengths: Sequence[float]) -> None:
        """Move the weights along the current directions: exactly to where `along` said."""
        self.points[self.index(members)] = self.along(members, lengths)

    def store(self, members: Sequence[int], slots: Sequence[int], gradient: Tensor, extras: Tensor) -> Tensor:
        """Keep gradients (A, P) and extras (A, E); return (A, 3): |g|_max, sum |g|, slope along the direction."""
        index, slot = self.index(members), self.index(slots)
        if self.extras is None:
            self.extras = extras.new_zeros(len(self.points), SLOTS, extras.shape[1])
        self.gradients[index, slot, : self.n_weights] = gradient
        self.extras[index, slot] = extras
        found = []
        for rows, (group, places) in self._batches(members, slots):
            stored = self.gradients[rows, self.index(places)]
            size = stored.abs()
            slope = (stored * self._direction(rows, group)).sum(dim=1)
            found.append(torch.stack((size.amax(dim=1), size.sum(dim=1), slope), dim=1))
        return torch.cat(found)

    def look_ahead(
        self, members: Sequence[int], lengths: Sequence[float], befores: Sequence[int], afters: Sequence[int]
    ) -> Tensor:
        """Compute the next direction, after a move along the current one and from its gradients before and after.

        Returns:
            (A, 4): slope along it, its largest component, and what `CurvaturePairs.propose` says.
        """
        found = []
        for index, (group, length, before, after) in self._batches(members, lengths, befores, afters):
            gradient = self.gradients[index, self.index(after)]
            change = gradient - self.gradients[index, self.index(before)]
            step = self._numbers(length)[:, None] * self._direction(index, group)
            direction, numbers = self.pairs.propose(group, index, step, change, gradient)
            self.directions[index, self.index([1 - self.current[k] for k in group])] = direction
            own = torch.stack(((gradient * direction).sum(dim=1), direction.abs().amax(dim=1)), dim=1)
            found.append(torch.cat((own, numbers), dim=1))
        return torch.cat(found)

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
        found["products"] = self.pairs.products
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
        self.pairs.products.copy_(state["products"])
        for name, _ in _SAVED:
            setattr(self.pairs, name, state[name].tolist())

    def _direction(self, index: Tensor, members: Sequence[int]) -> Tensor:
        return self.directions[index, self.index([self.current[k] for k in members])]

    def index(self, values: Sequence[int]) -> Tensor:
        return to_device(values, self.points, torch.int64)

    def _numbers(self, values: Sequence[float]) -> Tensor:
        return to_device(values, self.points, self.points.dtype)

    def _batches(self, members: Sequence[int], *others: Sequence) -> Iterator[tuple[Tensor, list[Sequence]]]:  # type: ignore[type-arg]
        """What is handled together: the members' index, then members and others of these members."""
        size = len(members) if self.together else 1
        for start in range(0, len(members), size):
            batch = [values[start : start + size] for values in (members, *others)]
            yield self.index(batch[0]), batch
