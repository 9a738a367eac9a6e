"""The line search against torch's own on random curves; the conditions themselves; what is not a number."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.optim.lbfgs import _strong_wolfe

from pyfit_gpu.optimizers.line_search import C1, C2, Trial, TrialRequest, cubic_minimum, other_slot, strong_wolfe

Curve = Callable[[float], tuple[float, float]]  # loss and slope at a length


def random_curve(seed: int) -> Curve:
    """Downhill at zero, with several minima; flat, steep, or hardly curved."""
    rng = np.random.default_rng(seed)
    scale, stretch = 10.0 ** rng.uniform(-3, 3, 2)
    amplitude, frequency, phase = rng.uniform(0, 2), rng.uniform(0.1, 5), rng.uniform(0, 6)
    depth = rng.uniform(0.01, 4) + amplitude * frequency

    def curve(length: float) -> tuple[float, float]:
        a = length * stretch
        loss = 0.5 * a * a - depth * a + amplitude * math.sin(frequency * a + phase)
        slope = a - depth + amplitude * frequency * math.cos(frequency * a + phase)
        return float(scale * loss), float(scale * stretch * slope)

    return curve


def run(curve: Curve, length: float, tolerance: float, max_trials: int) -> tuple[Trial, list[float]]:
    """The accepted trial and all lengths tried; gradients are kept in slots, so that lost ones are noticed."""
    start = Trial(0.0, *curve(0.0), 2, 0.0)
    search = strong_wolfe(start, TrialRequest(length, 0), longest=1.0, tolerance=tolerance, max_trials=max_trials)
    kept: dict[int, float] = {2: 0.0}
    tried = []
    ask = next(search)
    while True:
        assert ask.slot != 2  # the start is needed to the end
        tried.append(ask.length)
        kept[ask.slot] = ask.length
        try:
            ask = search.send(Trial(ask.length, *curve(ask.length), ask.slot, 0.0, ask.given))
        except StopIteration as end:
            found = end.value
            break
    assert kept[found.slot] == found.length
    return found, tried


def run_torch(curve: Curve, length: float, tolerance: float, max_trials: int) -> tuple[float, list[float]]:
    """The same with torch's, on a vector of one component."""
    tried = []

    def evaluate(x: object, t: float, d: torch.Tensor) -> tuple[float, torch.Tensor]:
        tried.append(float(t))
        loss, slope = curve(float(t))
        return loss, torch.tensor([slope], dtype=torch.float64)

    loss, slope = curve(0.0)
    gradient, direction = torch.tensor([slope], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    _, _, found, _ = _strong_wolfe(
        evaluate, None, length, direction, loss, gradient, gradient[0], tolerance_change=tolerance, max_ls=max_trials
    )
    return float(found), tried


@pytest.mark.parametrize("tolerance", [1e-9, 0.1])
@pytest.mark.parametrize("max_trials", [0, 1, 2, 4, 25])
def test_tries_and_accepts_the_same_lengths_as_torch(tolerance: float, max_trials: int) -> None:
    numbers = set()
    for seed in range(200):
        length = float(10.0 ** np.random.default_rng((seed, 1)).uniform(-4, 4))
        found, tried = run(random_curve(seed), length, tolerance, max_trials)
        expected, expected_tried = run_torch(random_curve(seed), length, tolerance, max_trials)
        assert tried == expected_tried, seed
        assert found.length == expected, seed
        numbers.add(len(tried))
    assert max(numbers) == max_trials + 1 or max_trials == 25
    assert len(numbers) > min(max_trials, 6)  # short and long searches


def test_satisfies_the_strong_wolfe_conditions() -> None:
    for seed in range(200):
        curve = random_curve(seed)
        found, _ = run(curve, 1.0, 0.0, 100)
        loss, slope = curve(0.0)
        assert found.loss <= loss + C1 * found.length * slope, seed
        assert abs(found.slope) <= C2 * abs(slope), seed


def test_equal_losses_choose_the_same_end_as_torch() -> None:
    """A staircase: the decisions depend on which of equal losses counts as the lower."""
    for seed in range(100):
        smooth = random_curve(seed)
        height = abs(smooth(0.0)[1]) * 0.2

        def stairs(length: float, smooth: Curve = smooth, height: float = height) -> tuple[float, float]:
            loss, slope = smooth(length)
            return float(round(loss / height) * height), slope

        found, tried = run(stairs, 1.0, 1e-9, 12)
        expected, expected_tried = run_torch(stairs, 1.0, 1e-9, 12)
        assert tried == expected_tried, seed
        assert found.length == expected, seed


def test_the_second_trial_may_be_higher_than_the_first_as_in_torch() -> None:
    """Still steeply downhill and low enough, it is no end of a bracket; a third one would be."""

    def scripted() -> Curve:
        values = iter([(0.0, -1.0), (-5.0, -1.5), (-4.9, -1.2), (-4.8, -1.2), (-6.0, 0.1)])
        return lambda length: next(values)

    found, tried = run(scripted(), 1.0, 1e-9, 25)
    expected, expected_tried = run_torch(scripted(), 1.0, 1e-9, 25)
    assert tried == expected_tried
    assert found.length == expected
    assert len(tried) == 4
    assert tried[1] < tried[2]


@pytest.mark.parametrize("beyond", [math.nan, math.inf, -math.inf])
def test_comes_back_from_where_the_loss_is_not_a_number(beyond: float) -> None:
    def wall(length: float) -> tuple[float, float]:
        if length >= 0.3:
            return abs(beyond), beyond
        return -math.log(0.1 + length) - math.log(0.3 - length), -1 / (0.1 + length) + 1 / (0.3 - length)

    found, tried = run(wall, 1.0, 1e-9, 25)
    assert 0 < found.length < 0.3
    assert abs(found.slope) <= C2 * abs(wall(0.0)[1])
    assert len(tried) < 10


def test_stays_where_it_is_if_nothing_is_lower() -> None:
    found, tried = run(lambda length: (1.0 if length else 0.0, -1.0), 1.0, 1e-9, 25)
    assert found.length == 0
    assert found.loss == 0
    assert len(tried) <= 26


def test_all_trials_not_a_number_end_at_the_start() -> None:
    found, tried = run(lambda length: (math.nan, math.nan) if length else (0.0, -1.0), 1.0, 1e-9, 5)
    assert found.length == 0
    assert len(tried) == 6


def test_cubic_minimum_of_a_cubic() -> None:
    """x^3 - 3 x has its minimum at 1, whichever end comes first; outside the bounds it is cut off."""
    one, other = (Trial(a, a**3 - 3 * a, 3 * a * a - 3, 0, 0.0) for a in (0.25, 2.0))
    assert cubic_minimum(one, other) == (pytest.approx(1.0, rel=1e-14), True)
    assert cubic_minimum(other, one) == cubic_minimum(one, other)
    assert cubic_minimum(one, other, bounds=(1.5, 3.0)) == (1.5, False)
    assert cubic_minimum(one, other, bounds=(0.25, 0.5)) == (0.5, False)


def test_cubic_without_a_minimum_takes_the_middle() -> None:
    rising = [Trial(a, a**3 + a, 3 * a * a + 1, 0, 0.0) for a in (-1.0, 3.0)]
    assert cubic_minimum(*rising) == (1.0, False)
    assert cubic_minimum(rising[0], rising[0], bounds=(2.0, 4.0)) == (3.0, False)


def test_other_slot() -> None:
    assert {other_slot(a, b) for a in range(3) for b in range(3) if a != b} == {0, 1, 2}
    assert all(other_slot(a, b) not in (a, b) for a in range(3) for b in range(3))
