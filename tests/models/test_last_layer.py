"""Derivatives with respect to the last layer against autograd and differences; error bars against dense NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_sets import make_potential

from pyfit_gpu.errors import InputError
from pyfit_gpu.models.batches import Batch, batches
from pyfit_gpu.models.error_bars import Calibration, ErrorBars
from pyfit_gpu.models.extrapolation import ExtrapolationGrade
from pyfit_gpu.models.last_layer import n_last_parameters
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import Prediction, predict, rows_of_batch
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame

ELEMENTS = {1: ("Si",), 2: ("Si", "C"), 3: ("Si", "C", "O")}
NUMBERS = {"Si": 14, "C": 6, "O": 8}


def make_frames(elements: tuple[str, ...], sizes: tuple[int, ...] = (5, 3, 1), seed: int = 4) -> list[Frame]:
    rng = np.random.default_rng(seed)
    frames = []
    for size in sizes:
        grid = np.stack(np.meshgrid(*[np.arange(2) * 2.3] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:size]
        numbers = [NUMBERS[elements[k % len(elements)]] for k in range(size)]
        frames.append(
            Frame(
                positions=grid + rng.normal(scale=0.2, size=(size, 3)),
                cell=np.diag([5.1, 5.3, 5.6]) + 0.1,
                pbc=np.ones(3, dtype=bool),
                atomic_numbers=np.array(numbers),
                group="",
                source="made up",
            )
        )
    return frames


def one_batch(potential: Potential, frames: list[Frame]) -> Batch:
    structures = Structures.from_frames(frames)
    (found,) = batches(structures.sizes, structures.select, potential, max_atoms=10_000)
    return found


def predict_rows(
    potential: Potential, frames: list[Frame]
) -> tuple[Prediction, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prediction, and rows of energies, forces and virials; in the batch's order."""
    predicted, rows = rows_of_batch(potential, one_batch(potential, frames), derivatives=True)
    return predicted, rows.of_energies(), *rows.of_derivatives()


def last_layer_changed(potential: Potential, number: int, step: float) -> Potential:
    """The potential with one parameter of the last layers changed, counted as in the rows."""
    weight, bias = potential.networks.weights[-1].clone(), potential.networks.biases[-1].clone()
    element, place = divmod(number, weight.shape[2] + 1)
    if place < weight.shape[2]:
        weight[0, element, place] += step
    else:
        bias[0, element] += step
    networks = replace(
        potential.networks,
        weights=(*potential.networks.weights[:-1], weight),
        biases=(*potential.networks.biases[:-1], bias),
    )
    return replace(potential, networks=networks)


@pytest.mark.parametrize("n_elements", ELEMENTS)
@pytest.mark.parametrize("hidden", [(5, 4), (6,), (4, 3, 2)])
def test_rows_are_the_derivatives(n_elements: int, hidden: tuple[int, ...]) -> None:
    # Predictions are linear in the last layer: one difference with a step of 1 is exact.
    potential = make_potential(ELEMENTS[n_elements], hidden=hidden)
    frames = make_frames(potential.descriptor.elements)
    predicted, energies, forces, virials = predict_rows(potential, frames)
    assert n_last_parameters(potential) == n_elements * (hidden[-1] + 1) == energies.shape[1]
    volume = one_batch(potential, frames).structures.volume[:, None]
    for number in range(energies.shape[1]):
        moved = predict_rows(last_layer_changed(potential, number, 1.0), frames)[0]
        torch.testing.assert_close(energies[:, number], moved.energy - predicted.energy, rtol=0, atol=1e-12)
        torch.testing.assert_close(forces[..., number], moved.forces - predicted.forces, rtol=0, atol=1e-12)
        change = (moved.stress - predicted.stress) * volume
        torch.testing.assert_close(virials[..., number], change, rtol=0, atol=1e-11)


