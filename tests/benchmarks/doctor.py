"""Time of `pyfit-gpu doctor` on a set that is repeated to 10^6 atoms, by part.

    python tests/benchmarks/doctor.py [--structures FILE...] [--atoms 1e6] [--potential NN...] [--threads 2]

Every repeat but the first has its atoms displaced by some 0.01 Å at random, and energies by the work of the forces, so
that there are no copies and many steps between neighbours. With a potential the network inputs are computed, too.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import pyfit_gpu as pf
from pyfit_gpu.formats.extxyz.writer import write_extxyz
from pyfit_gpu.formats.opening import read_frames
from pyfit_gpu.structures.frames import Frame

EXAMPLE = Path(__file__).parents[2] / "examples" / "data" / "si_dft.extxyz"


def repeated(frames: list[Frame], n_atoms: int) -> Iterator[Frame]:
    """Frames again and again, displaced, until there are so many atoms."""
    random = np.random.default_rng(1)
    done, k = 0, 0
    while done < n_atoms:
        frame = frames[k % len(frames)]
        if k >= len(frames):
            step = random.normal(scale=0.01, size=frame.positions.shape)
            work = 0.0 if frame.forces is None else float(np.vdot(frame.forces, step))
            energy = None if frame.energy is None else frame.energy - work
            frame = replace(frame, positions=frame.positions + step, energy=energy)
        yield frame
        done, k = done + frame.n_atoms, k + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", nargs="+", type=Path, default=[EXAMPLE])
    parser.add_argument("--atoms", type=float, default=1e6)
    parser.add_argument("--potential", nargs="+", default=())
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    potential = pf.load_potentials(options.potential) if options.potential else None
    frames = [frame for path in options.structures for frame in read_frames(path)]
    with tempfile.NamedTemporaryFile("w", suffix=".extxyz", encoding="utf-8") as file:
        write_extxyz(file, repeated(frames, int(options.atoms)))
        file.flush()
        started = last = time.monotonic()
        used = time.process_time()
        whole = list(read_frames(file.name))
        name = "reading"

        def begin(part: str) -> None:
            nonlocal last, name
            now = time.monotonic()
            print(f"{name:<26}{now - last:>8.2f} s")
            last, name = now, part

        begin("gathering")
        found = pf.examine(whole, potential, progress=begin)
        begin("")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    about = found.summary
    print(f"{about['structures']} structures, {about['atoms']} atoms, {options.threads} threads")
    print(
        f"{peak:.1f} GiB at most, {time.monotonic() - started:.1f} s, {time.process_time() - used:.1f} s of processors"
    )
    print(f"{about['steps']}; {about['findings']}")


if __name__ == "__main__":
    main()
