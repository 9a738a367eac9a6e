"""Groups with a target RMSE: the loss against sums written here, its gradient on both sides of the target and at it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_sets import make_potential, make_set, make_settings
from torch import Tensor

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.fit import fit
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.settings import FitSettings

SIZES = (2, 1, 3, 4, 2, 5, 1, 3)
GROUPS = ("a", "b", "c", "a", "b", "c", "a", "d")
WEIGHTS = (1.0, 0.5, 2.0, 3.0, 0.0, 1.0, 0.25, 0.0)  # group d has none


@pytest.fixture
def training_set() -> TrainingSet:
    return make_set(SIZES, ("Si", "C"), groups=GROUPS, weight=WEIGHTS, energy_shift=(0.5, -0.25))


@pytest.fixture
def template() -> ElementNetworks:
    return make_potential(("Si", "C")).networks


def drawn(template: ElementNetworks, n_members: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(4).normal(size=(n_members, template.n_parameters)))


def errors_per_atom(training_set: TrainingSet, networks: ElementNetworks, member: int = 0) -> list[float]:
    """(E_nn - E_used) / n of each structure, atom by atom."""
    found, atom = [], 0
    for size, energy in zip(training_set.sizes.tolist(), training_set.energy.tolist(), strict=True):
        total = -energy
        for _ in range(size):
            kind = int(training_set.species[atom])
            hidden = training_set.features[atom].numpy()
            for layer, (weight, bias) in enumerate(zip(networks.weights, networks.biases, strict=True)):
                hidden = hidden @ weight[member, kind].numpy() + bias[member, kind].numpy()
                if layer < len(networks.weights) - 1:
                    hidden = 1 / (1 + np.exp(-hidden)) - 0.5
            assert training_set.energy_shift is not None
            total += float(hidden[0]) - training_set.energy_shift[kind]
            atom += 1
        found.append(total / size)
    return found


def group_rmse(training_set: TrainingSet, networks: ElementNetworks, member: int = 0) -> dict[str, float]:
    """RMSE of each group with a weight."""
    errors, found = errors_per_atom(training_set, networks, member), {}
    for group in sorted(set(training_set.groups)):
        own = [k for k, name in enumerate(training_set.groups) if name == group]
        total = sum(float(training_set.weight[k]) for k in own)
        if total > 0:
            found[group] = math.sqrt(sum(float(training_set.weight[k]) * errors[k] ** 2 for k in own) / total)
    return found


def expected_loss(
    training_set: TrainingSet, networks: ElementNetworks, targets: Mapping[str, float], member: int = 0
) -> float:
    """sqrt( sum_g W_g max(0, e_g - t_g)^2 )."""
    square, whole = 0.0, float(training_set.weight.sum())
    for group, rmse in group_rmse(training_set, networks, member).items():
        share = sum(float(w) for w, name in zip(training_set.weight, training_set.groups, strict=True) if name == group)
        beyond = rmse - targets.get(group, 0.0)
        if beyond > 0:
            square += share / whole * beyond**2
    return math.sqrt(square)


class TestLoss:
    def test_against_plain_sums(self, training_set: TrainingSet, template: ElementNetworks) -> None:
        points = drawn(template, 3)
        networks = template.with_flat(points)
        rmse = group_rmse(training_set, networks)
        assert len({round(value, 6) for value in rmse.values()}) == 3
        cases = (
            {},
            {"a": 0.5 * rmse["a"]},
            {"a": 2 * rmse["a"]},  # costs nothing
            {"a": 0.9 * rmse["a"], "b": 1.1 * rmse["b"], "c": 0.2},
            {"b": 0.3, "d": 0.1},  # d has no weight
            {"a": 9.0, "b": 9.0, "c": 9.0},
        )
        for targets in cases:
            found = Objective(training_set, targets=targets).evaluate(points, template)
            expected = [expected_loss(training_set, networks, targets, member) for member in range(3)]
            np.testing.assert_allclose(found.errors.loss, expected, rtol=1e-12, atol=1e-14)

    def test_the_rmse_knows_no_target(self, training_set: TrainingSet, template: ElementNetworks) -> None:
        """The error is logged, not its cost."""
        points = drawn(template)
        plain, aimed = (Objective(training_set, targets=targets) for targets in ({}, {"a": 9.0, "b": 0.1}))
        found = [objective.evaluate(points, template) for objective in (plain, aimed)]
        assert torch.equal(found[0].errors.energy, found[1].errors.energy)
        assert float(found[0].errors.loss) == pytest.approx(float(found[0].errors.energy), rel=1e-13)
        assert float(found[1].errors.loss) < float(found[0].errors.loss)
        by_group = aimed.group_errors(found[1].energies)[0].tolist()
        expected = group_rmse(training_set, template.with_flat(points))
        assert aimed.groups.names == ["a", "b", "c", "d"]
        assert by_group[:3] == pytest.approx([expected[name] for name in "abc"], rel=1e-12)
        assert math.isnan(by_group[3])

    def test_targets_of_zero_are_none(self, training_set: TrainingSet, template: ElementNetworks) -> None:
        points = drawn(template)
        found = [
            Objective(training_set, targets=targets).evaluate(points, template)
            for targets in ({}, {"a": 0.0, "b": 0.0})
        ]
        assert torch.equal(found[0].errors.loss, found[1].errors.loss)
        assert found[0].gradient is not None
        assert found[1].gradient is not None
        assert torch.equal(found[0].gradient, found[1].gradient)

    def test_an_unknown_group(self, training_set: TrainingSet) -> None:
        with pytest.raises(InputError, match="group targets: expected groups of the training structures, got x, y"):
            Objective(training_set, targets={"y": 0.1, "a": 0.1, "x": 0.2})

    @pytest.mark.parametrize("target", [-1e-3, math.nan, math.inf])
    def test_impossible_targets(self, target: float) -> None:
        with pytest.raises(InputError, match="group_targets: a: expected a number >= 0, got"):
            FitSettings(group_targets={"a": target})


def differences(objective: Objective, point: Tensor, template: ElementNetworks, step: float = 1e-6) -> list[float]:
    """Central ones, by every weight."""
    moves = step * torch.eye(template.n_parameters, dtype=torch.float64)
    up = objective.evaluate(point + moves, template, gradient=False).errors.loss
    down = objective.evaluate(point - moves, template, gradient=False).errors.loss
    return ((up - down) / (2 * step)).tolist()


class TestGradient:
    @pytest.mark.parametrize("share", [0.0, 0.5, 0.99, 1.01, 3.0], ids=lambda share: f"target {share} e")
    def test_against_differences(self, training_set: TrainingSet, template: ElementNetworks, share: float) -> None:
        """Above the target, just above, just below, far below; another group has a target of its own."""
        point = drawn(template)
        rmse = group_rmse(training_set, template.with_flat(point))
        objective = Objective(training_set, targets={"a": share * rmse["a"], "c": 0.3 * rmse["c"], "d": 0.1})
        gradient = objective.evaluate(point, template).gradient
        assert gradient is not None
        np.testing.assert_allclose(gradient[0], differences(objective, point, template), rtol=1e-6, atol=1e-9)

    def test_at_the_target(self, training_set: TrainingSet, template: ElementNetworks) -> None:
        """Where e_g passes t_g the loss is smooth: the group adds nothing to the gradient there."""
        point = drawn(template)
        rmse = group_rmse(training_set, template.with_flat(point))
        gradients = []
        for target in (rmse["a"] * (1 - 1e-9), rmse["a"], rmse["a"] * (1 + 1e-9)):
            objective = Objective(training_set, targets={"a": target})
            gradient = objective.evaluate(point, template).gradient
            assert gradient is not None
            gradients.append(gradient[0])
            np.testing.assert_allclose(gradient[0], differences(objective, point, template), rtol=1e-5, atol=1e-6)
        without = replace(training_set, weight=training_set.weight * torch.tensor([name != "a" for name in GROUPS]))
        others = Objective(without).evaluate(point, template)
        assert others.gradient is not None
        share = float(without.weight.sum() / training_set.weight.sum())
        for gradient in gradients:
            np.testing.assert_allclose(gradient, math.sqrt(share) * others.gradient[0], rtol=1e-7, atol=1e-8)

    def test_every_group_below_its_target(self, training_set: TrainingSet, template: ElementNetworks) -> None:
        found = Objective(training_set, targets=dict.fromkeys("abcd", 99.0)).evaluate(drawn(template), template)
        assert found.gradient is not None
        assert found.errors.loss.tolist() == [0.0]
        assert found.gradient.count_nonzero() == 0

    def test_a_group_that_is_exact(self, template: ElementNetworks) -> None:
        """Its error of 0 divides nothing, target or not."""
        training_set = make_set(SIZES, ("Si", "C"), groups=GROUPS)
        point = drawn(template)
        exact = Objective(training_set).evaluate(point, template).energies[0] * training_set.sizes
        own = torch.tensor([name == "b" for name in GROUPS])
        training_set = replace(training_set, energy=torch.where(own, exact, training_set.energy))
        for targets in ({"a": 0.1}, {"a": 0.1, "b": 0.2}):
            found = Objective(training_set, targets=targets).evaluate(point, template)
            assert found.gradient is not None
            assert found.gradient.isfinite().all()

    def test_not_a_number_stays_so(self, training_set: TrainingSet, template: ElementNetworks) -> None:
        point = drawn(template)
        point[0, -1] = math.nan
        found = Objective(training_set, targets=dict.fromkeys("abc", 99.0)).evaluate(point, template)
        assert math.isnan(float(found.errors.loss))

    def test_with_forces_and_stress(self, mixed_frames: Callable[..., list[Frame]]) -> None:
        """Targets are of energies alone: below them only forces and stress are left."""
        structures = Structures.from_frames([frame for seed in (0, 1) for frame in mixed_frames(seed=seed)])
        training_set = build_training_set(structures, make_potential())
        template = make_potential().networks
        point = drawn(template)
        weights = {"forces": 0.3, "stress": 0.2}
        plain = Objective(training_set, weights).evaluate(point, template)
        for target in (0.5 * float(plain.errors.energy), 2 * float(plain.errors.energy)):
            objective = Objective(training_set, weights, targets={"made": target})
            found = objective.evaluate(point, template)
            missing = float(plain.errors.energy) ** 2 - max(0.0, float(plain.errors.energy) - target) ** 2
            assert float(found.errors.loss) ** 2 == pytest.approx(float(plain.errors.loss) ** 2 - missing, rel=1e-12)
            assert found.gradient is not None
            np.testing.assert_allclose(found.gradient[0], differences(objective, point, template), rtol=1e-6, atol=1e-8)

    def test_members_do_not_mix(self, training_set: TrainingSet, template: ElementNetworks) -> None:
        """Each has its own errors, some above the target and some below."""
        points = drawn(template, 3)
        rmse = [group_rmse(training_set, template.with_flat(points), member)["a"] for member in range(3)]
        objective = Objective(training_set, targets={"a": sorted(rmse)[1]})
        together = objective.evaluate(points, template)
        assert together.gradient is not None
        for k in range(3):
            alone = objective.evaluate(points[k : k + 1], template)
            assert alone.gradient is not None
            assert torch.equal(alone.errors.loss[0], together.errors.loss[k])
            assert torch.equal(alone.gradient[0], together.gradient[k])


def test_a_fit_stops_caring_about_a_group(training_set: TrainingSet) -> None:
    """The group with a loose target ends worse than without, the others better."""
    settings = make_settings(steps=4, max_iterations=4)
    ends = []
    for targets in ({}, {"a": 0.3}):
        history = fit(make_potential(("Si", "C")), training_set, settings=replace(settings, group_targets=targets))
        ends.append(history)
    potentials = [history.potential.networks for history in ends]
    rmse = [group_rmse(training_set, networks) for networks in potentials]
    assert rmse[1]["a"] > rmse[0]["a"]
    assert ends[1].loss[-1] == pytest.approx(
        expected_loss(training_set, potentials[1], {"a": 0.3}), rel=1e-10, abs=1e-13
    )