@pytest.mark.parametrize("activation", [0, 1, 2])
def test_energy_rows_by_autograd(activation: int) -> None:
    potential = make_potential(("Si", "C"), activation=activation)
    frames = make_frames(("Si", "C"))
    batch = one_batch(potential, frames)
    rows = predict_rows(potential, frames)[1]
    weight, bias = potential.networks.weights[-1].requires_grad_(), potential.networks.biases[-1].requires_grad_()
    inputs = batch.features(potential.descriptor)
    by_element = potential.networks(inputs.expand(2, -1, -1))[0, :, :, 0]  # of every atom, by each network
    atomic = by_element[batch.species, torch.arange(len(inputs))]
    start = 0
    for k, size in enumerate(batch.sizes.tolist()):
        energy = atomic[start : start + size].sum()
        start += size
        by_weight, by_bias = torch.autograd.grad(energy, (weight, bias), retain_graph=True)
        expected = torch.cat((by_weight[0, :, :, 0], by_bias[0]), dim=1).flatten()
        torch.testing.assert_close(rows[k], expected, rtol=0, atol=1e-13)


def test_force_rows_are_differences_of_energy_rows() -> None:
    potential = make_potential(("Si", "C"))
    (frame,) = make_frames(("Si", "C"), sizes=(4,))
    forces = predict_rows(potential, [frame])[2]
    step = 1e-4
    for atom in range(4):
        for axis in range(3):
            rows = []
            for sign in (1, -1):
                positions = frame.positions.copy()
                positions[atom, axis] += sign * step
                rows.append(predict_rows(potential, [replace(frame, positions=positions)])[1][0])
            torch.testing.assert_close(forces[atom, axis], -(rows[0] - rows[1]) / (2 * step), rtol=0, atol=1e-7)


def make_bars(n_parameters: int, seed: int = 0) -> ErrorBars:
    root = np.tril(np.random.default_rng(seed).normal(size=(n_parameters, n_parameters)))
    factors = {"energy": Calibration(0.3, 7), "forces": Calibration(2.0, 0)}
    return ErrorBars(torch.from_numpy(root), factors, (1e-3,), 0.1, 2.5)


@pytest.mark.parametrize("n_elements", ELEMENTS)
def test_deviations_are_those_of_the_dense_covariance(n_elements: int) -> None:
    potential = make_potential(ELEMENTS[n_elements])
    _, energies, forces, _ = predict_rows(potential, make_frames(potential.descriptor.elements))
    bars = make_bars(energies.shape[1])
    bars.check(potential, "bars")
    covariance = bars.root.numpy() @ bars.root.numpy().T
    for label, factor, rows in (("energy", 0.3, energies[:, None]), ("forces", 2.0, forces)):
        expected = np.sqrt(factor * np.einsum("nmi,ij,nmj->nm", rows.numpy(), covariance, rows.numpy()))
        np.testing.assert_allclose(bars.deviations(label, rows).numpy(), expected, rtol=1e-12, atol=1e-14)


def test_forces_deviation_by_differences() -> None:
    # Var(F) = j^T C j with j by differences of energies' rows: independent of the force code.
    potential = make_potential()
    (frame,) = make_frames(("Si",), sizes=(4,))
    bars = make_bars(n_last_parameters(potential))
    found = bars.deviations("forces", predict_rows(potential, [frame])[2])
    step, rows = 1e-4, []
    for sign in (1, -1):
        positions = frame.positions.copy()
        positions[2, 1] += sign * step
        rows.append(predict_rows(potential, [replace(frame, positions=positions)])[1][0])
    j = ((rows[1] - rows[0]) / (2 * step)).numpy()
    expected = np.sqrt(2.0 * j @ bars.root.numpy() @ bars.root.numpy().T @ j)
    assert float(found[2, 1]) == pytest.approx(expected, rel=1e-6)


def test_invariances() -> None:
    potential = make_potential(("Si", "C"))
    (frame,) = make_frames(("Si", "C"), sizes=(6,))
    bars = make_bars(n_last_parameters(potential))
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    order = np.random.default_rng(2).permutation(6)
    turned = replace(frame, positions=frame.positions @ rotation.T + 0.7, cell=frame.cell @ rotation.T)
    mixed = replace(frame, positions=frame.positions[order], atomic_numbers=frame.atomic_numbers[order])
    _, energies, forces, _ = predict_rows(potential, [frame])
    own, own_forces = bars.deviations("energy", energies[:, None]), bars.deviations("forces", forces)
    for changed, atoms, basis in ((turned, np.arange(6), rotation), (mixed, order, np.eye(3))):
        _, energies, rows, _ = predict_rows(potential, [changed])
        torch.testing.assert_close(bars.deviations("energy", energies[:, None]), own, rtol=1e-10, atol=0)
        back = torch.einsum("nmp,mk->nkp", rows, torch.from_numpy(basis))  # components along the old axes
        torch.testing.assert_close(bars.deviations("forces", back), own_forces[atoms], rtol=1e-9, atol=0)


