"""Neighbours of the NIST silicon set, and of one large cell, by every backend there is, side by side.

    python tests/benchmarks/neighbors.py [--structures FILE] [--device cpu] [--dtype float64] [--rounds 7]
    python tests/benchmarks/neighbors.py --large [--atoms 10000 100000 1000000] [--device cpu] [--dtype float64]

The set is taken in the batches that the program makes. Against it stands vesin called per structure from a plain loop,
one thread on the host. All go in turn, so that a drift of the machine's speed meets them all; a ratio is the median of
those of the rounds. On a CPU times are of the processor (the thread's own work, whatever else the machine does), on a
GPU on the wall. Every backend must give the same pairs. `--large` has a process for every size, for its peak memory.
nvalchemi-toolkit-ops and torch-cluster are measured where they are installed.
"""

import argparse
import importlib.util
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk

import pyfit_gpu as pf
from pyfit_gpu.models.batches import batch_atoms
from pyfit_gpu.structures.batch import Structures, size_batches
from pyfit_gpu.structures.frames import Frame

CUTOFF = 4.5  # Å

Pairs = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]  # centers, index, vectors of each batch


class Vesin:
    """One call per structure; what it returns is thrown away, as a whole set of it would need joining."""

    def __init__(self, batches: list[Structures]) -> None:
        self.systems = []
        for batch in batches:
            positions, cell, pbc = (t.double().cpu().numpy() for t in (batch.positions, batch.cell, batch.pbc))
            for row, size in enumerate(batch.sizes):
                self.systems.append((np.ascontiguousarray(positions[row, :size]), cell[row], pbc[row].astype(bool)))

    def __call__(self) -> None:
        from vesin import NeighborList

        calculator = NeighborList(cutoff=CUTOFF, full_list=True, n_threads=1)
        for system in self.systems:
            calculator.compute(*system, "ijD")


def package(batches: list[Structures], backend: str) -> Callable[[], Pairs]:
    def find() -> Pairs:
        found = [pf.find_neighbors(batch, CUTOFF, backend=backend) for batch in batches]
        return [(one.counts, one.index, one.vectors) for one in found]

    return find


def nvalchemi(batches: list[Structures]) -> Callable[[], Pairs]:
    """Its list format, and the vectors from it, which it does not give: the same result as the others."""
    from nvalchemiops.torch.neighbors import neighbor_list

    def find() -> Pairs:
        found = []
        for batch in batches:
            positions, device = batch.flatten(batch.positions), batch.positions.device
            sizes = torch.tensor(batch.sizes, device=device)
            owner = torch.repeat_interleave(sizes, output_size=batch.n_atoms)
            first = torch.nn.functional.pad(torch.cumsum(sizes, 0), (1, 0)).int()
            pairs, _, shifts = neighbor_list(
                positions,
                CUTOFF,
                cell=batch.cell,
                pbc=batch.pbc,
                batch_idx=owner.int(),
                batch_ptr=first,
                return_neighbor_list=True,
            )
            centers, index = pairs.long()
            moved = torch.einsum("na,nab->nb", shifts.to(positions.dtype), batch.cell[owner[centers]])
            vectors = positions[index] + moved - positions[centers]
            found.append((torch.bincount(centers, minlength=batch.n_atoms), index, vectors))
        return found

    return find


def contenders(batches: list[Structures]) -> dict[str, Callable[[], Pairs]]:
    found = {"torch": package(batches, "torch"), "vesin, this package": package(batches, "vesin")}
    for name, module, make in (
        ("torch-cluster", "torch_cluster", lambda: package(batches, "torch-cluster")),
        ("nvalchemi-toolkit-ops", "nvalchemiops", lambda: nvalchemi(batches)),
    ):
        if importlib.util.find_spec(module) is None:
            print(f"{name}: not measured, {module} is not installed")
        else:
            found[name] = make()
    return found


def check(found: Pairs, expected: Pairs, tolerance: float) -> int:
    """The same pairs of every atom, in any order; the number of pairs that differ, which lie at the cutoff itself."""
    differing = 0
    for (counts, index, vectors), (other_counts, other_index, other_vectors) in zip(found, expected, strict=True):
        sides = []
        for number, of, v in ((counts, index, vectors), (other_counts, other_index, other_vectors)):
            number, of, v = number.cpu(), of.cpu(), v.double().cpu()
            inside = v.norm(dim=1) < CUTOFF - 100 * tolerance
            differing += len(inside) - int(inside.sum())
            centers = torch.repeat_interleave(number)[inside] if len(of) == number.sum() else None
            of, v = of[inside], v[inside]
            # Vectors of the pairs of two atoms differ by cell vectors: a product with odd numbers tells them apart.
            key = v @ torch.tensor([1.0, 2.23606797749979, 7.3890560989306495], dtype=torch.float64)
            order = np.lexsort((key.numpy(), of.numpy(), centers.numpy()))
            sides.append((centers[order], of[order], v[order]))
        assert torch.equal(sides[0][0], sides[1][0]), "central atoms"
        assert torch.equal(sides[0][1], sides[1][1]), "neighbours"
        torch.testing.assert_close(sides[0][2], sides[1][2], rtol=0, atol=tolerance)
    return differing


def seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu":
        started = time.process_time()
        call()
        return time.process_time() - started
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started


def compare(batches: list[Structures], rounds: int) -> None:
    device, dtype = batches[0].positions.device, batches[0].positions.dtype
    n_atoms = sum(batch.n_atoms for batch in batches)
    plain, others = Vesin(batches), contenders(batches)
    expected = others["vesin, this package"]()
    for name, find in others.items():
        tolerance = 1e-11 if dtype == torch.float64 and name != "nvalchemi-toolkit-ops" else 5e-5
        differing = check(find(), expected, tolerance)
        print(f"{name}: the same pairs as vesin" + (f" ({differing} at the cutoff not compared)" if differing else ""))
    host, names = torch.device("cpu"), ["vesin, plain loop", *others]
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        times[names[0]].append(seconds(plain, host))
        for name, find in others.items():
            times[name].append(seconds(find, device))
    print(f"{n_atoms} atoms, {sum(len(i) for _, i, _ in expected)} pairs, batches of {[len(b) for b in batches]}")
    print(f"{'':<24}{'best':>10}{'median':>10}{'atoms/s':>14}{'ratio to plain vesin':>22}")
    for name in names:
        ratio = statistics.median(a / b for a, b in zip(times[name], times[names[0]], strict=True))
        best, median = min(times[name]), statistics.median(times[name])
        print(f"{name:<24}{1000 * best:7.1f} ms{1000 * median:7.1f} ms{n_atoms / median:14,.0f}{ratio:22.2f}")


def silicon(n_atoms: int, device: str, dtype: torch.dtype) -> Structures:
    """A cubic supercell of about so many atoms, every atom a little off its site."""
    repeats = round((n_atoms / 8) ** (1 / 3))
    atoms = bulk("Si", cubic=True) * (repeats, repeats, repeats)
    positions = atoms.positions + np.random.default_rng(0).normal(0, 0.1, atoms.positions.shape)
    frame = Frame(positions, np.array(atoms.cell), np.array([True] * 3), atoms.numbers.astype(np.int64), "", "silicon")
    return Structures.from_frames([frame], device=device, dtype=dtype)


def large(n_atoms: int, backend: str, device: str, dtype: torch.dtype, rounds: int) -> None:
    """One row: time and memory per atom of one cell."""
    structures = silicon(n_atoms, device, dtype)
    where = structures.positions.device
    pf.find_neighbors(silicon(1000, device, dtype), CUTOFF, backend=backend)  # what the first call loads
    before = peak_memory(where)
    times = [seconds(lambda: pf.find_neighbors(structures, CUTOFF, backend=backend), where) for _ in range(rounds)]
    per_atom = 1 / structures.n_atoms
    memory = (peak_memory(where) - before) * per_atom
    print(f"{structures.n_atoms:>10}{backend:>16}{1e6 * min(times) * per_atom:12.2f}{memory:14.0f}", flush=True)


def peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    shared = Path(__file__).resolve().parents[3] / "shared" / "data" / "silicon_nist.poscar.dat"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=Path, default=shared)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float64", choices=("float32", "float64"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--atoms", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--backends", nargs="+", default=["torch", "vesin"])
    parser.add_argument("--one", nargs=2, metavar=("ATOMS", "BACKEND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    if options.one:
        large(int(options.one[0]), options.one[1], options.device, dtype, options.rounds)
        return
    place = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"{options.threads} thread(s)"
    print(f"torch {torch.__version__}, {options.device}, {place}, {options.dtype}, cutoff {CUTOFF} Å")
    if not options.large:
        structures = pf.load_structures(options.structures).to(options.device, dtype)
        rows = size_batches(structures.sizes, batch_atoms(torch.device(options.device), 1))
        compare([structures.select(batch) for batch in rows], options.rounds)
        return
    print(f"{'atoms':>10}{'backend':>16}{'µs/atom':>12}{'bytes/atom':>14}", flush=True)
    for backend in options.backends:
        for n_atoms in options.atoms:
            arguments = ["--device", options.device, "--dtype", options.dtype, "--threads", str(options.threads)]
            arguments += ["--rounds", "3", "--one", str(n_atoms), backend]
            subprocess.run([sys.executable, __file__, *arguments], check=True)


if __name__ == "__main__":
    main()
