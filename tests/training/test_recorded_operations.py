"""Operations that a training records as CUDA graphs: the same each time, with the same numbers when they are played."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from played_graphs import Graph, Noting, Waits, play_graphs, refuse_waiting
from sample_sets import make_potential, make_set, make_settings
from torch import Tensor

import pyfit_gpu.optimizers.cuda_graphs as graphs
from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.optimizers import lbfgs
from pyfit_gpu.optimizers.cuda_graphs import Recorded, RecordedObjective
from pyfit_gpu.optimizers.gauss_newton_settings import GaussNewtonSettings
from pyfit_gpu.optimizers.member_vectors import VectorsTogether
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.closure import Closure
from pyfit_gpu.training.fit import fit
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.penalty import NormPenalty, SquaredPenalty

WEIGHTS = {"forces": 0.3, "stress": 0.7}
CASES: dict[str, dict[str, Any]] = {
    "energies": {},
    "with a limit and targets": {"huber": 0.1, "targets": {"made": 0.05}},
    "derivatives kept": {"weights": WEIGHTS},
    "derivatives anew": {"weights": WEIGHTS, "memory": 0.0},
}


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    return play_graphs(monkeypatch)


@pytest.fixture
def make_closure(mixed_frames: Callable[..., list[Frame]], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Closure]:
    """A closure whose objective is cut, and computes its members, as on a GPU."""
    monkeypatch.setattr("pyfit_gpu.models.map_parts.on_cpu", lambda values: False)

    def make(
        elements: Sequence[str] = ("Si",), *, squared: bool = False, more: str = "", device: str = "cpu", **options: Any
    ) -> Closure:
        settings = {"gi_mode": 6, "cross_terms": 1, "triples": ((0, 2, 2),)} if more else {}
        potential = make_potential(elements, **settings)
        frames = [frame for seed in range(2) for frame in mixed_frames(elements, seed)]
        training_set = build_training_set(Structures.from_frames(frames), potential)
        objective = Objective(training_set.to(device, torch.float64), n_lanes=1, block_atoms=10_000, **options)
        objective.on_gpu = True
        like = potential.networks.to(device)
        strengths = torch.full((4, like.n_parameters), 1e-3, dtype=torch.float64, device=device)
        return Closure(objective, like, SquaredPenalty(strengths) if squared else NormPenalty(1e-3, like))

    return make


def points_of(closure: Closure, n_points: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(n_points, closure.template.n_parameters, dtype=torch.float64, generator=generator) / 3
    return points.to(closure.objective.target.device)


def packed(closure: Closure, points: Tensor) -> Tensor:
    loss, gradient, numbers = closure(points, torch.arange(len(points), device=points.device))
    return torch.cat((loss[:, None], gradient, numbers), dim=1)


def matrix(closure: Closure, point: Tensor) -> Tensor:
    return closure._find_matrix(point)


def operations(function: Callable[[Tensor], Tensor], argument: Tensor) -> list[str]:
    with Noting() as noted:
        function(argument)
    return noted.names


@pytest.mark.parametrize("elements", [("Si",), ("Si", "C")], ids="-".join)
@pytest.mark.parametrize("name", CASES)
class TestSameOperations:
    """No operation waits for the device, and none depends on the numbers that are computed."""

    def test_of_a_round(self, make_closure: Callable[..., Closure], elements: Sequence[str], name: str) -> None:
        closure = make_closure(elements, **CASES[name])
        function = partial(packed, closure)
        for n_points in (1, 3):
            first, second = (points_of(closure, n_points, seed) for seed in (0, 1))
            function(first)
            names = operations(function, first)
            assert names == operations(function, second)
            assert len(names) > 20

    def test_of_a_matrix(self, make_closure: Callable[..., Closure], elements: Sequence[str], name: str) -> None:
        closure = make_closure(elements, squared=True, **CASES[name])
        function = partial(matrix, closure)
        first, second = points_of(closure, 2)
        function(first)
        names = operations(function, first)
        assert names == operations(function, second)
        assert len(names) > 20


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("more", ["", "more terms"])
def test_a_playback_is_the_round(
    make_closure: Callable[..., Closure], played: list[Graph], name: str, more: str
) -> None:
    closure = make_closure(("Si", "C"), more=more, **CASES[name])
    recorded = Recorded(partial(packed, closure))
    for seed in range(graphs._CALLS_BEFORE + 3):
        points = points_of(closure, 2, seed)
        torch.testing.assert_close(recorded(points), packed(closure, points), rtol=1e-12, atol=1e-14, equal_nan=True)
    assert [graph.n_replays for graph in played] == [3]


@pytest.mark.parametrize("name", ["energies", "derivatives kept", "derivatives anew"])
def test_a_playback_is_the_matrix(make_closure: Callable[..., Closure], played: list[Graph], name: str) -> None:
    closure = make_closure(("Si", "C"), squared=True, **CASES[name])
    points = points_of(closure, graphs._CALLS_BEFORE + 3)
    found = [closure.matrix(k % 4, point, keep=False) for k, point in enumerate(points)]
    for k, point in enumerate(points):
        expected = closure._with_penalty(k % 4, matrix(closure, point))
        torch.testing.assert_close(found[k], expected, rtol=1e-12, atol=1e-14)
    assert [graph.n_replays for graph in played] == [3]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("elements", [("Si",), ("Si", "C")], ids="-".join)
@pytest.mark.parametrize("name", CASES)
def test_recorded_on_a_gpu(make_closure: Callable[..., Closure], elements: Sequence[str], name: str) -> None:
    """A round and J^T J, as they are called and as they are recorded."""
    closure = make_closure(elements, squared=True, device="cuda", **CASES[name])
    recorded = Recorded(partial(packed, closure))
    close = {"rtol": 1e-9, "atol": 1e-11, "equal_nan": True}
    for seed in range(graphs._CALLS_BEFORE + 3):
        points = points_of(closure, 2, seed)
        torch.testing.assert_close(recorded(points), packed(closure, points), **close)
        found = closure.matrix(0, points[0], keep=False)
        torch.testing.assert_close(found, closure._with_penalty(0, matrix(closure, points[0])), **close)
    assert recorded._recordings
    assert closure._recorded_matrix._recordings


def test_a_recorded_objective_is_the_objective(make_closure: Callable[..., Closure], played: list[Graph]) -> None:
    """Each member with a penalty of its own, and results that a later call does not overwrite."""
    closure = make_closure(squared=True)
    assert isinstance(closure.penalty, SquaredPenalty)
    closure.penalty.strengths[:] = torch.arange(4)[:, None]
    recorded = RecordedObjective(closure)
    rounds = [(points_of(closure, 2, seed), torch.tensor([seed % 2, 2 + seed % 2])) for seed in range(7)]
    found = [recorded(*one) for one in rounds]
    for own, one in zip(found, rounds, strict=True):
        for value, expected in zip(own, closure(*one), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14, equal_nan=True)
    assert len(played) == 1


@pytest.mark.parametrize("most", [1, 2, 3, 35])
@pytest.mark.parametrize("optimizer", ["lbfgs", "gauss-newton"])
def test_a_fit_in_recorded_parts_is_the_fit(
    monkeypatch: pytest.MonkeyPatch, played: list[Graph], most: int, optimizer: str
) -> None:
    """Rounds of more points than are recorded together, as many members make them."""
    options = {} if optimizer == "lbfgs" else {"optimizer": GaussNewtonSettings(), "l2_form": "squared"}
    settings = make_settings(steps=4, seed=1, **options)
    monkeypatch.setattr(lbfgs, "VectorsOneByOne", VectorsTogether)
    if optimizer != "lbfgs":
        monkeypatch.setattr("pyfit_gpu.optimizers.gauss_newton.GaussNewton._is_on_gpu", property(lambda _: True))
    losses = []
    for points in (0, most):
        monkeypatch.setattr(Objective, "recordable_points", points)
        history = fit(make_potential(), make_set([7, 3, 12, 5] * 5), settings=settings, members=5)
        losses.append(torch.tensor([own.loss for own in history.members]))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)
    assert sum(graph.n_replays for graph in played) > 10


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * float(x.sum()),
        lambda x: x[x > 0],
        lambda x: (x > 0).nonzero(),
        lambda x: x + torch.tensor([1.0, 2.0]),
        lambda x: torch.repeat_interleave(x, torch.ones(2, dtype=torch.int64)),
        lambda x: x if bool((x > 0).all()) else -x,
    ],
)
def test_what_waits_is_noticed(function: Callable[[Tensor], Tensor], played: list[Graph]) -> None:
    recorded = Recorded(function)
    for _ in range(graphs._CALLS_BEFORE):
        recorded(torch.ones(2))
    with pytest.raises(Waits):
        recorded(torch.ones(2))


def test_masks_are_refused() -> None:
    with pytest.raises(Waits, match="index with a mask"):
        refuse_waiting("index", (torch.ones(2), [torch.ones(2, dtype=torch.bool)]))
    refuse_waiting("index", (torch.ones(2), [None, torch.ones(2, dtype=torch.int64)]))


class TestWhatIsRecorded:
    @pytest.fixture
    def training_set(self) -> TrainingSet:
        return make_set([7, 3, 12, 5] * 5)

    def test_by_size(self, training_set: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pyfit_gpu.training.objective.RECORDED_ATOMS", (1000, 100))
        objective = Objective(training_set)
        assert objective.recordable_points == 0
        objective.on_gpu = True
        assert objective.recordable_points == 1000 // 135
        objective.stream = True
        assert objective.recordable_points == 0

    def test_too_little_memory(
        self, played: list[Graph], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(Recorded, "_record", fail)
        recorded = Recorded(lambda x: 2 * x)
        for k in range(10):
            assert float(recorded(torch.full((1,), float(k)))) == 2 * k
        assert [record.getMessage()[:30] for record in caplog.records] == ["too little memory on the GPU f"]
