"""J^T J of the squared loss beside differences of predicted energies, forces and stress, residual by residual."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_sets import make_potential
from torch import Tensor

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.loss import LabelWeights
from pyfit_gpu.training.objective import Objective

MakeFrames = Callable[..., list[Frame]]

WEIGHTS = {"forces": 0.3, "stress": 0.7}
STEP = 1e-5


def incomplete(frames: Sequence[Frame]) -> list[Frame]:
    """Frames of which one counts more, and some have no forces or no stress."""
    first, second, third, *others = frames
    return [replace(first, weight=2.5), replace(second, forces=None), replace(third, stress=None), *others]


def residuals(potential: Potential, flat: Tensor, structures: Structures, training_set: TrainingSet) -> Tensor:
    """All residuals (n,), from predictions and the normalised weights."""
    own = replace(potential, networks=potential.networks.with_flat(flat[None]))
    found = predict(own, structures)
    weights = LabelWeights.of(training_set)
    sizes = training_set.sizes
    parts = [weights["energy"].sqrt() * (found.energy - training_set.energy_used) / sizes]
    assert found.forces is not None
    assert found.stress is not None
    by_atom = torch.repeat_interleave(weights["forces"], sizes)[:, None]
    parts.append((WEIGHTS["forces"] * by_atom).sqrt() * (found.forces - training_set.forces.nan_to_num()))
    virial = (found.stress - training_set.stress.nan_to_num()) * (training_set.volume / sizes)[:, None]
    parts.append((WEIGHTS["stress"] * weights["stress"][:, None]).sqrt() * virial.nan_to_num())
    return torch.cat([part.flatten() for part in parts])


def jacobian_along(function: Callable[[Tensor], Tensor], flat: Tensor, directions: Tensor) -> Tensor:
    """(n, D) derivatives along directions (D, P), by central differences, improved once (Richardson)."""
    columns = []
    for direction in directions:
        once, twice = (
            (function(flat + step * direction) - function(flat - step * direction)) / (2 * step)
            for step in (STEP, 2 * STEP)
        )
        columns.append((4 * once - twice) / 3)
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("hidden", [(4,), (5, 3), (4, 3, 3), ()], ids=str)
@pytest.mark.parametrize("elements", [("Si",), ("Si", "C"), ("Si", "C", "Ge")], ids="-".join)
def test_matrix_is_that_of_differences(
    mixed_frames: MakeFrames, elements: tuple[str, ...], hidden: Sequence[int]
) -> None:
    potential = make_potential(elements, hidden=hidden)
    structures = Structures.from_frames(incomplete(mixed_frames(elements)))
    training_set = build_training_set(structures, potential, e_shift=dict.fromkeys(elements, 0.5))
    objective = Objective(training_set, WEIGHTS)
    flat = potential.networks.flat()
    directions = torch.from_numpy(np.random.default_rng(1).normal(size=(12, flat.shape[1])))
    jacobian = jacobian_along(lambda own: residuals(potential, own, structures, training_set), flat[0], directions)
    loss = objective.evaluate(flat, potential.networks).errors.loss
    square = residuals(potential, flat[0], structures, training_set).square().sum()
    torch.testing.assert_close(loss[0].square(), square, rtol=1e-12, atol=0)
    assert objective.n_residuals == int((residuals(potential, flat[0], structures, training_set) != 0).sum())
    (found,) = objective.normal_matrices(flat, potential.networks)
    expected = jacobian.T @ jacobian
    torch.testing.assert_close(
        directions @ found @ directions.T, expected, rtol=0, atol=1e-9 * float(expected.abs().max())
    )
    assert torch.equal(found, found.T)
