"""Choices of a fit by the amount of data."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyfit_gpu.commands.fit.choices import (
    Amount,
    NetworkShape,
    rate,
    second_order_pays,
    training_options,
)
from pyfit_gpu.commands.fit.request import _energy_spread
from pyfit_gpu.structures.frames import Frame


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
def test_width(n_features: int, n_elements: int, n_labels: int, width: int) -> None:
    assert NetworkShape(n_features, n_elements).width(n_labels) == width


def test_more_outputs_leave_less_for_the_layers() -> None:
    labels = 10 * NetworkShape(40, 1, 1).n_parameters(24)
    assert NetworkShape(40, 1, 1).width(labels) == 24
    assert NetworkShape(40, 1, 8).width(labels) == 16


def test_parameters_are_counted() -> None:
    assert NetworkShape(99, 1).n_parameters(24) == 99 * 24 + 24 + 24 * 24 + 24 + 24 + 1
    assert NetworkShape(321, 2).n_parameters(24) == 16_706
    assert NetworkShape(40, 1, 8).n_parameters(16) == 1064


ENOUGH = Amount(n_structures=100, n_labels=1000, n_atoms=300, spread=1.0)
SECONDS = 400 * 4 * 1000 * 1000.0**2 / 2e10  # for 400 products of four members with 1,000 parameters


@pytest.mark.parametrize(
    ("amount", "parameters", "members", "seconds", "expected"),
    [
        (ENOUGH, 1000, 4, SECONDS * 1.01, True),
        (ENOUGH, 1000, 4, SECONDS * 0.99, False),
        (ENOUGH, 1000, 5, SECONDS * 1.01, False),
        (Amount(100, 1100, 300, 1.0), 1000, 4, SECONDS * 1.01, False),
        (ENOUGH, 1100, 4, SECONDS * 1.01, False),
        (Amount(99, 1000, 300, 1.0), 1000, 4, SECONDS * 2, False),  # the evidence takes residuals for independent
        (ENOUGH, 6001, 4, 1e9, False),  # memory
    ],
)
def test_second_order(amount: Amount, parameters: int, members: int, seconds: float, expected: bool) -> None:
    assert second_order_pays(amount, parameters, members, seconds, rate("cpu", 1)) is expected


@pytest.mark.parametrize(
    ("n_atoms", "spread", "seconds", "expected"),
    [
        (1000, 1.0, SECONDS / 2, ()),
        (999, 1.0, SECONDS / 2, ("--l2", "0.001")),  # too few for conditioned inputs
        (999, 0.3, SECONDS / 2, ("--l2", "0.0004")),
        (999, 0.03, SECONDS / 2, ("--l2", "0.0001")),  # never less than `train` takes
        (999, 1.0, SECONDS * 2, ("--l2", "0.001")),  # whatever the time
        (1000, 1.0, SECONDS * 2, ("--optimizer", "auto", "--l2", "auto")),
    ],
)
def test_options_of_train(n_atoms: int, spread: float, seconds: float, expected: tuple[str, ...]) -> None:
    assert training_options(Amount(100, 1000, n_atoms, spread), 1000, 4, seconds, rate("cpu", 1)) == expected


def test_rates() -> None:
    assert rate("cpu", 4) == 4 * rate("cpu", 1)
    assert rate("cuda", 1) > 100 * rate("cpu", 1)


def test_spread_is_that_about_the_composition(make_frame: Callable[..., Frame]) -> None:
    apart = [[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]
    energies = {"Si": (-10.0, -9.0), "C": (-18.0, -17.0)}
    frames = [make_frame(apart, symbols=[symbol] * 2, energy=one) for symbol, own in energies.items() for one in own]
    assert _energy_spread(frames, ("Si", "C")) == pytest.approx(0.25)
