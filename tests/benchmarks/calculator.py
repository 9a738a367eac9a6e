"""The ASE calculator on silicon: which skin pays in molecular dynamics, and where the time of an evaluation goes.

    python tests/benchmarks/calculator.py skin [--threads 1]
    python tests/benchmarks/calculator.py profile [--threads 1] [--members 1]
    python tests/benchmarks/calculator.py members [--threads 1]

`skin`: constant-energy dynamics at about 300 K with 1 fs, 64 and 1,000 atoms, all skins in turn in one process;
processor time, because other work on the machine says nothing about skins.
`profile`: 1,000 atoms, a new structure at every evaluation; energy alone against energy, forces and stress, in turn;
then the second with a clock around the parts, each without what it calls of the others. Time on the wall, and with one
thread of the processor.
`members`: the same structures by one member and by several at once, in turn.
"""

import argparse
import contextlib
import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

import pyfit_gpu as pf
from pyfit_gpu.descriptors import expansion
from pyfit_gpu.descriptors import pair_sums as forces
from pyfit_gpu.interfaces import ase as calculator
from pyfit_gpu.models import chunk_walk, networks, prediction
from pyfit_gpu.structures import verlet

POTENTIAL = Path(__file__).parents[1] / "data" / "si_small.nn.dat"
SKINS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)  # Å


def members(number: int) -> pf.Potential:
    """The potential, and beside it some with random weights: what they cost does not depend on their values."""
    trained = pf.load_potential(POTENTIAL)
    return pf.join_members([trained, *(trained.randomized(seed) for seed in range(1, number))])


def crystal(repeat: int, skin: float, temperature: float = 600.0, n_members: int = 1) -> Atoms:
    """Half of the kinetic energy of the start becomes potential energy."""
    atoms = bulk("Si", "diamond", a=5.479, cubic=True) * ((repeat,) * 3)
    atoms.calc = pf.PyfitCalculator(members(n_members), device="cpu", skin=skin)
    width = np.sqrt(atoms.get_masses()[:, None] * units.kB * temperature)
    momenta = np.random.default_rng(1).normal(size=(len(atoms), 3)) * width
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    return atoms


def measure_skins(rounds: int) -> None:
    for repeat, settling, steps in ((2, 200, 100), (5, 100, 30)):
        systems = {skin: crystal(repeat, skin) for skin in SKINS}
        dynamics = {skin: VelocityVerlet(atoms, units.fs) for skin, atoms in systems.items()}
        for run in dynamics.values():
            run.run(settling)
        before = {skin: atoms.calc.neighbor_list.n_searches for skin, atoms in systems.items()}
        times = defaultdict(list)
        # In turn, so that a drift of the machine's speed meets all of them.
        for _ in range(rounds):
            for skin, run in dynamics.items():
                started = time.process_time()
                run.run(steps)
                times[skin].append((time.process_time() - started) / steps)
        print(f"{repeat**3 * 8} atoms, {rounds} x {steps} steps, {systems[0.0].get_temperature():.0f} K at the end")
        for skin, atoms in systems.items():
            searches = 1000 * (atoms.calc.neighbor_list.n_searches - before[skin]) / (rounds * steps)
            ratio = statistics.median(now / off for now, off in zip(times[skin], times[0.0], strict=True))
            low, middle = min(times[skin]), statistics.median(times[skin])
            print(
                f"  skin {skin:3.1f} Å: min {1000 * low:6.2f}, median {1000 * middle:6.2f} ms/step, median ratio to "
                f"none {ratio:.3f}, {searches:6.1f} searches in 1,000 steps"
            )


