"""Loss and gradient on the NIST silicon set: this package, what no program can do without, and a dense version.

    python tests/benchmarks/closure.py [--structures FILE] [--dtype float32] [--threads 1]

Header of the classic network 00 (40 inputs), layers 40-16-16-1, random weights. All in turn in one process. The floor
is the plain matrix products of the same shapes, forwards and backwards, and one sigmoid per hidden unit in each
direction, over all atoms at once, into memory that is there already. The optional folder of reference data beside the
checkout holds the structures.
"""

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch

import pyfit_gpu as pf
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.training.objective import Objective

HEADER = pf.LocalStructureParameters(
    elements=("Si",),
    gi_mode=1,
    shift=0.5,
    cutoff=4.5,
    cutoff_width=1.0,
    gaussian_width=1.0,
    legendre_orders=(0, 1, 2, 4, 6),
    gaussian_centers=(1.5, 1.8571, 2.2143, 2.5714, 2.9286, 3.2857, 3.6429, 4.0),
)
LAYERS = (40, 16, 16, 1)


def make_set(path: Path, dtype: torch.dtype) -> pf.TrainingSet:
    from pyfit_gpu.models.potential import Potential

    structures = pf.load_structures(path)
    networks = ElementNetworks.random(LAYERS, 0.1, 1, n_elements=1, activation=1)
    potential = Potential(HEADER, networks, (28.0855,), 0.1, False, (0.0,) * 8, torch.zeros(1))
    return pf.build_training_set(structures, potential, e_shift=0.795023).to("cpu", dtype)


class Package:
    """The package's own objective, as training calls it."""

    def __init__(self, training_set: pf.TrainingSet) -> None:
        self.objective = Objective(training_set)
        self.like = ElementNetworks.random(LAYERS, 0.1, 1, n_elements=1, activation=1)

    def __call__(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.objective.evaluate(flat.detach(), self.like)
        return found.errors.loss.sum(), found.gradient


class Floor:
    """Products and sigmoids alone; they compute nothing."""

    def __init__(self, features: torch.Tensor) -> None:
        def random(*shape: int) -> torch.Tensor:
            return torch.rand(shape, dtype=features.dtype)

        n_atoms = len(features)
        self.weights = [random(a, b) for a, b in pairwise(LAYERS)]
        self.inputs = [features, *(random(n_atoms, n) for n in LAYERS[1:-1])]
        self.slopes = [random(n_atoms, n) for n in LAYERS[1:]]  # dF/da of each layer
        self.values = [random(n_atoms, n) for n in LAYERS[1:]]
        self.of_weights = [torch.empty_like(weight) for weight in self.weights]

    def __call__(self, flat: torch.Tensor) -> None:
        for hidden, weight, value in zip(self.inputs, self.weights, self.values, strict=True):
            torch.mm(hidden, weight, out=value)
            if weight is not self.weights[-1]:
                torch.sigmoid(value, out=value)
        for layer in range(len(self.weights) - 1, -1, -1):
            torch.mm(self.inputs[layer].T, self.slopes[layer], out=self.of_weights[layer])
            if layer:
                value = self.values[layer - 1]
                torch.mm(self.slopes[layer], self.weights[layer].T, out=value)
                torch.ops.aten.sigmoid_backward.grad_input(value, self.inputs[layer], grad_input=value)


class Dense:
    """The older way: one matrix product with a row of ones per structure sums the atoms."""

    def __init__(self, training_set: pf.TrainingSet) -> None:
        owner = torch.repeat_interleave(training_set.sizes)
        self.features = training_set.features
        self.reduction = self.features.new_zeros(len(training_set), training_set.n_atoms)
        self.reduction[owner, torch.arange(training_set.n_atoms)] = 1.0
        self.per_atom = 1.0 / training_set.sizes.to(self.features.dtype)[:, None]
        self.energy = training_set.energy_used.to(self.features.dtype)[:, None]

    def __call__(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        networks = ElementNetworks.from_flat(flat, LAYERS, n_elements=1, activation=1)
        hidden = self.features
        for layer, (weight, bias) in enumerate(zip(networks.weights, networks.biases, strict=True)):
            hidden = torch.addmm(bias[0, 0], hidden, weight[0, 0])
            if layer < len(LAYERS) - 2:
                hidden = torch.sigmoid(hidden) - 0.5
        difference = (self.reduction.mm(hidden) - self.energy) * self.per_atom
        loss = difference.square().mean().sqrt()
        return loss.detach(), torch.autograd.grad(loss, flat)[0]


def seconds(closure: Callable[[torch.Tensor], object], flat: torch.Tensor, repeats: int) -> float:
    """The least of some calls."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        closure(flat)
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    shared = Path(__file__).resolve().parents[3] / "shared" / "data" / "silicon_nist.poscar.dat"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=Path, default=shared)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    training_set = make_set(options.structures, getattr(torch, options.dtype))
    flat = ElementNetworks.random(LAYERS, 0.1, 1, n_elements=1, activation=1).flat()
    flat = flat.to(training_set.features.dtype).requires_grad_()
    package, floor, dense = Package(training_set), Floor(training_set.features), Dense(training_set)
    tolerance = 1e-4 if options.dtype == "float32" else 1e-10
    for ours, theirs in zip(package(flat), dense(flat), strict=True):
        torch.testing.assert_close(ours.to(theirs.dtype), theirs, rtol=tolerance, atol=tolerance)
    # In turn, so that a drift of the machine's speed meets all; the ratio is of the same round.
    rounds = [(seconds(package, flat, 7), seconds(floor, flat, 7), seconds(dense, flat, 2)) for _ in range(9)]
    print(f"torch {torch.__version__}, {options.threads} thread(s), {options.dtype}, {training_set.n_atoms} atoms")
    print(f"{'':<36}{'ms':>8}{'ratio to the floor':>30}")
    names = ("this package", "products and sigmoids (the floor)", "dense structures x atoms")
    for column, name in enumerate(names):
        ratios = sorted(times[column] / times[1] for times in rounds)
        best = 1000 * min(times[column] for times in rounds)
        print(f"{name:<36}{best:8.1f}{ratios[len(ratios) // 2]:14.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
