"""Training of a physically informed network beside a straight one of the same hidden layers, on the NIST silicon set.

    python tests/benchmarks/informed_training.py [--steps 60] [--cutoff 4.5] [--seeds 1] [--times | --forces]

Both have 40 inputs and hidden layers 16-16, energies train, and both start from random weights (per seed) with the same
split. First prints the time of an evaluation of loss and gradient of both, taken in turn, and their ratio; then,
unless `--times` is given, the training and least validation RMSE of both after each fifth of the steps, meV/atom.
The informed one begins with a baseline that was fitted alone (`fit_baseline`). With `--forces` the times are those of
evaluations with energies alone and with forces, on a small set of made-up cells of aluminium and the silicon set of
mlearn. The optional folder of reference data beside the checkout holds the structures of silicon.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase.build import bulk
from closure import HEADER
from members import SHARED

import pyfit_gpu as pf
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.new_potential import new_potential
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.baseline import fit_baseline
from pyfit_gpu.training.objective import Objective

HIDDEN = (16, 16)
SHIFT = 0.795023  # eV/atom


def potentials(cutoff: float, element: str = "Si") -> dict[str, pf.Potential]:
    """The straight network of closure.py, and an informed one, without parameters."""
    like = {"legendre_orders": HEADER.legendre_orders, "hidden": HIDDEN}
    header = replace(HEADER, elements=(element,))
    straight = replace(new_potential([element], 4.5, gi_mode=1, **like), descriptor=header)
    informed = new_potential([element], cutoff, form="plain", n_centers=8, first_center=1.5, **like)
    return {"straight": straight, "informed": informed}


def aluminium() -> Structures:
    """60 rattled and strained cells of fcc aluminium, 480 atoms, with labels that no time depends on."""
    rng = np.random.default_rng(1)
    cells = [bulk("Al", "fcc", a=4.05).repeat(n) for n in ((2, 2, 1), (2, 2, 2), (3, 2, 2))]
    frames = []
    for number in range(60):
        atoms = cells[number % 3]
        cell = atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.02, (3, 3)))
        positions = atoms.get_scaled_positions() @ cell + rng.normal(0, 0.1, atoms.positions.shape)
        frame = Frame(positions, cell, atoms.pbc, atoms.numbers, "made", "made", energy=-3.4 * len(atoms))
        frames.append(replace(frame, forces=rng.normal(size=positions.shape)))
    return Structures.from_frames(frames)


def with_weights(potential: pf.Potential, seed: int) -> pf.Potential:
    networks = ElementNetworks.random(
        potential.networks.layer_sizes, potential.max_random, seed, n_elements=1, activation=1
    )
    return replace(potential, networks=networks)


def evaluation_times(
    potentials: dict[str, pf.Potential], sets: dict[str, pf.TrainingSet], forces: float = 0.0, rounds: int = 7
) -> None:
    """Print milliseconds of loss and gradient, medians (and least) of rounds in turn."""
    weights = {"forces": forces}
    objectives = {name: Objective(sets[name], weights, potential=one) for name, one in potentials.items()}
    seconds: dict[str, list[float]] = {name: [] for name in potentials}
    for number in range(rounds + 1):
        for name, potential in potentials.items():
            flat = potential.networks.flat()
            started = time.perf_counter()
            objectives[name].evaluate(flat, potential.networks)
            if number:  # the first one fills caches
                seconds[name].append(time.perf_counter() - started)
    (straight, least_straight), (informed, least_informed) = (
        (1e3 * statistics.median(seconds[name]), 1e3 * min(seconds[name])) for name in ("straight", "informed")
    )
    kept = objectives["informed"].kept_bytes
    n_atoms = objectives["straight"].n_atoms
    print(f"{'energies and forces' if forces else 'energies'}, loss and gradient of {n_atoms} atoms: straight "
          f"{straight:.1f} ms ({least_straight:.1f}), informed {informed:.1f} ms ({least_informed:.1f}), "
          f"{informed / straight:.1f} times ({least_informed / least_straight:.1f}); {kept / 2**20:.0f} MiB of bonds "
          f"{'and derivatives ' if forces else ''}kept", flush=True)  # fmt: skip


def force_times(cutoff: float) -> None:
    """Print times of evaluations with energies alone and with forces."""
    silicon = pf.load_structures(SHARED / "data" / "mlearn" / "Si_train.extxyz")
    for element, structures in (("Al", aluminium()), ("Si", silicon)):
        kinds = {name: with_weights(one, 1) for name, one in potentials(cutoff, element).items()}
        sets = {name: pf.build_training_set(structures, one, e_shift=0.0) for name, one in kinds.items()}
        print(f"{element}, {len(structures.sizes)} structures")
        for forces in (0.0, 0.01):
            evaluation_times(kinds, sets, forces, rounds=15 if element == "Al" else 5)


class Rows:
    """Training loss and least validation loss so far after every step, eV/atom."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float]] = []

    def on_start(self) -> None:
        self.rows.clear()

    def on_step(self, row: Any) -> None:
        least = min([row.validation, *(validation for _, validation in self.rows)])
        self.rows.append((row.loss, least))


def train(
    name: str, potential: pf.Potential, parts: tuple[pf.TrainingSet, pf.TrainingSet], steps: int, seed: int
) -> None:
    """Fit, and print the errors after each fifth of the steps."""
    settings = pf.FitSettings(steps=steps, seed=seed, l2=1e-7, l2_form="squared")
    started = time.perf_counter()
    if potential.is_physically_informed:
        potential = fit_baseline(potential, parts[0], settings)
        print(f"baseline: {time.perf_counter() - started:.0f} s, {potential.bond_order_parameters}")
    rows = Rows()
    started = time.perf_counter()
    pf.fit(potential, *parts, random_starts=True, settings=settings, observers=[rows])
    seconds = time.perf_counter() - started
    marks = [round(steps * fifth / 5) for fifth in range(6)]
    shown = ", ".join(f"{mark}: {1e3 * rows.rows[mark][0]:.1f} / {1e3 * rows.rows[mark][1]:.1f}" for mark in marks)
    print(f"{name}, seed {seed}, {seconds:.0f} s; training / least validation RMSE after steps {shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--cutoff", type=float, default=4.5, help="of the informed one, Å")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--times", action="store_true", help="times of evaluations only")
    parser.add_argument("--forces", action="store_true", help="times of evaluations with forces only, on smaller sets")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if options.forces:
        force_times(options.cutoff)
        return
    structures = pf.load_structures(SHARED / "data" / "silicon_nist.poscar.dat")
    kinds = {name: with_weights(one, 1) for name, one in potentials(options.cutoff).items()}
    whole = {name: pf.build_training_set(structures, one, e_shift=SHIFT) for name, one in kinds.items()}
    split = {name: own.select(own.has_energy.nonzero()[:, 0]).split(0.9, 2) for name, own in whole.items()}
    evaluation_times(kinds, {name: parts[0] for name, parts in split.items()})
    for seed in () if options.times else options.seeds:
        for name, potential in kinds.items():
            train(name, with_weights(potential, seed), split[name], options.steps, seed)


if __name__ == "__main__":
    main()
