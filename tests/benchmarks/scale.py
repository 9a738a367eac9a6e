"""`prepare` of the NIST silicon set repeated to 10^6 and 10^7 atoms: time and memory per atom, each in its own process.

    python tests/benchmarks/scale.py [--atoms 85785 1e6 1e7] [--plot scale.png] [--shards 2] [--folder DIR]

The structures are repeated as they are: features do not depend on what else is in the file. Header of the classic
network 00 (40 inputs). 10^7 atoms take about 4.2 GB in the folder. Start-up is measured with twenty structures and
taken off. The optional folder of reference data beside the checkout holds the structures.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from closure import HEADER, LAYERS

import pyfit_gpu as pf
from pyfit_gpu.formats.opening import read_frames
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential

PACKAGE = Path(pf.__file__).parents[1]
# Peak memory and processor time of the command alone: a child's are known when it has ended.
MEASURE = """
import json, resource, subprocess, sys, time
started = time.monotonic()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([status, time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]))
"""


@dataclass(frozen=True)
class Cost:
    """Cost of one process."""

    seconds: float  # on the clock
    processor: float  # s, of all threads
    memory: int  # bytes, peak resident size

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds - other.seconds, self.processor - other.processor, self.memory - other.memory)


class Bench:
    """Commands in a folder of their own."""

    def __init__(self, folder: Path, n_threads: int) -> None:
        self.folder = folder
        self.n_threads = n_threads
        networks = ElementNetworks.random(LAYERS, 0.1, 1, n_elements=1, activation=1)
        potential = Potential(HEADER, networks, (28.0855,), 0.1, False, (0.0,) * 8, torch.zeros(1))
        pf.save_potential(potential, folder / "si.nn.dat")

    def start(self, *words: str) -> subprocess.Popen:
        command = [sys.executable, "-c", MEASURE, sys.executable, "-m", "pyfit_gpu", *words]
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
        return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, text=True)

    def finish(self, process: subprocess.Popen) -> Cost:
        status, *numbers = json.loads(process.communicate()[0])
        if status:
            raise SystemExit(f"exit status {status}")
        return Cost(*numbers)

    def run(self, words: tuple[str, ...], repeats: int = 1) -> Cost:
        """The least of each number."""
        costs = [self.finish(self.start(*words)) for _ in range(repeats)]
        return Cost(*(min(column) for column in zip(*map(astuple, costs), strict=True)))

    def prepare(self, structures: Path, *words: str) -> tuple[str, ...]:
        return ("prepare", str(structures), "--potential", "si.nn.dat", "--out", "set.h5", "--overwrite",
                "--e-shift", "fit", "--n-threads", str(self.n_threads), "--quiet", *words)  # fmt: skip

    def clear(self) -> None:
        """Leave what commands read."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in ("structures.dat", "si.nn.dat"):
                path.unlink()


def repeat(text: bytes, n_atoms: int, target: int, path: Path) -> int:
    """A file of whole sets, as many as come nearest to the target; returns its atoms."""
    times = max(1, round(target / n_atoms))
    with path.open("wb") as file:
        for _ in range(times):
            file.write(text)
    return times * n_atoms


def first_structures(text: bytes, count: int) -> bytes:
    lines, end = text.splitlines(keepends=True), 0
    for _ in range(count):
        end += 8 + int(lines[end + 5])
    return b"".join(lines[:end])


def shards(bench: Bench, structures: Path, count: int, whole: Cost, start: Cost) -> None:
    """All at once, against one process for all; on a machine with other work the processor time says more."""
    started = time.monotonic()
    running = [bench.start(*bench.prepare(structures, "--shard", f"{k}/{count}")) for k in range(count)]
    costs = [bench.finish(process) for process in running]
    seconds = time.monotonic() - started
    bench.clear()
    one, largest = whole.processor - start.processor, max(cost.processor for cost in costs) - start.processor
    print(
        f"{count} shards at once: {seconds:.2f} s, {seconds / whole.seconds:.2f} of one process ({whole.seconds:.2f} s)"
    )
    print(f"  processor time of a shard after start-up: {largest:.2f} s, {largest / one:.2f} of one process")


def plot(rows: list[tuple[int, float, float]], path: str) -> None:
    """Microseconds and bytes per atom against atoms."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    atoms, micros, memory = zip(*rows, strict=True)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    figure.suptitle("prepare, beyond start-up", fontsize="medium")
    labels = ("time, µs per atom", "peak memory, bytes per atom")
    for axis, values, label in zip(axes, (micros, memory), labels, strict=True):
        axis.plot(atoms, values, "o-")
        axis.set(xscale="log", xlabel="atoms", ylabel=label, ylim=(0, 1.2 * max(values)))
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def parse_options() -> argparse.Namespace:
    shared = Path(__file__).resolve().parents[3] / "shared" / "data" / "silicon_nist.poscar.dat"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=Path, default=shared)
    parser.add_argument("--atoms", type=float, nargs="+", default=[85_785, 1e6])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shards", type=int, default=0, help="so many at once, for the second of --atoms")
    parser.add_argument("--repeats", type=int, default=3, help="of short runs, of which the least counts")
    parser.add_argument("--read", action="store_true", help="info and train --steps 0 of each set, too")
    parser.add_argument("--folder", help="for the files; default: the system's temporary folder")
    parser.add_argument("--plot", metavar="FILE.png")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    text = options.structures.read_bytes()
    n_atoms = sum(frame.n_atoms for frame in read_frames(options.structures))
    print(f"torch {torch.__version__}, {options.threads} thread(s), float64, {n_atoms} atoms repeated")
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        bench = Bench(Path(name), options.threads)
        structures = bench.folder / "structures.dat"
        commands = {"prepare": bench.prepare(structures)}
        if options.read:
            train = ("--potential", "si.nn.dat", "--out", "out.nn.dat", "--steps", "0", "--overwrite")
            commands |= {"info": ("info", "set.h5"), "train --steps 0": ("train", "set.h5", *train)}
        structures.write_bytes(first_structures(text, 20))
        start = {label: bench.run(words, options.repeats) for label, words in commands.items()}
        print(f"{'':<18}{'atoms':>10}{'s':>9}{'µs/atom':>9}{'cpu µs/atom':>12}{'MiB':>8}{'bytes/atom':>11}")
        for label, cost in start.items():
            print(f"{label:<18}{'start-up':>10}{cost.seconds:>9.2f}{'':>21}{cost.memory / 2**20:>8.0f}")
        for k, target in enumerate(options.atoms):
            count = repeat(text, n_atoms, int(target), structures)
            costs = {}
            for label, words in commands.items():
                costs[label] = measure(bench, label, words, count, start[label], options.repeats)
            beyond = costs["prepare"] - start["prepare"]
            rows.append((count, 1e6 * beyond.seconds / count, beyond.memory / count))
            bench.clear()
            if options.shards and k == 1:
                shards(bench, structures, options.shards, costs["prepare"], start["prepare"])
    if options.plot:
        plot(rows, options.plot)


def measure(bench: Bench, label: str, words: tuple[str, ...], n_atoms: int, start: Cost, repeats: int) -> Cost:
    cost = bench.run(words, repeats if n_atoms < 500_000 else 1)
    beyond = cost - start
    print(f"{label:<18}{n_atoms:>10}{cost.seconds:>9.2f}{1e6 * beyond.seconds / n_atoms:>9.2f}"
          f"{1e6 * beyond.processor / n_atoms:>12.2f}{cost.memory / 2**20:>8.0f}{beyond.memory / n_atoms:>11.0f}",
          flush=True)  # fmt: skip
    return cost


if __name__ == "__main__":
    main()
