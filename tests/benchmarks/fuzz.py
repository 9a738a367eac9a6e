"""Damaged files: every format is read after thousands of random mutations, in forked workers that are watched.

    python tests/benchmarks/fuzz.py [--formats extxyz vasprun ...] [--mutations 2000] [--whole 50] [--seed 1]

A mutation must end in a message (`InputError`) or in structures, sets or potentials. Counted are tracebacks, waits
above 20 s, more than 1 GB of memory, and changed numbers where the format allows to know: in files with a content hash
all of them, and in text that was only cut short whatever is not a part of the whole. `--whole` mutations of each format
go through the whole program as well. A faulty file is kept and named; the exit status is 1 if there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyfit_gpu.commands.cli import main as program
from pyfit_gpu.commands.info import info
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.extxyz.writer import write_extxyz
from pyfit_gpu.formats.nn_dat import load_potential
from pyfit_gpu.formats.opening import load_training_set, read_frames
from pyfit_gpu.formats.run_file import load_run

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
LONGEST = 20  # s
MOST_MEMORY = 1_000_000  # kB beyond what the worker had before


# --- what a file holds, as text: equal texts mean equal numbers


def frames_of(path: Path) -> list[str]:
    return [
        repr(
            (
                frame.positions.tolist(),
                frame.cell.tolist(),
                frame.pbc.tolist(),
                frame.atomic_numbers.tolist(),
                frame.energy,
                None if frame.forces is None else frame.forces.tolist(),
                None if frame.stress is None else frame.stress.tolist(),
                frame.weight,
            )
        )
        for frame in read_frames(path)
    ]


def set_of(path: Path) -> list[str]:
    whole = load_training_set(path)
    fields = (
        "features",
        "species",
        "positions",
        "forces",
        "sizes",
        "energy",
        "volume",
        "weight",
        "cell",
        "pbc",
        "stress",
    )
    return [repr((name, getattr(whole, name).tolist())) for name in fields] + [repr((whole.groups, whole.energy_shift))]


def potential_of(path: Path) -> list[str]:
    potential = load_potential(path)
    return [repr((potential.networks.flat().tolist(), potential.descriptor, potential.energy_shift.tolist()))]


def run_of(path: Path) -> list[str]:
    run = load_run(path)
    return [repr((run.potential.networks.flat().tolist(), run.state.members, run.settings, run.data))]


def described(path: Path) -> list[str]:
    return [info(path)]


@dataclass(frozen=True)
class Format:
    """A format, with a valid file of it."""

    name: str
    file: Path
    read: Callable[[Path], list[str]]
    hashed: bool = False  # a hash shows every change
    grows: bool = False  # rows or structures one after the other: a file cut between two of them is whole


def make_formats(folder: Path) -> list[Format]:
    """Write a small valid file of each format."""
    start = folder / "start.nn.dat"
    names = {name: folder / name for name in ("small.dat", "small.extxyz", "set.h5", "set.dat")}
    trained = folder / "trained.nn.dat"
    new = [
        "new",
        "--elements",
        "Si",
        "--cutoff",
        "4",
        "--n-centers",
        "2",
        "--legendre-orders",
        "0",
        "2",
        "--hidden",
        "3",
    ]
    frames = sorted(read_frames(ROOT / "examples" / "data" / "si_dft.extxyz"), key=lambda frame: frame.n_atoms)[:12]
    write_extxyz(names["small.extxyz"], frames)
    prepare = ["prepare", str(names["small.extxyz"]), "--potential", str(start), "--out", str(names["set.h5"])]
    commands = [
        [*new, "--out", str(start)],
        ["convert", str(names["small.extxyz"]), str(names["small.dat"])],
        prepare,
        ["convert", str(names["set.h5"]), str(names["set.dat"])],
        *([*prepare, "--shard", f"{k}/2"] for k in range(2)),
        ["train", str(names["set.h5"]), "--potential", str(start), "--out", str(trained), "--steps", "3"],
    ]
    for words in commands:
        if program([*words, "--quiet"]) != 0:
            raise SystemExit(f"cannot prepare the files: {' '.join(words)}")
    config = folder / "config.json"
    config.write_text(
        json.dumps({"run_training": True, "training_set_in": "set.h5", "training_iterations": 5}, indent=1)
    )
    logs = [folder / f"trained.{ending}" for ending in ("loss.txt", "validation.txt", "groups.csv")]
    return [
        Format("nn.dat", trained, potential_of),
        Format("classic text", names["small.dat"], frames_of, grows=True),
        Format("text set", names["set.dat"], set_of),
        Format("extxyz", names["small.extxyz"], frames_of, grows=True),
        Format("vasprun.xml", DATA / "vasp" / "vasprun.xml", frames_of),
        Format("OUTCAR", DATA / "vasp" / "OUTCAR", frames_of),
        Format("HDF5 set", names["set.h5"], set_of, hashed=True),
        Format("run file", folder / "trained.run.h5", run_of, hashed=True),
        Format("manifest", folder / "set.json", set_of, hashed=True),
        Format("configuration", config, described),
        *(Format(f"log {log.name}", log, described, grows=True) for log in logs if log.exists()),
    ]


# --- mutations


def truncate(data: bytes, random: np.random.Generator) -> bytes:
    return data[: random.integers(len(data))]


def flip_bits(data: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in random.integers(len(data), size=random.integers(1, 4)):
        changed[place] ^= 1 << int(random.integers(8))
    return bytes(changed)


def overwrite(data: bytes, random: np.random.Generator) -> bytes:
    """A run of zeros, of one byte or of noise, as after a crash of a file system."""
    place, length = int(random.integers(len(data))), int(2 ** random.integers(1, 10))
    noise = [bytes(length), bytes([random.integers(256)]) * length, random.bytes(length)][random.integers(3)]
    return data[:place] + noise[: len(data) - place] + data[place + length :]


def remove(data: bytes, random: np.random.Generator) -> bytes:
    place, length = int(random.integers(len(data))), int(2 ** random.integers(0, 10))
    return data[:place] + data[place + length :]


def repeat(data: bytes, random: np.random.Generator) -> bytes:
    place, length = int(random.integers(len(data))), int(2 ** random.integers(0, 10))
    return data[: place + length] + data[place:]


_WORDS = (
    *(b"99999999999", b"-1", b"0", b"1e400", b"nan", b"inf", b"1_000", b"1.0D0", b"0x10", b"9" * 5000),
    *("\u0661\u0662".encode(), b"\x00", b"\x1b[31m", b"\xff\xfe", b"\xed\xa0\x80"),
    *(b'"', b"[" * 2000, b"{" * 2000, b"$\\foo$", b"../../x", b"true", b"null"),
)


def replace_word(data: bytes, random: np.random.Generator) -> bytes:
    """Another word in place of one: a number too large, of another script, of no meaning."""
    words = data.split(b" ")
    words[random.integers(len(words))] = _WORDS[random.integers(len(_WORDS))]
    return b" ".join(words)


def swap_lines(data: bytes, random: np.random.Generator) -> bytes:
    lines = data.split(b"\n")
    a, b = random.integers(len(lines), size=2)
    lines[a], lines[b] = lines[b], lines[a]
    return b"\n".join(lines)


MUTATIONS = (truncate, flip_bits, overwrite, remove, repeat, replace_word, swap_lines)


def mutants(form: Format, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield the name of a mutation and what it makes of the file."""
    data = form.file.read_bytes()
    random = np.random.default_rng([seed, *form.name.encode()])
    for k in range(count):
        mutation = MUTATIONS[k % len(MUTATIONS)]
        yield mutation.__name__, mutation(data, random)


