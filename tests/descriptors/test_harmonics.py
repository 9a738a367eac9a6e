"""The addition theorem: products of the angular rows sum to Legendre polynomials; and the rows' derivatives."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.polynomial import Legendre
from numpy.polynomial.legendre import legvander
from torch import Tensor

from pyfit_gpu.descriptors.harmonics import (
    addition_coefficients,
    angular_jvp,
    angular_rows,
    angular_vjp,
    n_rows,
    rows_of_orders,
)

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
    return angular_rows(vectors.T.contiguous(), orders, out)


def derivatives_of(vectors: Tensor, orders: Sequence[int]) -> Tensor:
    """(3, n_rows, n_vectors): the rows pushed forward along each axis; starts from NaN too."""
    components = vectors.T.contiguous()
    found = vectors.new_full((3, n_rows(orders), len(vectors)), torch.nan)
    for turn, out in zip(torch.eye(3, dtype=vectors.dtype, device=vectors.device), found, strict=True):
        angular_jvp(components, orders, turn[:, None].expand_as(components), out)
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "orders", [list(range(13)), [0], [1], [12], [5, 0, 3], [4, 1, 0, 8, 2], [2, 2], [12, 11, 0], [60]], ids=str
)
def test_products_are_legendre_polynomials(orders: list[int], dtype: torch.dtype) -> None:
    exact = unit_vectors(60, seed=3)
    vectors = torch.tensor(exact, dtype=dtype)
    rows = rows_of(vectors, orders)
    weights = addition_coefficients(orders, device=vectors.device, dtype=dtype)
    assert rows.dtype == weights.dtype == dtype
    assert weights.shape == (len(orders), n_rows(orders))
    found = torch.einsum("ri,rj,lr->ijl", rows, rows, weights)
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
    weights = addition_coefficients([order], device=poles.device, dtype=poles.dtype)
    torch.testing.assert_close(rows[0] * rows[0] * weights[0, 0], torch.ones(2, dtype=torch.float64))
    product = (rows[:, 0] * rows[:, 1]) @ weights[0]
    torch.testing.assert_close(float(product), float((-1) ** order))


def test_weights_are_positive() -> None:
    """So G of one element is never negative, and its logarithm has a value for every shift above 0."""
    weights = addition_coefficients(list(range(13)), device=torch.device("cpu"), dtype=torch.float64)
    assert weights.ge(0).all()
    assert weights.gt(0).sum(dim=1).tolist() == [2 * order + 1 for order in range(13)]


def test_everything_is_on_the_device_of_the_input() -> None:
    """Tensors on the meta device refuse to meet any of the host."""
    meta = torch.device("meta")
    vectors = torch.empty(7, 3, device=meta)
    assert rows_of(vectors, [0, 1, 4]).device == meta
    assert addition_coefficients([0, 1, 4], device=meta, dtype=torch.float32).device == meta
    assert derivatives_of(vectors, [0, 1, 4]).device == meta
    assert angular_vjp(vectors.T, [0, 1, 4], torch.empty(n_rows([0, 1, 4]), 7, device=meta)).device == meta


ORDER_LISTS = [(0,), (1,), (0, 1, 2, 4, 6), (6, 3), (2, 2), (0, 0), (3, 0, 3, 1), (12, 11, 0), tuple(range(9))]


def expected_rows(vectors: np.ndarray, orders: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n_rows, n) and derivatives (3, n_rows, n), as written: real and imaginary parts of (x + iy)^m D_lm(z).

    Scaled so that their products sum to Legendre polynomials with weights 1, and with the sign of (-1)^((l - m) // 2).
    """
    x, y, z = vectors.T
    plane = x + 1j * y
    rows, derivatives = [], []
    for order in orders:
        for m in range(order + 1):
            norm = (2 if m else 1) * math.factorial(order - m) / math.factorial(order + m)
            q = Legendre.basis(order).deriv(m) * math.sqrt(norm) * (-1) ** ((order - m) // 2)
            slope = m * plane ** max(m - 1, 0)
            value = plane**m * q(z)
            by_component = np.stack([slope * q(z), 1j * slope * q(z), plane**m * q.deriv()(z)])
            rows.append(value.real)
            derivatives.append(by_component.real)
            if m:
                rows.append(value.imag)
                derivatives.append(by_component.imag)
    return np.array(rows), np.stack(derivatives, axis=1)


def root_weights(orders: Sequence[int], like: Tensor) -> Tensor:
    """(n_rows, 1): a row has a weight in its own order alone."""
    return addition_coefficients(orders, device=like.device, dtype=like.dtype).sum(dim=0).sqrt()[:, None]


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
    scale = root_weights(orders, vectors)
    assert relative_error(scale * rows_of(vectors, list(orders)), rows) < tolerance(dtype, max(orders))
    found = scale * derivatives_of(vectors, orders)
    assert found.dtype == dtype
    assert relative_error(found, derivatives) < 4 * tolerance(dtype, max(orders))


@pytest.mark.parametrize("orders", ORDER_LISTS, ids=str)
def test_derivatives_against_finite_differences(orders: tuple[int, ...]) -> None:
    """Fourth order: what is left of a polynomial of degree 12 at this step is 1e-9 of its derivatives."""
    vectors, step = torch.tensor(points(6)), 3e-4
    found = derivatives_of(vectors, orders)
    for component in range(3):
        move = step * torch.eye(3, dtype=torch.float64)[component]
        one, two = (
            rows_of(vectors + n * move, list(orders)) - rows_of(vectors - n * move, list(orders)) for n in (1, 2)
        )
        assert relative_error(found[component], ((8 * one - two) / (12 * step)).numpy()) < 1e-8


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("orders", ORDER_LISTS, ids=str)
def test_vjp_is_the_sum_over_rows_of_the_derivatives(orders: tuple[int, ...], dtype: torch.dtype) -> None:
    components = torch.tensor(points(7), dtype=dtype).T.contiguous()
    grad = torch.tensor(np.random.default_rng(8).normal(size=(n_rows(orders), components.shape[1])), dtype=dtype)
    given = [tensor.clone() for tensor in (components, grad)]
    found = angular_vjp(components, orders, grad)
    assert found.dtype == dtype
    terms = grad.double() * derivatives_of(components.T.double(), orders)
    error = (found.double() - terms.sum(dim=1)).abs() / terms.abs().sum(dim=1).clamp(min=1)
    assert error.max() < 4 * tolerance(dtype, max(orders))
    assert all(torch.equal(*pair) for pair in zip(given, (components, grad), strict=True))  # nothing done in place


@pytest.mark.parametrize("orders", ORDER_LISTS, ids=str)
def test_jvp_is_linear_in_the_turn(orders: tuple[int, ...]) -> None:
    vectors = torch.tensor(points(9))
    turn = torch.tensor(np.random.default_rng(10).normal(size=(3, len(vectors))))
    found = vectors.new_full((n_rows(orders), len(vectors)), torch.nan)
    assert angular_jvp(vectors.T.contiguous(), orders, turn, found) is found
    terms = derivatives_of(vectors, orders) * turn[:, None]
    error = (found - terms.sum(dim=0)).abs() / terms.abs().sum(dim=0).clamp(min=1)
    assert error.max() < tolerance(torch.float64, max(orders))


def test_derivatives_at_the_poles() -> None:
    """Only m = 0 and 1 are left of the derivatives: dP_l/dz = (+-1)^(l+1) l (l + 1) / 2, no NaN."""
    poles = torch.tensor(POLES, dtype=torch.float64)
    found = root_weights([6], poles) * derivatives_of(poles, [6])
    expected = torch.zeros(3, 13, 2, dtype=torch.float64)
    expected[2, 0] = torch.tensor([-21, 21], dtype=torch.float64)  # l - m = 6: of odd sign
    # x and y D_61(z), of even sign, times the root of 2 (l - 1)! / (l + 1)!
    expected[0, 1] = expected[1, 2] = -expected[2, 0] * math.sqrt(2 / 42)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)


def test_rows_of_orders() -> None:
    """One after the other, in the order given, and every weight stands in the rows of its order."""
    orders = [4, 0, 3, 3]
    rows = rows_of_orders(orders)
    assert [number for part in rows for number in range(n_rows(orders))[part]] == list(range(n_rows(orders)))
    weights = addition_coefficients(orders, device=torch.device("cpu"), dtype=torch.float64)
    for number, part in enumerate(rows):
        assert weights[number, part].gt(0).all()
        assert weights[number].gt(0).sum() == 2 * orders[number] + 1
