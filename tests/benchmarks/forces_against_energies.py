"""Gain from forces: the same network and steps on the silicon DFT set of the examples, with and without them.

python tests/benchmarks/forces_against_energies.py [--steps 200]
"""

import argparse
from pathlib import Path

import torch

import pyfit_gpu as pf
from pyfit_gpu.training.objective import Objective

DATA = Path(__file__).parents[2] / "examples" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    structures = pf.load_structures(DATA / "si_dft.extxyz")
    print("seed  force_weight  stress_weight   validation RMSE: meV/atom     eV/Å      GPa")
    for seed in (1, 2, 3):
        for force, stress in ((0.0, 0.0), (0.1, 0.0), (0.1, 0.1)):
            potential = pf.load_potential(DATA / "si.start.nn.dat", seed=seed)
            train, validation = pf.build_training_set(structures, potential, e_shift=107.0).split(0.9, 2)
            settings = pf.FitSettings(steps=steps, force_weight=force, stress_weight=stress, l2=1e-4)
            pf.fit(potential, train, settings=settings)
            networks = potential.networks
            objective = Objective(validation, {"forces": 1.0, "stress": 1.0})
            found = objective.evaluate(networks.flat(), networks, gradient=False).errors
            energy, forces, stresses = (
                1000 * found["energy"].item(),
                found["forces"].item(),
                160.21766 * found["stress"].item(),
            )
            print(f"{seed:>4} {force:>13} {stress:>14} {energy:>27.1f} {forces:>8.3f} {stresses:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
