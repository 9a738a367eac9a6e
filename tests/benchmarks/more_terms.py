"""Cost of gi_mode 6 beside gi_mode 5: features, and features with the gradients of pairs, neighbours given.

    python tests/benchmarks/more_terms.py STRUCTURES [--every 3] [--threads 1] [--rounds 15] [--dtype float64]

The modes take turns in one process; what is printed are medians of processor time per atom, and medians of the ratios
of each round. STRUCTURES are of silicon, docs/performance.md has figures for the training structures of mlearn. With
`--elements 2` or 3 every atom gets one of that many elements, one after the other.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

import pyfit_gpu as pf
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.structures.neighbors import find_neighbors

SYMBOLS = ("Si", "C", "Ge")
PAIRS = LocalStructureParameters(
    elements=("Si",),
    gi_mode=5,
    shift=0.0,
    cutoff=5.0,
    cutoff_width=1.0,
    gaussian_width=0.5,
    legendre_orders=(0, 1, 2, 3, 4, 6),
    gaussian_centers=(1.6, 2.03, 2.46, 2.89, 3.31, 3.74, 4.17, 4.6),
)
FEWER = replace(PAIRS, legendre_orders=(0, 1, 2, 3, 4))
CROSS = replace(FEWER, gi_mode=6, cross_terms=1)
FOUR_BODY = replace(FEWER, gi_mode=6, triples=((1, 1, 2), (1, 2, 3), (2, 2, 2)))
BOTH = replace(FOUR_BODY, cross_terms=1)
CASES = {"mode 5, orders 0 1 2 3 4 6": PAIRS, "mode 5, orders 0 .. 4": FEWER, "mode 6, c 1, no triples": CROSS}
CASES |= {"mode 6, c 0, 3 triples": FOUR_BODY, "mode 6, c 1, 3 triples": BOTH}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("structures", type=Path)
    parser.add_argument("--every", type=int, default=3, help="one structure in so many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dtype", choices=["float64", "float32"], default="float64")
    parser.add_argument("--elements", type=int, choices=[1, 2, 3], default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    structures = pf.load_structures(options.structures)
    structures = structures.select(list(range(0, len(structures.sizes), options.every)))
    neighbors = find_neighbors(structures, PAIRS.neighbor_cutoff).to(getattr(torch, options.dtype))
    n_atoms = len(neighbors.counts)
    species = torch.arange(n_atoms) % options.elements
    cases = {name: replace(case, elements=SYMBOLS[: options.elements]) for name, case in CASES.items()}

    def features(descriptor: LocalStructureParameters) -> None:
        for chunk in descriptor.chunks(neighbors, species):
            chunk.raw()

    def with_gradients(descriptor: LocalStructureParameters) -> None:
        for chunk in descriptor.chunks(neighbors, species):
            chunk.vjp(chunk.raw())

    def derivatives(descriptor: LocalStructureParameters) -> None:
        for chunk in descriptor.chunks(neighbors, species):
            chunk.jacobian()

    print(f"torch {torch.__version__}, {options.threads} thread(s), {options.dtype}, {options.elements} element(s)")
    print(f"{n_atoms} atoms, {len(neighbors.index) / n_atoms:.1f} neighbours each")
    for function in (features, with_gradients, derivatives):
        compare(function, cases, n_atoms, options.rounds)


def compare(
    function: Callable[[LocalStructureParameters], None],
    cases: dict[str, LocalStructureParameters],
    n_atoms: int,
    rounds: int,
) -> None:
    """Print microseconds per atom, and ratios to the first case."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, descriptor in cases.items():
            started = time.process_time()
            function(descriptor)
            if number:  # the first round warms up
                times[name].append(time.process_time() - started)
    first = next(iter(times.values()))
    print(f"\n{function.__name__.replace('_', ' '):<30}{'features':>9}{'us/atom':>9}{'ratio':>7}")
    for name, own in times.items():
        ratio = statistics.median(one / other for one, other in zip(own, first, strict=True))
        print(f"{name:<30}{cases[name].n_features:>9}{statistics.median(own) / n_atoms * 1e6:>9.2f}{ratio:>7.3f}")


if __name__ == "__main__":
    main()
