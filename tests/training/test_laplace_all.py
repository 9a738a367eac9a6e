"""Error bars of all parameters: against dense NumPy with J by autograd and differences, on known noise, and refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from models.test_last_layer import make_uncertainty
from sample_sets import make_potential
from training.test_laplace import BOTH, ELEMENTS, covariance, make_labelled

from pyfit_gpu.datasets.pool import energy_error_bars
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.error_bars import ErrorBars
from pyfit_gpu.models.networks import ElementLayout, ElementNetworks
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import predict, predict_batch, prediction_batches
from pyfit_gpu.models.uncertainty import PredictedUncertainty
from pyfit_gpu.training.input_statistics import condition
from pyfit_gpu.training.laplace import build_error_bars
from pyfit_gpu.training.loss import LabelWeights
from pyfit_gpu.training.regularisation import parameter_groups

STEP = 1e-4


def build(potential: Potential, train: TrainingSet, *more: TrainingSet, **named: object) -> ErrorBars:
    return build_error_bars(potential, train, *more, form="all-parameters", **named)  # type: ignore[arg-type]


def predicted(potential: Potential, part: TrainingSet, flat: torch.Tensor) -> torch.Tensor:
    """Energies, then forces, then stress, in one vector, for parameters in the order of the file."""
    changed = replace(potential, networks=potential.networks.with_flat(flat[None].clone()))
    found = predict(changed, part.structures())
    return torch.cat([found.energy, found.forces.flatten(), found.stress.flatten()])


def jacobian(potential: Potential, part: TrainingSet) -> np.ndarray:
    """(n, P) by central differences: nothing of the package's own derivatives of parameters."""
    flat = potential.networks.flat()[0].detach()
    columns = []
    for k in range(len(flat)):
        unit = torch.zeros_like(flat)
        unit[k] = STEP
        change = predicted(potential, part, flat + unit) - predicted(potential, part, flat - unit)
        columns.append(change / (2 * STEP))
    return torch.stack(columns, dim=1).numpy()


def row_weights(train: TrainingSet, weights: dict[str, float]) -> np.ndarray:
    """Square roots of the weights of all predictions in the squared loss."""
    label, sizes = LabelWeights.of(train), train.sizes.double()
    forces = (weights.get("forces", 0.0) * label["forces"]).sqrt()[torch.repeat_interleave(train.sizes)]
    stress = (weights.get("stress", 0.0) * label["stress"]).sqrt() * train.volume / sizes
    return torch.cat([label["energy"].sqrt() / sizes, forces.repeat_interleave(3), stress.repeat_interleave(6)]).numpy()


def prior(potential: Potential, train: TrainingSet, penalty: float) -> np.ndarray:
    """Penalty as a matrix in the parameters of the file, from that in those of conditioned inputs: by `unfold`."""
    conditioning = condition(train, "half")
    networks = potential.networks

    def unfolded(flat: torch.Tensor) -> torch.Tensor:
        return conditioning.unfold(networks.with_flat(flat)).flat()

    basis = unfolded(torch.eye(networks.n_parameters, dtype=torch.float64)).T.numpy()
    return penalty * basis.T @ basis


def small(n_elements: int, **named: object) -> Potential:
    settings = {"gaussian_centers": (1.7, 2.8)} if n_elements == 1 else {"gaussian_centers": (2.2,)}
    orders = (0, 2) if n_elements == 1 else (0,)
    return make_potential(ELEMENTS[n_elements], hidden=(3, 2), legendre_orders=orders, **settings, **named)


@pytest.mark.parametrize(("n_elements", "activation", "weights"), [(1, 1, {}), (1, 0, BOTH), (2, 1, BOTH)])
def test_variances_are_those_of_the_dense_covariance(
    n_elements: int, activation: int, weights: dict[str, float]
) -> None:
    potential = small(n_elements, activation=activation)
    train, others = make_labelled(potential, 6), make_labelled(potential, 3, seed=9)
    train = replace(train, weight=torch.tensor([1.0, 2.0, 0.5] * 2, dtype=torch.float64))
    bars = build(potential, train, weights=weights, penalty=1e-4)
    assert torch.equal(bars.root, bars.root.tril())
    rows = row_weights(train, weights)[:, None] * jacobian(potential, train)
    matrix = rows.T @ rows + prior(potential, train, 1e-4)
    own = jacobian(potential, others)[: len(others) + 3 * others.n_atoms]
    expected = np.sqrt(np.einsum("np,pn->n", own, np.linalg.solve(matrix, own.T)) * bars.noise)
    found = deviations(potential, bars, others)
    assert found.forces is not None
    together = torch.cat([found.energy, found.forces.flatten()]).numpy()
    np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-6 * expected.max())
    gamma = np.trace(np.linalg.solve(matrix, rows.T @ rows))
    assert bars.n_effective == pytest.approx(gamma, rel=1e-5)