class Clock:
    """Seconds in each part, without those in other parts that it calls."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.seconds = defaultdict(float)
        self.parts = ["the rest"]
        self.since = now()

    def turn(self) -> None:
        now = self.now()
        self.seconds[self.parts[-1]] += now - self.since
        self.since = now

    def watch(self, stack: contextlib.ExitStack, owner: object, name: str, part: str) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def timed(*arguments, **keywords):
            self.turn()
            self.parts.append(part)
            try:
                return original(*arguments, **keywords)
            finally:
                self.turn()
                self.parts.pop()

        setattr(owner, name, timed)
        stack.callback(setattr, owner, name, original)


PARTS = [
    (verlet.VerletList, "__call__", "neighbours"),
    (expansion.Chunk, "raw", "features"),
    (pf.LocalStructureParameters, "transform", "features"),
    (pf.LocalStructureParameters, "transform_slope", "pull back"),
    (expansion.Chunk, "vjp", "pull back"),
    (expansion.Chunk, "jacobian", "pull back"),
    (chunk_walk.ChunkWalk, "_grad_vectors", "pull back"),
    (prediction, "_mean_and_spread", "mean and spread"),
    (networks.ElementNetworks, "with_gradient", "network"),
    (forces.PairSums, "__init__", "chunks and scatter"),
    (forces.PairSums, "__call__", "chunks and scatter"),
    (calculator.PyfitCalculator, "_batch", "atoms to tensors"),
    (calculator.PyfitCalculator, "calculate", "calculator"),
]


def measure_members(rounds: int, skin: float) -> None:
    rng = np.random.default_rng(1)
    for n_members in (2, 4, 8, 16, 32):
        pair = [crystal(5, skin, n_members=number) for number in (1, n_members)]
        pair[0].rattle(0.1, seed=1)
        start = pair[0].positions.copy()
        for what in ("energy", "energy, forces, stress"):
            times = []
            for _ in range(rounds + 1):
                moved = start + rng.normal(0, 0.01, start.shape)
                row = []
                for atoms in pair:
                    atoms.positions = moved
                    started = time.perf_counter()
                    atoms.get_potential_energy() if what == "energy" else atoms.get_forces()
                    row.append(time.perf_counter() - started)
                times.append(row)
            one, several = (1000 * statistics.median(column) for column in zip(*times[1:], strict=True))
            ratio = statistics.median(b / a for a, b in times[1:])
            print(
                f"{n_members:3} members, {what:<24}one {one:6.1f} ms, all {several:6.1f} ms, ratio {ratio:5.2f}, "
                f"of separate runs {ratio / n_members:.2f}"
            )


def measure_profile(rounds: int, skin: float, now: Callable[[], float], n_members: int) -> None:
    atoms = crystal(5, skin, n_members=n_members)
    atoms.rattle(0.1, seed=1)
    start, rng = atoms.positions.copy(), np.random.default_rng(1)

    def evaluate(get: Callable[[], object]) -> float:
        atoms.positions = start + rng.normal(0, 0.01, start.shape)
        started = now()
        get()
        return now() - started

    for get in (atoms.get_potential_energy, atoms.get_forces) * 3:
        evaluate(get)
    pairs = [(evaluate(atoms.get_potential_energy), evaluate(atoms.get_forces)) for _ in range(rounds)]
    assert set(atoms.calc.results) >= {"energy", "forces", "stress"}
    for name, column in zip(("energy", "energy, forces, stress"), zip(*pairs, strict=True), strict=True):
        middle, least = statistics.median(column), min(column)
        rates = f"{len(atoms) / middle:8.0f} atoms/s, {len(atoms) / least:8.0f} at best"
        print(f"{name:<24}median {1000 * middle:6.2f} ms, min {1000 * least:6.2f} ms, {rates}")
    print(f"ratio                   {statistics.median(b / a for a, b in pairs):.2f}")
    with contextlib.ExitStack() as stack:
        clock = Clock(now)
        for owner, name, part in PARTS:
            clock.watch(stack, owner, name, part)
        for _ in range(rounds):
            evaluate(atoms.get_forces)
        clock.turn()
    total = sum(clock.seconds.values())
    for part, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
        print(f"  {part:<22}{1000 * seconds / rounds:6.2f} ms {100 * seconds / total:5.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("skin", "profile", "members"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--skin", type=float, default=0.5, help="Å, of the profile")
    parser.add_argument("--members", type=int, default=1, help="of the profile")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s)")
    if options.what == "skin":
        measure_skins(options.rounds)
    elif options.what == "members":
        measure_members(options.rounds, options.skin)
    else:
        measure_profile(options.rounds, options.skin, time.perf_counter, options.members)
        if options.threads == 1:
            print("processor time")
            measure_profile(options.rounds, options.skin, time.process_time, options.members)


if __name__ == "__main__":
    main()
