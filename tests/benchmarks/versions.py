"""This checkout against another one: the same work in turn, in two processes that wait for each other.

    python tests/benchmarks/versions.py OTHER [--rounds 7] [--threads 1] [--wall] [--structures FILE] [--potential NN]

OTHER is a checkout of another version (`git worktree add OTHER COMMIT`). Only the public names are used, so that any
version can be measured. Printed are the least times of both (the processor's, or those on the wall) and the median of
the ratios, pair by pair. The structures are those of the optional folder of reference data beside the checkout, as is
the potential.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("PYFIT_SHARED") or HERE.parent / "shared")

# What each process runs: one line with the name of a workload in, one with the seconds out.
WORKER = r"""
import json, sys, time
import torch
import pyfit_gpu as pf

torch.set_num_threads(int(sys.argv[3]))
structures = pf.load_structures(sys.argv[1])
silicon = pf.load_structures("examples/data/si_dft.extxyz")
potential = pf.load_potential(sys.argv[2], seed=1)
dft = pf.load_potential("examples/data/si.start.nn.dat", seed=2)
part = structures.select(range(0, len(structures), 8))
sets = {
    "energies": pf.build_training_set(structures, potential, e_shift=0.795023),
    "forces": pf.build_training_set(silicon, dft, e_shift=107.0),
}
starts = {"energies": potential.randomized(3), "forces": dft}


def fit(name, dtype, steps, **weights):
    start = starts[name].to("cpu", dtype)
    history = pf.fit(start, sets[name].to("cpu", dtype), settings=pf.FitSettings(steps=steps, **weights))
    return history.n_evaluations


def molecular_dynamics():
    from ase.build import bulk

    atoms = bulk("Si", cubic=True) * (4, 4, 4)
    atoms.rattle(0.1, seed=1)
    atoms.calc = pf.PyfitCalculator(dft, device="cpu", e_shift=0.0)
    for _ in range(8):
        atoms.positions += 1e-4
        atoms.get_forces()
    return 8


WORK = {
    "features": lambda: pf.featurize(part, potential) is None,
    "features, float32": lambda: pf.featurize(part.to("cpu", torch.float32), potential) is None,
    "predict": lambda: pf.predict(potential, part) is None,
    "predict, energies": lambda: pf.evaluate(potential, part) is None,
    "closure": lambda: fit("energies", torch.float64, 3),
    "closure, float32": lambda: fit("energies", torch.float32, 3),
    "force step": lambda: fit("forces", torch.float64, 3, force_weight=0.1, stress_weight=0.1),
    "calculator, 512 atoms": molecular_dynamics,
}
clock = time.perf_counter if sys.argv[4] == "wall" else time.process_time
print(json.dumps(list(WORK)), flush=True)
for line in sys.stdin:
    began = clock()
    count = WORK[line.strip()]()
    print((clock() - began) / max(1, int(count)), flush=True)
"""


class Version:
    """One checkout in a process of its own."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.wall = options.wall
        self.environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(options.threads)}
        words = [sys.executable, "-W", "ignore", "-c", WORKER, options.structures, options.potential]
        self.process = subprocess.Popen(
            [*words, str(options.threads), "wall" if options.wall else "processor"],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.work: list[str] = json.loads(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.folder}: the process has ended")
        return line

    def seconds(self, name: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        return float(self._answer())

    def command(self, words: list[str]) -> float:
        """Seconds of a command line."""
        began = time.perf_counter()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "pyfit_gpu", *words]
        subprocess.run(command, cwd=self.folder, env=self.environment, check=True, capture_output=True)
        if self.wall:
            return time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wall", action="store_true", help="time on the wall, for several threads")
    parser.add_argument("--structures", default=str(SHARED / "data" / "silicon_nist.poscar.dat"))
    parser.add_argument("--potential", default=str(SHARED / "reference" / "ten_networks" / "00.nn.dat"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(options, folder)


def compare(options: argparse.Namespace, folder: str) -> None:
    versions = [Version(HERE, options), Version(options.other.resolve(), options)]
    prepare = ["prepare", options.structures, "--potential", options.potential, "--overwrite", "--quiet"]
    commands = {
        "--help": ["--help"],
        "prepare, whole": [*prepare, "--n-threads", str(options.threads), "--out", f"{folder}/set.h5"],
    }
    started = time.monotonic()
    print(f"{'':<24} {'this':>10} {'other':>10}   ratio (median of {options.rounds})")
    for name in [*versions[0].work, *commands]:
        found: list[list[float]] = []
        for version in versions:  # once for nothing
            _measure(version, name, commands)
        for number in range(options.rounds):
            order = versions if number % 2 else versions[::-1]
            seconds = {version: _measure(version, name, commands) for version in order}
            found.append([seconds[version] for version in versions])
        ratio = statistics.median(mine / theirs for mine, theirs in found)
        mine, theirs = (1000 * min(column) for column in zip(*found, strict=True))
        print(f"{name:<24} {mine:>7.2f} ms {theirs:>7.2f} ms   {ratio:.3f}", flush=True)
    print(f"{time.monotonic() - started:.0f} s")


def _measure(version: Version, name: str, commands: dict[str, Any]) -> float:
    return version.command(commands[name]) if name in commands else version.seconds(name)


if __name__ == "__main__":
    main()
