"""Derivatives with respect to the last layer of a physically informed network, against autograd and differences.

Error bars from them: what they do not depend on, and what they do not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from bond_order_autograd import last_layer_row
from bond_order_samples import make_bond_order
from models.test_last_layer import make_bars, make_uncertainty
from torch import Tensor

from pyfit_gpu.descriptors import lsp
from pyfit_gpu.errors import InputError
from pyfit_gpu.models import prediction
from pyfit_gpu.models.batches import Batch, batches
from pyfit_gpu.models.last_layer import n_last_parameters
from pyfit_gpu.models.potential import Form, Potential, n_bond_order_parameters
from pyfit_gpu.models.prediction import predict, rows_of_batch
from pyfit_gpu.models.uncertainty import PredictedUncertainty, Uncertainty
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame

MakeFrame = Callable[..., Frame]
ELEMENTS = [("Si",), ("Si", "C")]
FORMS: tuple[Form, ...] = ("squared", "plain")
STEP = 1e-3  # Å, and strain


def one_batch(potential: Potential, *frames: Frame) -> Batch:
    structures = Structures.from_frames(frames)
    (found,) = batches(structures.sizes, structures.select, potential, max_atoms=10_000)
    return found


@pytest.mark.parametrize("bare", [False, True], ids=["network", "bare"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("elements", ELEMENTS, ids="-".join)
def test_energy_rows_by_autograd(
    mixed_frames: Callable[..., list[Frame]], elements: tuple[str, ...], form: Form, bare: bool
) -> None:
    potential = make_bond_order(elements, form, bare=bare)
    frames = mixed_frames(elements)
    batch = one_batch(potential, *frames)
    _, rows = rows_of_batch(potential, batch, derivatives=False)
    found = rows.of_energies()
    n = n_bond_order_parameters(len(elements))
    assert found.shape[1] == n_last_parameters(potential) == len(elements) * (1 if bare else 6) * n
    for row, own in zip(batch.rows.tolist(), found, strict=True):
        torch.testing.assert_close(own, last_layer_row(potential, frames[row]), rtol=1e-10, atol=1e-10)


def moved(frame: Frame, atom: int, axis: int, by: float) -> Frame:
    positions = frame.positions.copy()
    positions[atom, axis] += by
    return replace(frame, positions=positions)


def strained(frame: Frame, strain: np.ndarray) -> Frame:
    turn = np.eye(3) + strain
    return replace(frame, positions=frame.positions @ turn.T, cell=frame.cell @ turn.T)


def energy_row(potential: Potential, frame: Frame) -> Tensor:
    return rows_of_batch(potential, one_batch(potential, frame), derivatives=False)[1].of_energies()[0]


def slope(row: Callable[[float], Tensor]) -> Tensor:
    """Fourth-order central difference at 0."""
    one, two = (row(n * STEP) - row(-n * STEP) for n in (1, 2))
    return (8 * one - two) / (12 * STEP)


@pytest.mark.parametrize("bare", [False, True], ids=["network", "bare"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("elements", ELEMENTS, ids="-".join)
def test_rows_of_forces_and_virials_by_differences(
    random_frame: MakeFrame, make_frame: MakeFrame, elements: tuple[str, ...], form: Form, bare: bool
) -> None:
    potential = make_bond_order(elements, form, bare=bare)
    frame = random_frame(5, 4, length=4.5, elements=elements)
    lone = make_frame([[0.0, 0, 0]], symbols=elements[:1])
    _, rows = rows_of_batch(potential, one_batch(potential, frame, lone), derivatives=True)
    forces, virials = rows.of_derivatives()
    order = torch.argsort(one_batch(potential, frame, lone).rows)
    frame_atoms = torch.argsort(one_batch(potential, frame, lone).atoms)
    forces, virials = forces[frame_atoms], virials[order]
    assert not bool(forces[4].any() or virials[1].any())
    for atom in range(4):
        for axis in range(3):
            expected = -slope(lambda by, atom=atom, axis=axis: energy_row(potential, moved(frame, atom, axis, by)))
            torch.testing.assert_close(forces[atom, axis], expected, rtol=1e-7, atol=1e-7)
    for number, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        strain = np.zeros((3, 3))
        strain[a, b] += 0.5
        strain[b, a] += 0.5
        expected = slope(lambda by, strain=strain: energy_row(potential, strained(frame, by * strain)))
        torch.testing.assert_close(virials[0, number], expected, rtol=1e-7, atol=1e-7)


def test_threads_and_parameters_that_want_gradients(
    mixed_frames: Callable[..., list[Frame]], threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks go to several threads, each of which finds gradients of its own; nothing is recorded for training."""
    potential = make_bond_order(("Si", "C"))
    batch = one_batch(potential, *mixed_frames(("Si", "C")))
    expected = rows_of_batch(potential, batch, derivatives=True)[1]
    monkeypatch.setattr(lsp, "_FEW_PAIRS", 0)
    torch.set_num_threads(3)
    for layer in (*potential.networks.weights, *potential.networks.biases):
        layer.requires_grad_()
    found = rows_of_batch(potential, batch, derivatives=True)[1]
    for own, known in zip(found.of_derivatives(), expected.of_derivatives(), strict=True):
        torch.testing.assert_close(own, known, rtol=1e-10, atol=1e-10)
        assert not own.requires_grad
    assert torch.equal(found.of_energies(), expected.of_energies())


