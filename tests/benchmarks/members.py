"""Cost of K networks trained at once, compared with one, on the NIST silicon set of the optional reference data.

    python tests/benchmarks/members.py [--device cuda] [--members 1 8 32] [--steps 5] [--dtype float64]

Each K takes the same steps from K random starts; reported are seconds, evaluations of loss and gradient (all members),
milliseconds per evaluation of one member, and the time beside that of the first K, all in one run. On a CPU the first
K is measured again at the end, so that a change of the machine's speed shows.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
from closure import HEADER, LAYERS, make_set

import pyfit_gpu as pf
from pyfit_gpu.models.networks import ElementNetworks

SHARED = Path(os.environ.get("PYFIT_SHARED") or Path(__file__).parents[3] / "shared")


def load(device: str, dtype: torch.dtype) -> tuple[pf.Potential, pf.TrainingSet]:
    """The benchmark of the closure's potential, layers 40-16-16-1, and all structures with an energy."""
    training_set = make_set(SHARED / "data" / "silicon_nist.poscar.dat", torch.float64)
    networks = ElementNetworks.random(LAYERS, 0.3, 1, n_elements=1, activation=1)
    potential = pf.Potential(HEADER, networks, (28.0855,), 0.3, False, (0.0,) * 8, torch.zeros(1, dtype=torch.float64))
    known = training_set.select(training_set.has_energy.nonzero()[:, 0])
    return potential.to(device), known.to(device, dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--n-threads", type=int, default=0)
    options = parser.parse_args()
    if options.n_threads:
        torch.set_num_threads(options.n_threads)
    potential, training_set = load(options.device, getattr(torch, options.dtype))
    train, validation = training_set.split(0.9, 2)
    print(f"{options.device}, {options.dtype}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"{train.n_atoms} atoms, layers {LAYERS}")  # fmt: skip
    again = options.members[:1] if options.device == "cpu" else []
    pf.fit(potential, train, steps=1, members=options.members[0], settings=pf.FitSettings(seed=1, steps=1))
    first = 0.0
    for n_members in [*options.members, *again]:
        settings = pf.FitSettings(steps=options.steps, seed=1, validation_interval=0)
        started = time.perf_counter()
        history = pf.fit(potential, train, validation, members=n_members, settings=settings)
        seconds = time.perf_counter() - started
        first = first or seconds / history.n_evaluations * n_members
        each = seconds / history.n_evaluations
        print(f"K = {n_members:4d}: {seconds:8.2f} s, {history.n_evaluations:6d} evaluations, "
              f"{1000 * each:8.3f} ms each, a round of all members {each * n_members / first:6.2f} times one member's, "
              f"best {history.best.loss[-1]:.5f} eV/atom")  # fmt: skip


if __name__ == "__main__":
    main()