# --- workers


def is_allowed(form: Format, mutation: str, changed: bool, found: list[str], whole: list[str]) -> bool:
    """Whether what was read from a mutant can be right, as far as the format tells."""
    if not changed or found == whole:
        return True
    if form.hashed:
        return False
    if mutation == "truncate":
        return form.grows and (form.read is described or found == whole[: len(found)])
    return True


def in_worker(form: Format, path: Path, mutation: str, changed: bool, whole: list[str]) -> str:
    """Read a mutant; returns the verdict."""
    try:
        found = form.read(path)
    except InputError as error:
        return "message longer than a screen" if len(str(error)) > 2000 else "refused"
    except MemoryError:
        return "out of memory"
    except BaseException as error:
        import traceback

        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"traceback: {type(error).__name__} ({Path(last.filename).name}, line {last.lineno})"
    return "read" if is_allowed(form, mutation, changed, found, whole) else "changed numbers accepted"


def judged(form: Format, path: Path, mutation: str, changed: bool, whole: list[str]) -> str:
    """Read a mutant in a forked worker that is stopped when it takes too long."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read_end)
            signal.alarm(LONGEST)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            verdict = in_worker(form, path, mutation, changed, whole)
            if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > MOST_MEMORY:
                verdict = "more than 1 GB of memory"
            os.write(write_end, verdict.encode(errors="replace")[:4000])
            status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        verdict = pipe.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return "a wait above 20 s" if os.WTERMSIG(status) == signal.SIGALRM else f"signal {os.WTERMSIG(status)}"
    return verdict


def through_program(path: Path) -> str:
    """Let `pyfit-gpu info` read a mutant; returns the verdict."""
    command = [sys.executable, "-m", "pyfit_gpu", "info", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=3 * LONGEST, cwd=ROOT, check=False)
    except subprocess.TimeoutExpired:
        return "program: a wait above 60 s"
    if b"Traceback" in done.stderr or done.returncode not in (0, 2):
        return f"program: status {done.returncode}, {done.stderr[-200:].decode(errors='replace').strip()}"
    if any(byte < 32 and byte not in b"\n\t" for byte in done.stdout + done.stderr):
        return "program: control characters in its output"
    return "read" if done.returncode == 0 else "refused"


GOOD = ("read", "refused")


def try_format(form: Format, folder: Path, mutations: int, whole_program: int, seed: int) -> int:
    """Print what became of the mutants of a format; returns the number of faults."""
    started = time.monotonic()
    original, data = form.read(form.file), form.file.read_bytes()
    # The name decides nothing but the ending; a manifest must lie beside its shards.
    place = form.file.parent if form.name == "manifest" else folder
    path = place / f"mutant.{form.file.name}"
    verdicts: Counter[str] = Counter()
    faults: dict[str, Path] = {}
    for number, (mutation, mutant) in enumerate(mutants(form, mutations, seed)):
        path.write_bytes(mutant)
        found = [judged(form, path, mutation, mutant != data, original)]
        if number < whole_program:
            found.append(through_program(path))
        for verdict in found:
            verdicts[verdict if verdict in GOOD else "FAULT"] += 1
            if verdict not in GOOD and verdict not in faults:
                faults[verdict] = folder / f"fault{len(faults)}.{number}.{mutation}.{form.file.name}"
                faults[verdict].write_bytes(mutant)
    path.unlink()
    shown = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    print(f"{form.name:24s} {shown} ({time.monotonic() - started:.0f} s)", flush=True)
    for verdict, kept in faults.items():
        print(f"    {verdict}: {kept}", flush=True)
    return verdicts["FAULT"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--formats", nargs="+", default=[], metavar="NAME", help="only those whose names begin so")
    parser.add_argument("--mutations", type=int, default=2000, help="of each format")
    parser.add_argument("--whole", type=int, default=50, help="of them through the whole program")
    parser.add_argument("--seed", type=int, default=1)
    options: Any = parser.parse_args()
    torch.set_num_threads(1)  # forked children must not wait for threads that are not there
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    faults = 0
    for form in make_formats(folder):
        if not options.formats or form.name.startswith(tuple(options.formats)):
            faults += try_format(form, folder, options.mutations, options.whole, options.seed)
    print(f"{faults} faults" + (f", files in {folder}" if faults else ""))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
