"""Errors of energies that count linearly beyond a limit: value, gradient and what Gauss-Newton makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_sets import make_potential

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.optimizers.gauss_newton_settings import GaussNewtonSettings
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.fit import fit
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.settings import FitSettings

MakeFrames = Callable[..., list[Frame]]
TERMS = [{}, {"forces": 0.3, "stress": 0.7}]
LIMIT = 0.62


@pytest.fixture
def training_set(mixed_frames: MakeFrames) -> TrainingSet:
    structures = Structures.from_frames(mixed_frames(("Si", "C")))
    return build_training_set(structures, make_potential(("Si", "C")), e_shift={"Si": 0.3, "C": -0.2})


@pytest.fixture
def networks(training_set: TrainingSet) -> ElementNetworks:
    """Networks whose errors lie on both sides of the limit."""
    networks = make_potential(("Si", "C")).networks
    energies = Objective(training_set).evaluate(networks.flat(), networks, gradient=False).energies
    errors = (energies[0] - training_set.energy_used / training_set.sizes).abs()
    assert bool((errors > LIMIT).any())
    assert bool((errors < LIMIT).any())
    return networks


@pytest.mark.parametrize("terms", TERMS, ids=["energies", "all"])
def test_value_and_gradient(training_set: TrainingSet, networks: ElementNetworks, terms: dict[str, float]) -> None:
    objective, usual = Objective(training_set, terms, huber=LIMIT), Objective(training_set, terms)
    flat = networks.flat()
    found, plain = objective.evaluate(flat, networks), usual.evaluate(flat, networks)
    errors = (plain.energies[0] - training_set.energy_used / training_set.sizes).abs().numpy()
    counted = np.where(errors > LIMIT, LIMIT * (2 * errors - LIMIT), errors**2).mean()
    others = float(plain.errors.loss[0]) ** 2 - (errors**2).mean()
    assert float(found.errors.loss[0]) ** 2 == pytest.approx(counted + others, rel=1e-12)
    assert torch.equal(found.errors["energy"], plain.errors["energy"])  # what is reported stays an RMSE
    assert found.gradient is not None
    for k in range(0, flat.shape[1], 11):
        moved = [flat.clone(), flat.clone()]
        moved[0][0, k] += 1e-5
        moved[1][0, k] -= 1e-5
        ends = [float(objective.evaluate(one, networks).errors.loss[0]) for one in moved]
        assert float(found.gradient[0, k]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("terms", TERMS, ids=["energies", "all"])
def test_a_limit_beyond_all_errors_changes_no_bit(
    training_set: TrainingSet, networks: ElementNetworks, terms: dict[str, float]
) -> None:
    flat = networks.flat()
    with_limit, without = (Objective(training_set, terms, huber=huber).evaluate(flat, networks) for huber in (1e3, 0.0))
    assert torch.equal(with_limit.errors.loss, without.errors.loss)
    assert with_limit.gradient is not None
    assert without.gradient is not None
    assert torch.equal(with_limit.gradient, without.gradient)


@pytest.mark.parametrize("targets", [{}, {"made": 0.05}], ids=["none", "targets"])
def test_rows_have_the_weights_of_the_gradient(
    training_set: TrainingSet, networks: ElementNetworks, targets: dict[str, float]
) -> None:
    """J^T J is that of weights times the factor, group by group, that the gradient of each structure's square has."""
    targets = dict.fromkeys(training_set.groups[:1], 0.05) if targets else {}
    objective = Objective(training_set, targets=targets, huber=LIMIT)
    flat = networks.flat()
    energies = objective.evaluate(flat, networks, gradient=False).energies
    errors = energies[0] - objective.target
    factor = (LIMIT / errors.abs()).clamp(max=1)
    if targets:
        squares = torch.where(errors.abs() > LIMIT, LIMIT * (2 * errors.abs() - LIMIT), errors.square())
        factor = factor * objective.groups.factor(squares[None])[0]
    weight = objective.label_weights["energy"] * factor

    def per_atom(parameters: torch.Tensor) -> torch.Tensor:
        return objective.evaluate(parameters[None], networks, gradient=False).energies[0]

    columns = []
    for k in range(flat.shape[1]):
        step = torch.zeros_like(flat[0])
        step[k] = 1e-5
        columns.append((per_atom(flat[0] + step) - per_atom(flat[0] - step)) / 2e-5)
    jacobian = torch.stack(columns, dim=1)
    (found,) = objective.normal_matrices(flat, networks)
    expected = jacobian.T @ (weight[:, None] * jacobian)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8 * float(expected.abs().max()))


def test_few_wrong_labels_spoil_less(mixed_frames: MakeFrames) -> None:
    """A fit with a limit follows the others: the error of those is smaller than without one."""
    frames: Sequence[Frame] = [frame for seed in range(6) for frame in mixed_frames(("Si",), seed)]
    structures = Structures.from_frames(frames)
    potential = make_potential(hidden=(4,))
    training_set = build_training_set(structures, potential, e_shift=0.3)
    networks = potential.randomized(9).networks
    energies = Objective(training_set).evaluate(networks.flat(), networks, gradient=False).energies[0]
    labels = energies * training_set.sizes - 0.3 * training_set.sizes
    labels[::9] += 3.0 * training_set.sizes[::9]
    wrong = torch.zeros(len(frames), dtype=torch.bool)
    wrong[::9] = True
    spoilt = replace(training_set, energy=labels)
    errors = {}
    for huber in (0.0, 0.02):
        own = make_potential(hidden=(4,))
        settings = FitSettings(steps=60, optimizer=GaussNewtonSettings(), l2=1e-6, l2_form="squared", huber=huber)
        fit(own, spoilt, settings=settings)
        found = Objective(training_set).evaluate(own.networks.flat(), own.networks, gradient=False).energies[0]
        errors[huber] = float((found - energies)[~wrong].abs().mean())
    assert errors[0.02] < 0.5 * errors[0.0]


def test_no_limit() -> None:
    with pytest.raises(InputError, match="huber: expected a number >= 0, got -1"):
        FitSettings(huber=-1)
