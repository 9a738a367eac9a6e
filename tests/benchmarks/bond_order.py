"""A physically informed potential: energies and forces of a rattled fcc crystal, and where their time goes.

    python tests/benchmarks/bond_order.py Al_2020.pinn [--lattice-constant 4.04] [--repeat 7] [--threads 1]

A new structure at every evaluation, by the ASE calculator; processor time with one thread, which other work on the
machine touches little, and time on the wall. The parts contain what they call.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ase.build import bulk

import pyfit_gpu as pf
from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.models.bond_order import BondOrder
from pyfit_gpu.models.surroundings import Surroundings
from pyfit_gpu.structures.verlet import VerletList

seconds: dict[str, float] = defaultdict(float)


def timed(owner: type, name: str, label: str) -> None:
    function = getattr(owner, name)

    def measured(*arguments: Any, **named: Any) -> Any:
        begin = time.perf_counter()
        result = function(*arguments, **named)
        seconds[label] += time.perf_counter() - begin
        return result

    is_class_method = isinstance(vars(owner)[name], classmethod)
    setattr(owner, name, staticmethod(measured) if is_class_method else measured)


def evaluations(potential: str, options: argparse.Namespace, dtype: str) -> Callable[[], None]:
    atoms = bulk(pf.load_potential(potential).descriptor.elements[0], "fcc", a=options.lattice_constant, cubic=True)
    atoms = atoms.repeat(options.repeat)
    atoms.calc = pf.PyfitCalculator(potential, device="cpu", dtype=dtype, e_shift=0.0)
    rng = np.random.default_rng(1)
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)

    def evaluate() -> None:
        atoms.positions += rng.normal(0, 0.003, atoms.positions.shape)
        atoms.get_forces()

    evaluate.n_atoms = len(atoms)  # type: ignore[attr-defined]
    return evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("potential")
    parser.add_argument("--lattice-constant", type=float, default=4.04, help="Å")
    parser.add_argument("--repeat", type=int, default=7, help="cubic cells along each side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    timed(Chunk, "raw", "features")
    timed(Chunk, "vjp", "features, derivatives")
    timed(Surroundings, "of", "bonds and screening atoms")
    timed(BondOrder, "vjp", "bond order, these included")
    timed(VerletList, "__call__", "neighbours")
    for dtype in ("float64", "float32"):
        evaluate = evaluations(options.potential, options, dtype)
        for _ in range(3):
            evaluate()
        seconds.clear()
        processor, wall = [], []
        for _ in range(options.rounds):
            begin = time.process_time(), time.perf_counter()
            evaluate()
            processor.append(time.process_time() - begin[0])
            wall.append(time.perf_counter() - begin[1])
        n_atoms = evaluate.n_atoms  # type: ignore[attr-defined]
        print(
            f"{dtype}, {n_atoms} atoms: {n_atoms / min(processor):.0f} atom-steps/s of processor time, best; "
            f"median {n_atoms / statistics.median(processor):.0f}; on the wall best {n_atoms / min(wall):.0f}"
        )
        for label, total in seconds.items():
            print(f"    {label:30s} {1e6 * total / options.rounds / n_atoms:6.0f} µs/atom")


if __name__ == "__main__":
    main()
