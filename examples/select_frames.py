"""Frames of a hot molecular dynamics for the next round of DFT: those farthest from the structures that are known."""

import argparse
from pathlib import Path

import numpy as np
from ase import units
from ase.build import bulk
from ase.io import write
from ase.md.langevin import Langevin

import pyfit_gpu as pf

DATA = Path(__file__).parent / "data"

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--potential", default=DATA / "si.nn.dat")
parser.add_argument("--known", default=DATA / "si_dft.extxyz", help="structures of the training set")
parser.add_argument("--steps", type=int, default=2000, help="of 2 fs, heated from 300 K to 2000 K")
parser.add_argument("--interval", type=int, default=10, help="steps between frames of the pool")
parser.add_argument("-n", type=int, default=20, help="frames to choose")
parser.add_argument("--device", default="cpu")
options = parser.parse_args()

atoms = bulk("Si", "diamond", a=5.45, cubic=True) * (2, 2, 2)
atoms.calc = pf.PyfitCalculator(options.potential, device=options.device)
dynamics = Langevin(atoms, 2 * units.fs, temperature_K=300, friction=0.01 / units.fs, rng=np.random.default_rng(1))
trajectory = []


def heat():
    dynamics.set_temperature(temperature_K=300 + 1700 * dynamics.get_number_of_steps() / options.steps)
    trajectory.append(atoms.copy())


dynamics.attach(heat, interval=options.interval)
dynamics.run(options.steps)
write("pool.extxyz", trajectory)

pool, known = pf.load_structures("pool.extxyz"), pf.load_structures(options.known)
chosen = pf.select_structures(pool, pf.load_potential(options.potential), options.n, known=known)
print(f"chosen of {len(trajectory)} frames (distance from the nearest known or chosen one when it was chosen):")
for row, distance in zip(chosen.rows, chosen.scores, strict=True):
    print(f"  frame {row:4d}  {distance:.3f}")
print("farthest frame before and after: {:.3f}, {:.3f}".format(*chosen.distance))
write("chosen.extxyz", [trajectory[row] for row in chosen.rows])
# The same from the command line, with several files and formats at once:
#   pyfit-gpu select pool.extxyz --potential si.nn.dat -n 20 --known si_dft.extxyz --out chosen.extxyz