def make_uncertainty(potential: Potential) -> Uncertainty:
    n_elements, n_inputs = potential.descriptor.n_elements, potential.descriptor.n_features
    grade = ExtrapolationGrade(
        scale=torch.ones(n_elements, n_inputs, dtype=torch.float64),
        element=torch.arange(n_elements),
        n_atoms=torch.full((n_elements,), 9),
        centers=torch.zeros(n_elements, n_inputs, dtype=torch.float64),
        weight=torch.ones(n_elements, dtype=torch.float64),
        directions=torch.zeros(n_elements, 1, n_inputs, dtype=torch.float64),
    )
    return Uncertainty.of(potential, grade, make_bars(n_last_parameters(potential)))


@pytest.mark.parametrize("derivatives", [False, True])
def test_predict_gives_error_bars_and_changes_no_bit_of_the_rest(derivatives: bool) -> None:
    potential = make_potential(("Si", "C"))
    frames = make_frames(("Si", "C"))
    structures = Structures.from_frames(frames)
    uncertainty = make_uncertainty(potential)
    plain = predict(potential, structures, derivatives=derivatives)
    found = predict(potential, structures, derivatives=derivatives, uncertainty=uncertainty)
    assert found.uncertainty is not None
    assert uncertainty.error_bars is not None
    for name in ("energy", "atomic_energies", *(("forces", "stress") if derivatives else ())):
        assert torch.equal(getattr(found, name), getattr(plain, name)), name
    energies = predict_rows(potential, frames)[1]
    expected = uncertainty.error_bars.deviations("energy", energies[:, None])[:, 0]
    by_row = torch.empty_like(expected)
    by_row[one_batch(potential, frames).rows] = expected
    torch.testing.assert_close(found.uncertainty.energy, by_row, rtol=1e-10, atol=0)
    assert found.uncertainty.forces is None


def test_predict_gives_error_bars_of_forces_where_asked_for() -> None:
    potential = make_potential(("Si", "C"))
    frames = make_frames(("Si", "C"), sizes=(4,))
    uncertainty = make_uncertainty(potential)
    structures = Structures.from_frames(frames)
    found = predict(potential, structures, derivatives=False, uncertainty=uncertainty, force_errors=True)
    assert found.uncertainty is not None
    assert uncertainty.error_bars is not None
    expected = uncertainty.error_bars.deviations("forces", predict_rows(potential, frames)[2])
    torch.testing.assert_close(found.uncertainty.forces, expected, rtol=1e-12, atol=0)
    blind = replace(uncertainty, error_bars=None)
    with pytest.raises(InputError, match="force_errors: expected an uncertainty with error bars, got one without"):
        predict(potential, structures, uncertainty=blind, force_errors=True)
    with pytest.raises(InputError, match="belongs to another potential"):
        predict(make_potential(("Si", "C"), seed=8), structures, uncertainty=uncertainty)


def test_a_structure_has_the_same_bits_alone() -> None:
    potential = make_potential(("Si", "C"))
    frames = make_frames(("Si", "C"), sizes=(7, 7, 7))
    bars = make_bars(n_last_parameters(potential))
    _, energies, forces, _ = predict_rows(potential, frames)
    together = bars.deviations("energy", energies[:, None]), bars.deviations("forces", forces)
    for k, frame in enumerate(frames):
        _, energies, forces, _ = predict_rows(potential, [frame])
        assert torch.equal(bars.deviations("energy", energies[:, None])[0], together[0][k])
        assert torch.equal(bars.deviations("forces", forces), together[1][7 * k : 7 * (k + 1)])
