"""One evaluation of the loss of energies and forces, and its gradient: derivatives of features kept or computed anew.

python tests/benchmarks/force_training.py STRUCTURES POTENTIAL [--dtype float32] [--repeats 5]
"""

import argparse
import statistics
import time

import torch

import pyfit_gpu as pf
from pyfit_gpu.networks import ElementNetworks
from pyfit_gpu.objective import LossWeights, Objective


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("structures")
    parser.add_argument("potential")
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    potential = pf.load_potential(options.potential, seed=1, dtype=dtype)
    structures = pf.load_structures(options.structures)
    training_set = pf.build_training_set(structures, potential).to("cpu", dtype)
    weights = potential.networks.flat().requires_grad_(True)
    shape, activation = potential.networks.layer_sizes, potential.networks.activation
    cases: dict[str, Objective] = {}
    for name, loss_weights, memory in (
        ("energies only", None, 0.0),
        ("kept", LossWeights(0.01), float("inf")),
        ("computed anew", LossWeights(0.01), 0.0),
    ):
        started = time.perf_counter()
        cases[name] = Objective(training_set, loss_weights, memory=memory)
        print(f"{name}: set up in {time.perf_counter() - started:.2f} s, {cases[name].kept_bytes / 2**20:.0f} MiB kept")
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.repeats + 1):
        for name, objective in cases.items():
            started = time.perf_counter()
            n_elements = potential.descriptor.n_elements
            networks = ElementNetworks.from_flat(weights, shape, n_elements=n_elements, activation=activation)
            torch.autograd.grad(objective.loss(networks).sum(), weights)
            times[name].append(time.perf_counter() - started)
    kept = statistics.median(times["kept"][1:])
    print(f"{training_set.n_atoms} atoms, {potential.descriptor.n_features} features, {options.threads} thread(s)")
    for name, measured in times.items():
        median = statistics.median(measured[1:])  # the first warms up
        print(f"{name:<14} {1000 * median:8.1f} ms   {median / kept:5.2f} of kept")


if __name__ == "__main__":
    main()
