"""The memory of LBFGS: steps and changes of the gradient, and the direction that follows from them.

From the pairs s_i, y_i, oldest to newest, the two-loop recursion (Nocedal and Wright, Numerical Optimization, 2nd
edition, algorithm 7.4) makes a direction in two products of vectors and two sums for each pair, one after the other.
`SequentialPairs` does that, in the order of torch.optim.LBFGS, whose bits it has (see line_search.py).

For a GPU so many small operations are slow. Written out, the coefficients of the recursion solve two triangular
systems in the number of pairs (after Byrd, Nocedal and Schnabel, Math. Prog. 63, 129, 1994), which `CompactPairs` does
for all members at once, as accurately:

    R_ij = s_i . y_j   for i <= j, else 0
    R a  = -S g                        the first loop
    q    = -g - Y^T a
    R^T c = diag(R) a - gamma Y q      the second loop
    direction = gamma q + S^T c        gamma = s . y / y . y of the newest pair, 1 without pairs

A direction takes four products of a matrix with a vector, and one more for the new column of R.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError

_RING = ("steps", "changes", "spare", "count")  # in a state

LEAST_CURVATURE = 1e-10  # s . y; a pair with less is not remembered, as in torch.optim.LBFGS


def to_device(values: Sequence[Sequence[float]] | Sequence[float], like: Tensor, dtype: torch.dtype) -> Tensor:
    """Copy numbers from the host to the device of `like`, without waiting for a GPU."""
    if like.device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=like.device)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(like.device, non_blocking=True)


class CurvaturePairs:
    """Up to H pairs of each of K members, in rings of H + 1 places; the spare place is for the proposed pair."""

    def __init__(self, history_size: int, like: Tensor) -> None:
        """Make room for vectors as long as the rows of `like` (K, W), of its dtype and on its device."""
        n_members, width = like.shape
        self.n_places = history_size + 1
        self.steps = like.new_zeros(n_members, self.n_places, width)  # s
        self.changes = like.new_zeros(n_members, self.n_places, width)  # y
        self.spare = [0] * n_members  # place of the proposed pair
        self.count = [0] * n_members
        self.scale = [1.0] * n_members  # gamma

    def forget(self, member: int) -> None:
        """Forget all pairs of a member."""
        self.steps[member] = 0
        self.changes[member] = 0
        self.spare[member], self.count[member], self.scale[member] = 0, 0, 1.0

    def commit(self, member: int, enough: bool, scale: float) -> None:
        """Remember the pair that was proposed last, if it has curvature enough, and its gamma."""
        self.scale[member] = scale
        if enough:
            self.count[member] = min(self.count[member] + 1, self.n_places - 1)
            self.spare[member] = (self.spare[member] + 1) % self.n_places

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Refuse places that no ring has, and pairs that were never remembered.

        Args:
            state: steps and changes (K, H + 1, ..), spare and count (K,), on the CPU.

        Raises:
            InputError: naming the tensor.
        """
        for name in ("spare", "count"):
            if not bool(((state[name] >= 0) & (state[name] < self.n_places)).all()):
                raise InputError(f"optimiser state: {name}: expected numbers from 0 to {self.n_places - 1}")
        for steps, changes, spare, count in zip(*(state[name] for name in _RING), strict=True):
            used = (spare - 1 - torch.arange(int(count))) % self.n_places
            curvature = (steps[used] * changes[used]).sum(-1)
            if not bool((curvature.isfinite() & (curvature != 0)).all()):
                raise InputError("optimiser state: steps, changes: expected pairs with a curvature")

    def refresh(self) -> None:
        """Recompute derived quantities after `steps` and `changes` were replaced."""


class SequentialPairs(CurvaturePairs):
    """Pairs for a CPU, with the two-loop recursion as it is."""

    def __init__(self, history_size: int, like: Tensor, n_parameters: int) -> None:
        """Make room for vectors in the first `n_parameters` columns of `like`."""
        super().__init__(history_size, like)
        # Rows as tensors of their own: indexing would cost more than the products.
        self._s = [member[:, :n_parameters].unbind() for member in self.steps]
        self._y = [member[:, :n_parameters].unbind() for member in self.changes]
        self._curvature = [[math.nan] * self.n_places for _ in like]  # s . y by place

    def propose(self, k: int, step: Tensor, change: Tensor, gradient: Tensor) -> tuple[Tensor, bool, float]:
        """Compute the direction of member k as if this pair were remembered; `commit` remembers it.

        Args:
            step, change, gradient: (n_parameters,) s, y and g.

        Returns:
            direction (n_parameters,), whether the pair has curvature enough to be remembered, and gamma. If it has
            not, the direction follows from the pairs before it.
        """
        curvature, square = float(change.dot(step)), float(change.dot(change))
        scale = curvature / square if square else math.nan
        enough = curvature > LEAST_CURVATURE and math.isfinite(scale)
        count, spare = self.count[k], self.spare[k]
        places = [(spare - age) % self.n_places for age in range(count, 0, -1)]  # from the oldest
        if enough:
            self._s[k][spare].copy_(step)
            self._y[k][spare].copy_(change)
            self._curvature[k][spare] = curvature
            places = [*places, spare][-(self.n_places - 1) :]
        else:
            scale = self.scale[k]
        return self._recursion(k, places, gradient, scale), enough, scale

    def _recursion(self, k: int, places: Sequence[int], gradient: Tensor, scale: float) -> Tensor:
        s, y = self._s[k], self._y[k]
        inverse = {place: 1.0 / self._curvature[k][place] for place in places}
        q = gradient.neg()
        alpha = {}
        for place in reversed(places):
            alpha[place] = s[place].dot(q).item() * inverse[place]
            q.add_(y[place], alpha=-alpha[place])
        q.mul_(scale)
        for place in places:
            beta = y[place].dot(q).item() * inverse[place]
            q.add_(s[place], alpha=alpha[place] - beta)
        return q

    def refresh(self) -> None:
        for k, (s, y) in enumerate(zip(self._s, self._y, strict=True)):
            self._curvature[k] = [float(change.dot(step)) for step, change in zip(s, y, strict=True)]


