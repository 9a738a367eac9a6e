"""Reading of extended XYZ against ase.io.read, of the same file: small and large structures, summaries alone.

    python tests/benchmarks/reading_extxyz.py [--megabytes 100] [--rounds 3]

The files are made for it and removed at the end. At most 1.3 times what ase.io.read takes is the aim. Memory is that of
the process while one structure after the other is read; ase.io.read holds them all.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import tempfile
from pathlib import Path

import ase.io
import numpy as np
import torch
from reading import best_seconds

from pyfit_gpu.formats.extxyz.reader import read_extxyz


def write(path: Path, megabytes: float, n_atoms: int) -> int:
    """Write structures with energy, forces and stress as ASE formats them, and count them."""
    random = np.random.default_rng(1)
    n_structures = 0
    with open(path, "w") as file:
        while file.tell() < megabytes * 1e6:
            cell, stress = 5 * np.eye(3) + random.normal(size=(3, 3)), random.normal(size=(3, 3))
            numbers = " ".join(f"{value:.12g}" for value in cell.ravel())
            strain = " ".join(f"{value:.12g}" for value in (stress + stress.T).ravel())
            file.write(
                f'{n_atoms}\nLattice="{numbers}" Properties=species:S:1:pos:R:3:forces:R:3 '
                f'config_type=group_{n_structures % 9} energy={-5.4 * n_atoms:.10f} stress="{strain}" pbc="T T T"\n'
            )
            for row in random.normal(size=(n_atoms, 6)).tolist():
                file.write("Si " + " ".join(f"{value:16.8f}" for value in row) + "\n")
            n_structures += 1
    return n_structures


def processor() -> str:
    with open("/proc/cpuinfo") as file:
        return next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())


def compare(path: Path, megabytes: float, n_atoms: int, rounds: int) -> None:
    n_structures = write(path, megabytes, n_atoms)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in read_extxyz(path)) == n_structures
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    seconds = best_seconds(
        {
            "ase.io.read": lambda: ase.io.read(path, ":", format="extxyz"),
            "read_extxyz, one by one": lambda: sum(1 for _ in read_extxyz(path)),
            "read_extxyz, all held": lambda: list(read_extxyz(path)),
            "read_extxyz, summaries": lambda: sum(1 for _ in read_extxyz(path, wanted=lambda number: False)),
        },
        rounds,
    )
    size = path.stat().st_size / 1e6
    print(f"\n{n_structures} structures of {n_atoms} atoms, {size:.1f} MB; one by one takes {grown:.1f} MB of memory")
    for name, value in seconds.items():
        print(f"  {name:<26}{value:8.2f} s {size / value:7.1f} MB/s {value / n_structures * 1e6:9.0f} µs per structure "
              f"{value / seconds['ase.io.read']:6.2f} of ase.io.read")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"Python {platform.python_version()}, numpy {np.__version__}, ase {ase.__version__}, {processor()}, "
          f"{os.cpu_count()} cores; processor time, best of {options.rounds} rounds")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for n_atoms in (200, 5):  # the large ones first: memory is the largest so far
            compare(Path(folder) / "a.xyz", options.megabytes, n_atoms, options.rounds)


if __name__ == "__main__":
    main()
