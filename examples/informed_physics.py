"""Train a straight and a physically informed network without dimers and dense cells, and see what they make of these.

The informed one begins with a baseline fitted alone. Energies are those above atoms alone if diamond has its measured
cohesive energy, 4.63 eV: the set has no atom alone.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

import pyfit_gpu as pf
from pyfit_gpu.formats.nn_dat import save_draft
from pyfit_gpu.models.new_potential import new_potential
from pyfit_gpu.training.baseline import fit_baseline

LEFT_OUT = ("dimer", "dense_rattled", "vacancy", "fcc_eos", "hcp_eos")
SHIFT = 102.4575  # eV

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=40)
steps = parser.parse_args().steps

structures = pf.load_structures(Path(__file__).parent / "data" / "si_dft.extxyz")
groups = np.array(structures.groups)
save_draft(new_potential(["Si"], 4.5, gi_mode=2), "si.straight.nn.dat")
save_draft(new_potential(["Si"], 4.5, form="plain"), "si.informed.pinn")  # gi_mode 2 as well
files = {"straight": "si.straight.nn.dat", "informed": "si.informed.pinn"}
potentials = {name: pf.load_potential(file, seed=1) for name, file in files.items()}
trained = structures.select(np.flatnonzero(~np.isin(groups, LEFT_OUT)).tolist())
train, validation = pf.build_training_set(trained, potentials["straight"], e_shift=SHIFT).split(0.9, 2)
settings = pf.FitSettings(steps=steps, l2=1e-7, l2_form="squared", seed=1)
potentials["informed"] = fit_baseline(potentials["informed"], train, settings)
for name, potential in potentials.items():
    pf.fit(potential, train, validation, random_starts=True, settings=settings)
    pf.save_potential(potential, files[name])

sizes = torch.tensor(structures.sizes)
errors = {name: (pf.evaluate(one, structures) - structures.energy) / sizes - SHIFT for name, one in potentials.items()}
print("RMSE, meV/atom     " + "".join(f"{name:>10}" for name in potentials))
for group in dict.fromkeys(structures.groups):
    found = [1e3 * float(own[torch.from_numpy(groups == group)].square().mean().sqrt()) for own in errors.values()]
    print(f"{group + ' *' * (group in LEFT_OUT):<19}" + "".join(f"{one:>10.1f}" for one in found))
print("* left out of the training\n\ndimer, Å: energy, eV" + "".join(f"{name:>10}" for name in potentials))
calculators = [pf.PyfitCalculator(file, e_shift=0.0) for file in files.values()]
for length in (1.6, 1.9, 2.2, 2.5, 3.0, 4.0, 6.0):
    energies = []
    for calculator in calculators:
        energies.append(Atoms("Si2", [(0, 0, 0), (0, 0, length)], calculator=calculator).get_potential_energy())
    print(f"{length:<20}" + "".join(f"{energy:>10.2f}" for energy in energies))
