"""Recorded operations: when a shape is recorded, and what is played back. CUDA itself is played by a stand-in."""

from __future__ import annotations

import pytest
import torch
from played_graphs import Graph, play_graphs
from sample_sets import make_potential, make_set
from torch import Tensor

import pyfit_gpu.optimizers.cuda_graphs as graphs
from pyfit_gpu.optimizers.cuda_graphs import Recorded
from pyfit_gpu.training.fit import fit
from pyfit_gpu.training.settings import FitSettings


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    return play_graphs(monkeypatch)


def test_a_shape_is_recorded_when_it_comes_back_often(stand_in: list[Graph]) -> None:
    calls: list[Tensor] = []

    def double(argument: Tensor) -> Tensor:
        calls.append(argument)
        return 2 * argument

    recorded = Recorded(double)
    for number in range(graphs._CALLS_BEFORE):
        assert torch.equal(recorded(torch.full((3,), float(number))), torch.full((3,), 2.0 * number))
    assert not stand_in
    recorded(torch.zeros(3))
    assert len(stand_in) == 1
    n_calls = len(calls)
    argument = torch.arange(3.0)
    for _ in range(5):
        recorded(argument)
    assert len(calls) == n_calls
    assert stand_in[0].n_replays == 6
    # What the recording reads is what was given, in its own memory.
    assert torch.equal(calls[-1], argument)
    assert calls[-1] is not argument


def test_other_shapes_and_types_are_other_recordings(stand_in: list[Graph]) -> None:
    recorded = Recorded(lambda argument: argument + 1)
    for argument in (torch.zeros(2), torch.zeros(3), torch.zeros(2, dtype=torch.float64)):
        for _ in range(graphs._CALLS_BEFORE):
            recorded(argument)
        before = len(stand_in)
        recorded(argument)
        assert len(stand_in) == before + 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_recorded_fit_is_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding grows to 1e-7 in so many steps."""
    settings = FitSettings(steps=4, seed=1)
    training_set = make_set([7, 3, 12, 5] * 20).to("cuda", torch.float64)
    losses = []
    for limit in ((0, 0), (3_000_000, 1_000_000)):
        monkeypatch.setattr("pyfit_gpu.training.objective.RECORDED_ATOMS", limit)
        potential = make_potential().to("cuda", torch.float64)
        losses.append(torch.tensor(fit(potential, training_set, settings=settings, members=2).best.loss))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=0)
