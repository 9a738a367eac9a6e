"""Error bars of informed potentials from a training set: covariance, calibration, coverage, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from bond_order_autograd import last_layer_row
from bond_order_samples import make_bond_order
from training.test_informed import noisy_set

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.pool import energy_error_bars
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.error_bars import FORMS as BAR_FORMS
from pyfit_gpu.models.error_bars import ErrorBars
from pyfit_gpu.models.error_bars import Form as BarForm
from pyfit_gpu.models.potential import Form, Potential
from pyfit_gpu.models.prediction import predict, prediction_batches, rows_of_batch
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.clusters import build_extrapolation_grade
from pyfit_gpu.training.laplace import build_error_bars, last_parameters
from pyfit_gpu.training.loss import LabelWeights

MakeFrame = Callable[..., Frame]
ELEMENTS = [("Si",), ("Si", "C")]
FORMS: tuple[Form, ...] = ("squared", "plain")
BOTH = {"forces": 0.2, "stress": 0.1}
STEP = 1e-4


def last_of(potential: Potential) -> torch.Tensor:
    """(P,), parameters of the last layers of the networks."""
    weight, bias = potential.networks.weights[-1][0], potential.networks.biases[-1][0]
    return torch.cat((weight, bias[:, None]), dim=1).flatten()


def with_last(potential: Potential, parameters: torch.Tensor) -> Potential:
    """The potential with other parameters (P,) of its last layers."""
    weight = potential.networks.weights[-1]
    _, n_elements, n_hidden, n_outputs = weight.shape
    whole = parameters.view(1, n_elements, n_hidden + 1, n_outputs)
    networks = replace(
        potential.networks,
        weights=(*potential.networks.weights[:-1], whole[:, :, :-1]),
        biases=(*potential.networks.biases[:-1], whole[:, :, -1]),
    )
    return replace(potential, networks=networks)


@pytest.fixture
def labelled(make_frame: MakeFrame) -> Callable[..., TrainingSet]:
    return partial(noisy_set, make_frame)


def residuals(potential: Potential, train: TrainingSet, weights: dict[str, float]) -> torch.Tensor:
    """Weighted residuals of the loss."""
    label, owner = LabelWeights.of(train), torch.repeat_interleave(train.sizes)
    found = predict(potential, train.structures())
    parts = [(found.energy - train.energy_used) / train.sizes * label["energy"].sqrt()]
    if "forces" in weights:
        root = (weights["forces"] * label["forces"]).sqrt()[owner]
        parts.append(((found.forces - train.forces) * root[:, None]).flatten())
    if "stress" in weights:
        root = (weights["stress"] * label["stress"]).sqrt() * train.volume / train.sizes
        parts.append(((found.stress - train.stress) * root[:, None]).flatten())
    return torch.cat(parts)


def jacobian(potential: Potential, train: TrainingSet, weights: dict[str, float]) -> np.ndarray:
    """(N, P), one column after the other by fourth-order central differences of predictions."""
    start = last_of(potential)
    columns = []
    for unit in torch.eye(len(start), dtype=torch.float64):
        one, two = (
            residuals(with_last(potential, start + n * STEP * unit), train, weights)
            - residuals(with_last(potential, start - n * STEP * unit), train, weights)
            for n in (1, 2)
        )
        columns.append((8 * one - two) / (12 * STEP))
    return torch.stack(columns, dim=1).numpy()


def covariance(bars: ErrorBars) -> np.ndarray:
    return (bars.root @ bars.root.T).numpy()


@pytest.mark.parametrize("weights", [{}, BOTH], ids=["energies", "forces"])
@pytest.mark.parametrize(
    ("elements", "form", "bare"),
    [(("Si",), "plain", False), (("Si",), "squared", True), (("Si", "C"), "squared", True)],
)
def test_covariance_is_the_dense_one(
    labelled: Callable[..., TrainingSet], elements: tuple[str, ...], form: Form, bare: bool, weights: dict[str, float]
) -> None:
    potential = make_bond_order(elements, form, bare=bare)
    train = labelled(potential, 4)
    train = replace(train, weight=torch.tensor([1.0, 2.0, 0.5, 0.0], dtype=torch.float64))
    found = build_error_bars(potential, train, weights=weights, penalty=1e-2)
    rows, errors = jacobian(potential, train, weights), residuals(potential, train, weights).numpy()
    normal = rows.T @ rows
    expected = np.linalg.inv(normal + 1e-2 * np.eye(len(normal)))
    np.testing.assert_allclose(covariance(found), expected, rtol=1e-6, atol=1e-6)
    gamma = np.trace(expected @ normal)
    assert found.n_effective == pytest.approx(gamma, rel=1e-6)
    n_values = np.count_nonzero(errors)  # those of the last structure are zero
    assert found.noise == pytest.approx(errors @ errors / max(n_values - gamma, 1.0))


def test_the_penalty_is_on_the_numbers_of_the_file(labelled: Callable[..., TrainingSet]) -> None:
    """Numbers of a bare potential may stand in its biases, as while it trains, or in the baseline."""
    network, bare = make_bond_order(), make_bond_order(bare=True)
    assert torch.equal(last_parameters(network), last_of(network))
    zeros = (0.0,) * len(bare.bond_order_parameters)
    moved = replace(with_last(bare, bare.baseline.flatten()), bond_order_parameters=zeros)
    assert torch.equal(last_parameters(bare), bare.baseline.flatten())
    found, expected = (build_error_bars(one, labelled(bare, 6)) for one in (moved, bare))
    assert found.penalties == expected.penalties
    assert torch.equal(found.root, expected.root)


@pytest.mark.parametrize("form", FORMS)
def test_normal_matrix_by_autograd(labelled: Callable[..., TrainingSet], form: Form) -> None:
    """Energies of two elements, from the independent formulas."""
    potential = make_bond_order(("Si", "C"), form)
    train = labelled(potential, 3)
    structures = train.structures()
    frames = [frame_of(structures, k) for k in range(3)]
    rows = torch.stack([last_layer_row(potential, frame) for frame in frames]) / train.sizes[:, None]
    rows = (rows * LabelWeights.of(train)["energy"].sqrt()[:, None]).numpy()
    found = build_error_bars(potential, train, penalty=1e-2)
    expected = np.linalg.inv(rows.T @ rows + 1e-2 * np.eye(rows.shape[1]))
    np.testing.assert_allclose(covariance(found), expected, rtol=1e-9, atol=1e-9)


def frame_of(structures: Structures, number: int) -> Frame:
    one = structures.select([number])
    n = one.sizes[0]
    numbers = one.atomic_numbers[0, :n].numpy()
    return Frame(one.positions[0, :n].numpy(), one.cell[0].numpy(), np.ones(3, dtype=bool), numbers, "", "")


@pytest.mark.parametrize("bare", [False, True], ids=["network", "bare"])
def test_error_bars_are_the_spread_of_the_posterior(labelled: Callable[..., TrainingSet], bare: bool) -> None:
    """Potentials drawn from a narrow posterior differ in energies and forces of other structures as its bars say."""
    potential = make_bond_order(bare=bare)
    bars = build_error_bars(potential, labelled(potential, 12), weights=BOTH, penalty=1.0)
    others = labelled(potential, 4, seed=50)
    structures = others.structures()
    uncertainty = Uncertainty.of(potential, build_extrapolation_grade(others, potential), bars)
    own = predict(potential, structures, uncertainty=uncertainty, force_errors=True)
    rng, small, start = np.random.default_rng(0), 1e-3, last_of(potential)
    factor = bars.noise**0.5
    energies, forces = [], []
    for _ in range(300):
        step = bars.root @ torch.from_numpy(rng.normal(size=len(start)))
        found = predict(with_last(potential, start + small * step), structures)
        energies.append((found.energy - own.energy) * factor / small)
        forces.append((found.forces - own.forces) * factor / small)
    for known, differences in ((own.uncertainty.energy, energies), (own.uncertainty.forces, forces)):
        spread = torch.stack(differences).square().mean(dim=0).sqrt()
        torch.testing.assert_close(spread, known, rtol=0.15, atol=1e-3 * float(known.max()))


def test_calibration_recovers_the_scale_and_covers(labelled: Callable[..., TrainingSet]) -> None:
    """Labels whose errors have the variance c j^T C j: that c comes back, and other labels lie inside of the bars."""
    potential = make_bond_order()
    train = labelled(potential, 12)
    plain = build_error_bars(potential, train, weights=BOTH)
    scales = {"energy": 4e-3, "forces": 0.3}
    rng = np.random.default_rng(3)

    def drawn(seed: int) -> TrainingSet:
        found = labelled(potential, 60, seed=seed, noise=(0.0, 0.0))
        errors = {}
        for label, rows in rows_of(potential, found).items():
            size = (scales[label] * plain.relative_variances(rows)).sqrt()
            errors[label] = size * torch.from_numpy(rng.normal(size=tuple(size.shape)))
        return replace(found, energy=found.energy + errors["energy"][:, 0], forces=found.forces + errors["forces"])

    found = build_error_bars(potential, train, drawn(100), weights=BOTH)
    np.testing.assert_allclose(covariance(found), covariance(plain), rtol=1e-12)
    assert found.calibrations["energy"].factor == pytest.approx(scales["energy"], rel=0.4)
    assert found.calibrations["forces"].factor == pytest.approx(scales["forces"], rel=0.2)
    assert found.calibrations["energy"].n_values == 60
    others = drawn(300)
    uncertainty = Uncertainty.of(potential, build_extrapolation_grade(train, potential), found)
    made = predict(potential, others.structures(), uncertainty=uncertainty, force_errors=True)
    for errors, size in (
        (made.energy - others.energy, made.uncertainty.energy),
        (made.forces - others.forces, made.uncertainty.forces),
    ):
        inside = [float((errors.abs() < n * size).double().mean()) for n in (1, 2)]
        assert inside == pytest.approx([0.68, 0.95], abs=0.14)


def rows_of(potential: Potential, part: TrainingSet) -> dict[str, torch.Tensor]:
    structures = part.structures()
    (batch,) = prediction_batches(structures.sizes, structures.select, potential)
    rows = rows_of_batch(potential, batch, derivatives=True)[1]
    energies = rows.of_energies()[torch.argsort(batch.rows)]
    return {"energy": energies[:, None], "forces": rows.of_derivatives()[0][torch.argsort(batch.atoms)]}


@pytest.mark.parametrize("elements", ELEMENTS, ids="-".join)
def test_selection_takes_error_bars_of_predictions(
    labelled: Callable[..., TrainingSet], elements: tuple[str, ...]
) -> None:
    potential = make_bond_order(elements)
    whole = labelled(potential, 6)
    bars = build_error_bars(potential, whole)
    uncertainty = Uncertainty.of(potential, build_extrapolation_grade(whole, potential), bars)
    found = predict(potential, whole.structures(), derivatives=False, uncertainty=uncertainty).uncertainty
    np.testing.assert_allclose(energy_error_bars(potential, bars, whole), found.energy / whole.sizes, rtol=1e-10)
    blind = replace(whole, positions=torch.full_like(whole.positions, torch.nan))
    with pytest.raises(InputError, match=r"error bars: expected structures with positions for a physically informed"):
        energy_error_bars(potential, bars, blind)


def test_positions_are_needed(labelled: Callable[..., TrainingSet]) -> None:
    potential = make_bond_order()
    train = labelled(potential, 3)
    blind = replace(train, positions=torch.full_like(train.positions, torch.nan))
    fault = r"error bars: expected a {} set with positions, on which energies of a physically informed .* got one with"
    with pytest.raises(InputError, match=fault.format("training")):
        build_error_bars(potential, blind)
    with pytest.raises(InputError, match=fault.format("validation")):
        build_error_bars(potential, train, blind)


@pytest.mark.parametrize("form", BAR_FORMS)
@pytest.mark.parametrize("bare", [False, True], ids=["network", "bare"])
def test_structures_without_bonds_say_nothing(make_frame: MakeFrame, bare: bool, form: BarForm) -> None:
    """No parameter changes their energies: there is no evidence for a penalty, and a given one is all there is."""
    potential = make_bond_order(bare=bare)
    lone = replace(make_frame([[0.0, 0, 0]], symbols=("Si",)), energy=0.1)
    train = build_training_set(Structures.from_frames([lone, lone]), potential, e_shift=0.0)
    with pytest.raises(InputError, match="expected training structures whose energies depend on the parameters"):
        build_error_bars(potential, train, form=form)
    assert build_error_bars(potential, train, form=form, penalty=0.1).n_effective == pytest.approx(0, abs=1e-9)