def test_the_dummy_pair_does_not_count(random_frame: MakeFrame) -> None:
    """Its memory may hold anything."""
    potential = make_bond_order()
    _, rows = rows_of_batch(potential, one_batch(potential, random_frame(1, 3)), derivatives=True)
    expected = rows.of_derivatives()[0]
    assert rows._totals is not None
    rows._totals.collected[1][-1] = torch.nan
    assert torch.equal(rows.of_derivatives()[0], expected)
    assert bool(expected.isfinite().all())


def error_bars(potential: Potential, uncertainty: Uncertainty, *frames: Frame) -> PredictedUncertainty:
    """Error bars of energies (B,) and forces (n, 3)."""
    found = predict(potential, Structures.from_frames(frames), uncertainty=uncertainty, force_errors=True).uncertainty
    assert found is not None
    assert found.energy is not None
    assert found.forces is not None
    assert bool(found.energy.isfinite().all() and found.forces.isfinite().all())
    return found


@pytest.mark.parametrize("bare", [False, True], ids=["network", "bare"])
@pytest.mark.parametrize("elements", ELEMENTS, ids="-".join)
def test_error_bars_are_those_of_the_dense_covariance(
    random_frame: MakeFrame, elements: tuple[str, ...], bare: bool
) -> None:
    potential = make_bond_order(elements, bare=bare)
    uncertainty, frame = make_uncertainty(potential), random_frame(2, 3, elements=elements)
    bars = make_bars(n_last_parameters(potential))
    covariance = bars.root @ bars.root.T
    found = error_bars(potential, uncertainty, frame)
    row = last_layer_row(potential, frame)
    assert found.energy[0] == pytest.approx(float((0.3 * row @ covariance @ row).sqrt()), rel=1e-9)
    own = -slope(lambda by: energy_row(potential, moved(frame, 1, 2, by)))
    assert found.forces[1, 2] == pytest.approx(float((2.0 * own @ covariance @ own).sqrt()), rel=1e-6)


@pytest.mark.parametrize("derivatives", [False, True])
@pytest.mark.parametrize("bare", [False, True], ids=["network", "bare"])
def test_error_bars_change_no_bit_of_the_rest(
    mixed_frames: Callable[..., list[Frame]], bare: bool, derivatives: bool
) -> None:
    potential = make_bond_order(("Si", "C"), bare=bare)
    structures = Structures.from_frames(mixed_frames(("Si", "C")))
    plain = predict(potential, structures, derivatives=derivatives)
    for force_errors in (False, True):
        found = predict(
            potential,
            structures,
            derivatives=derivatives,
            uncertainty=make_uncertainty(potential),
            force_errors=force_errors,
        )
        for name in ("energy", "atomic_energies", *(("forces", "stress") if derivatives else ())):
            own, expected = getattr(found, name), getattr(plain, name)
            assert torch.equal(own.nan_to_num(), expected.nan_to_num()), name
        assert found.uncertainty is not None
        assert (found.uncertainty.forces is not None) == force_errors