@dataclass(frozen=True, eq=False)
class Proposed:
    """State of the rings of A members, as `CurvaturePairs` holds it on the host."""

    member: Tensor  # (A,) int64, ascending
    spare: Tensor  # (A,) int64
    count: Tensor  # (A,) int64
    scale: Tensor  # (A,)


class CompactPairs(CurvaturePairs):
    """Pairs for many members at once, with the triangular systems."""

    def __init__(self, history_size: int, like: Tensor) -> None:
        super().__init__(history_size, like)
        self.products = like.new_zeros(len(like), self.n_places, self.n_places)  # s_i . y_j by place, i not newer

    def refresh(self) -> None:
        self.products.copy_(self.steps @ self.changes.mT)

    def propose(self, proposed: Proposed, step: Tensor, change: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the directions of members as if these pairs were remembered; `commit` remembers them.

        Args:
            step, change, gradient: (A, W) s, y and g.

        Returns:
            direction (A, W), and (A, 2): 1 if the pair has curvature enough to be remembered, and gamma; as in
            `SequentialPairs`.
        """
        member, spare = proposed.member, proposed.spare
        curvature = (step * change).sum(dim=1)
        new_scale = curvature / change.square().sum(dim=1)
        enough = (curvature > LEAST_CURVATURE) & new_scale.isfinite()
        scale = torch.where(enough, new_scale, proposed.scale)
        # Zeros where a pair is not remembered: a coefficient of zero times NaN would be NaN.
        self.steps[member, spare] = torch.where(enough[:, None], step, 0.0)
        self.changes[member, spare] = torch.where(enough[:, None], change, 0.0)

        steps, changes = _rows(self.steps, member), _rows(self.changes, member)
        both = torch.stack((change, -gradient), dim=1) @ steps.mT  # (A, 2, places)
        self.products[member, :, spare] = both[:, 0]
        triangle = _Triangle(_rows(self.products, member), spare, proposed.count, enough)
        first = triangle.solve(triangle.by_age(both[:, 1]))
        rest = -gradient - _combine(triangle.by_place(first), changes)
        projected = triangle.by_age((changes @ rest[..., None])[..., 0])
        second = triangle.solve_transposed(triangle.diagonal * first - scale[:, None] * projected)
        direction = scale[:, None] * rest + _combine(triangle.by_place(second), steps)
        return direction, torch.stack((enough.to(scale.dtype), scale), dim=1)


def _rows(tensor: Tensor, member: Tensor) -> Tensor:
    """Select rows of the first axis, ascending; a copy unless they are all."""
    return tensor if len(member) == len(tensor) else tensor.index_select(0, member)


def _combine(coefficients: Tensor, vectors: Tensor) -> Tensor:
    """Linear combinations (A, W), from coefficients (A, n) and vectors (A, n, W)."""
    return (coefficients[:, None] @ vectors)[:, 0]


class _Triangle:
    """R of A members, from the oldest pair to the proposed one; empty places have rows of the identity."""

    def __init__(self, products: Tensor, spare: Tensor, count: Tensor, enough: Tensor) -> None:
        """Order the products (A, places, places) by age."""
        n = products.shape[2]
        ages = torch.arange(n, device=products.device)
        # The place after the spare one holds the oldest pair, or nothing yet; then the ring goes round.
        self.place = (spare[:, None] + 1 + ages) % n  # (A, places)
        # A full ring loses its oldest pair to the proposed one.
        oldest = n - 1 - count + ((count == n - 1) & enough)
        self.there = (ages >= oldest[:, None]) & ((ages < n - 1) | enough[:, None])
        entries = self.place[:, :, None] * n + self.place[:, None, :]
        ordered = products.flatten(1).gather(1, entries.flatten(1)).view(entries.shape)
        there = self.there[:, :, None] & self.there[:, None, :]
        self.matrix = torch.where(there, ordered, torch.eye(n, dtype=products.dtype, device=products.device))
        self.diagonal = self.matrix.diagonal(dim1=1, dim2=2)

    def by_age(self, values: Tensor) -> Tensor:
        """Reorder values (A, places) from places to ages; zero where there is no pair."""
        return torch.where(self.there, values.gather(1, self.place), 0.0)

    def by_place(self, values: Tensor) -> Tensor:
        """Reorder values (A, places) from ages to places."""
        return torch.empty_like(values).scatter(1, self.place, values)

    def solve(self, right: Tensor) -> Tensor:
        """Solve R x = right for x (A, places), both by age."""
        return torch.linalg.solve_triangular(self.matrix, right[..., None], upper=True)[..., 0]

    def solve_transposed(self, right: Tensor) -> Tensor:
        """Solve R^T x = right for x (A, places), both by age."""
        return torch.linalg.solve_triangular(self.matrix.mT, right[..., None], upper=False)[..., 0]
