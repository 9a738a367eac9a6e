"""Reading of the classic texts: one file of structures, a very large one in constant memory, a text training set.

    python tests/benchmarks/reading.py [--structures FILE] [--set FILE] [--megabytes 1000] [--rounds 5]

The large file is the structures' own, repeated, and is removed at the end. Beside each stands the plain reading of the
same bytes; beside the structures also ase.io.read, of the same structures as extended XYZ. The header is that of the
classic network 00 (40 inputs). The optional folder of reference data beside the checkout holds the structures.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms
from closure import make_set

from pyfit_gpu.formats.dft_text import read_dft_text
from pyfit_gpu.formats.text_set import read_text_set, write_text_set

SHARED = Path(os.environ.get("PYFIT_SHARED") or Path(__file__).parents[3] / "shared")


def count(items: Iterable[object]) -> int:
    """The cheapest consumer."""
    return sum(1 for _ in items)


def passed_over(path: Path) -> int:
    return count(read_dft_text(path, lambda number: False))


def plainly(path: Path) -> None:
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass


def best_seconds(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Processor time of the best round; the tasks in turn, so that a drift of the machine's speed meets all."""
    best = dict.fromkeys(tasks, float("inf"))
    for _ in range(rounds):
        for name, task in tasks.items():
            started = time.process_time()
            task()
            best[name] = min(best[name], time.process_time() - started)
    return best


def show(title: str, seconds: dict[str, float], n_bytes: int) -> None:
    print(f"\n{title}, {n_bytes / 1e6:.1f} MB")
    for name, value in seconds.items():
        print(f"  {name:<40}{value:9.4f} s {n_bytes / 1e6 / value:9.1f} MB/s {value / seconds['plain reading']:8.1f}")


def as_extended_xyz(path: Path) -> str:
    """The same structures in the text form that ASE reads fastest."""
    file = io.StringIO()
    for frame in read_dft_text(path):
        atoms = Atoms("Si" * frame.n_atoms, frame.positions, cell=frame.cell, pbc=frame.pbc)
        atoms.info["energy_of_file"] = frame.energy
        ase.io.write(file, atoms, format="extxyz")
    return file.getvalue()


def one_file(path: Path, rounds: int) -> None:
    extended = as_extended_xyz(path)
    seconds = best_seconds(
        {
            "plain reading": lambda: plainly(path),
            "read_dft_text": lambda: count(read_dft_text(path)),
            "read_dft_text, all passed over": lambda: passed_over(path),
            "ase.io.read (extended XYZ)": lambda: ase.io.read(io.StringIO(extended), ":", format="extxyz"),
        },
        rounds,
    )
    show(f"{path.name}: {count(read_dft_text(path))} structures", seconds, path.stat().st_size)


def resident_megabytes() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def large_file(source: Path, path: Path, megabytes: float) -> None:
    content = source.read_bytes()
    repeats = max(1, round(megabytes * 1e6 / len(content)))
    with open(path, "wb") as file:
        for _ in range(repeats):
            file.write(content)
    n_structures = repeats * count(read_dft_text(source))
    places = {n_structures // 10: "a tenth", n_structures // 2: "half", n_structures: "the end"}
    memory = []

    def watched() -> None:
        memory.clear()
        for number, _ in enumerate(read_dft_text(path), 1):
            if number in places:
                memory.append(f"{resident_megabytes():.1f} MB at {places[number]}")

    tasks: dict[str, Callable[[], object]] = {
        "plain reading": lambda: plainly(path),
        "read_dft_text": watched,
        "read_dft_text, all passed over": lambda: passed_over(path),
    }
    show(f"the same {repeats} times over: {n_structures} structures", best_seconds(tasks, 1), path.stat().st_size)
    print(f"  resident memory while read: {', '.join(memory)}")


def text_set(path: Path, folder: Path, rounds: int) -> None:
    training_set = read_text_set(path)
    tasks: dict[str, Callable[[], object]] = {
        "plain reading": lambda: plainly(path),
        "read_text_set": lambda: read_text_set(path),
        "write_text_set": lambda: write_text_set(training_set, folder / "written.dat"),
    }
    title = f"text set: {training_set.n_atoms} atoms, {training_set.features.shape[1]} inputs"
    show(title, best_seconds(tasks, rounds), path.stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=Path, default=SHARED / "data" / "silicon_nist.poscar.dat")
    parser.add_argument("--set", type=Path, help="a text training set (else one is made of the structures)")
    parser.add_argument("--megabytes", type=float, default=1000.0, help="of the large file; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"Python {platform.python_version()}, numpy {np.__version__}, ase {ase.__version__}, one thread of "
          f"{os.cpu_count()}; processor time, rate, times plain reading")  # fmt: skip
    one_file(options.structures, options.rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.megabytes > 0:
            large_file(options.structures, folder / "large.dat", options.megabytes)
        if options.set is None:
            options.set = folder / "set.dat"
            write_text_set(make_set(options.structures, torch.float64), options.set)
        text_set(options.set, folder, options.rounds)


if __name__ == "__main__":
    main()
