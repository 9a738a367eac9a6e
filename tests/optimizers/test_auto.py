"""The optimiser that goes from LBFGS to Gauss-Newton, with a clock that the test drives."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from optimizers.test_gauss_newton import STARTS, Residuals
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.optimizers import auto
from pyfit_gpu.optimizers.auto import Auto
from pyfit_gpu.optimizers.auto_options import AutoOptions
from pyfit_gpu.optimizers.lbfgs import LBFGS

OPTIONS = AutoOptions(max_iterations=1, line_search="none", learning_rate=0.002)


class Timed(Residuals):
    """Residuals whose evaluations and matrices take so many seconds each."""

    def __init__(self, clock: list[float], evaluation: float, matrix: float) -> None:
        super().__init__()
        self.clock, self.evaluation, self.matrix = clock, evaluation, matrix

    def __call__(self, points: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.clock[0] += self.evaluation * len(points)
        return super().__call__(points, members)

    def normal_matrices(self, points: Tensor, members: Tensor) -> Iterator[Tensor]:
        for matrix in super().normal_matrices(points, members):
            self.clock[0] += self.matrix
            yield matrix


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(auto, "clock", lambda: now[0])
    return now


def steps_until_change(objective: Timed, optimizer: Auto, most: int = 60) -> int | None:
    for step in range(most):
        if bool(optimizer.state()["changed"][0]):
            return step
        optimizer.step(objective, [0, 1])
    return None


def test_it_changes_where_gauss_newton_gains_more_a_second(clock: list[float]) -> None:
    assert steps_until_change(Timed(clock, 1.0, 1.0), Auto(STARTS, OPTIONS)) == auto._FIRST_TRIAL


def test_it_stays_where_matrices_are_slow(clock: list[float]) -> None:
    """LBFGS is then what it would be alone, and trials take a tenth of its time."""
    objective, optimizer = Timed(clock, 1.0, 1e4), Auto(STARTS, OPTIONS)
    assert steps_until_change(objective, optimizer) is None
    alone = LBFGS(STARTS, OPTIONS.lbfgs)
    for _ in range(60):
        alone.step(Residuals(), [0, 1])
    assert torch.equal(optimizer.parameters, alone.parameters)
    assert len(objective.matrices) == 2 * auto._TRIAL_STEPS  # one trial of each member


def test_after_the_change_it_is_gauss_newton(clock: list[float]) -> None:
    objective, optimizer = Timed(clock, 1.0, 1.0), Auto(STARTS, OPTIONS)
    steps_until_change(objective, optimizer)
    for _ in range(60):
        optimizer.step(objective, [0, 1])
    optimizer.evaluate(objective, [0, 1])
    assert float(optimizer.extras.max()) < 1.25  # the minimum, which LBFGS with this step length is far from
    assert optimizer.n_evaluations == [objective.calls.count(0), objective.calls.count(1)]


@pytest.mark.parametrize("cut", [0, 3, 9])
def test_state_goes_on_bit_for_bit(cut: int, clock: list[float]) -> None:
    """With the same times: before the first evaluation, before the change and after it."""

    def run(optimizer: Auto, steps: int) -> Tensor:
        for _ in range(steps):
            optimizer.step(Timed(clock, 1.0, 1.0), [0, 1])
        return optimizer.parameters

    whole = run(Auto(STARTS, OPTIONS), 14)
    first, second = Auto(STARTS, OPTIONS), Auto(torch.zeros_like(STARTS), OPTIONS)
    run(first, cut)
    second.load_state(first.state())
    assert torch.equal(run(second, 14 - cut), whole)


def test_a_restart_begins_with_lbfgs(clock: list[float]) -> None:
    objective, optimizer = Timed(clock, 1.0, 1.0), Auto(STARTS, OPTIONS)
    steps_until_change(objective, optimizer)
    optimizer.restart(0, STARTS[0])
    assert optimizer.state()["changed"].tolist() == [False, True]
    assert torch.equal(optimizer.parameters[0], STARTS[0])


@pytest.mark.parametrize("name", ["changed", "recent", "lbfgs_extras", "gauss_newton_damping"])
def test_a_state_of_other_sizes_changes_nothing(name: str, clock: list[float]) -> None:
    objective, optimizer = Timed(clock, 1.0, 1.0), Auto(STARTS, OPTIONS)
    steps_until_change(objective, optimizer)
    before = optimizer.state()
    state = {**Auto(2 * STARTS, OPTIONS).state(), name: before[name][:1]}
    own = re.escape(name.removeprefix("lbfgs_").removeprefix("gauss_newton_"))
    with pytest.raises(InputError, match=f"optimiser state: {own}: expected"):
        optimizer.load_state(state)
    del state[name]
    with pytest.raises(InputError, match=f"{own}: expected .*nothing"):
        optimizer.load_state(state)
    for key, value in optimizer.state().items():
        assert torch.equal(value.nan_to_num(), before[key].nan_to_num()), key
