"""Derivatives with respect to the last layer of a physically informed network, against autograd and differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from bond_order_autograd import last_layer_row
from bond_order_samples import make_bond_order

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
