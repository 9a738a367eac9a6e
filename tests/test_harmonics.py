"""The addition theorem: products of the angular rows sum to Legendre polynomials."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.polynomial.legendre import legvander
from torch import Tensor

from pyfit_gpu.harmonics import angular_rows, n_rows, pair_weights

POLES = [[0, 0, 1], [0, 0, -1]]
AXES = [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]


def tolerance(dtype: torch.dtype, highest: int) -> float:
    """A rounding error of the cosine grows by the slope of P_l, at most l (l + 1) / 2."""
    return 4 * max(1, highest * (highest + 1) / 2) * torch.finfo(dtype).eps


def unit_vectors(n: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, 3))
    return np.concatenate([vectors / np.linalg.norm(vectors, axis=1, keepdims=True), POLES, AXES])


def rows_of(vectors: Tensor, orders: list[int]) -> Tensor:
    """(n_rows, n_vectors); starts from NaN so that a row left out shows."""
    out = vectors.new_full((n_rows(orders), len(vectors)), torch.nan)
    return angular_rows(*vectors.T.contiguous(), orders, out)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "orders", [list(range(13)), [0], [1], [12], [5, 0, 3], [4, 1, 0, 8, 2], [2, 2], [12, 11, 0]], ids=str
)
def test_products_are_legendre_polynomials(orders: list[int], dtype: torch.dtype) -> None:
    exact = unit_vectors(60, seed=3)
    vectors = torch.tensor(exact, dtype=dtype)
    rows = rows_of(vectors, orders)
    weights = pair_weights(orders, device=vectors.device, dtype=dtype)
    assert rows.dtype == weights.dtype == dtype
    assert weights.shape == (n_rows(orders), len(orders))
    found = torch.einsum("ri,rj,rl->ijl", rows, rows, weights)
    cosines = vectors.double().numpy() @ vectors.double().numpy().T
    expected = legvander(cosines, max(orders))[..., orders]
    assert np.abs(found.double().numpy() - expected).max() < tolerance(dtype, max(orders))


def test_number_of_rows() -> None:
    assert n_rows([0]) == 1
    assert n_rows([2, 0, 5]) == 5 + 1 + 11


@pytest.mark.parametrize("order", [1, 2, 6, 12])
def test_rows_at_the_poles(order: int) -> None:
    """At z = +-1 only m = 0 is left, and P_l(+-1) = (+-1)^l; no divisions, so no NaN."""
    poles = torch.tensor(POLES, dtype=torch.float64)
    rows = rows_of(poles, [order])
    assert rows[1:].eq(0).all()
    weights = pair_weights([order], device=poles.device, dtype=poles.dtype)
    torch.testing.assert_close(rows[0] * rows[0] * weights[0], torch.ones(2, dtype=torch.float64))
    product = (rows[:, 0] * rows[:, 1]) @ weights[:, 0]
    torch.testing.assert_close(float(product), float((-1) ** order))


def test_weights_are_positive() -> None:
    """So G of one element is never negative, and its logarithm has a value for every shift above 0."""
    weights = pair_weights(list(range(13)), device=torch.device("cpu"), dtype=torch.float64)
    assert weights.ge(0).all()
    assert weights.gt(0).sum(dim=0).tolist() == [2 * order + 1 for order in range(13)]


def test_everything_is_on_the_device_of_the_input() -> None:
    """Tensors on the meta device refuse to meet any of the host."""
    meta = torch.device("meta")
    vectors = torch.empty(7, 3, device=meta)
    assert rows_of(vectors, [0, 1, 4]).device == meta
    assert pair_weights([0, 1, 4], device=meta, dtype=torch.float32).device == meta
