"""Batches through a device: halved where memory ends, results in order, and reading ahead in a thread."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from sample_sets import make_potential

from pyfit_gpu.models import batch_stream, prediction
from pyfit_gpu.models.batch_stream import Arriving, BatchStream
from pyfit_gpu.models.batches import Batch, featurize
from pyfit_gpu.models.prediction import predict, predict_batch
from pyfit_gpu.parallel import ahead, pulled_ahead
from pyfit_gpu.structures.batch import Structures, size_batches
from pyfit_gpu.structures.frames import Frame

SIZES = [4, 2, 1, 3, 2, 4, 4, 1]
CPU = torch.device("cpu")


def stream(most: int, noted: list[list[int]], waits: int = 0) -> BatchStream[list[int], list[int]]:
    """Batches are their rows; more atoms than `most` do not fit."""

    def compute(rows: list[int]) -> Callable[[], list[int]]:
        noted.append(rows)
        if len(rows) * max(SIZES[row] for row in rows) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return lambda: rows

    found = BatchStream(SIZES, lambda rows, structures: rows, compute, CPU)
    found._waits = waits
    return found


@pytest.mark.parametrize("waits", [0, 1])
@pytest.mark.parametrize("most", [4, 5, 8, 100])
def test_every_row_once_and_within_what_fits(most: int, waits: int, caplog: pytest.LogCaptureFixture) -> None:
    noted: list[list[int]] = []
    cut = list(size_batches(SIZES, 20))
    results = list(stream(most, noted, waits).results((rows, None) for rows in cut))
    assert [row for rows in results for row in rows] == [row for rows in cut for row in rows]
    assert all(len(rows) * max(SIZES[row] for row in rows) <= most for rows in results)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == (most < 20)
    assert not lines or "out of memory with a batch of" in lines[0]


def test_what_did_not_fit_once_is_not_tried_again() -> None:
    noted: list[list[int]] = []
    cut = [[2, 7, 1, 4], [3, 0, 5, 6]]
    list(stream(5, noted).results((rows, None) for rows in cut))
    # 8 atoms do not fit, 4 do; the second batch of 16 is cut before it is tried.
    assert noted == [[2, 7, 1, 4], [2, 7], [1, 4], [3], [0], [5], [6]]


def test_parts_of_a_part_come_before_what_was_behind_it() -> None:
    found = list(stream(5, []).results([([2, 7, 1, 3], None)]))
    assert found == [[2, 7], [1], [3]]


def test_a_single_structure_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError, match=r"2\.00 GiB"):
        list(stream(3, []).results([([2, 7, 1], None), ([0], None)]))


def test_results_of_a_batch_come_after_the_next_has_begun() -> None:
    """So that the device has something to do while the host waits for what it sends."""
    noted: list[list[int]] = []
    seen = []
    for rows in stream(100, noted, waits=1).results(([k], None) for k in range(4)):
        seen.append((rows[0], len(noted)))
    assert seen == [(0, 2), (1, 3), (2, 4), (3, 4)]


def test_structures_that_are_there_are_not_taken_again() -> None:
    given: list[object] = []
    here = object()
    found = BatchStream(SIZES, lambda rows, structures: given.append(structures), lambda batch: lambda: None, CPU)
    list(found.results([([0], here), ([1], None)]))
    assert given == [here, None]


@pytest.fixture
def structures(mixed_frames: Callable[..., list[Frame]]) -> Structures:
    return Structures.from_frames(mixed_frames(("Si",), 40))


def failing_above(most: int, whole: Callable[..., object]) -> Callable[..., object]:
    def found(potential: object, batch: Batch, **more: object) -> object:
        if batch.structures.positions.shape[0] * batch.structures.positions.shape[1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(potential, batch, **more)

    return found


def test_predictions_in_smaller_batches_are_the_same(structures: Structures, monkeypatch: pytest.MonkeyPatch) -> None:
    potential = make_potential()
    expected = predict(potential, structures)
    monkeypatch.setattr(prediction, "predict_batch", failing_above(12, predict_batch))
    found = predict(potential, structures)
    assert torch.equal(found.energy, expected.energy)
    assert torch.equal(found.forces, expected.forces)


def test_features_in_smaller_batches_are_the_same(structures: Structures, monkeypatch: pytest.MonkeyPatch) -> None:
    potential = make_potential()
    expected = featurize(structures, potential)
    features, calls = Batch.features, []

    def failing(self: Batch, descriptor: object) -> torch.Tensor:
        calls.append(len(self.species))
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return features(self, descriptor)

    monkeypatch.setattr(Batch, "features", failing)
    assert torch.equal(featurize(structures, potential), expected)
    assert len(calls) > 2


class TestAhead:
    def test_results_in_order_and_in_another_thread(self) -> None:
        here = threading.get_ident()
        found = list(ahead(lambda item: (item, threading.get_ident()), range(5)))
        assert [item for item, _ in found] == list(range(5))
        assert here not in {thread for _, thread in found}

    def test_the_next_is_computed_before_it_is_asked_for(self) -> None:
        """And no more: what waits takes memory."""
        begun = [threading.Event() for _ in range(4)]

        def task(item: int) -> int:
            begun[item].set()
            return item

        results = ahead(task, range(4))
        assert next(results) == 0
        assert begun[1].wait(20)
        assert not begun[2].is_set()
        assert next(results) == 1
        assert begun[2].wait(20)

    def test_modes_of_the_caller(self) -> None:
        with torch.no_grad():
            assert not any(ahead(lambda item: torch.is_grad_enabled(), range(3)))

    def test_an_error_comes_out_where_its_result_would(self) -> None:
        results = ahead(lambda item: 1 // item, [1, 0, 1])
        assert next(results) == 1
        with pytest.raises(ZeroDivisionError):
            next(results)

    def test_nothing_is_left_of_a_loop_that_ends_early(self) -> None:
        before = threading.active_count()
        for _ in ahead(lambda item: item, range(100)):
            break
        gc.collect()
        assert threading.active_count() == before

    def test_nothing_to_do(self) -> None:
        assert list(ahead(lambda item: item, [])) == []


class TestPulledAhead:
    def test_items_in_order(self) -> None:
        assert list(pulled_ahead(iter(range(5)))) == list(range(5))
        assert list(pulled_ahead([])) == []

    def test_the_next_is_asked_for_in_another_thread(self) -> None:
        second = threading.Event()
        threads = []

        def items() -> Iterator[int]:
            threads.append(threading.get_ident())
            yield 0
            second.set()
            yield 1

        results = pulled_ahead(items())
        assert next(results) == 0
        assert second.wait(20)
        assert threads != [threading.get_ident()]
        assert list(results) == [1]

    def test_an_error_comes_out(self) -> None:
        def items() -> Iterator[int]:
            yield 0
            raise ValueError("line 7")

        results = pulled_ahead(items())
        assert next(results) == 0
        with pytest.raises(ValueError, match="line 7"):
            next(results)


def test_nothing_is_on_its_way_on_a_cpu() -> None:
    Arriving(CPU).wait()


class Stream:
    """The stand-in of CUDA's streams and events."""

    def __init__(self, device: object = None) -> None:
        pass

    wait_stream = wait_event = record = lambda self, other: None


def test_what_finds_no_place_when_it_is_read_is_left_to_whoever_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Stream", "Event", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())

    def take(rows: list[int]) -> Structures:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert list(batch_stream.read_ahead(take, [[0, 1], [2]], CPU)) == [([0, 1], None), ([2], None)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_reading_ahead_on_a_gpu(mixed_frames: Callable[..., list[Frame]]) -> None:
    device = torch.device("cuda", 0)
    frames = mixed_frames(("Si",), 40)
    cut = list(size_batches([frame.n_atoms for frame in frames], 12))

    def take(rows: list[int]) -> Structures:
        return Structures.from_frames([frames[row] for row in rows], device=device)

    for rows, found in batch_stream.read_ahead(take, cut, device):
        expected = Structures.from_frames([frames[row] for row in rows])
        assert found is not None
        assert torch.equal(found.positions.cpu(), expected.positions)
        assert torch.equal(found.places.cpu(), expected.places)
