"""Choices of a fit by the amount of data."""

from __future__ import annotations

import pytest

from pyfit_gpu.commands.fit.choices import Amount, hidden_layers, n_parameters, rate, second_order_pays


@pytest.mark.parametrize(
    ("n_features", "n_elements", "n_labels", "width"),
    [
        (99, 1, 10, 16),  # never narrower
        (99, 1, 2935, 16),  # silicon of the examples
        (99, 1, 10 * 3025, 24),
        (99, 1, 10 * 3025 - 1, 16),
        (99, 1, 39_913, 24),  # mlearn silicon
        (321, 2, 39_913, 16),  # more inputs and elements, fewer neurons
        (99, 1, 10**9, 48),  # never wider
    ],
)
def test_hidden_layers(n_features: int, n_elements: int, n_labels: int, width: int) -> None:
    assert hidden_layers(n_features, n_elements, n_labels) == (width, width)


def test_parameters_are_counted() -> None:
    assert n_parameters(99, 1, 24) == 99 * 24 + 24 + 24 * 24 + 24 + 24 + 1
    assert n_parameters(321, 2, 24) == 16_706


ENOUGH = Amount(n_structures=100, n_labels=1000)
SECONDS = 400 * 4 * 1000 * 1000.0**2 / 2e10  # for 400 products of four members with 1,000 parameters


@pytest.mark.parametrize(
    ("amount", "parameters", "members", "seconds", "expected"),
    [
        (ENOUGH, 1000, 4, SECONDS * 1.01, True),
        (ENOUGH, 1000, 4, SECONDS * 0.99, False),
        (ENOUGH, 1000, 5, SECONDS * 1.01, False),
        (Amount(100, 1100), 1000, 4, SECONDS * 1.01, False),
        (ENOUGH, 1100, 4, SECONDS * 1.01, False),
        (Amount(99, 1000), 1000, 4, SECONDS * 2, False),  # the evidence takes residuals for independent
        (ENOUGH, 6001, 4, 1e9, False),  # memory
    ],
)
def test_second_order(amount: Amount, parameters: int, members: int, seconds: float, expected: bool) -> None:
    assert second_order_pays(amount, parameters, members, seconds, rate("cpu", 1)) is expected


def test_rates() -> None:
    assert rate("cpu", 4) == 4 * rate("cpu", 1)
    assert rate("cuda", 1) > 100 * rate("cpu", 1)
