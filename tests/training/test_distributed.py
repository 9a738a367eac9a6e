"""The processes of a fit, in threads that talk through a stand-in for torch.distributed."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import Queue
from typing import Any, get_args

import numpy as np
import pytest
import torch
from bond_order_samples import make_bond_order
from sample_sets import make_potential, make_settings
from torch import Tensor

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.optimizers.gauss_newton_settings import GaussNewtonSettings
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training import distributed
from pyfit_gpu.training.distributed import Distribute, ProcessGroup, require_enough_members
from pyfit_gpu.training.fit import fit
from pyfit_gpu.training.history import History
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.objective_builder import ObjectiveBuilder
from pyfit_gpu.training.settings import FitSettings

MakeFrames = Callable[..., list[Frame]]
CPU = torch.device("cpu")
WEIGHTS = {"forces": 0.3, "stress": 0.7}


class Wire:
    """Stand-in for `torch.distributed`, between threads."""

    def __init__(self, size: int) -> None:
        self.rank = threading.local()
        self.casts = [Queue[Tensor]() for _ in range(size)]
        self.sent = [Queue[Tensor]() for _ in range(size)]
        self.objects = [Queue[bytes]() for _ in range(size)]

    def broadcast(self, tensor: Tensor, source: int) -> None:
        if self.rank.number == source:
            for rank, queue in enumerate(self.casts):
                if rank != source:
                    queue.put(tensor.clone())
        else:
            self._take(self.casts[self.rank.number], tensor)

    def broadcast_object_list(self, values: list[Any], source: int) -> None:
        if self.rank.number == source:
            for rank, queue in enumerate(self.objects):
                if rank != source:
                    queue.put(pickle.dumps(values))
        else:
            values[:] = pickle.loads(self.objects[self.rank.number].get(timeout=60))

    def send(self, tensor: Tensor, target: int) -> None:
        assert target == 0
        assert tensor.is_contiguous()
        self.sent[self.rank.number].put(tensor.clone())

    def recv(self, tensor: Tensor, source: int) -> None:
        self._take(self.sent[source], tensor)

    def _take(self, queue: Queue[Tensor], tensor: Tensor) -> None:
        found = queue.get(timeout=60)
        assert found.shape == tensor.shape
        assert found.dtype == tensor.dtype
        tensor.copy_(found)


@pytest.fixture
def training_set(mixed_frames: MakeFrames) -> TrainingSet:
    return several_lanes(mixed_frames, make_potential(("Si", "C")))


def several_lanes(mixed_frames: MakeFrames, potential: Potential, n: int = 3) -> TrainingSet:
    """Structures with and without forces and stress, enough for several lanes."""
    frames = [frame for seed in range(n) for frame in mixed_frames(("Si", "C"), seed)]
    return build_training_set(Structures.from_frames(frames), potential)


def shared(
    training_set: TrainingSet, size: int, distribute: Distribute, monkeypatch: pytest.MonkeyPatch, **options: object
) -> Callable[[Tensor, bool], object]:
    """An evaluation by several processes."""
    wire = Wire(size)
    monkeypatch.setattr(distributed, "dist", wire)
    template = make_potential(training_set.descriptor.elements).networks

    def group(rank: int) -> ProcessGroup:
        wire.rank.number = rank
        return ProcessGroup(rank, size, CPU, distribute)

    def make(processes: ProcessGroup) -> Objective:
        return Objective(training_set, WEIGHTS, processes=processes, n_lanes=3, block_atoms=20, **options)  # type: ignore[arg-type]

    def follow(rank: int) -> None:
        processes = group(rank)
        processes.work(template, lambda name: make(processes))

    def evaluate(points: Tensor, gradient: bool) -> object:
        with ThreadPoolExecutor(size) as pool:
            others = [pool.submit(follow, rank) for rank in range(1, size)]
            first = group(0)
            objective = first.build("training", lambda: make(first))
            try:
                found = [objective.evaluate(points, template, gradient=gradient) for _ in range(2)]
            finally:
                first.release()
            for other in others:
                other.result(timeout=60)
        assert torch.equal(found[0].energies, found[1].energies)
        return found[1]

    return evaluate


@pytest.mark.usefixtures("small_lanes")
@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("distribute", get_args(Distribute))
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_same_bits_as_alone(
    size: int, distribute: Distribute, gradient: bool, training_set: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every error under its own name; with targets, whose factors are sent, too."""
    monkeypatch.setattr("pyfit_gpu.training.lanes.LANE_ATOMS", (10, 10, 10))
    template = make_potential(training_set.descriptor.elements).networks
    points = torch.from_numpy(np.random.default_rng(1).normal(size=(3, template.n_parameters)))
    targets = dict.fromkeys(training_set.groups[:1], 0.05)
    alone = Objective(training_set, WEIGHTS, targets=targets, n_lanes=3, block_atoms=20)
    assert len(alone.bounds) == 3
    expected = alone.evaluate(points, template, gradient=gradient)
    found = shared(training_set, size, distribute, monkeypatch, targets=targets)(points, gradient)
    assert list(found.errors) == ["energy", "forces", "stress"]  # type: ignore[attr-defined]
    assert len({float(error[0]) for error in expected.errors.values()}) == 3
    for name, error in expected.errors.items():
        assert torch.equal(found.errors[name], error), name  # type: ignore[attr-defined]
    assert torch.equal(found.errors.loss, expected.errors.loss)  # type: ignore[attr-defined]
    assert torch.equal(found.energies, expected.energies)  # type: ignore[attr-defined]
    assert (found.gradient is None) == (not gradient)  # type: ignore[attr-defined]
    assert expected.gradient is None or torch.equal(found.gradient, expected.gradient)  # type: ignore[attr-defined]


