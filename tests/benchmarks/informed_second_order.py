"""Gauss-Newton beside LBFGS for a physically informed network on energies and forces of some mlearn silicon structures.

    python tests/benchmarks/informed_second_order.py [--seconds 200] [--optimizer gauss-newton lbfgs] [--seed 1]

Every fifth structure trains and every tenth validates; the network has 40 inputs, hidden layers 16-16 and the plain
form. Both start from one fitted baseline and the same random weights. Prints loss and validation loss after an eighth,
a quarter, half and all of the seconds of processor time, on one thread. The optional folder of reference data beside
the checkout holds the structures.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
from members import SHARED

import pyfit_gpu as pf
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.new_potential import new_potential
from pyfit_gpu.optimizers.gauss_newton_settings import GaussNewtonSettings
from pyfit_gpu.training.baseline import fit_baseline
from pyfit_gpu.training.settings import FitSettings

SHIFT = 0.795  # eV/atom
SETTINGS = FitSettings(steps=10_000, force_weight=0.01, l2=1e-8, l2_form="squared")
OPTIMIZERS = {"gauss-newton": GaussNewtonSettings(), "lbfgs": SETTINGS.optimizer}


def run(name: str, start: pf.Potential, sets: tuple[pf.TrainingSet, pf.TrainingSet], seconds: float, seed: int) -> None:
    sizes = start.networks.layer_sizes
    networks = ElementNetworks.random(sizes, start.max_random, seed, n_elements=1, activation=1)
    times: list[float] = []
    begin = time.process_time()

    def is_over() -> bool:
        times.append(time.process_time() - begin)
        return times[-1] > seconds

    settings = replace(SETTINGS, optimizer=OPTIMIZERS[name], seed=seed)
    history = pf.fit(replace(start, networks=networks), *sets, settings=settings, should_stop=is_over)
    for share in (1 / 8, 1 / 4, 1 / 2, 1):
        step = max((k for k, spent in enumerate(times) if spent <= share * seconds), default=0)
        step = min(step, len(history.loss) - 1)
        loss, validation = 1e3 * history.loss[step], 1e3 * history.validation[step]
        print(f"{name:13} {times[step]:5.0f} s, step {step:3}: loss {loss:6.2f}, validation {validation:6.2f} meV/atom")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--optimizer", nargs="+", choices=list(OPTIMIZERS), default=list(OPTIMIZERS))
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    potential = new_potential(
        ["Si"], 4.5, form="plain", n_centers=8, first_center=1.5, legendre_orders=(0, 1, 2, 4, 6), hidden=(16, 16)
    )
    structures = pf.load_structures(str(SHARED / "data/mlearn/Si_train.extxyz"))
    whole = pf.build_training_set(structures, potential, e_shift={"Si": SHIFT})
    train, validation = whole.select(range(0, len(whole), 5)), whole.select(range(2, len(whole), 10))
    print(f"{len(train)} structures ({train.n_atoms} atoms) train, {len(validation)} validate", flush=True)
    potential = fit_baseline(potential, train, replace(SETTINGS, seed=chosen.seed), starts=1)
    for name in chosen.optimizer:
        run(name, potential, (train, validation), chosen.seconds, chosen.seed)


if __name__ == "__main__":
    main()
