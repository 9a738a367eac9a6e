"""Tasks on several threads: side by side, in the caller's modes, and without a trace in torch's settings."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from sample_sets import make_potential

import pyfit_gpu
from pyfit_gpu.descriptors import lsp
from pyfit_gpu.models.batches import featurize
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.parallel import Workers, lazy
from pyfit_gpu.structures.batch import Structures

CPU = torch.device("cpu")


class Slow:
    """Objects of one class whose attribute waits until that of all of them is asked for."""

    def __init__(self, all_there: threading.Barrier) -> None:
        self.all_there = all_there
        self.n_computed = 0

    @lazy
    def number(self) -> int:
        """Doc."""
        self.n_computed += 1
        return self.all_there.wait(timeout=20)


@pytest.mark.usefixtures("three_threads")
def test_lazy_attributes_of_several_objects_are_computed_at_once() -> None:
    """With a lock for the class, as in `functools.cached_property` of Python 3.11, the barrier would break."""
    objects = [Slow(threading.Barrier(1)), *(Slow(barrier) for barrier in [threading.Barrier(3)] * 3)]
    assert objects[0].number == 0
    found = Workers(CPU).map(lambda one: one.number, objects[1:])
    assert sorted(found) == [0, 1, 2]
    assert [one.number for one in objects[1:]] == found
    assert [one.n_computed for one in objects] == [1] * 4
    assert Slow.__dict__["number"].__doc__ == "Doc."


@pytest.mark.usefixtures("three_threads")
def test_torch_keeps_its_number_of_threads() -> None:
    """Also in threads that are started later, while each worker uses one."""
    assert set(Workers(CPU).map(lambda _: torch.get_num_threads(), range(9))) == {1}
    assert torch.get_num_threads() == 3
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [3]


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_modes_of_the_caller(mode: type) -> None:
    def modes(_: object = None) -> tuple[bool, bool]:
        return torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    workers = Workers(CPU)
    with mode():
        assert set(workers.map(modes, range(5))) == {modes()}
        assert set(workers.each(modes, range(5))) == {modes()}


@pytest.mark.usefixtures("three_threads")
def test_predictions_in_inference_mode(mixed_frames, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsp, "_FEW_PAIRS", 0)
    structures = Structures.from_frames(mixed_frames())
    expected = predict(make_potential(), structures)
    with torch.inference_mode():
        found = predict(make_potential(), structures)
        features = featurize(structures, make_potential())
    assert torch.equal(found.forces, expected.forces)
    assert features.shape[0] == structures.n_atoms


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_run_does_everything_once(count: int) -> None:
    done: list[int] = []
    Workers(CPU).run(done.append, iter(range(count)))
    assert sorted(done) == list(range(count))


@pytest.mark.usefixtures("three_threads")
def test_an_error_of_a_task_is_that_of_the_caller() -> None:
    def fail(number: int) -> None:
        if number == 7:
            raise KeyError(number)

    with pytest.raises(KeyError, match="7"):
        Workers(CPU).run(fail, range(30))


AT_EXIT = """
import atexit, sys
import torch
torch.set_num_threads(2)
sys.path.insert(0, sys.argv[1])
from sample_sets import make_potential
from pyfit_gpu.descriptors import lsp
from pyfit_gpu.models.prediction import predict
import pyfit_gpu as pf
lsp._FEW_PAIRS = 0
structures = pf.load_structures(sys.argv[1] + "/data/own/structures.poscar.dat")
torch.set_num_threads(1)
expected = predict(make_potential(), structures).energy
torch.set_num_threads(2)
if sys.argv[2] == "begun":
    predict(make_potential(), structures)
atexit.register(lambda: print(bool((predict(make_potential(), structures).energy == expected).all())))
"""


@pytest.mark.parametrize("before", ["begun", "not begun"])
def test_at_the_end_of_the_interpreter(before: str) -> None:
    """Threads cannot be started or given tasks any more: the caller does them."""
    here = Path(__file__).parent
    command = [sys.executable, "-c", AT_EXIT, str(here), before]
    environment = {"PYTHONPATH": str(Path(pyfit_gpu.__file__).parents[1])}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
    assert ended.stdout.strip() == "True", ended.stderr
