"""Train a silicon potential from Python and look at its errors on structures it has not seen."""

from pathlib import Path

import pyfit_gpu as pf

data = Path(__file__).parent / "data"
structures = pf.load_structures(data / "si_dft.extxyz")
potential = pf.load_potential(data / "si.start.nn.dat", seed=2)
training_set = pf.build_training_set(structures, potential, e_shift=107.0)

train, validation = training_set.split(train_fraction=0.9, seed=2)
settings = pf.FitSettings(steps=60, l2=1e-4)
history = pf.fit(potential, train, validation, settings=settings)
pf.save_potential(potential, "si.trained.nn.dat")

print(f"training   {1000 * history.loss[-1]:8.2f} meV/atom")
print(f"validation {1000 * history.validation[60]:8.2f} meV/atom")

energies = pf.evaluate(potential, structures)  # (B,) eV, the network's scale: E_DFT + n_atoms * e_shift
error = energies / training_set.sizes - training_set.energy_used / training_set.sizes
worst = int(error.abs().argmax())
print(f"worst of all: {1000 * float(error[worst]):.1f} meV/atom, {structures.sources[worst]}")