def deviations(potential: Potential, bars: ErrorBars, part: TrainingSet) -> PredictedUncertainty:
    uncertainty = replace(make_uncertainty(potential), error_bars=bars)
    found = predict(potential, part.structures(), derivatives=False, uncertainty=uncertainty, force_errors=True)
    assert found.uncertainty is not None
    return found.uncertainty


def test_energies_by_autograd_in_every_way_to_them() -> None:
    # With and without derivatives, in batches and from features of a set.
    potential = small(2)
    train, others = make_labelled(potential, 6), make_labelled(potential, 5, seed=9)
    bars = build(potential, train)
    flat = potential.networks.flat().detach().requires_grad_()

    def energies(point: torch.Tensor) -> torch.Tensor:
        networks: ElementNetworks = potential.networks.with_flat(point)
        layout = ElementLayout.of(others.species, 2)
        atomic = layout.restore(networks(layout.arrange(others.features)))[0, :, 0]
        return torch.stack([one.sum() for one in atomic.split(others.sizes.tolist())])

    rows = torch.autograd.functional.jacobian(energies, flat)[:, 0]
    expected = (bars.noise * (rows @ bars.root).square().sum(dim=1)).sqrt()
    uncertainty = replace(make_uncertainty(potential), error_bars=bars)
    plain = predict(potential, others.structures())
    for derivatives in (False, True):
        found = predict(potential, others.structures(), derivatives=derivatives, uncertainty=uncertainty)
        torch.testing.assert_close(found.uncertainty.energy, expected, rtol=1e-9, atol=0)
        assert torch.equal(found.energy, plain.energy)
    torch.testing.assert_close(energy_error_bars(potential, bars, others), expected / others.sizes, rtol=1e-9, atol=0)


def test_single_precision() -> None:
    # Variances stay float64 inside: they are differences of large numbers.
    potential = small(2)
    train, others = make_labelled(potential, 6), make_labelled(potential, 5, seed=9)
    bars = build(potential, train, weights=BOTH)
    uncertainty = replace(make_uncertainty(potential), error_bars=bars).to("cpu", torch.float32)
    expected = deviations(potential, bars, others)
    single = potential.to("cpu", torch.float32)
    (batch,) = prediction_batches(others.sizes.tolist(), others.structures().select, single)
    found = predict_batch(single, batch, uncertainty=uncertainty, force_errors=True).uncertainty
    assert found.energy.dtype == found.forces.dtype == torch.float32
    torch.testing.assert_close(found.energy.double(), expected.energy[batch.rows], rtol=1e-3, atol=0)
    torch.testing.assert_close(found.forces.double(), expected.forces[batch.atoms], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("noise", [0.002, 0.05])
def test_noise_of_the_training_residuals(noise: float) -> None:
    potential = small(1)
    train = make_labelled(potential, 400, noise=(noise, 0.0))
    found = build(potential, train)
    assert found.calibrations["energy"].factor * 400 == pytest.approx(noise**2, rel=0.25)
    assert 1 < found.n_effective < potential.networks.n_parameters


def test_calibration_recovers_the_scale_of_the_errors() -> None:
    # Labels whose errors have the variance c j^T C j: that c must come back, for each label its own.
    potential = small(2)
    train = make_labelled(potential, 40)
    plain = build(potential, train, weights=BOTH)
    validation = make_labelled(potential, 200, seed=7, noise=(0.0, 0.0))
    rng = np.random.default_rng(3)
    scales = {"energy": 4e-3, "forces": 0.3}
    own = deviations(potential, plain, validation)
    exact = predict(potential, validation.structures())

    def drawn(label: str, deviation: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=deviation.shape)) * deviation * (scales[label] / plain.noise) ** 0.5

    forces = exact.forces + drawn("forces", own.forces)
    validation = replace(validation, energy=exact.energy + drawn("energy", own.energy), forces=forces)
    found = build(potential, train, validation, weights=BOTH)
    assert covariance(found) == pytest.approx(covariance(plain))
    for label, scale in scales.items():
        assert found.calibrations[label].factor == pytest.approx(scale, rel=0.2)
    assert found.calibrations["energy"].n_values == 200
    assert found.calibrations["forces"].n_values == pytest.approx(3 * validation.n_atoms, rel=5e-3)


