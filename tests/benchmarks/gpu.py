"""Everything on a GPU in one table: neighbours, features, forces, the training closure, whole fits.

    python tests/benchmarks/gpu.py [--structures FILE] [--members 1 8 32 128]

The NIST silicon set of the optional reference data, header of the classic network 00, layers 40-16-16-1, random
weights. Every result is compared with the CPU's first; what is timed runs under torch's watch for waits of the host,
where it must not have any. The roofline of the closure is that of `closure.py`'s floor: for each product and each
sigmoid the longer of what its numbers take at the measured bandwidth and its operations at the measured rate, added up.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from closure import HEADER, LAYERS, make_set
from torch import Tensor

import pyfit_gpu as pf
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.optimizers.cuda_graphs import Recorded
from pyfit_gpu.structures.neighbors import BACKENDS, Neighbors, find_neighbors
from pyfit_gpu.training.closure import Closure
from pyfit_gpu.training.objective import Objective

DEFAULT = Path(os.environ.get("PYFIT_SHARED") or Path(__file__).parents[3] / "shared") / "data"
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4}  # of the largest number of each result


def milliseconds(task: Callable[..., object], *arguments: object, repeats: int = 20) -> float:
    """Time of one call, the least of three rounds."""
    for _ in range(2):
        task(*arguments)
    times = []
    for _ in range(3):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(repeats):
            task(*arguments)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - started) / repeats)
    return 1000 * min(times)


@contextlib.contextmanager
def no_waits() -> Iterator[None]:
    """An error where the host waits for the GPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def agree(name: str, found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    difference = float((found.cpu().double() - expected.double()).abs().max() / expected.double().abs().max())
    if not difference <= TOLERANCE[dtype]:
        raise SystemExit(f"{name}: the GPU differs from the CPU by {difference:.2g} of the largest number")
    print(f"  {name}: within {difference:.1g} of the CPU")


class Roofline:
    """Limits of this GPU, measured."""

    def __init__(self) -> None:
        numbers = torch.empty(2**28, device="cuda")
        copy = torch.empty_like(numbers)
        self.bandwidth = 2 * numbers.nbytes / milliseconds(copy.copy_, numbers) * 1e3  # bytes/s
        self.rate = {}  # operations/s
        for dtype in (torch.float64, torch.float32):
            matrix = torch.randn(8192, 8192, device="cuda", dtype=dtype)
            self.rate[dtype] = 2 * 8192**3 / milliseconds(torch.mm, matrix, matrix, repeats=5) * 1e3

    def closure(self, n_atoms: int, n_members: int, dtype: torch.dtype) -> float:
        """Milliseconds."""
        seconds = 0.0

        def step(n_numbers: float, n_operations: float = 0.0) -> None:
            nonlocal seconds
            seconds += n_atoms * max(n_numbers * dtype.itemsize / self.bandwidth, n_operations / self.rate[dtype])

        for layer, (a, b) in enumerate(pairwise(LAYERS)):
            inputs = a if layer == 0 else n_members * a  # all members share the features
            b *= n_members
            for _ in range(2):  # outputs, and the gradient by the weights
                step(inputs + b, 2 * a * b)
            if layer:
                step(inputs + b, 2 * a * b)  # the gradient by the inputs
                step(2 * inputs)  # the sigmoid of the inputs
                step(3 * inputs)  # and its derivative
        return 1000 * seconds


def neighbor_rows(structures: pf.Structures, on_cpu: pf.Structures) -> Neighbors:
    expected = find_neighbors(on_cpu, HEADER.cutoff)
    n_atoms = on_cpu.n_atoms
    for backend in BACKENDS:
        if backend == "torch-cluster" and importlib.util.find_spec("torch_cluster") is None:
            print(f"{'neighbours, torch-cluster':<44} not installed")
            continue
        found = find_neighbors(structures, HEADER.cutoff, backend=backend)
        if not torch.equal(found.counts.cpu(), expected.counts):
            raise SystemExit(f"neighbours, {backend}: other pairs than on the CPU")
        search = partial(find_neighbors, structures, HEADER.cutoff, backend=backend)
        ms = milliseconds(search, repeats=5)
        row(f"neighbours, {backend}", ms, n_atoms)
    return find_neighbors(structures, HEADER.cutoff)


def row(name: str, ms: float, n_atoms: int = 0, note: str = "") -> None:
    rate = f"{n_atoms / ms / 1000:8.2f} M atoms/s" if n_atoms else ""
    print(f"{name:<44} {ms:9.3f} ms {rate:<18} {note}", flush=True)


def feature_rows(neighbors: Neighbors) -> None:
    n_atoms = len(neighbors.counts)
    species = torch.zeros(n_atoms, dtype=torch.int64)
    on_cpu = Neighbors(neighbors.counts.cpu(), neighbors.index.cpu(), neighbors.vectors.cpu())
    expected = HEADER.raw(on_cpu, species)
    on_gpu = species.cuda()
    for dtype in (torch.float64, torch.float32):
        typed = neighbors.to(dtype)
        agree(f"features {dtype}", HEADER.raw(typed, on_gpu), expected, dtype)
        row(f"features {dtype}", milliseconds(HEADER.raw, typed, on_gpu, repeats=5), n_atoms)
        ms = milliseconds(with_derivatives, typed, on_gpu, repeats=5)
        row(f"features and dE/dr of pairs {dtype}", ms, n_atoms)
        chunks = list(HEADER.chunks(typed, on_gpu))
        with no_waits():
            for chunk in chunks:
                chunk.vjp(torch.ones_like(chunk.raw()))


def with_derivatives(neighbors: Neighbors, species: Tensor) -> None:
    for chunk in HEADER.chunks(neighbors, species):
        chunk.vjp(torch.ones_like(chunk.raw()))


def force_rows(structures: pf.Structures, on_cpu: pf.Structures, potential: pf.Potential) -> None:
    small = on_cpu.select(range(0, len(on_cpu), 10))
    expected = predict(potential, small)
    assert expected.forces is not None
    for dtype in (torch.float64, torch.float32):
        typed = potential.to("cuda", dtype)
        found = predict(typed, small.to("cuda"))
        assert found.forces is not None
        agree(f"forces {dtype}", found.forces, expected.forces, dtype)
        ms = milliseconds(predict, typed, structures, repeats=3)
        row(f"energies, forces, stress {dtype}", ms, on_cpu.n_atoms)


def closure_rows(training_set: pf.TrainingSet, roofline: Roofline, members: list[int]) -> None:
    like = ElementNetworks.random(LAYERS, 0.1, 1, n_elements=1, activation=1)
    generator = torch.Generator().manual_seed(0)
    points = 0.2 * torch.rand(max(members), like.n_parameters, dtype=torch.float64, generator=generator) - 0.1
    expected = Objective(training_set).evaluate(points[:2], like)
    assert expected.gradient is not None
    for dtype in (torch.float64, torch.float32):
        objective = Objective(training_set.to("cuda", dtype))
        closure = Closure(objective, like.to("cuda"), 0.0)
        found = objective.evaluate(points[:2].cuda(), like)
        assert found.gradient is not None
        agree(f"loss {dtype}", found.errors.loss, expected.errors.loss, dtype)
        agree(f"gradient of the loss {dtype}", found.gradient, expected.gradient, dtype)
        for n_members in members:
            own = points[:n_members].cuda()
            with no_waits():
                objective.evaluate(own, like)
            best = roofline.closure(training_set.n_atoms, n_members, dtype)
            tasks = {f"loss and gradient {dtype}, K = {n_members}": partial(objective.evaluate, own, like)}
            if closure.is_recordable(n_members):
                tasks["  recorded, as training does"] = partial(Recorded(partial(gradient, objective, like)), own)
            for name, task in tasks.items():
                ms = milliseconds(task)
                row(name, ms, 0, f"{ms / best:5.2f} of the roofline, {best:.3f} ms")


def gradient(objective: Objective, like: ElementNetworks, points: Tensor) -> Tensor:
    found = objective.evaluate(points, like).gradient
    assert found is not None
    return found


def label_rows(training_set: pf.TrainingSet) -> None:
    """A step of training on forces: derivatives of features kept, or computed anew."""
    like = ElementNetworks.random(LAYERS, 0.1, 1, n_elements=1, activation=1)
    flat = like.flat()
    generator = torch.Generator().manual_seed(0)
    small = training_set.select(torch.arange(0, len(training_set), 10))
    small.forces[:] = torch.randn(small.forces.shape, generator=generator, dtype=torch.float64)
    expected = gradient(Objective(small, {"forces": 0.1}), like, flat)
    for dtype in (torch.float64, torch.float32):
        part = small.to("cuda", dtype)
        for name, memory in (("kept", float("inf")), ("computed anew", 0.0)):
            objective = Objective(part, {"forces": 0.1}, memory=memory)
            point = flat.cuda()
            agree(f"gradient with forces, {name} {dtype}", gradient(objective, like, point), expected, dtype)
            ms = milliseconds(objective.evaluate, point, like, repeats=5)
            row(f"loss of forces and gradient {dtype}, {name}", ms, small.n_atoms)


def fit_rows(training_set: pf.TrainingSet, potential: pf.Potential, members: list[int]) -> None:
    known = training_set.select(training_set.has_energy.nonzero()[:, 0])
    train, _ = known.to("cuda", torch.float64).split(0.9, 2)
    on_gpu = potential.to("cuda", torch.float64)
    for n_members in members:
        settings = pf.FitSettings(steps=30, seed=1, validation_interval=0)
        pf.fit(on_gpu, train, members=n_members, settings=pf.FitSettings(steps=1, seed=1))
        started = time.perf_counter()
        history = pf.fit(on_gpu, train, members=n_members, settings=settings)
        ms = 1000 * (time.perf_counter() - started)
        each = ms / history.n_evaluations * n_members
        row(f"a round of evaluations in a fit, K = {n_members}", each, 0, f"{history.n_evaluations} evaluations")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=Path, default=DEFAULT / "silicon_nist.poscar.dat")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 8, 32, 128])
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: nothing to measure")
    started = time.perf_counter()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    roofline = Roofline()
    rates = ", ".join(f"{dtype} {rate / 1e12:.0f} T/s" for dtype, rate in roofline.rate.items())
    print(f"copies {roofline.bandwidth / 1e12:.2f} TB/s, products {rates}")
    on_cpu = pf.load_structures(options.structures)
    structures = on_cpu.to("cuda")
    networks = ElementNetworks.random(LAYERS, 0.1, 1, n_elements=1, activation=1)
    potential = pf.Potential(HEADER, networks, (28.0855,), 0.1, False, (0.0,) * 8, torch.zeros(1, dtype=torch.float64))
    neighbors = neighbor_rows(structures, on_cpu)
    feature_rows(neighbors)
    ms = milliseconds(pf.featurize, structures, potential.to("cuda"), repeats=3)
    row("structures to features, whole", ms, on_cpu.n_atoms)
    force_rows(structures, on_cpu, potential)
    training_set = make_set(options.structures, torch.float64)
    closure_rows(training_set, roofline, options.members)
    label_rows(training_set)
    fit_rows(training_set, potential, options.members)
    print(f"{time.perf_counter() - started:.0f} s in all, peak memory of the GPU "
          f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")  # fmt: skip


if __name__ == "__main__":
    main()
