"""Penalties and their choice by the evidence, beside dense formulas and data whose noise is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sample_sets import make_potential, make_set

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.run_file import FitState
from pyfit_gpu.optimizers.auto_settings import AutoSettings
from pyfit_gpu.optimizers.base import Gives, OptimizerSettings
from pyfit_gpu.optimizers.gauss_newton_settings import GaussNewtonSettings
from pyfit_gpu.training.closure import Closure
from pyfit_gpu.training.evidence import estimate
from pyfit_gpu.training.fit import TrainingFailure, fit
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.penalty import NormPenalty, SquaredPenalty
from pyfit_gpu.training.regularisation import EVIDENCE_INTERVAL, parameter_groups
from pyfit_gpu.training.settings import FitSettings

AUTO = FitSettings(steps=12, l2="auto", l2_form="squared", optimizer=GaussNewtonSettings(), seed=3)
MEMBERS = torch.tensor([0, 1])


@pytest.fixture
def train() -> TrainingSet:
    sizes = np.random.default_rng(4).integers(1, 6, 40).tolist()
    return make_set(sizes, ("Si", "C"))


@pytest.fixture
def closure(train: TrainingSet) -> Closure:
    networks = make_potential(("Si", "C")).random_members(range(2), 1).networks
    strengths = torch.from_numpy(np.random.default_rng(5).uniform(1e-4, 1e-2, networks.flat().shape))
    return Closure(Objective(train), networks, SquaredPenalty(strengths))


class TestSquaredPenalty:
    def test_value_and_gradient(self, closure: Closure) -> None:
        points = closure.template.flat()
        assert isinstance(closure.penalty, SquaredPenalty)
        found = closure.objective.evaluate(points, closure.template)
        squares = (closure.penalty.strengths * points.square()).sum(dim=1)
        loss, gradient, _ = closure(points, MEMBERS)
        torch.testing.assert_close(loss, (found.errors.loss.square() + squares).sqrt(), rtol=1e-13, atol=0)
        for k in range(0, points.shape[1], 9):
            moved = [points.clone(), points.clone()]
            moved[0][:, k] += 1e-5
            moved[1][:, k] -= 1e-5
            difference = (closure(moved[0], MEMBERS)[0] - closure(moved[1], MEMBERS)[0]) / 2e-5
            torch.testing.assert_close(gradient[:, k], difference, rtol=1e-5, atol=1e-8)

    def test_each_member_has_its_own(self, closure: Closure) -> None:
        points = closure.template.flat()
        loss, gradient, _ = closure(points, MEMBERS)
        alone, own, _ = closure(points[1:], MEMBERS[1:])
        assert torch.equal(alone, loss[1:])
        assert torch.equal(own, gradient[1:])

    @pytest.mark.parametrize("n_parameters", [37, 101, 945])
    def test_bits_do_not_depend_on_the_other_members(self, n_parameters: int) -> None:
        """Rows of a tensor begin at any multiple of 8 bytes, by which a processor's libraries choose how to add."""
        rng = np.random.default_rng(8)
        for _ in range(50):
            strengths, points = (torch.from_numpy(rng.normal(size=(3, n_parameters))).abs() for _ in range(2))
            none = torch.zeros(3, n_parameters, dtype=torch.float64)
            penalty = SquaredPenalty(strengths)
            together = penalty.added(none[:, 0], none, points, torch.arange(3))
            for k in range(3):
                alone = penalty.added(none[:1, 0], none[:1], points[k : k + 1].clone(), torch.tensor([k]))
                for found, expected in zip(alone, together, strict=True):
                    assert torch.equal(found[0], expected[k])

    def test_an_exact_fit_without_parameters_has_no_gradient(self) -> None:
        penalty = SquaredPenalty(torch.ones(1, 3, dtype=torch.float64))
        zero = torch.zeros(1, 3, dtype=torch.float64)
        loss, gradient = penalty.added(zero[:, 0], zero, zero, MEMBERS[:1])
        assert loss.tolist() == [0.0]
        assert not gradient.any()

    def test_its_rows_are_in_the_matrix(self, closure: Closure) -> None:
        points = closure.template.flat()
        assert isinstance(closure.penalty, SquaredPenalty)
        for k, found in enumerate(closure.normal_matrices(points, MEMBERS)):
            (data,) = closure.objective.normal_matrices(points[k : k + 1], closure.template)
            assert torch.equal(found, data + torch.diag(closure.penalty.strengths[k]))

    def test_a_matrix_that_is_kept_serves_once_at_its_place(
        self, closure: Closure, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        points = closure.template.flat()
        expected = [matrix.clone() for matrix in closure.normal_matrices(points, MEMBERS)]
        assert torch.equal(closure.matrix(1, points[1], keep=True), expected[1])
        computed, original = [], closure.objective.normal_matrices
        monkeypatch.setattr(
            closure.objective, "normal_matrices", lambda *args: computed.append(args[0]) or original(*args)
        )
        for wanted in (0, 1):  # the kept one, then none
            assert torch.equal(next(closure.normal_matrices(points[1:], MEMBERS[1:])), expected[1])
            assert len(computed) == wanted
        closure.matrix(1, points[1], keep=True)
        assert not torch.equal(next(closure.normal_matrices(points[1:] + 0.1, MEMBERS[1:])), expected[1])

    def test_norms_give_no_matrix(self, closure: Closure) -> None:
        for l2, gives in ((1e-3, {Gives.GRADIENT}), (0.0, set(Gives))):
            own = Closure(closure.objective, closure.template, NormPenalty(l2, closure.template))
            assert own.gives == gives


class TestEvidence:
    def test_of_a_straight_line(self) -> None:
        """Ridge regression: the parameters that the data determine, and noise and spread that are known."""
        rng = np.random.default_rng(6)
        n, noise, spread = 4000, 0.2, 0.7
        inputs = torch.from_numpy(rng.normal(size=(n, 30)))
        weights = torch.from_numpy(spread * rng.normal(size=30))
        labels = inputs @ weights + torch.from_numpy(noise * rng.normal(size=n))
        groups, matrix = torch.zeros(30, dtype=torch.int64), inputs.T @ inputs / n
        strengths = torch.full((30,), 1e-2, dtype=torch.float64)
        for _ in range(20):
            damped = matrix + torch.diag(strengths)
            parameters = torch.linalg.solve(damped, inputs.T @ labels / n)
            square = float((inputs @ parameters - labels).square().mean())
            found = estimate(damped, strengths, parameters, groups, square, n)
            assert found is not None
            strengths = found.strengths[groups]
        assert (n / found.precision) ** 0.5 == pytest.approx(noise, rel=0.03)
        own_spread = float(parameters.square().mean().sqrt())
        assert float(strengths[0]) * n == pytest.approx(noise**2 / own_spread**2, rel=0.1)
        assert 29 < float(found.determined[0]) <= 30

    def test_formula(self) -> None:
        """Beside the inverse written out; what no data see belongs to the penalty alone."""
        rng = np.random.default_rng(7)
        half = torch.from_numpy(rng.normal(size=(5, 8)))
        half[:, 6:] = 0
        groups = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
        strengths = torch.tensor([0.1, 0.1, 0.1, 0.3, 0.3, 0.3, 0.2, 0.2], dtype=torch.float64)
        matrix = half.T @ half + torch.diag(strengths)
        parameters = torch.from_numpy(rng.normal(size=8))
        found = estimate(matrix, strengths, parameters, groups, 0.5, 50)
        assert found is not None
        inverse = np.linalg.inv(matrix.numpy())
        for group in range(3):
            own = groups.numpy() == group
            expected = own.sum() - float((strengths.numpy() * np.diag(inverse))[own].sum())
            assert float(found.determined[group]) == pytest.approx(expected, abs=1e-12)
        assert float(found.determined[2]) == pytest.approx(0, abs=1e-12)
        assert found.precision == pytest.approx((50 - float(found.determined.sum())) / 0.5)
        sizes = [float(parameters[groups == group].square().sum()) for group in range(3)]
        expected = found.determined / (found.precision * torch.tensor(sizes, dtype=torch.float64))
        torch.testing.assert_close(found.strengths, expected)

    def test_a_matrix_that_is_not_positive(self) -> None:
        matrix = -torch.eye(3, dtype=torch.float64)
        ones = torch.ones(3, dtype=torch.float64)
        assert estimate(matrix, ones, ones, torch.zeros(3, dtype=torch.int64), 1.0, 9) is None

    def test_groups_are_weights_and_biases_of_layers_and_elements(self) -> None:
        networks = make_potential(("Si", "C"), hidden=(3,)).networks
        sizes = networks.layer_sizes
        counts = [sizes[0] * 3, 3, 3, 1]
        expected = [k for k, count in enumerate([*counts, *counts]) for _ in range(count)]
        assert parameter_groups(networks).tolist() == expected


def states_of(train: TrainingSet, settings: FitSettings, **keywords: Any) -> list[FitState]:
    found: list[FitState] = []
    fit(
        make_potential(("Si", "C")),
        train,
        members=2,
        settings=settings,
        checkpoint=lambda state, last: found.append(state()),
        **keywords,
    )
    return found


class TestInAFit:
    def test_the_penalty_is_estimated_every_few_steps(self, train: TrainingSet) -> None:
        states = states_of(train, AUTO)
        strengths = [state.members[0]["penalty"] for state in states]
        changes = [step for step in range(2, len(states)) if strengths[step] != strengths[step - 1]]
        # The first state is that before row 0, and state k + 1 that after step k, before the penalty is estimated.
        assert changes == [step for step in range(2, len(states)) if (step - 2) % EVIDENCE_INTERVAL == 0]
        assert states[-1].members[0]["penalty"] != states[-1].members[1]["penalty"]
        assert min(strengths[-1]) > 0

    def test_with_lbfgs_as_well(self, train: TrainingSet) -> None:
        settings = FitSettings(steps=12, l2="auto", l2_form="squared", seed=3)
        assert min(states_of(train, settings)[-1].members[1]["penalty"]) > 0

    @pytest.mark.parametrize("cut", [1, 5, 7, 10])
    def test_a_resumed_fit_has_the_same_bits(self, train: TrainingSet, cut: int) -> None:
        whole = states_of(train, AUTO)[-1]
        first = states_of(train, replace(AUTO, steps=cut))[-1]
        found = states_of(train, AUTO, resume=first)[-1]
        assert found.members == whole.members
        for name, value in whole.optimizer.items():
            assert torch.equal(found.optimizer[name].nan_to_num(), value.nan_to_num()), name

    def test_a_fit_with_a_number_may_go_on_with_auto(self, train: TrainingSet) -> None:
        first = states_of(train, replace(AUTO, l2=1e-5, steps=3))[-1]
        found = states_of(train, AUTO, resume=first)
        begun, ended = (np.array(state.members[0]["penalty"]) for state in (found[0], found[-1]))
        np.testing.assert_allclose(begun, 1e-6 * first.members[0]["history"]["loss"][-1] ** 2)
        assert ended.min() > 0
        assert not np.isclose(begun, ended).all()

    def test_a_number_is_not_changed(self, train: TrainingSet) -> None:
        states = states_of(train, replace(AUTO, l2=1e-5))
        assert not any("penalty" in state.members[0] for state in states)

    @pytest.mark.parametrize("optimizer", [GaussNewtonSettings(), AutoSettings()], ids=lambda one: one.name)
    def test_a_start_whose_loss_is_no_number_fails_as_with_lbfgs(
        self, train: TrainingSet, optimizer: OptimizerSettings
    ) -> None:
        start = make_potential(("Si", "C"))
        flat = torch.full_like(start.networks.flat(), 1e200)
        broken = replace(start, networks=start.networks.with_flat(flat))
        with pytest.raises(TrainingFailure, match="after step 0 the loss is"):
            fit(broken, train, settings=replace(AUTO, optimizer=optimizer))
        assert torch.equal(broken.networks.flat(), flat)

    @pytest.mark.parametrize("optimizer", [GaussNewtonSettings(), AutoSettings()], ids=lambda one: one.name)
    def test_a_bad_start_is_drawn_again(self, train: TrainingSet, optimizer: OptimizerSettings) -> None:
        """With the penalty of the new start."""
        settings = replace(AUTO, steps=3, error_restart_level=0.6)
        found: list[FitState] = []
        start = make_potential(("Si", "C"), max_random=1.5)
        history = fit(
            start,
            train,
            members=4,
            settings=replace(settings, optimizer=optimizer),
            checkpoint=lambda state, last: found.append(state()),
        )
        restarts = [one.n_restarts for one in history.members]
        assert max(restarts) > 0
        for one, state in zip(history.members, found[-1].members, strict=True):
            assert one.loss[0] < 0.6
            torch.testing.assert_close(state["penalty"][0], 1e-6 * one.loss[0] ** 2)

    def test_optimum_does_not_depend_on_the_optimiser(self, train: TrainingSet) -> None:
        settings = FitSettings(steps=400, l2=1e-3, l2_form="squared", seed=3)
        ends = []
        for own in (settings, replace(settings, optimizer=GaussNewtonSettings(), steps=100)):
            potential = make_potential(("Si", "C"))
            fit(potential, train, settings=own)
            ends.append(potential.networks.flat())
        torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"l2": "much"}, "l2: expected a number >= 0 or auto, got 'much'"),
        ({"l2": "auto"}, "l2_form: expected squared with l2 auto, got norm"),
        ({"l2": 1e-3, "optimizer": GaussNewtonSettings()}, "l2_form: expected squared with gauss-newton, got norm"),
        ({"l2_form": "square"}, "l2_form: expected norm or squared, got 'square'"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FitSettings(**settings)