GAUSS_NEWTON: dict[str, Any] = {"optimizer": GaussNewtonSettings(), "l2_form": "squared", "l2": "auto", "steps": 6}


def straight() -> Potential:
    return make_potential(("Si", "C"))


def informed() -> Potential:
    return make_bond_order(("Si", "C"), "plain", max_random=0.1)


def bare() -> Potential:
    return make_bond_order(("Si", "C"), bare=True)


SHORT = {"steps": 1, "max_iterations": 2}
BY_GAUSS_NEWTON = {**GAUSS_NEWTON, "force_weight": 0.0, "steps": 2, "l2": 1e-8}
KINDS: dict[str, tuple[Callable[[], Potential], dict[str, Any]]] = {
    "lbfgs": (straight, {}),
    "gauss-newton": (straight, GAUSS_NEWTON),
    "informed, forces": (informed, {**SHORT, "spread_penalty": 0.02, "size_penalty": 0.01}),
    "informed, energies": (informed, {**SHORT, "force_weight": 0.0, "spread_penalty": 0.02}),
    "informed, gauss-newton": (informed, BY_GAUSS_NEWTON),
    "informed, gauss-newton on forces": (informed, {**BY_GAUSS_NEWTON, "force_weight": 0.3, "steps": 1}),
    "bare": (bare, {**SHORT, "force_weight": 0.0, "spread_penalty": 0.02}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distribute", get_args(Distribute))
@pytest.mark.parametrize("size", [2, 3])
def test_conditioned_inputs(
    size: int, distribute: Distribute, kind: str, mixed_frames: MakeFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics come from the first process: the others know neither the setting nor the state that goes on."""
    monkeypatch.setattr("pyfit_gpu.training.lanes.LANE_ATOMS", (6, 6, 6))
    make_start, own = KINDS[kind]
    start = make_start()
    training_set = several_lanes(mixed_frames, start, n=1 if start.is_physically_informed else 3)
    targets = dict.fromkeys(training_set.groups[:1], 0.05)
    settings = make_settings(**{"steps": 2, "force_weight": 0.3, "seed": 2, "group_targets": targets, **own})
    expected = fit(start, training_set, training_set, members=3, settings=settings)
    found = fit_by(size, distribute, start, training_set, settings, monkeypatch, members=3)
    assert [one.to_json() for one in found.members] == [one.to_json() for one in expected.members]


@pytest.mark.parametrize("distribute", get_args(Distribute))
def test_negative_local_parameters_are_counted_in_all_processes(
    distribute: Distribute, mixed_frames: MakeFrames, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pyfit_gpu.training.lanes.LANE_ATOMS", (6, 6, 6))
    start = bare()
    start = replace(start, bond_order_parameters=(-0.2, *start.bond_order_parameters[1:]))
    training_set = several_lanes(mixed_frames, start, n=1)
    fit_by(2, distribute, start, training_set, FitSettings(steps=0), monkeypatch)
    count = int((training_set.species == 0).sum())
    assert f"A1 is negative for {count} of {training_set.n_atoms} atoms that train, -0.2 at least" in caplog.text


def fit_by(
    size: int,
    distribute: Distribute,
    start: Potential,
    training_set: TrainingSet,
    settings: FitSettings,
    monkeypatch: pytest.MonkeyPatch,
    **named: Any,
) -> History:
    """A fit by several processes, of which the first alone knows how inputs are conditioned."""
    wire = Wire(size)
    monkeypatch.setattr(distributed, "dist", wire)

    def group(rank: int) -> ProcessGroup:
        wire.rank.number = rank
        return ProcessGroup(rank, size, CPU, distribute)

    def follow(rank: int) -> None:
        parts = {"training": training_set, "validation": training_set}
        processes = group(rank)
        unconditioned = replace(settings, conditioning="none")
        builder = ObjectiveBuilder(parts, unconditioned, processes=processes, potential=start.without_parameters())
        processes.work(start.networks, builder.make)

    with ThreadPoolExecutor(size) as pool:
        others = [pool.submit(follow, rank) for rank in range(1, size)]
        first = group(0)
        try:
            found = fit(start, training_set, training_set, settings=settings, processes=first, **named)
        finally:
            first.release()
        for other in others:
            other.result(timeout=60)
    return found


def test_lanes_are_shared_out_in_order() -> None:
    lanes = list(range(10))
    for size in (1, 2, 3, 12):
        shares = [ProcessGroup(rank, size, CPU).share_of(lanes) for rank in range(size)]
        assert [lane for share in shares for lane in share] == lanes
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert ProcessGroup(0, size, CPU, "members").share_of(lanes) == lanes


def test_too_few_members() -> None:
    require_enough_members("members", 3, 3)
    require_enough_members("data", 3, 1)
    with pytest.raises(InputError, match=r"expected at least as many members as processes \(3\), got 2"):
        require_enough_members("members", 3, 2)
