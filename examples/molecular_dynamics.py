"""Molecular dynamics with a potential: constant energy, or constant temperature with --thermostat."""

import argparse
from pathlib import Path

import numpy as np
from ase import units
from ase.build import bulk
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary
from ase.md.verlet import VelocityVerlet

import pyfit_gpu as pf

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--potential", default=Path(__file__).parent / "data" / "si.nn.dat")
parser.add_argument("--structure", help="file that ASE reads (diamond silicon, 8 atoms)")
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--timestep", type=float, default=1.0, help="fs")
parser.add_argument("--temperature", type=float, default=300.0, help="K")
parser.add_argument("--thermostat", action="store_true")
parser.add_argument("--cells", type=int, default=2, help="copies of the structure along each cell vector")
parser.add_argument("--device", default="auto")
options = parser.parse_args()

cell = read(options.structure) if options.structure else bulk("Si", "diamond", a=5.45, cubic=True)
atoms = cell * ((options.cells,) * 3)
atoms.calc = pf.PyfitCalculator(options.potential, device=options.device)
rng = np.random.default_rng(1)
# In a crystal at rest half of the kinetic energy becomes potential energy.
start = options.temperature if options.thermostat else 2 * options.temperature
atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * np.sqrt(atoms.get_masses()[:, None] * units.kB * start))
Stationary(atoms)

timestep = options.timestep * units.fs
if options.thermostat:
    friction = 0.01 / units.fs
    dynamics = Langevin(atoms, timestep, temperature_K=options.temperature, friction=friction, fixcm=False, rng=rng)
else:
    dynamics = VelocityVerlet(atoms, timestep)


def report():
    energies = (atoms.get_potential_energy(), atoms.get_kinetic_energy())
    potential, kinetic = (energy / len(atoms) for energy in energies)
    time = dynamics.get_time() / units.fs
    print(f"{time:10.1f} {atoms.get_temperature():8.1f} {potential:14.6f} {kinetic:10.6f} {potential + kinetic:14.6f}")


print("   time/fs      T/K  E_pot/eV/atom  E_kin/eV  E_total/eV/atom")
dynamics.attach(report, interval=max(1, options.steps // 20))
dynamics.run(options.steps)
