"""A thousand silicon crystals at once at constant energy, by torch-sim (pip install 'pyfit-gpu[torch-sim]')."""

import argparse
import time
from pathlib import Path

import numpy as np
import torch_sim as ts
from ase.build import bulk

from pyfit_gpu.interfaces.torch_sim import PyfitModel

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--potential", default=Path(__file__).parent / "data" / "si.nn.dat")
parser.add_argument("--crystals", type=int, default=1000)
parser.add_argument("--cells", type=int, default=2, help="cubic cells of 8 atoms along each side of a crystal")
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--timestep", type=float, default=1.0, help="fs")
parser.add_argument("--temperature", type=float, default=300.0, help="K")
parser.add_argument("--device", default="auto")
parser.add_argument("--dtype", default="float64", choices=("float64", "float32"))
options = parser.parse_args()

# In dynamics a GPU need not be asked at every step whether lists of neighbours have ended.
model = PyfitModel(options.potential, device=options.device, dtype=options.dtype, compute_stress=False, late=True)
crystal = bulk("Si", "diamond", a=5.479, cubic=True) * ((options.cells,) * 3)
state = ts.io.atoms_to_state([crystal] * options.crystals, model.device, model.dtype)
integrator = ts.Integrator.nve if hasattr(ts, "Integrator") else ts.nve  # torch-sim from 0.6 on, and before
n_atoms = len(crystal)


def run(state, n_steps):
    # In a crystal at rest half of the kinetic energy becomes potential energy.
    settings = {"temperature": 2 * options.temperature, "timestep": options.timestep / 1000}
    return ts.integrate(state, model, integrator=integrator, n_steps=n_steps, **settings)


def energies(state):
    """Potential and kinetic energy of each crystal, eV/atom."""
    kinetic = state.momenta.square().sum(dim=1) / (2 * state.masses)
    return state.energy / n_atoms, kinetic.view(-1, n_atoms).mean(dim=1)


print(f"{options.crystals} crystals of {n_atoms} atoms on {model.device}, {options.dtype}")
print("   time/fs      T/K  E_total/eV/atom  largest change/eV/atom")
state = run(state, 1)
first = sum(energies(state))
started, part, rows = time.perf_counter(), max(1, options.steps // 10), []
for step in range(part, options.steps + 1, part):
    state = run(state, part)
    potential, kinetic = energies(state)
    change = potential + kinetic - first
    rows.append((step * options.timestep / 1000, float(change.mean())))
    kelvin = float(kinetic.mean()) * 2 / 3 / 8.617333e-5
    print(f"{step * options.timestep:10.1f} {kelvin:8.1f} {float((potential + kinetic).mean()):16.6f} "
          f"{float(change.abs().max()):23.2e}")  # fmt: skip
seconds = time.perf_counter() - started
drift = np.polyfit(*zip(*rows, strict=True), 1)[0]  # slope of the straight line through the mean changes
print(f"drift {drift:.1e} eV/atom/ps; {state.n_atoms * step / seconds:,.0f} atom-steps/s")
