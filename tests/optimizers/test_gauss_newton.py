"""Gauss-Newton on functions whose residuals are known, beside SciPy, and what every optimiser must keep to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.optimizers.gauss_newton import GaussNewton
from pyfit_gpu.optimizers.gauss_newton_options import GaussNewtonOptions

OPTIONS = GaussNewtonOptions()


class Residuals:
    """Residuals of K members: those of Rosenbrock's function in the first two parameters, and a straight line."""

    def __init__(self) -> None:
        self.calls: list[int] = []  # members, in the order of evaluations
        self.matrices: list[int] = []
        self.broken: set[int] = set()  # members whose loss is not a number away from the start

    @staticmethod
    def residuals(point: Tensor) -> Tensor:
        return torch.stack([10 * (point[1] - point[0] ** 2), 1 - point[0], 0.5 * point[2] + 0.2, point[2] - point[1]])

    def __call__(self, points: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        losses, gradients = [], []
        for k, point in zip(members.tolist(), points, strict=True):
            self.calls.append(k)
            leaf = point.detach().clone().requires_grad_()
            loss = self.residuals(leaf).square().sum().sqrt()
            if k in self.broken and self.calls.count(k) > 1:
                loss = loss * math.nan
            gradients.append(torch.autograd.grad(loss, leaf)[0])
            losses.append(loss.detach())
        loss = torch.stack(losses)
        return loss, torch.stack(gradients), loss[:, None].clone()

    def normal_matrices(self, points: Tensor, members: Tensor) -> Iterator[Tensor]:
        for k, point in zip(members.tolist(), points, strict=True):
            self.matrices.append(k)
            jacobian = torch.autograd.functional.jacobian(self.residuals, point.detach())
            yield jacobian.T @ jacobian


STARTS = torch.tensor([[-1.2, 1.0, 3.0], [2.0, 2.0, -1.0]], dtype=torch.float64)


def run(objective: Residuals, optimizer: GaussNewton, n_steps: int, members: Sequence[int] = (0, 1)) -> Tensor:
    for _ in range(n_steps):
        optimizer.step(objective, members)
    return optimizer.parameters.clone()


def test_it_reaches_the_minimum() -> None:
    objective, optimizer = Residuals(), GaussNewton(STARTS, OPTIONS)
    found = run(objective, optimizer, 60)
    from scipy.optimize import least_squares

    for start, own in zip(STARTS, found, strict=True):
        expected = least_squares(
            lambda point: objective.residuals(torch.from_numpy(point)).numpy(),
            start.numpy(),
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-14,
        )
        np.testing.assert_allclose(own.numpy(), expected.x, atol=1e-6)
    assert optimizer.state()["ended"].tolist() == [True, True]


def test_one_step_is_the_damped_system() -> None:
    objective, optimizer = Residuals(), GaussNewton(STARTS[:1], GaussNewtonOptions(damping=0.5))
    (matrix,) = objective.normal_matrices(STARTS[:1], torch.tensor([0]))
    jacobian = torch.autograd.functional.jacobian(objective.residuals, STARTS[0])
    right = jacobian.T @ objective.residuals(STARTS[0])
    damped = matrix + 0.5 * matrix.diagonal().max() * torch.eye(3, dtype=torch.float64)
    found = run(objective, optimizer, 1, [0])
    torch.testing.assert_close(found[0], STARTS[0] - torch.linalg.solve(damped, right), rtol=1e-12, atol=0)


def test_damping_follows_the_gain() -> None:
    """After a step that gains what the model says the damping is a fifth; where nothing gains it grows 2, 4, 8-fold."""

    class Straight(Residuals):
        @staticmethod
        def residuals(point: Tensor) -> Tensor:
            return torch.stack([point[0] - 1, point[1] + point[2], point[2] - 2, point[1]])

    optimizer = GaussNewton(STARTS[:1], OPTIONS)
    run(Straight(), optimizer, 1, [0])
    assert optimizer.state()["damping"][0] == pytest.approx(OPTIONS.damping / 5)
    objective, optimizer = Residuals(), GaussNewton(STARTS[:1], GaussNewtonOptions(damping_trials=3))
    objective.broken = {0}
    assert torch.equal(run(objective, optimizer, 1, [0]), STARTS[:1])
    assert optimizer.state()["damping"][0] == pytest.approx(OPTIONS.damping * 2 * 4 * 8)


def test_members_do_not_meet() -> None:
    together = run(Residuals(), GaussNewton(STARTS, OPTIONS), 7)
    for k in (0, 1):
        assert torch.equal(run(Residuals(), GaussNewton(STARTS, OPTIONS), 7, [k])[k], together[k])


def test_a_member_that_has_ended_costs_nothing() -> None:
    objective, optimizer = Residuals(), GaussNewton(STARTS, OPTIONS)
    run(objective, optimizer, 60)
    n_calls, n_matrices = len(objective.calls), len(objective.matrices)
    run(objective, optimizer, 3)
    assert (len(objective.calls), len(objective.matrices)) == (n_calls, n_matrices)
    optimizer.forget(1)
    run(objective, optimizer, 1)
    assert objective.calls[n_calls:] == [1]
    assert objective.matrices[n_matrices:] == [1]


def test_a_loss_that_is_no_number_moves_nothing() -> None:
    objective, optimizer = Residuals(), GaussNewton(STARTS * math.nan, OPTIONS)
    optimizer.evaluate(objective, [0, 1])
    run(objective, optimizer, 2)
    assert not objective.matrices
    assert bool(optimizer.extras.isnan().all())


def test_state_goes_on_bit_for_bit() -> None:
    whole = run(Residuals(), GaussNewton(STARTS, OPTIONS), 9)
    first = GaussNewton(STARTS, OPTIONS)
    run(Residuals(), first, 4)
    second = GaussNewton(torch.zeros_like(STARTS), OPTIONS)
    second.load_state(first.state())
    assert second.n_evaluations == first.n_evaluations
    assert torch.equal(second.extras, first.extras)
    assert torch.equal(run(Residuals(), second, 5), whole)


def test_a_restart_forgets_all_but_the_count() -> None:
    optimizer = GaussNewton(STARTS, OPTIONS)
    run(Residuals(), optimizer, 4)
    before = optimizer.n_evaluations
    optimizer.restart(0, STARTS[0])
    assert optimizer.n_evaluations == before
    state = optimizer.state()
    assert not bool(state["known"][0])
    assert math.isnan(float(state["damping"][0]))
    fresh = run(Residuals(), GaussNewton(STARTS, OPTIONS), 3, [0])
    assert torch.equal(run(Residuals(), optimizer, 3, [0])[0], fresh[0])


@pytest.mark.parametrize("name", ["parameters", "damping", "known", "extras"])
def test_a_state_of_other_sizes_changes_nothing(name: str) -> None:
    optimizer = GaussNewton(STARTS, OPTIONS)
    run(Residuals(), optimizer, 2)
    before = optimizer.state()
    state = {**before, name: before[name][:1]}
    with pytest.raises(InputError, match=f"optimiser state: {name}: expected"):
        optimizer.load_state(state)
    del state[name]
    with pytest.raises(InputError, match=f"{name}: expected .* got nothing"):
        optimizer.load_state(state)
    for key, value in optimizer.state().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("settings", [{"damping": 0.0}, {"damping": math.inf}, {"damping_trials": 0}], ids=str)
def test_settings_that_are_no_settings(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        GaussNewtonOptions(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("at_once", [2, 3])
def test_members_evaluated_together(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each still has its own trials, damping and end, as on a GPU."""
    starts = torch.cat([STARTS, STARTS + 0.3, -STARTS])

    def found() -> tuple[Residuals, GaussNewton]:
        objective, optimizer = Residuals(), GaussNewton(starts, OPTIONS)
        objective.broken.add(1)
        run(objective, optimizer, 25, range(len(starts)))
        return objective, optimizer

    alone, one_by_one = found()
    monkeypatch.setattr("pyfit_gpu.optimizers.gauss_newton.CPU_MEMBERS", at_once)
    together, optimizer = found()
    assert together.matrices == alone.matrices
    assert together.calls != alone.calls
    assert sorted(together.calls) == sorted(alone.calls)
    expected = one_by_one.state()
    for name, value in optimizer.state().items():
        assert torch.equal(value.nan_to_num(), expected[name].nan_to_num()), name
