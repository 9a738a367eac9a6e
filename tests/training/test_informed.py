"""Training of physically informed networks: gradients, bits, baseline, penalties, J^T J, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from bond_order_samples import SILICON, make_bond_order
from sample_sets import make_potential, make_settings
from torch import Tensor

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.energy import local_parameters
from pyfit_gpu.models.networks import ElementLayout, ElementNetworks
from pyfit_gpu.models.potential import Form, Potential, join_members
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.optimizers.auto_settings import AutoSettings
from pyfit_gpu.optimizers.gauss_newton_settings import GaussNewtonSettings
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.baseline import fit_baseline
from pyfit_gpu.training.fit import fit
from pyfit_gpu.training.input_statistics import condition
from pyfit_gpu.training.local_parameters import output_scales
from pyfit_gpu.training.loss import LabelWeights
from pyfit_gpu.training.memory_plan import plan_memory
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.set_sizes import SetSizes
from pyfit_gpu.training.settings import FitSettings

MakeFrame = Callable[..., Frame]

FORMS: tuple[Form, ...] = ("squared", "plain")
ELEMENTS = [("Si",), ("Si", "C")]
ALL = {"forces": 0.1, "stress": 0.3}
PENALTIES = {"negative": 1.0, "size": 0.3, "spread": 0.2}
STEP = 1e-5


def crystal(make_frame: MakeFrame, seed: int, elements: Sequence[str], n_atoms: int, size: float = 2.3) -> Frame:
    """Atoms scattered about the places of a small cell, in all three directions as far as screening reaches."""
    rng = np.random.default_rng(seed)
    places = size * np.array([[x, y, z] for x in range(2) for y in range(2) for z in range(2)])[:n_atoms]
    labels = {
        "energy": -3.0 * n_atoms + rng.normal(),
        "forces": rng.normal(size=(n_atoms, 3)),
        "stress": rng.normal(size=6) / 100,
    }
    symbols = [elements[k % len(elements)] for k in range(n_atoms)]
    positions = places + rng.uniform(-0.2, 0.2, places.shape) * size / 2.3
    return make_frame(positions, 2.1 * size * np.eye(3), symbols=symbols, **labels)


def noisy_set(
    make_frame: MakeFrame, potential: Potential, n: int, seed: int = 0, noise: tuple[float, float] = (0.01, 0.05)
) -> TrainingSet:
    """Structures with the energies, forces and stress of a potential, and Gaussian noise on them."""
    elements = potential.descriptor.elements
    frames = [crystal(make_frame, seed + k, elements, 2 + k % 3) for k in range(n)]
    made = build_training_set(Structures.from_frames(frames), potential, e_shift=dict.fromkeys(elements, 0.0))
    found = predict(potential, made.structures())
    assert found.forces is not None
    assert found.stress is not None
    rng = np.random.default_rng(seed + 1000)

    def draw(like: Tensor, size: float) -> Tensor:
        return torch.from_numpy(rng.normal(scale=size, size=tuple(like.shape)))

    return replace(
        made,
        energy=found.energy + made.sizes * draw(made.sizes, noise[0]),
        forces=found.forces + draw(found.forces, noise[1]),
        stress=found.stress + draw(found.stress, noise[1] / 50),
    )


@pytest.fixture
def made(make_frame: MakeFrame) -> Callable[..., TrainingSet]:
    """A set of structures of four to seven atoms, among them one of a single atom far from all others."""

    def make(potential: Potential, *, size: float = 2.3, n: int = 4) -> TrainingSet:
        elements = potential.descriptor.elements
        frames = [crystal(make_frame, seed, elements, 4 + seed % 4, size) for seed in range(n)]
        frames.append(make_frame([[0, 0, 0]], 30 * np.eye(3), energy=0.1, forces=np.zeros((1, 3)), stress=np.zeros(6)))
        return build_training_set(Structures.from_frames(frames), potential, e_shift=dict.fromkeys(elements, 0.0))

    return make


def labelled_by(potential: Potential, training_set: TrainingSet) -> TrainingSet:
    """The set with the energies, forces and stress that a potential predicts."""
    found = predict(potential, training_set.structures())
    assert found.forces is not None
    assert found.stress is not None
    return replace(training_set, energy=found.energy, forces=found.forces, stress=found.stress.nan_to_num())


def slope(function: Callable[[float], Tensor]) -> Tensor:
    """Fourth-order central difference at 0."""
    one, two = (function(n * STEP) - function(-n * STEP) for n in (1, 2))
    return (8 * one - two) / (12 * STEP)


def assert_gradient(objective: Objective, networks: ElementNetworks, n: int = 12) -> None:
    flat = networks.flat()
    found = objective.evaluate(flat, networks)
    assert found.gradient is not None
    assert bool((found.gradient != 0).any())
    for number in np.random.default_rng(0).permutation(flat.shape[1])[:n].tolist():
        unit = torch.zeros_like(flat)
        unit[0, number] = 1

        def minimised(step: float, unit: Tensor = unit) -> Tensor:
            return objective.evaluate(flat + step * unit, networks, gradient=False).minimised[0]

        torch.testing.assert_close(found.gradient[0, number], slope(minimised), rtol=1e-8, atol=1e-8)


# ---------------------------------------------------------------------------------------------------------------------
# loss and gradient


@pytest.mark.parametrize("penalties", [{}, PENALTIES], ids=["plain", "penalties"])
@pytest.mark.parametrize("weights", [{}, ALL], ids=["energies", "forces"])
@pytest.mark.parametrize("bare", [False, True], ids=["network", "bare"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("elements", ELEMENTS, ids="-".join)
def test_gradient_is_that_of_differences(
    made: Callable[..., TrainingSet],
    elements: tuple[str, ...],
    form: Form,
    bare: bool,
    weights: dict[str, float],
    penalties: dict[str, float],
) -> None:
    """Also where some local parameters are negative, which a penalty is for."""
    potential = make_bond_order(elements, form, bare=bare, max_random=0.1)
    numbers = list(potential.bond_order_parameters)
    numbers[0] = -0.05  # A
    potential = replace(potential, bond_order_parameters=tuple(numbers))
    training_set = made(potential)
    conditioning = None if bare else condition(training_set, "half")
    objective = Objective(
        training_set,
        weights,
        potential=potential,
        penalties=penalties,
        conditioning=conditioning,
        n_lanes=2,
        block_atoms=9,
    )
    assert_gradient(objective, potential.networks if conditioning is None else conditioning.unfold(potential.networks))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("elements", ELEMENTS, ids="-".join)
def test_errors_are_those_of_predictions(
    made: Callable[..., TrainingSet], elements: tuple[str, ...], form: Form
) -> None:
    potential = make_bond_order(elements, form, max_random=0.1)
    training_set = made(potential)
    found = Objective(training_set, ALL, potential=potential).evaluate(potential.networks.flat(), potential.networks)
    predicted = predict(potential, training_set.structures())
    assert predicted.forces is not None
    assert predicted.stress is not None
    torch.testing.assert_close(found.energies[0], predicted.energy / training_set.sizes, rtol=0, atol=1e-13)
    expected = (predicted.forces - training_set.forces).square().mean().sqrt()
    torch.testing.assert_close(found.errors["forces"][0], expected, rtol=1e-12, atol=0)
    expected = (predicted.stress - training_set.stress).square().mean().sqrt()
    torch.testing.assert_close(found.errors["stress"][0], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("weights", [{}, ALL], ids=["energies", "forces"])
def test_bits_do_not_depend_on_what_is_kept_or_computed_beside(
    made: Callable[..., TrainingSet], weights: dict[str, float]
) -> None:
    """Kept bonds, bonds found anew, streamed blocks; one member alone and among others."""
    members = [make_bond_order(form="plain", max_random=0.1, seed=seed) for seed in (3, 4, 5)]
    members = [replace(one, bond_order_parameters=members[0].bond_order_parameters) for one in members]
    potential = join_members(members)
    training_set = made(potential)
    flat = potential.networks.flat()
    how = {"potential": potential, "penalties": PENALTIES, "n_lanes": 2, "block_atoms": 9}
    kept = Objective(training_set, weights, **how)
    assert kept.kept_bytes > 0
    expected = kept.evaluate(flat, potential.networks)
    assert expected.gradient is not None
    alone = [kept.evaluate(flat[k : k + 1], potential.networks).gradient for k in range(3)]
    assert torch.equal(torch.cat([one for one in alone if one is not None]), expected.gradient)
    for more in ({"memory": 0.0}, {"stream": True}):
        objective = Objective(training_set, weights, **how, **more)
        assert objective.kept_bytes == 0
        found = objective.evaluate(flat, potential.networks)
        assert found.gradient is not None
        tolerance = 1e-12 if weights else 0  # derivatives of features that are kept are products of matrices
        torch.testing.assert_close(found.gradient, expected.gradient, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(found.minimised, expected.minimised, rtol=tolerance, atol=0)


@pytest.mark.parametrize("weight", [0.0, 0.1], ids=["energies", "forces"])
def test_a_fit_that_streams_is_the_same(made: Callable[..., TrainingSet], weight: float) -> None:
    """Where there is too little memory, also while the baseline is fitted."""
    potential = make_bond_order(form="plain", max_random=0.1)
    training_set = made(potential, n=6)
    settings = FitSettings(steps=1, force_weight=weight, seed=2, spread_penalty=0.01)
    resident = plan_memory(training_set, potential, settings)
    assert resident.kept_bytes > 0
    found = []
    for plan in (resident, replace(resident, stream=True, kept_bytes=0)):
        start = fit_baseline(make_bond_order(form="plain", max_random=0.1), training_set, settings, starts=1, plan=plan)
        history = fit(start, training_set, settings=settings, plan=plan)
        found.append((start.bond_order_parameters, history.loss))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-9 if weight else 0, abs=0)


def test_lanes_of_structures_that_take_long(made: Callable[..., TrainingSet], monkeypatch: pytest.MonkeyPatch) -> None:
    """Energies of physically informed networks are shared among more threads than others."""
    monkeypatch.setattr("pyfit_gpu.training.lanes.LANE_ATOMS", (10**6, 5, 10**6))
    straight, informed = make_potential(), make_bond_order()
    for potential, expected in ((straight, 1), (informed, 4)):
        training_set = made(potential)
        assert len(Objective(training_set, potential=potential).bounds) == expected
        assert SetSizes.of(training_set, potential=potential).n_lanes == expected


def test_penalties_are_means_over_atoms(made: Callable[..., TrainingSet]) -> None:
    """By hand, from the local parameters of a bare potential of two elements."""
    potential = make_bond_order(("Si", "C"), "plain", bare=True, scatter=0.4)
    numbers = torch.tensor(potential.bond_order_parameters, dtype=torch.float64).view(2, -1)
    numbers[0, 1], numbers[1, -1], numbers[1, 8] = -0.3, -0.2, -0.7  # A, lambda; h may be negative
    potential = replace(potential, bond_order_parameters=tuple(numbers.flatten().tolist()))
    training_set = made(potential)
    local = numbers[training_set.species]
    expected = {
        "negative": (4 * (local[:, 1].clamp(max=0).square() + local[:, -1].clamp(max=0).square())).mean(),
        "size": local.square().mean(),
        "spread": torch.zeros((), dtype=torch.float64),  # about the mean of each element
    }
    for name, value in expected.items():
        objective = Objective(training_set, potential=potential, penalties={**dict.fromkeys(PENALTIES, 0.0), name: 0.7})
        found = objective.evaluate(potential.networks.flat(), potential.networks)
        square = found.minimised.square() - found.errors.loss.square()
        torch.testing.assert_close(square[0], 0.7 * value, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# Gauss-Newton


def residuals_of(potential: Potential, training_set: TrainingSet, weights: dict[str, float], negative: float) -> Tensor:
    """(n,) all of them, from predictions, the normalised weights, and the local parameters as `local_parameters`."""
    found = predict(potential, training_set.structures())
    normalised, sizes = LabelWeights.of(training_set), training_set.sizes
    assert found.forces is not None
    assert found.stress is not None
    parts = [normalised["energy"].sqrt() * (found.energy - training_set.energy_used) / sizes]
    if weights:
        by_atom = torch.repeat_interleave(normalised["forces"], sizes)[:, None]
        parts.append((weights["forces"] * by_atom).sqrt() * (found.forces - training_set.forces))
        virial = (found.stress - training_set.stress) * (training_set.volume / sizes)[:, None]
        parts.append((weights["stress"] * normalised["stress"][:, None]).sqrt() * virial)
    features = training_set.features[:, :0] if potential.is_bare else training_set.features
    local = local_parameters(potential, features, training_set.species)[0]
    squared = potential.form == "squared"
    s = potential.descriptor.n_elements
    barred = torch.ones(local.shape[1], dtype=torch.bool)
    barred[4 * s : 4 * s + s * s + 1] = False  # h, sigma
    barred[4 * s + s * s + 1 :] = not squared
    return torch.cat([*(one.flatten() for one in parts),
                      (2 * (negative / len(local)) ** 0.5 * local.clamp(max=0) * barred).flatten()])  # fmt: skip


def along(function: Callable[[Tensor], Tensor], flat: Tensor, directions: Tensor) -> Tensor:
    """(n, D) derivatives along directions (D, P)."""
    return torch.stack([slope(lambda step, one=one: function(flat + step * one)) for one in directions], dim=1)


@pytest.mark.parametrize("weights", [{}, ALL], ids=["energies", "forces"])
@pytest.mark.parametrize("bare", [False, True], ids=["network", "bare"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("elements", ELEMENTS, ids="-".join)
def test_matrix_is_that_of_differences(
    made: Callable[..., TrainingSet], elements: tuple[str, ...], form: Form, bare: bool, weights: dict[str, float]
) -> None:
    """J^T J with a penalty on negative parameters."""
    potential = make_bond_order(elements, form, bare=bare, max_random=0.1)
    numbers = list(potential.bond_order_parameters)
    numbers[0] = -0.5  # A of all atoms of the first element
    potential = replace(potential, bond_order_parameters=tuple(numbers))
    training_set = made(potential)
    penalties = {"negative": 0.5, "size": 0, "spread": 0}
    objective = Objective(training_set, weights, potential=potential, penalties=penalties, n_lanes=2, block_atoms=9)
    flat, networks = potential.networks.flat(), potential.networks

    def residuals(point: Tensor) -> Tensor:
        own = replace(potential, networks=networks.with_flat(point))
        return residuals_of(own, training_set, weights, 0.5)

    square = objective.evaluate(flat, networks).minimised.square()
    torch.testing.assert_close(residuals(flat).square().sum()[None], square, rtol=1e-11, atol=0)
    directions = torch.from_numpy(np.random.default_rng(1).normal(size=(6, flat.shape[1])))
    jacobian = along(residuals, flat, directions)
    (matrix,) = objective.normal_matrices(flat, networks)
    expected = jacobian.T @ jacobian
    found = directions @ matrix @ directions.T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize(("form", "activation"), [("squared", 1), ("plain", 2)])
@pytest.mark.parametrize("elements", [*ELEMENTS, ("O", "Si", "C")], ids="-".join)
def test_matrix_is_that_of_rows_by_autograd(
    mixed_frames: Callable[..., list[Frame]], elements: tuple[str, ...], form: Form, activation: int
) -> None:
    """Inputs and outputs are conditioned; molecules, slabs, cells smaller than the cutoff, lone atoms."""
    potential = make_bond_order(elements, form, max_random=0.1)
    potential = replace(potential, networks=replace(potential.networks, activation=activation))
    frames = [frame for frame in mixed_frames(elements) if frame.n_atoms < 5]
    frames[0] = replace(frames[0], forces=None)
    frames[4] = replace(frames[4], stress=None, weight=2.5)
    shift = dict.fromkeys(elements, 0.0)
    training_set = build_training_set(Structures.from_frames(frames), potential, e_shift=shift)
    conditioning = condition(training_set, "half")
    assert conditioning is not None
    conditioning = replace(conditioning, outputs=output_scales(potential, training_set))
    assert conditioning.outputs is not None
    assert float(conditioning.outputs.max()) < 1e10  # also for an angle that no atom of these has
    networks = conditioning.unfold(potential.networks)
    objective = Objective(training_set, ALL, potential=potential, conditioning=conditioning, n_lanes=1)
    (matrix,) = objective.normal_matrices(networks.flat(), networks)
    leaf = networks.flat().requires_grad_()
    rows = []
    for block, _ in objective.lanes[0]:
        labels = block.labels
        assert labels is not None
        assert isinstance(block.layout, ElementLayout)
        found = labels.predict(networks.with_flat(leaf), block.layout, block.features, block.species, None)
        energies = torch.zeros(len(block.sizes), dtype=torch.float64).index_add(0, block.structure, found.energies[0])
        residuals = [energies * block.weight.sqrt() * block.per_atom]
        for one, comparison in labels.comparisons:
            prediction = found.by_name[one.term.prediction][:, 0]
            residuals.append((one.weight**0.5 * comparison.scale[:, None] * prediction).flatten())
        for residual in torch.cat(residuals):
            rows.append(torch.autograd.grad(residual, leaf, retain_graph=True)[0][0])
    jacobian = torch.stack(rows)
    expected = jacobian.T @ jacobian
    torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))
    # What is small counts as well: in units of the diagonal, as Cholesky's steps see it.
    size = expected.diagonal().clamp(min=1e-6 * float(expected.diagonal().max())).rsqrt()
    scaled = [size[:, None] * own * size for own in (matrix, expected)]
    torch.testing.assert_close(*scaled, rtol=0, atol=1e-9)


@pytest.mark.parametrize("weight", [0.0, 0.1], ids=["energies", "forces"])
@pytest.mark.parametrize("bare", [False, True], ids=["network", "bare"])
def test_gauss_newton_trains(made: Callable[..., TrainingSet], bare: bool, weight: float) -> None:
    """Labels are those of another potential of the same kind, which few steps find."""
    truth = make_bond_order(form="plain", bare=bare, max_random=0.3, seed=8)
    training_set = labelled_by(truth, made(truth, n=8))
    start = make_bond_order(form="plain", bare=bare, max_random=0.1)
    gauss_newton = FitSettings(optimizer=GaussNewtonSettings(), force_weight=weight, stress_weight=weight)
    settings = make_settings(gauss_newton, l2=1e-9, l2_form="squared", steps=15)
    history = fit(start, training_set, settings=settings)
    assert history.loss[-1] < 0.02 * history.loss[0]


@pytest.mark.parametrize("bare", [False, True], ids=["network", "bare"])
@pytest.mark.parametrize("optimizer", ["gauss-newton", "auto"])
def test_evidence_and_the_switch_take_forces(
    made: Callable[..., TrainingSet], caplog: pytest.LogCaptureFixture, optimizer: str, bare: bool
) -> None:
    """The prefactor of the penalty follows from J^T J of energies, forces and stress."""
    caplog.set_level("INFO")
    truth = make_bond_order(form="plain", bare=bare, max_random=0.3, seed=8)
    training_set = labelled_by(truth, made(truth, n=4))
    start = make_bond_order(form="plain", bare=bare, max_random=0.1)
    chosen = {"gauss-newton": GaussNewtonSettings(), "auto": AutoSettings()}[optimizer]
    settings = FitSettings(
        optimizer=chosen, l2="auto", l2_form="squared", force_weight=0.1, stress_weight=0.1, steps=10, seed=1
    )
    history = fit(start, training_set, settings=settings)
    assert history.loss[-1] < 0.1 * history.loss[0]
    assert "parameters determined" in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# fits


@pytest.mark.parametrize("weight", [0.0, 0.1], ids=["energies", "forces, which the baseline leaves to networks"])
@pytest.mark.parametrize("form", FORMS)
def test_a_known_bare_potential_is_recovered(made: Callable[..., TrainingSet], form: Form, weight: float) -> None:
    """By `fit_baseline`, up to the signs that the squared form leaves open; A, alpha and beta compensate each other."""
    truth = replace(make_bond_order(form=form, bare=True), bond_order_parameters=SILICON)
    training_set = labelled_by(truth, made(truth, n=12))
    start = make_bond_order(form=form, max_random=0.1)
    changed = tuple(1.03 * number for number in SILICON)
    start = replace(start, bond_order_parameters=changed)
    before = start.networks.flat().clone()
    settings = FitSettings(force_weight=weight, stress_weight=weight, seed=1)
    found = fit_baseline(start, training_set, settings, starts=1)
    assert torch.equal(found.networks.flat(), before)
    assert found.use_baseline
    assert np.abs(found.bond_order_parameters) == pytest.approx(SILICON, rel=1e-3)
    assert start.bond_order_parameters == changed


def test_the_baseline_of_two_elements_and_of_a_bare_potential(made: Callable[..., TrainingSet]) -> None:
    truth = make_bond_order(("Si", "C"), "plain", bare=True, scatter=0.05)
    training_set = labelled_by(truth, made(truth, n=6))
    start = make_bond_order(("Si", "C"), "plain", bare=True, scatter=0.1, seed=9)
    found = fit_baseline(start, training_set, FitSettings(seed=1), starts=1)
    assert found.is_bare
    assert not bool(found.networks.biases[0].any())

    def loss(potential: Potential) -> float:
        flat = potential.networks.flat()
        return float(Objective(training_set, potential=potential).evaluate(flat, potential.networks).errors.loss)

    assert loss(found) < 0.05 * loss(start)


def test_perturbations_go_on_from_the_baseline(
    made: Callable[..., TrainingSet], caplog: pytest.LogCaptureFixture
) -> None:
    """A network learns what a baseline cannot, with forces, and resumes bit for bit."""
    truth = make_bond_order(form="plain", max_random=0.4, seed=8)
    training_set = labelled_by(truth, made(truth, n=6))
    train, validation = training_set.select([0, 1, 2, 4]), training_set.select([3, 5])
    settings = FitSettings(steps=4, force_weight=0.05, stress_weight=0.05, seed=2, spread_penalty=1e-6)
    states: list[object] = []
    whole = make_bond_order(form="plain", max_random=0.1)
    history = fit(whole, train, validation, settings=settings, random_starts=True)
    assert history.loss[-1] < 0.3 * history.loss[0]
    half = make_bond_order(form="plain", max_random=0.1)
    fit(half, train, validation, settings=replace(settings, steps=2), random_starts=True,
        checkpoint=lambda state, last: states.append(state()) if last else None)  # fmt: skip
    resumed = make_bond_order(form="plain", max_random=0.1)
    again = fit(resumed, train, validation, settings=settings, random_starts=True, resume=states[-1])  # type: ignore[arg-type]
    assert again.loss == history.loss
    assert torch.equal(resumed.networks.flat(), whole.networks.flat())


# ---------------------------------------------------------------------------------------------------------------------
# what is said and refused


def test_negative_parameters_are_named_at_the_end(
    made: Callable[..., TrainingSet], caplog: pytest.LogCaptureFixture
) -> None:
    potential = make_bond_order(("Si", "C"), "plain", bare=True)
    numbers = list(potential.bond_order_parameters)
    numbers[-1] = -0.01
    potential = replace(potential, bond_order_parameters=tuple(numbers))
    fit(potential, made(potential), steps=0)
    assert "local parameter lambda22 is negative for 10 of 23 atoms that train, -0.01 at least" in caplog.text
    assert caplog.text.count("is negative") == 1


def test_parameters_that_make_no_sense_are_named_with_the_atom(made: Callable[..., TrainingSet]) -> None:
    potential = make_bond_order(form="plain", bare=True)
    numbers = list(potential.bond_order_parameters)
    numbers[6] = -30.0  # a: 1 + z is negative where there are angles
    potential = replace(potential, bond_order_parameters=tuple(numbers))
    with pytest.raises(InputError, match=r"structure 1 of those that train \(group made\), atom 1: .*a -30, lambda"):
        fit(potential, made(potential), steps=1)


@pytest.mark.parametrize("what", ["gauss-newton", "l2 auto"])
def test_what_has_no_matrix_is_refused(made: Callable[..., TrainingSet], what: str) -> None:
    potential = make_bond_order(form="plain")
    auto = FitSettings(l2="auto", l2_form="squared", spread_penalty=0.2)
    given = FitSettings(optimizer=GaussNewtonSettings(), l2_form="squared", l2=1e-8, size_penalty=0.1)
    chosen, message = {
        "gauss-newton": (given, r"size_penalty: expected 0 with gauss-newton, got 0\.1: .* LBFGS"),
        "l2 auto": (auto, r"spread_penalty: expected 0 with l2 auto, got 0\.2"),
    }[what]
    with pytest.raises(InputError, match=message):
        fit(potential, made(potential), settings=chosen)


def test_straight_networks_have_no_local_parameters(made: Callable[..., TrainingSet]) -> None:
    straight = make_potential()
    with pytest.raises(InputError, match=r"size_penalty: expected 0 for a straight network, got 0\.1"):
        fit(straight, made(straight), settings=FitSettings(size_penalty=0.1))
    with pytest.raises(InputError, match="negative_penalty: expected 0 for a straight network, got 3"):
        fit(straight, made(straight), settings=FitSettings(negative_penalty=3))
    fit(straight, made(straight), settings=FitSettings(negative_penalty=0, steps=0))
    with pytest.raises(InputError, match="baseline: expected a physically informed network, got a straight network"):
        fit_baseline(straight, made(straight), FitSettings())
    with pytest.raises(InputError, match="spread_penalty: expected a number >= 0, got -1"):
        FitSettings(spread_penalty=-1)
    with pytest.raises(InputError, match="baseline_starts: expected a whole number above 0, got 0"):
        fit_baseline(make_bond_order(), made(make_bond_order()), FitSettings(), starts=0)


def test_positions_are_needed(made: Callable[..., TrainingSet]) -> None:
    potential = make_bond_order()
    training_set = made(potential)
    without = replace(training_set, positions=torch.full_like(training_set.positions, math.nan))
    with pytest.raises(InputError, match="of a physically informed network, needs positions, which this"):
        fit(potential, without, steps=0)


@pytest.mark.parametrize("elements", ELEMENTS, ids="-".join)
def test_outputs_are_scaled_while_they_train(made: Callable[..., TrainingSet], elements: tuple[str, ...]) -> None:
    """So that a unit of each output changes energies alike; the potential that is written knows nothing of it."""
    potential = make_bond_order(elements, "plain", max_random=0.1)
    training_set = made(potential)
    scales = output_scales(potential, training_set)
    at_baseline = ElementNetworks(
        tuple(torch.zeros_like(weight) for weight in potential.networks.weights),
        tuple(torch.zeros_like(bias) for bias in potential.networks.biases),
        potential.networks.activation,
    )
    for element in range(len(elements)):
        squares = [
            local.slopes[0][block.species == element].square()
            for _, block, _ in Objective(training_set, potential=potential).local(at_baseline.flat(), at_baseline)
            if (local := block.local(at_baseline.without_offset(), gradient=True)).slopes is not None
        ]
        rms = torch.cat(squares).mean(dim=0).sqrt()
        most = 10 * potential.baseline[element].abs().clamp(min=1)  # with lambda energies hardly change here
        assert bool((1 / rms > most)[-1])
        bounded = (1 / rms).minimum(most)[rms > 0]
        torch.testing.assert_close(scales[element][rms > 0], bounded, rtol=1e-12, atol=0)
    conditioning = condition(training_set, "half")
    assert conditioning is not None
    conditioning = replace(conditioning, outputs=scales)
    own = conditioning.unfold(potential.networks)
    torch.testing.assert_close(conditioning.fold(own).flat(), potential.networks.flat(), rtol=1e-12, atol=1e-13)
    for weights in ({}, ALL):
        how = {"potential": potential, "penalties": PENALTIES}
        expected = Objective(training_set, weights, **how).evaluate(potential.networks.flat(), potential.networks)
        objective = Objective(training_set, weights, conditioning=conditioning, **how)
        found = objective.evaluate(own.flat(), own)
        torch.testing.assert_close(found.minimised, expected.minimised, rtol=1e-12, atol=0)
        assert_gradient(objective, own, 8)
