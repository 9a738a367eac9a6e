"""Loss and gradient on the NIST silicon set: this package against a dense structures x atoms matrix, side by side.

    python tests/benchmarks/closure.py [--structures FILE] [--dtype float32] [--threads 1]

Header of the classic network 00 (40 inputs), layers 40-16-16-1, random weights. The optional folder of reference
data beside the checkout holds the structures.
"""

import argparse
import time
from pathlib import Path

import torch

import pyfit_gpu as pf
from pyfit_gpu.networks import ElementNetworks
from pyfit_gpu.objective import Objective

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
    from pyfit_gpu.potential import Potential

    structures = pf.load_structures(path)
    networks = ElementNetworks.random(LAYERS, 0.1, 1, n_elements=1, activation=1)
    potential = Potential(HEADER, networks, (28.0855,), 0.1, False, (0.0,) * 8, torch.zeros(1))
    return pf.build_training_set(structures, potential, e_shift=0.795023).to("cpu", dtype)


class Sparse:
    """The package's own objective."""

    def __init__(self, training_set: pf.TrainingSet) -> None:
        self.objective = Objective(training_set)

    def __call__(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = self.objective.loss(ElementNetworks.from_flat(flat, LAYERS, n_elements=1, activation=1)).sum()
        return loss.detach(), torch.autograd.grad(loss, flat)[0]


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


def median_seconds(closure, flat: torch.Tensor, repeats: int) -> float:
    closure(flat)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        closure(flat)
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


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
    sparse, dense = Sparse(training_set), Dense(training_set)
    tolerance = 1e-4 if options.dtype == "float32" else 1e-10
    for ours, theirs in zip(sparse(flat), dense(flat), strict=True):
        torch.testing.assert_close(ours.to(theirs.dtype), theirs, rtol=tolerance, atol=tolerance)
    # In turn, so that a drift of the machine's speed meets both.
    rounds = [(median_seconds(sparse, flat, 7), median_seconds(dense, flat, 3)) for _ in range(3)]
    ours, theirs = (sorted(column)[1] for column in zip(*rounds, strict=True))
    print(f"torch {torch.__version__}, {options.threads} thread(s), {options.dtype}, {training_set.n_atoms} atoms")
    print(f"{'this package':<26}{1000 * ours:8.1f} ms")
    print(f"{'dense structures x atoms':<26}{1000 * theirs:8.1f} ms")
    print(f"{'ratio':<26}{theirs / ours:8.1f}")


if __name__ == "__main__":
    main()
