"""Choosing rows: against determinants and distances written out in NumPy, and what holds for every method."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyfit_gpu.datasets.selection import choose, standardized
from pyfit_gpu.datasets.selection_methods import METHODS
from pyfit_gpu.errors import InputError

PRIOR = 1e-2
N_INPUTS = 4


def make_rows(n: int, n_elements: int = 2, seed: int = 1) -> torch.Tensor:
    """Rows as of structures: sums of an element's inputs / n and its share."""
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.ones(n_elements), n)
    means = random.normal(3.0, [0.1, 1.0, 5.0, 2.0], (n, n_elements, N_INPUTS))
    return torch.from_numpy(
        np.concatenate((shares[:, :, None] * means, shares[:, :, None]), axis=2).reshape(n, n_elements * (N_INPUTS + 1))
    )


def by_hand(rows: np.ndarray, n_elements: int) -> np.ndarray:
    """Standardised rows, one column after the other."""
    found = rows.copy()
    width = N_INPUTS + 1
    for element in range(n_elements):
        share = rows[:, element * width + N_INPUTS]
        for column in range(element * width, element * width + N_INPUTS):
            mean = rows[:, column].sum() / share.sum()
            moved = rows[:, column] - share * mean
            found[:, column] = moved / math.sqrt((moved**2).mean())
    return found


def log_det(rows: np.ndarray) -> float:
    return float(np.linalg.slogdet(np.eye(rows.shape[1]) + rows.T @ rows / PRIOR)[1])


@pytest.mark.parametrize("n_elements", [1, 3])
def test_standardized(n_elements):
    rows = make_rows(20, n_elements)
    np.testing.assert_allclose(standardized(rows, n_elements), by_hand(rows.numpy(), n_elements), rtol=1e-9, atol=1e-12)


def test_inputs_that_do_not_vary_say_nothing():
    rows = make_rows(9, 1)
    rows[:, 1] = 0.1 + 1e-16 * torch.arange(9)
    found = standardized(rows, 1)
    assert (found[:, 1] == 0).all()
    assert (found[:, 4] == 1).all()


@pytest.mark.parametrize("n_known", [0, 3, 40])
def test_greedy_determinant_has_the_largest_determinant_of_all(n_known):
    pool, known = make_rows(30), make_rows(n_known, seed=2)
    found = choose(pool, 12, "determinant", n_elements=2, known=known)
    rows = by_hand(torch.cat((pool, known)).numpy(), 2)
    taken = rows[30:]
    assert found.log_det[0] == pytest.approx(log_det(taken), abs=1e-9)
    for row, score in zip(found.rows, found.scores, strict=True):
        before = log_det(taken)
        gains = [log_det(np.vstack((taken, one))) - before for one in rows[:30]]
        open_ = [gain for k, gain in enumerate(gains) if k not in found.rows[: found.rows.index(row)]]
        assert gains[row] == pytest.approx(max(open_), abs=1e-9)
        assert math.log1p(score) == pytest.approx(gains[row], rel=1e-7)
        taken = np.vstack((taken, rows[row]))
    assert found.log_det[1] == pytest.approx(log_det(taken), abs=1e-8)


@pytest.mark.parametrize("n_known", [1, 5])
def test_farthest_point_by_a_loop(n_known):
    pool, known = make_rows(25), make_rows(n_known, seed=2)
    found = choose(pool, 10, "farthest", n_elements=2, known=known)
    rows = by_hand(torch.cat((pool, known)).numpy(), 2)
    there = list(range(25, 25 + n_known))

    def nearest(row: int) -> float:
        return min(math.sqrt(((rows[row] - rows[other]) ** 2).mean()) for other in there)

    assert found.distance[0] == pytest.approx(max(map(nearest, range(25))))
    for row, score in zip(found.rows, found.scores, strict=True):
        distances = [0.0 if k in there else nearest(k) for k in range(25)]
        assert row == int(np.argmax(distances))
        assert score == pytest.approx(distances[row])
        there.append(row)
    assert found.distance[1] == pytest.approx(max(nearest(k) for k in range(25)))


def test_farthest_point_begins_with_a_typical_row():
    pool = make_rows(25)
    found = choose(pool, 3, "farthest", n_elements=2)
    assert found.rows[0] == int((by_hand(pool.numpy(), 2) ** 2).sum(axis=1).argmin())
    assert math.isinf(found.scores[0])
    assert math.isinf(found.distance[0])
    assert found.rows[1] != found.rows[2]


def test_the_largest_scores():
    scores = torch.tensor([0.1, 3.0, 2.0, 3.0, 0.5])
    found = choose(make_rows(5), 3, "uncertainty", n_elements=2, scores=scores)
    assert found.rows == (1, 3, 2)
    assert found.scores == (3.0, 3.0, 2.0)


@pytest.mark.parametrize("scores", [None, torch.ones(4)])
def test_scores_are_needed(scores):
    with pytest.raises(InputError, match="scores: expected 5 numbers, one for each structure of the pool, got"):
        choose(make_rows(5), 3, "uncertainty", n_elements=2, scores=scores)


def test_random_by_seed():
    pool = make_rows(40)
    first, again, other = (choose(pool, 9, "random", n_elements=2, seed=seed).rows for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) == 9


@pytest.mark.parametrize("method", METHODS)
def test_none_is_chosen_twice_nor_where_it_may_not(method):
    free = torch.arange(30) % 3 > 0
    found = choose(make_rows(30), 20, method, n_elements=2, free=free, scores=torch.arange(30.0))
    assert sorted(found.rows) == free.nonzero()[:, 0].tolist()
    assert free.sum() == 20
    assert found.log_det[1] > found.log_det[0] == 0


@pytest.mark.parametrize("method", ["farthest", "determinant", "uncertainty"])
def test_order_of_the_pool_does_not_matter(method):
    pool, known = make_rows(60), make_rows(4, seed=2)
    scores = pool[:, 0]
    order = torch.from_numpy(np.random.default_rng(3).permutation(60))
    plain = choose(pool, 15, method, n_elements=2, known=known, scores=scores)
    moved = choose(pool[order], 15, method, n_elements=2, known=known, scores=scores[order])
    assert tuple(order[list(moved.rows)].tolist()) == plain.rows
    assert moved.log_det == pytest.approx(plain.log_det)


@pytest.mark.parametrize("method", ["farthest", "determinant", "uncertainty"])
def test_of_rows_that_differ_by_rounding_the_first(method):
    pool = make_rows(10)
    pool = torch.cat((pool, pool * (1 + 2e-16), pool * (1 - 2e-16)))
    found = choose(pool, 5, method, n_elements=2, scores=pool.sum(dim=1))
    if method == "uncertainty":  # scores know nothing of what was chosen
        assert found.rows[0] < 10
    else:
        assert all(row < 10 for row in found.rows)


@pytest.mark.parametrize("n", [0, 4, 9])
def test_number(n):
    with pytest.raises(
        InputError, match=f"n: expected a number from 1 to 3, of the structures to choose from, got {n}"
    ):
        choose(make_rows(5), n, "farthest", n_elements=2, free=torch.arange(5) < 3)


def test_method():
    with pytest.raises(InputError, match="method: expected one of farthest, determinant, uncertainty, random, got 'x'"):
        choose(make_rows(5), 1, "x", n_elements=2)