def test_other_structures_change_nothing(
    mixed_frames: Callable[..., list[Frame]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Energies keep every bit; in batches of all structures, of few, and of one."""
    potential = make_bond_order(("Si", "C"))
    frames, uncertainty = mixed_frames(("Si", "C")), make_uncertainty(potential)
    whole = error_bars(potential, uncertainty, *frames)
    # A lone atom has no bonds, no energy and no doubt about it.
    assert [bool(energy > 0) for energy in whole.energy] == [True] * 4 + [False] * 2 + [True] * 2
    monkeypatch.setattr(prediction, "batch_atoms", lambda device, n_features: 8)
    first = 0
    for number, frame in enumerate(frames):
        alone = error_bars(potential, uncertainty, frame)
        assert torch.equal(alone.energy[0], whole.energy[number])
        own = whole.forces[first : first + frame.n_atoms]
        first += frame.n_atoms
        torch.testing.assert_close(alone.forces, own, rtol=1e-10, atol=1e-12)
    again = error_bars(potential, uncertainty, *frames)
    assert torch.equal(again.energy, whole.energy)
    torch.testing.assert_close(again.forces, whole.forces, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_symmetries(random_frame: MakeFrame, form: Form) -> None:
    """Turned, moved, in another order, through the cell's faces, and twice as much of the same crystal."""
    potential = make_bond_order(("Si", "C"), form)
    uncertainty, frame = make_uncertainty(potential), random_frame(3, 5, elements=("Si", "C"))
    own = error_bars(potential, uncertainty, frame)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    order = np.random.default_rng(2).permutation(5)
    twice = replace(
        frame,
        positions=np.concatenate([frame.positions, frame.positions + frame.cell[0]]),
        cell=frame.cell * [[2.0], [1.0], [1.0]],
        atomic_numbers=np.tile(frame.atomic_numbers, 2),
    )
    mixed = replace(frame, positions=frame.positions[order], atomic_numbers=frame.atomic_numbers[order])
    shifted = replace(frame, positions=frame.positions + 0.7 + frame.cell[1] * np.arange(5)[:, None])
    for changed, atoms, factor in (
        (mixed, order, 1.0),
        (shifted, np.arange(5), 1.0),
        (twice, np.tile(np.arange(5), 2), 2.0),
    ):
        found = error_bars(potential, uncertainty, changed)
        torch.testing.assert_close(found.energy, factor * own.energy, rtol=1e-9, atol=0)
        torch.testing.assert_close(found.forces, own.forces[atoms], rtol=1e-8, atol=0)
    turned = replace(frame, positions=frame.positions @ turn.T, cell=frame.cell @ turn.T)
    torch.testing.assert_close(error_bars(potential, uncertainty, turned).energy, own.energy, rtol=1e-9, atol=0)
    # Components of forces turn, and so does their covariance: its trace is what stays.
    squares = [error_bars(potential, uncertainty, one).forces.square().sum(dim=1) for one in (frame, turned)]
    torch.testing.assert_close(squares[0], squares[1], rtol=1e-8, atol=0)


def test_single_precision_is_close(random_frame: MakeFrame) -> None:
    potential = make_bond_order()
    uncertainty, frame = make_uncertainty(potential), random_frame(4, 6)
    expected = error_bars(potential, uncertainty, frame)
    small = potential.to("cpu", torch.float32)
    found = error_bars(small, Uncertainty.of(small, uncertainty.grade, uncertainty.error_bars), frame)
    torch.testing.assert_close(found.energy.double(), expected.energy, rtol=1e-3, atol=0)
    least = 1e-3 * float(expected.forces.max())
    torch.testing.assert_close(found.forces.double(), expected.forces, rtol=1e-3, atol=least)


def test_of_another_number_of_parameters(random_frame: MakeFrame) -> None:
    """Parameters as many as a straight network would have, or all of them."""
    potential = make_bond_order(("Si", "C"))
    structures = Structures.from_frames([random_frame(1, 2)])
    for bars, fault in (
        (make_bars(12), "uncertainty: expected error bars of 252 last parameters, found 12"),
        (
            replace(make_bars(252), form="all-parameters"),
            f"uncertainty: expected error bars of {potential.networks.n_parameters} parameters, found 252",
        ),
    ):
        uncertainty = replace(make_uncertainty(potential), error_bars=bars)
        with pytest.raises(InputError, match=fault):
            predict(potential, structures, uncertainty=uncertainty)
