"""The addition theorem: products of the angular rows sum to Legendre polynomials; and the rows' derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.polynomial import Legendre, Polynomial
from numpy.polynomial.legendre import legvander
from torch import Tensor

from pyfit_gpu.harmonics import angular_derivatives, angular_pull_back, angular_rows, n_rows, pair_weights

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
    x, y, z = vectors.T
    assert angular_derivatives(x, y, z, [0, 1, 4]).device == meta
    pulled = angular_pull_back(x, y, z, [0, 1, 4], torch.empty(n_rows([0, 1, 4]), 7, device=meta))
    assert all(part.device == meta for part in pulled)


ORDER_LISTS = [(0,), (1,), (0, 1, 2, 4, 6), (6, 3), (2, 2), (0, 0), (3, 0, 3, 1), (12, 11, 0), tuple(range(9))]


def monic_derivative(order: int, m: int) -> Polynomial:
    """d^m P_l / dz^m scaled to leading coefficient 1."""
    polynomial = Legendre.basis(order).convert(kind=Polynomial).deriv(m)
    return polynomial / polynomial.coef[-1]


def expected_rows(vectors: np.ndarray, orders: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n_rows, n) and derivatives (3, n_rows, n), as written: real and imaginary parts of (x + iy)^m q(z)."""
    x, y, z = vectors.T
    plane = x + 1j * y
    rows, derivatives = [], []
    for m in range(max(orders) + 1):
        for order in orders:
            if order < m:
                continue
            q = monic_derivative(order, m)
            slope = m * plane ** max(m - 1, 0)
            value = plane**m * q(z)
            by_component = np.stack([slope * q(z), 1j * slope * q(z), plane**m * q.deriv()(z)])
            rows.append(value.real)
            derivatives.append(by_component.real)
            if m:
                rows.append(value.imag)
                derivatives.append(by_component.imag)
    return np.array(rows), np.stack(derivatives, axis=1)


def points(seed: int) -> np.ndarray:
    """On the unit sphere, at its poles, on the axes, and away from it, as the rows are polynomials everywhere."""
    sphere = unit_vectors(20, seed)
    return np.concatenate([sphere, 0.7 * sphere[:5], 1.2 * sphere[5:10], [[0, 0, 0]]])


def relative_error(found: Tensor, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.max(np.abs(found.double().numpy() - expected) / np.maximum(1, np.abs(expected))))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("orders", ORDER_LISTS, ids=str)
def test_derivatives_against_the_formulas(orders: tuple[int, ...], dtype: torch.dtype) -> None:
    vectors = torch.tensor(points(5), dtype=dtype)
    rows, derivatives = expected_rows(vectors.double().numpy(), orders)
    assert relative_error(rows_of(vectors, list(orders)), rows) < tolerance(dtype, max(orders))
    found = angular_derivatives(*vectors.T.contiguous(), orders)
    assert found.dtype == dtype
    assert relative_error(found, derivatives) < 4 * tolerance(dtype, max(orders))


@pytest.mark.parametrize("orders", ORDER_LISTS, ids=str)
def test_derivatives_against_finite_differences(orders: tuple[int, ...]) -> None:
    """Fourth order: what is left of a polynomial of degree 12 at this step is 1e-9 of its derivatives."""
    vectors, step = torch.tensor(points(6)), 1e-3
    found = angular_derivatives(*vectors.T.contiguous(), orders)
    for component in range(3):
        move = step * torch.eye(3, dtype=torch.float64)[component]
        one, two = (
            rows_of(vectors + n * move, list(orders)) - rows_of(vectors - n * move, list(orders)) for n in (1, 2)
        )
        assert relative_error(found[component], ((8 * one - two) / (12 * step)).numpy()) < 1e-8


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("orders", ORDER_LISTS, ids=str)
def test_pull_back_is_the_sum_over_rows_of_the_derivatives(orders: tuple[int, ...], dtype: torch.dtype) -> None:
    components = torch.tensor(points(7), dtype=dtype).T.contiguous()
    grad = torch.tensor(np.random.default_rng(8).normal(size=(n_rows(orders), components.shape[1])), dtype=dtype)
    given = [tensor.clone() for tensor in (components, grad)]
    found = torch.stack(angular_pull_back(*components, orders, grad))
    assert found.dtype == dtype
    terms = grad.double() * angular_derivatives(*components.double(), orders)
    error = (found.double() - terms.sum(dim=1)).abs() / terms.abs().sum(dim=1).clamp(min=1)
    assert error.max() < 4 * tolerance(dtype, max(orders))
    assert all(torch.equal(*pair) for pair in zip(given, (components, grad), strict=True))  # nothing done in place


def test_derivatives_at_the_poles() -> None:
    """Only m = 0 and 1 are left of the derivatives: dP_l/dz = (+-1)^(l+1) l (l + 1) / 2, no NaN."""
    poles = torch.tensor(POLES, dtype=torch.float64)
    found = angular_derivatives(*poles.T.contiguous(), [6])
    leading = Legendre.basis(6).convert(kind=Polynomial).coef[-1]
    expected = torch.zeros(3, 13, 2, dtype=torch.float64)
    expected[2, 0] = torch.tensor([21 / leading, -21 / leading], dtype=torch.float64)
    expected[0, 1] = expected[1, 2] = expected[2, 0] / 6  # x q_61(z) and y q_61(z)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)
