"""Gauss-Newton, evidence, grades and error bars on a GPU: the CPU's numbers to rounding, and the same bits twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from sample_sets import make_potential
from torch import Tensor

import pyfit_gpu as pf
from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.objective import Objective

DEVICE = "cuda"
WEIGHTS = {"forces": 0.3, "stress": 0.7}

MakeFrames = Callable[..., list[Frame]]
Sample = tuple[Potential, TrainingSet]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(params=[("Si",), ("Si", "C")], ids="-".join)
def sample(request: pytest.FixtureRequest, mixed_frames: MakeFrames) -> Sample:
    """Cells smaller than the cutoff, so that an atom has several images of one as neighbours, and others."""
    elements: Sequence[str] = request.param
    potential = make_potential(elements, hidden=(5, 4))
    frames = [*mixed_frames(elements), *mixed_frames(elements, seed=20)]
    structures = Structures.from_frames(frames)
    return potential, build_training_set(structures, potential, e_shift=dict.fromkeys(elements, 0.5))


def matrix(sample: Sample, device: str, memory: float = float("inf")) -> Tensor:
    potential, training_set = (one.to(device) for one in sample)
    objective = Objective(training_set, WEIGHTS, memory=memory)
    (found,) = objective.normal_matrices(potential.networks.flat(), potential.networks)
    return found.cpu()


def test_normal_matrix(sample: Sample) -> None:
    expected = matrix(sample, "cpu")
    for memory in (float("inf"), 0.0):  # derivatives kept, or computed anew
        found = matrix(sample, DEVICE, memory)
        assert float((found - expected).abs().max()) < 1e-11 * float(expected.abs().max())
        for _ in range(5):
            assert torch.equal(matrix(sample, DEVICE, memory), found)


def fitted(sample: Sample, device: str, **settings: Any) -> Tensor:
    """The losses of all members after each step, and their parameters at the end."""
    potential, training_set = (one.to(device) for one in sample)
    chosen = pf.FitSettings(steps=6, seed=1, force_weight=0.3, stress_weight=0.7, keep="last", **settings)
    history = pf.fit(potential, training_set, training_set, members=3, settings=chosen)
    losses = torch.tensor([member.loss for member in history.members], dtype=torch.float64)
    return torch.cat([losses.flatten(), history.potential.networks.flat().cpu().flatten()])


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": pf.GaussNewtonSettings()},
        {"optimizer": pf.GaussNewtonSettings(), "l2": 1e-5, "l2_form": "squared"},
        {"optimizer": pf.GaussNewtonSettings(), "l2": "auto", "l2_form": "squared"},
        {"optimizer": pf.GaussNewtonSettings(), "huber": 0.05},
        # Few iterations: differences of rounding grow from one to the next.
        {"optimizer": pf.LBFGSSettings(max_iterations=3), "l2": "auto", "l2_form": "squared"},
    ],
    ids=["plain", "l2", "l2 auto", "huber", "LBFGS, l2 auto"],
)
def test_fit(sample: Sample, settings: dict[str, Any]) -> None:
    found = fitted(sample, DEVICE, **settings)
    assert torch.equal(fitted(sample, DEVICE, **settings), found)
    torch.testing.assert_close(found, fitted(sample, "cpu", **settings), rtol=1e-5, atol=1e-6)


def test_auto_runs(sample: Sample) -> None:
    """When it changes depends on the clock, what it reaches does not much."""
    found = fitted(sample, DEVICE, optimizer=pf.AutoSettings())
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("form", ["last-layer", "all-parameters"])
def test_uncertainty(sample: Sample, form: Any) -> None:
    found = {}
    for device in ("cpu", DEVICE):
        potential, training_set = (one.to(device) for one in sample)
        validation = training_set.select(torch.arange(0, len(training_set), 2))
        grade = pf.build_extrapolation_grade(training_set, potential)
        bars = pf.build_error_bars(potential, training_set, validation, weights=WEIGHTS, form=form)
        uncertainty = pf.Uncertainty.of(potential, grade, bars)
        structures = training_set.structures()
        structures = replace(structures, positions=1.05 * structures.positions)
        found[device] = pf.predict(potential, structures, uncertainty=uncertainty, force_errors=True).to(
            "cpu", torch.float64
        )
    on_cpu, on_gpu = found["cpu"].uncertainty, found[DEVICE].uncertainty
    assert on_cpu is not None
    assert on_gpu is not None
    for name in ("grade", "energy", "forces"):
        torch.testing.assert_close(getattr(on_gpu, name), getattr(on_cpu, name), rtol=1e-6, atol=1e-9, equal_nan=True)
