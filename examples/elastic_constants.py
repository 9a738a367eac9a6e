"""Lattice constant and elastic constants of diamond silicon by a potential, from the stress of strained cells."""

import argparse
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.units import GPa

import pyfit_gpu as pf

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--potential", default=Path(__file__).parent / "data" / "si.nn.dat")
parser.add_argument("--strain", type=float, default=0.002)
parser.add_argument("--device", default="auto")
options = parser.parse_args()

crystal = bulk("Si", "diamond", a=5.45)
crystal.calc = pf.PyfitCalculator(options.potential, device=options.device)
BFGS(FrechetCellFilter(crystal), logfile=None).run(fmax=1e-5, steps=200)


def stress(direction, relax=False):
    """dstress / dstrain (GPa; xx yy zz yz xz xy) when the cell is strained along a Voigt direction."""
    found = []
    for sign in (1, -1):
        voigt = np.zeros(6)
        voigt[direction] = sign * options.strain
        xx, yy, zz, yz, xz, xy = voigt
        strain = np.array([[xx, xy / 2, xz / 2], [xy / 2, yy, yz / 2], [xz / 2, yz / 2, zz]])
        strained = crystal.copy()
        strained.set_cell(crystal.cell @ (np.eye(3) + strain), scale_atoms=True)
        strained.calc = crystal.calc
        if relax:  # the two atoms of the cell need not move as the cell does
            BFGS(strained, logfile=None).run(fmax=1e-5, steps=200)
        found.append(strained.get_stress())
    return (found[0] - found[1]) / (2 * options.strain) / GPa


c11, c12 = stress(0)[:2]
print(f"lattice constant   {crystal.cell.lengths().mean() * np.sqrt(2):8.4f} Å")
print(f"C11                {c11:8.1f} GPa")
print(f"C12                {c12:8.1f} GPa")
print(f"C44                {stress(3, relax=True)[3]:8.1f} GPa")
print(f"C44, atoms clamped {stress(3)[3]:8.1f} GPa")
print(f"bulk modulus       {(c11 + 2 * c12) / 3:8.1f} GPa")
