"""J^T J of the squared loss beside differences of predictions, and beside rows by autograd, residual by residual."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sample_sets import make_potential
from torch import Tensor
from training.dense_jacobian import DenseJacobian

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.training_set.reader import save_training_set
from pyfit_gpu.models.force_rows import structure_groups
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.input_statistics import condition
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


# ---------------------------------------------------------------------------------------------------------------------
# beside all rows of J


MORE_TERMS = {
    "gi_mode": 6,
    "legendre_orders": (1, 2),
    "gaussian_centers": (1.9, 2.9),
    "cross_terms": 1,
    "triples": ((1, 1, 2), (2, 2, 2)),
}


def made(frames: Sequence[Frame], potential: Potential) -> TrainingSet:
    elements = potential.descriptor.elements
    return build_training_set(Structures.from_frames(frames), potential, e_shift=dict.fromkeys(elements, 0.5))


def matrix_of(objective: Objective, potential: Potential) -> Tensor:
    (found,) = objective.normal_matrices(potential.networks.flat(), potential.networks)
    return found


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))
    # What is small counts as well: in units of the diagonal, as Cholesky's steps see it.
    size = expected.diagonal().clamp(min=1e-6 * float(expected.diagonal().max())).rsqrt()
    scaled = [size[:, None] * own * size for own in (found, expected)]
    torch.testing.assert_close(*scaled, rtol=0, atol=tolerance)


@pytest.mark.parametrize("terms", [{}, MORE_TERMS], ids=["mode 5", "mode 6"])
@pytest.mark.parametrize(("hidden", "activation"), [((4,), 0), ((4,), 1), ((4, 3, 3), 1), ((4, 3), 2)], ids=str)
@pytest.mark.parametrize("elements", [("Si",), ("Si", "C"), ("Si", "C", "Ge")], ids="-".join)
def test_matrix_is_that_of_all_rows(
    mixed_frames: MakeFrames,
    elements: tuple[str, ...],
    hidden: Sequence[int],
    activation: int,
    terms: dict[str, Any],
) -> None:
    """Inputs are conditioned, among lone atoms, cells smaller than the cutoff, and an element that some cells lack."""
    potential = make_potential(elements, hidden=hidden, activation=activation, **terms)
    training_set = made(incomplete(mixed_frames(elements)), potential)
    conditioning = condition(training_set, "half")
    objective = Objective(training_set, WEIGHTS, conditioning=conditioning)
    expected = DenseJacobian(potential, training_set, WEIGHTS, conditioning).matrix()
    assert_close(matrix_of(objective, potential), expected)


@pytest.fixture(scope="module")
def several(mixed_frames: MakeFrames) -> tuple[Potential, TrainingSet, DenseJacobian]:
    """Two elements, structures without labels or weight, and two groups."""
    potential = make_potential(("Si", "C"), hidden=(4, 3))
    frames = [*incomplete(mixed_frames(("Si", "C"))), *mixed_frames(("Si", "C"), 30)]
    frames = [replace(frame, group="ab"[k % 2], weight=float(k % 5 > 0)) for k, frame in enumerate(frames)]
    frames[8] = replace(frames[8], forces=None, stress=None)
    training_set = made(frames, potential)
    return potential, training_set, DenseJacobian(potential, training_set, WEIGHTS)


def test_a_weight_of_zero_leaves_a_structure_out(several: tuple[Potential, TrainingSet, DenseJacobian]) -> None:
    potential, training_set, dense = several
    own = training_set.select((training_set.weight > 0).nonzero()[:, 0])
    assert len(own) < len(training_set)
    expected = dense.matrix()
    for each in (training_set, own):
        assert_close(matrix_of(Objective(each, WEIGHTS), potential), expected)


@pytest.mark.parametrize("weights", [{}, {"forces": 0.3}, {"stress": 0.7}], ids=str)
def test_labels_that_take_no_part(
    several: tuple[Potential, TrainingSet, DenseJacobian], weights: dict[str, float]
) -> None:
    potential, training_set, dense = several
    assert_close(matrix_of(Objective(training_set, weights), potential), dense.matrix(weights))


@pytest.mark.parametrize("kept", ["all", "some", "none"])
@pytest.mark.parametrize("most", [1, 3, 8, 1000])
def test_cuts_do_not_matter(
    several: tuple[Potential, TrainingSet, DenseJacobian], most: int, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slabs smaller than a structure, of some structures, of all; lanes, blocks; derivatives that are not kept."""
    monkeypatch.setattr("pyfit_gpu.training.labels.SLAB_ATOMS", most)
    monkeypatch.setattr("pyfit_gpu.training.blocks.structure_groups", partial(structure_groups, most=most))
    monkeypatch.setattr("pyfit_gpu.training.blocks._ROW_ATOMS", 2 * most)
    monkeypatch.setattr("pyfit_gpu.training.lanes.LANE_ATOMS", (10, 10, 10))
    potential, training_set, dense = several
    whole = Objective(training_set, WEIGHTS).kept_bytes
    memory = {"all": whole, "some": whole // 2, "none": 0}[kept]
    objective = Objective(training_set, WEIGHTS, memory=memory, n_lanes=3, block_atoms=6)
    assert (objective.kept_bytes == whole, objective.kept_bytes == 0) == (kept == "all", kept == "none")
    assert len(objective.lanes) == 3
    assert min(len(lane) for lane in objective.lanes) > 1
    found = matrix_of(objective, potential)
    assert_close(found, dense.matrix())
    assert torch.equal(matrix_of(objective, potential), found)


def test_blocks_that_are_streamed(
    several: tuple[Potential, TrainingSet, DenseJacobian], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits of blocks in memory whose derivatives are not kept."""
    monkeypatch.setattr("pyfit_gpu.training.lanes.LANE_ATOMS", (10, 10, 10))
    potential, training_set, _ = several
    save_training_set(training_set, tmp_path / "set.h5")
    lazy = load_training_set(tmp_path / "set.h5", lazy=True)
    cuts: dict[str, Any] = {"n_lanes": 3, "block_atoms": 9, "conditioning": condition(training_set, "half")}
    found = matrix_of(Objective(lazy, WEIGHTS, stream=True, **cuts), potential)
    assert torch.equal(found, matrix_of(Objective(training_set, WEIGHTS, memory=0, **cuts), potential))
    assert_close(found, DenseJacobian(potential, training_set, WEIGHTS, cuts["conditioning"]).matrix())


@pytest.mark.parametrize("targets", [{"a": 0.1}, {"a": 0.1, "b": 1e6}], ids=str)
def test_targets_scale_the_rows_of_energies(
    several: tuple[Potential, TrainingSet, DenseJacobian], targets: dict[str, float]
) -> None:
    """By the share of the group's error that is beyond its target; one that is met counts nothing."""
    potential, training_set, dense = several
    weight = training_set.weight / training_set.weight.sum()
    error = ((dense.energies - training_set.energy_used) / training_set.sizes).square().detach()
    factor = torch.ones_like(error)
    for group, target in targets.items():
        own = torch.tensor([name == group for name in training_set.groups])
        rmse = float(((weight * error)[own].sum() / weight[own].sum()).sqrt())
        factor[own] = max(0.0, 1 - target / rmse)
    assert 0 < float(factor.max()) <= 1
    assert float(factor.min()) < 1
    found = matrix_of(Objective(training_set, WEIGHTS, targets=targets), potential)
    assert_close(found, dense.matrix(energy_factor=factor))


def test_single_precision(several: tuple[Potential, TrainingSet, DenseJacobian]) -> None:
    """Rows in the precision of the features, their sums in float64."""
    potential, training_set, dense = several
    found = matrix_of(Objective(training_set.to("cpu", torch.float32), WEIGHTS), potential)
    assert found.dtype == torch.float64
    assert_close(found, dense.matrix(), 3e-5)
    assert float((found - dense.matrix()).abs().max()) > 0