def test_penalties_are_where_the_evidence_is_greatest() -> None:
    # log p(data | a, s) of the linearised model, prefactor by prefactor.
    potential = small(1)
    train = make_labelled(potential, 40)
    found = build(potential, train)
    rows = row_weights(train, {})[: len(train), None] * jacobian(potential, train)[: len(train)]
    conditioning = condition(train, "half")
    networks = potential.networks
    fold = conditioning.fold(networks.with_flat(torch.eye(networks.n_parameters, dtype=torch.float64))).flat()
    rows = rows @ fold.T.numpy()
    parameters = conditioning.unfold(networks).flat()[0].numpy()
    groups = parameter_groups(networks).numpy()
    square = found.noise * (len(train) - found.n_effective)

    def log_evidence(strengths: np.ndarray) -> float:
        a = strengths[groups]
        misfit = (square + (a * parameters**2).sum()) / found.noise
        return -0.5 * (misfit + np.linalg.slogdet(rows.T @ rows + np.diag(a))[1] - np.log(a).sum())

    best = np.array(found.penalties)
    assert len(best) == 6
    for number in range(6):
        for factor in (1e-3, 0.5, 2.0, 1e3):
            other = best.copy()
            other[number] *= factor
            assert log_evidence(other) < log_evidence(best) + 0.5  # it ends when steps are small
    for factor in (1e-2, 1e2):
        assert log_evidence(factor * best) < log_evidence(best) - 1


def test_structures_without_energies_do_not_train() -> None:
    potential = small(1)
    train = make_labelled(potential, 8)
    energy = train.energy.clone()
    energy[[2, 5]] = torch.nan
    found = build(potential, replace(train, energy=energy), penalty=1e-3)
    expected = build(potential, train.select([0, 1, 3, 4, 6, 7]), penalty=1e-3)
    assert covariance(found) == pytest.approx(covariance(expected))


def test_a_set_without_positions_gives_energies_alone() -> None:
    potential = small(2)
    train = make_labelled(potential, 12)
    blind = replace(train, positions=torch.full_like(train.positions, torch.nan))
    found, expected = build(potential, blind, blind), build(potential, train, train)
    assert covariance(found) == pytest.approx(covariance(expected))
    assert found.calibrations["energy"].factor == pytest.approx(expected.calibrations["energy"].factor)
    assert found.calibrations["energy"].n_values == 12
    assert found.calibrations["forces"].n_values == 0


class TestRefused:
    def test_more_than_the_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        potential = small(1)
        train = make_labelled(potential, 3)
        monkeypatch.setattr("pyfit_gpu.devices.known_memory", lambda device: 1000)
        with pytest.raises(InputError, match=r"memory: expected at least .* for error bars of all \d+ parameters"):
            build(potential, train)

    def test_a_structure_too_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        potential = small(1)
        train = make_labelled(potential, 3)
        bars = build(potential, train)
        monkeypatch.setattr("pyfit_gpu.devices.known_memory", lambda device: 5000)
        with pytest.raises(InputError, match=r"memory: .* error bars of the forces on \d+ atoms from all parameters"):
            deviations(potential, bars, train)

    def test_a_form(self) -> None:
        potential = small(1)
        with pytest.raises(InputError, match="form: expected one of last-layer, all-parameters, got 'whole'"):
            build_error_bars(potential, make_labelled(potential, 3), form="whole")  # type: ignore[arg-type]

    def test_a_penalty_that_rounding_swallows(self) -> None:
        potential = small(1)
        with pytest.raises(InputError, match="penalty: expected at least"):
            build(potential, make_labelled(potential, 3), penalty=1e-40)

    def test_numbers_that_are_none(self) -> None:
        potential = small(1)
        train = make_labelled(potential, 5)
        broken = replace(train, features=train.features.clone().fill_(torch.nan))
        with pytest.raises(InputError, match="finite predictions and labels of the training structures"):
            build(potential, broken)

    def test_another_network(self) -> None:
        bars = build(small(1), make_labelled(small(1), 5))
        bars.check(small(1), "bars")
        with pytest.raises(InputError, match=r"bars: expected error bars of 50 parameters, found 26"):
            bars.check(make_potential(hidden=(5, 2), gaussian_centers=(1.7, 2.8, 3.3)), "bars")
