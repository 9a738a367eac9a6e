"""Directions against the two-loop recursion in extended precision, for young, full and turned rings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pyfit_gpu.optimizers.curvature_pairs import CompactPairs, Proposed, SequentialPairs

N_PARAMETERS = 48


def recursion(pairs: list[tuple[np.ndarray, np.ndarray]], gradient: np.ndarray) -> np.ndarray:
    """The direction, by algorithm 7.4 of Nocedal and Wright, in long double."""
    long_pairs = [(s.astype(np.longdouble), y.astype(np.longdouble)) for s, y in pairs]
    q = -gradient.astype(np.longdouble)
    alphas = []
    for s, y in reversed(long_pairs):
        alphas.append((s @ q) / (s @ y))
        q = q - alphas[-1] * y
    if pairs:
        s, y = long_pairs[-1]
        q = q * (s @ y) / (y @ y)
    for (s, y), alpha in zip(long_pairs, reversed(alphas), strict=True):
        q = q + s * (alpha - (y @ q) / (s @ y))
    return q


class Walk:
    """Pairs of one quadratic function of condition number 1e4 each, some of them without curvature."""

    def __init__(self, seed: int, history_size: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.stiffness = np.geomspace(1e-2, 1e2, N_PARAMETERS)
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self.history_size = history_size

    def next(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """s, y, g, and the direction that follows."""
        s, g = self.rng.normal(size=(2, N_PARAMETERS))
        y = s * self.stiffness * (-1 if self.rng.uniform() < 0.2 else 1)
        if s @ y > 1e-10:
            self.pairs = [*self.pairs, (s, y)][-self.history_size :]
        return s, y, g, recursion(self.pairs, g)


def proposed(pairs: CompactPairs, members: list[int]) -> Proposed:
    spare, count, scale = zip(*((pairs.spare[k], pairs.count[k], pairs.scale[k]) for k in members), strict=True)
    places = (torch.tensor(numbers) for numbers in (members, spare, count))
    return Proposed(*places, scale=torch.tensor(scale, dtype=torch.float64))


class One:
    """Either kind for one member, by the same call."""

    def __init__(self, kind: type, history_size: int) -> None:
        like = torch.zeros(1, N_PARAMETERS, dtype=torch.float64)
        sequential = kind is SequentialPairs
        self.pairs = (
            SequentialPairs(history_size, like, N_PARAMETERS) if sequential else CompactPairs(history_size, like)
        )

    def propose(self, *vectors: np.ndarray) -> tuple[Tensor, bool, float]:
        tensors = [torch.from_numpy(vector) for vector in vectors]
        if isinstance(self.pairs, SequentialPairs):
            return self.pairs.propose(0, *tensors)
        direction, numbers = self.pairs.propose(proposed(self.pairs, [0]), *(tensor[None] for tensor in tensors))
        return direction[0], bool(numbers[0, 0]), float(numbers[0, 1])


@pytest.mark.parametrize("history_size", [1, 2, 7, 100])
@pytest.mark.parametrize("kind", [SequentialPairs, CompactPairs])
def test_directions_are_those_of_the_recursion(kind: type, history_size: int) -> None:
    walk, one = Walk(0, history_size), One(kind, history_size)
    for step in range(150):
        s, y, g, expected = walk.next()
        direction, *numbers = one.propose(s, y, g)
        one.pairs.commit(0, *numbers)
        assert one.pairs.count[0] == len(walk.pairs)
        error = np.linalg.norm((direction.numpy() - expected).astype(float))
        assert error < 1e-12 * float(np.linalg.norm(expected.astype(float)))
        if step % 40 == 20:
            one.pairs.refresh()  # changes nothing


@pytest.mark.parametrize("members", [[0, 1, 2, 3], [1, 3], [0, 2, 3]])
def test_members_of_different_ages_together(members: list[int]) -> None:
    """In one batch: one full and gone round, one just full, one young, one that begins."""
    size = 9
    walks = [Walk(seed, size) for seed in range(4)]
    pairs = CompactPairs(size, torch.zeros(4, N_PARAMETERS, dtype=torch.float64))
    for k, count in enumerate((33, 11, 4, 0)):
        for _ in range(count):
            s, y, g, _ = walks[k].next()
            _, numbers = pairs.propose(proposed(pairs, [k]), *(torch.from_numpy(v)[None] for v in (s, y, g)))
            pairs.commit(k, bool(numbers[0, 0]), float(numbers[0, 1]))
    for _ in range(25):
        rows = [walks[k].next() for k in members]
        s, y, g, expected = (np.stack(column) for column in zip(*rows, strict=True))
        direction, numbers = pairs.propose(proposed(pairs, members), *(torch.from_numpy(v) for v in (s, y, g)))
        for k, (enough, scale) in zip(members, numbers.tolist(), strict=True):
            pairs.commit(k, enough > 0, scale)
        error = np.linalg.norm((direction.numpy() - expected).astype(float), axis=1)
        assert (error < 1e-12 * np.linalg.norm(expected.astype(float), axis=1)).all()


@pytest.mark.parametrize("kind", [SequentialPairs, CompactPairs])
def test_a_proposal_that_is_not_kept_leaves_no_trace(kind: type) -> None:
    """Also where the history is full, and where the proposal is not a number."""
    walk, one = Walk(5, 6), One(kind, 6)
    for _ in range(30):
        s, y, g, expected = walk.next()
        for factor in (3.0, float("nan"), 1e300):
            one.propose(factor * g, factor * g, factor * s)
        direction, *numbers = one.propose(s, y, g)
        one.pairs.commit(0, *numbers)
        np.testing.assert_allclose(direction.numpy(), expected.astype(float), rtol=1e-11, atol=1e-12)


def test_without_pairs_the_direction_is_downhill() -> None:
    pairs = CompactPairs(5, torch.zeros(2, 16, dtype=torch.float64))
    gradient = torch.randn(2, 16, dtype=torch.float64)
    zero = torch.zeros_like(gradient)
    direction, numbers = pairs.propose(proposed(pairs, [0, 1]), zero, zero, gradient)
    assert torch.equal(direction, -gradient)
    assert numbers.tolist() == [[0.0, 1.0]] * 2
