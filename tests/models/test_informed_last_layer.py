"""Derivatives with respect to the last layer of a physically informed network, against autograd and differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from bond_order_autograd import last_layer_row
from bond_order_samples import make_bond_order
from torch import Tensor

from pyfit_gpu.models.batches import Batch, batches
from pyfit_gpu.models.last_layer import n_last_parameters
from pyfit_gpu.models.potential import Form, Potential, n_bond_order_parameters
from pyfit_gpu.models.prediction import rows_of_batch
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame

MakeFrame = Callable[..., Frame]
ELEMENTS = [("Si",), ("Si", "C")]
FORMS: tuple[Form, ...] = ("squared", "plain")


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


STEP = 1e-3


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
