"""Everything on a GPU in one table, with the goals beside: search, features, predictions, dynamics, training, memory.

    python tests/benchmarks/gpu.py [--only SECTION ..] [--out gpu.json]
    python tests/benchmarks/gpu.py --device cpu --small       tries the script itself, in seconds

Results are compared with the CPU's first, and with themselves from run to run. The set is the NIST silicon set of the
optional reference data, header of the classic network 00, layers 40-16-16-1, random weights; without it, perturbed
crystals of as many atoms. Dynamics and the large cell use the potential of the examples. A section that fails does not
stop the others. torch-sim may lie in a folder (pip install --target FOLDER torch-sim-atomistic) named by PYTHONPATH;
without it the dynamics are those of a loop here. What bounds a kernel, beyond its share of the roofline:

    ncu --set full -k regex:.* -c 60 -o kernels python tests/benchmarks/gpu.py --only kernels --once
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from ase import units
from ase.build import bulk
from closure import HEADER, LAYERS
from gpu_tools import Clock, Roofline, Table
from torch import Tensor

import pyfit_gpu as pf
from pyfit_gpu.descriptors.lsp import basis_of
from pyfit_gpu.fused import has_fused_kernels
from pyfit_gpu.interfaces.systems import MovingSystems
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.new_potential import new_potential
from pyfit_gpu.optimizers.cuda_graphs import Recorded
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.neighbors import find_neighbors
from pyfit_gpu.training.closure import Closure
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.penalty import NormPenalty

ROOT = Path(__file__).parents[2]
FOLDERS = [os.environ.get("PYFIT_SHARED"), ROOT / "shared", ROOT.parent / "shared"]
DTYPES = (torch.float64, torch.float32)
E_SHIFT = 0.795023
SIZES = ((2**28, 8192), (2**20, 256))  # numbers to copy and width of matrices; small ones


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def crystals(n_structures: int, repeats: int, rattle: float = 0.1) -> pf.Structures:
    """Cubic cells of perturbed silicon with random energies and forces."""
    rng = np.random.default_rng(0)
    atoms = bulk("Si", "diamond", a=5.479, cubic=True) * ((repeats,) * 3)
    n = len(atoms)

    def frame(k: int) -> Frame:
        return Frame(
            positions=atoms.positions + rng.normal(0, rattle, (n, 3)),
            cell=np.array(atoms.cell),
            pbc=np.array([True] * 3),
            atomic_numbers=atoms.numbers.astype(np.int64),
            group="made",
            source=f"crystal {k}",
            energy=float(n * rng.normal(-5, 0.1)),
            forces=rng.normal(size=(n, 3)),
        )

    return pf.Structures.from_frames([frame(k) for k in range(n_structures)])


class Benchmark:
    """Structures and potentials of all sections, on the host and on the device."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.small = options, options.small
        self.device = torch.device(options.device)
        self.clock = Clock(self.device, 1 if options.once or options.small else 20)
        self.table = Table(options.only)
        self.structures = self._structures()
        networks = ElementNetworks.random(LAYERS, 0.1, 1, n_elements=1, activation=1)
        shift = torch.zeros(1, dtype=torch.float64)
        self.potential = pf.Potential(HEADER, networks, (28.0855,), 0.1, False, (0.0,) * 8, shift)
        self.silicon = pf.load_potential(ROOT / "examples" / "data" / "si.nn.dat")
        self.like = networks

    def _structures(self) -> pf.Structures:
        if not self.small:
            paths = [Path(folder) / "data" / "silicon_nist.poscar.dat" for folder in FOLDERS if folder]
            for path in filter(None, [self.options.structures, *paths]):
                if path.is_file():
                    return pf.load_structures(path)
            print("# the NIST set is not here: perturbed crystals of as many atoms")
        return crystals(4 if self.small else 1340, 1 if self.small else 2)

    def set_of(self, structures: pf.Structures) -> pf.TrainingSet:
        found = pf.build_training_set(structures, self.potential, e_shift=E_SHIFT)
        generator = torch.Generator().manual_seed(0)
        found.forces[:] = torch.randn(found.forces.shape, generator=generator, dtype=torch.float64)
        return found

    def rate(self, name: str, task: Callable[[], object], n_atoms: int, *, repeats: int = 5, **more: str) -> float:
        """Add a row in millions of atoms per second; returns milliseconds."""
        ms = self.clock.milliseconds(task, repeats)
        self.table.add(name, n_atoms / ms / 1000, "M atoms/s", note=f"{ms:.3f} ms", **more)
        return ms


def agreement(b: Benchmark) -> None:
    """Differences from the CPU, and bits from run to run."""
    small = b.structures.select(range(0, len(b.structures), 10))
    mode_6 = new_potential(["Si"], 5.0, first_center=1.5)
    networks = ElementNetworks.random(mode_6.networks.layer_sizes, 0.1, 1, n_elements=1, activation=1)
    members = pf.join_members([b.potential, b.potential.randomized(2)])
    potentials = {"mode 1": b.potential, "mode 6": replace(mode_6, networks=networks), "two members": members}
    for name, potential in potentials.items():
        expected = pf.predict(potential, small)
        for dtype in DTYPES:
            typed, moved = potential.to(b.device, dtype), small.to(b.device)
            found, again = pf.predict(typed, moved), pf.predict(typed, moved)
            for value in ("atomic_energies", "forces"):
                b.table.check(f"{value}, {name}", getattr(found, value), getattr(expected, value), dtype)
                if not torch.equal(getattr(found, value), getattr(again, value)):
                    b.table.failures.append(f"{value}, {name}, {name_of(dtype)}: other bits in a second run")
    training_set = b.set_of(small)
    point = b.like.flat()
    for weights in ({}, {"forces": 0.1}):
        expected_gradient = gradient(Objective(training_set, weights), b.like, point)
        for dtype in DTYPES:
            for memory in (float("inf"), 0.0) if weights else (0.0,):
                objective = Objective(training_set.to(b.device, dtype), weights, memory=memory)
                how = ("energies", "forces, kept" if memory else "forces, anew")[bool(weights)]
                found_gradient = gradient(objective, b.like, point.to(b.device))
                b.table.check(f"gradient, {how}", found_gradient, expected_gradient, dtype)


def gradient(objective: Objective, like: ElementNetworks, points: Tensor) -> Tensor:
    found = objective.evaluate(points, like).gradient
    assert found is not None
    return found


def search(b: Benchmark) -> None:
    structures = b.structures.to(b.device)
    backends = ["torch", "triton"] if has_fused_kernels(b.device) else ["torch"]
    for backend in backends:
        find = partial(find_neighbors, structures, HEADER.cutoff, backend=backend)
        b.rate(f"neighbours, {backend}", find, structures.n_atoms, goal="above 15", before="5.6 to 8")
        b.table.add(f"waits of the host in a search, {backend}", b.clock.waits(find), "")


def features(b: Benchmark) -> None:
    structures = b.structures.to(b.device)
    neighbors = find_neighbors(structures, HEADER.cutoff)
    n_atoms = len(neighbors.counts)
    species = torch.zeros(n_atoms, dtype=torch.int64, device=b.device)
    for dtype, goal, before in ((torch.float64, "100", "14.9"), (torch.float32, "", "15.4")):
        typed = neighbors.to(dtype)
        raw = partial(HEADER.raw, typed, species)
        b.rate(f"features, neighbours given, {name_of(dtype)}", raw, n_atoms, goal=goal, before=before)
    potential = b.potential.to(b.device)
    whole = partial(pf.featurize, structures, potential)
    b.rate("structures to features, whole, float64", whole, n_atoms, goal="8", before="2.3")


def kernels(b: Benchmark) -> None:
    """Each kernel beside the roofline: bytes that must be moved and operations that must be done, by the formulas."""
    if not has_fused_kernels(b.device):
        print("# no fused kernels on this device")
        return
    from pyfit_gpu.descriptors.kernels.expansion import FusedExpansion
    from pyfit_gpu.descriptors.kernels.pair_totals import FlatTotals
    from pyfit_gpu.descriptors.kernels.pairs import FlatPairs

    roofline = Roofline(b.clock, b.table, *SIZES[b.small])
    structures = b.structures.to(b.device)
    mode_6 = new_potential(["Si"], 5.0, first_center=1.5).descriptor
    for label, descriptor in (("mode 1", HEADER), ("mode 6", mode_6)):
        found = find_neighbors(structures, descriptor.neighbor_cutoff)
        n_atoms, n_pairs = len(found.counts), len(found.index)
        species = torch.zeros(n_atoms, dtype=torch.int64, device=b.device)
        for dtype in DTYPES:
            typed, size = found.to(dtype), dtype.itemsize
            basis = basis_of(descriptor, b.device, dtype)
            expansion, pairs = FusedExpansion(basis), FlatPairs.of(typed, species, 1)
            n, rows, n_features = basis.n_centers, basis.n_angular, basis.n_features
            sums = expansion.sums(pairs)
            grad = torch.ones(n_atoms, n_features, dtype=dtype, device=b.device)
            tangent = torch.ones(n_pairs, 3, dtype=dtype, device=b.device)
            by_pair = expansion.vjp(pairs, grad, sums)
            sizes = structures.sizes_on_device

            def totals(typed=typed, by_pair=by_pair, sizes=sizes, pairs=pairs) -> object:
                whole = FlatTotals(typed, sizes, 1, largest=max(structures.sizes), virials=True)
                whole.add(pairs.atoms, pairs.pairs, by_pair[:, None])
                return whole.finish()

            # Numbers of all sums and features; operations of the pairs' functions, as lammps_speed.py counts them.
            all_sums, all_features, vectors = n_atoms * rows * n, n_atoms * n_features, 3 * n_pairs
            functions = n_pairs * (40 + 30 * n + 4 * rows)
            radial = 1 + descriptor.cross_terms
            products = n_atoms * 2 * rows * n * radial + 60 * all_features
            cases: dict[str, tuple[Callable[[], object], float, float]] = {
                "sums": (partial(expansion.sums, pairs), vectors + all_sums, functions + n_pairs * 2 * rows * n),
                "features of sums": (partial(expansion.raw, pairs, sums), all_sums + all_features, products),
                "dE/dv": (
                    partial(expansion.vjp, pairs, grad, sums),
                    3 * all_sums + all_features + 2 * vectors,
                    2 * products + functions + n_pairs * (4 * rows * n + 10 * rows + 6 * n + 30),
                ),
                "JVP": (
                    partial(expansion.jvp, pairs, tangent, sums),
                    3 * all_sums + all_features + 2 * vectors,
                    2 * products + functions + n_pairs * (4 * rows * n + 10 * rows + 6 * n + 30),
                ),
                "dG/dv": (
                    partial(expansion.jacobian, pairs, sums),
                    all_sums + vectors + n_pairs * 3 * n_features,
                    functions + n_pairs * (n_features * 9 + 8 * rows * n),
                ),
                "pair sums": (totals, 3 * vectors + n_pairs * 8 / size + 9 * n_atoms, n_pairs * 30),
            }
            for name, (task, numbers, operations) in cases.items():
                ms = b.clock.milliseconds(task)
                best, bound = roofline.milliseconds(numbers * size, operations, dtype)
                note = f"{ms:.3f} ms, {best:.3f} at best, bound by {bound}; {n_atoms / ms / 1000:.1f} M atoms/s"
                b.table.add(f"kernel: {name}, {label}, {name_of(dtype)}", best / ms, "of the roofline", note=note)


def predictions(b: Benchmark) -> None:
    structures = b.structures.to(b.device)
    for dtype, goal, before in ((torch.float64, "15", "1.7"), (torch.float32, "25", "2.0")):
        typed = b.potential.to(b.device, dtype)
        task = partial(pf.predict, typed, structures)
        b.rate(f"energies, forces, stress, lists anew, {name_of(dtype)}", task, structures.n_atoms, goal=goal,
               before=before)  # fmt: skip
        b.table.add(f"waits of the host in `predict`, {name_of(dtype)}", b.clock.waits(task), "")


def large(b: Benchmark) -> None:
    """One cell of a million atoms."""
    structures = crystals(1, 2 if b.small else 50).to(b.device)
    for dtype in DTYPES:
        typed = b.silicon.to(b.device, dtype)
        task = partial(pf.predict, typed, structures)
        goal = "10" if dtype == torch.float64 else ""
        b.rate(f"one cell of {structures.n_atoms} atoms, {name_of(dtype)}", task, structures.n_atoms, repeats=3,
               goal=goal)  # fmt: skip
        peaks: list[int] = []
        with b.clock.memory(peaks):
            task()
        for peak in peaks:
            b.table.add(f"memory in `predict`, {name_of(dtype)}", peak / structures.n_atoms, "bytes/atom", goal="2000")


def dynamics(b: Benchmark) -> None:
    """Crystals at constant energy, 300 K: in torch-sim where it is installed, and by a loop of its own."""
    n_systems, repeats, steps = (8, 1, 10) if b.small else (1000, 2, 200)
    structures = crystals(n_systems, repeats, rattle=0.01).to(b.device)
    for dtype in DTYPES:
        for late in (False, True):
            how = f"{name_of(dtype)}, {'asked late' if late else 'waiting'}"
            run = own_dynamics(b, structures, dtype, late)
            run(20 if not b.small else 2)
            measure(b, f"{n_systems} x {structures.sizes[0]} atoms, own loop, {how}", run, structures, steps)
    try:
        import torch_sim as ts

        from pyfit_gpu.interfaces.torch_sim import PyfitModel
    except ModuleNotFoundError as error:
        print(f"# {error}")
        return
    from ase import Atoms

    atoms = [
        Atoms("Si" * n, positions=own[:n], cell=cell, pbc=True)
        for n, own, cell in zip(structures.sizes, structures.positions.cpu(), structures.cell.cpu(), strict=True)
    ]
    for dtype in DTYPES:
        model = PyfitModel(b.silicon.to(b.device), dtype=dtype, late=True)
        state = ts.io.atoms_to_state(atoms, b.device, dtype)
        integrator = ts.Integrator.nve if hasattr(ts, "Integrator") else ts.nve  # versions from 0.6, and before

        def run_torch_sim(n: int, state=state, model=model, integrator=integrator) -> None:
            ts.integrate(state, model, integrator=integrator, n_steps=n, temperature=300.0, timestep=1e-3)

        run_torch_sim(20 if not b.small else 2)
        name = f"{n_systems} x {structures.sizes[0]} atoms, torch-sim, {name_of(dtype)}"
        measure(b, name, run_torch_sim, structures, steps, goal="3, aim 10")


def measure(
    b: Benchmark, name: str, run: Callable[[int], object], structures: pf.Structures, steps: int, goal: str = ""
) -> None:
    b.clock.wait()
    started = time.perf_counter()
    change = run(steps)
    b.clock.wait()
    seconds = time.perf_counter() - started
    note = f"{1000 * seconds / steps:.3f} ms a step"
    if isinstance(change, float):
        note += f", energies changed by up to {1e3 * change:.2g} meV/atom in {steps} fs"
    b.table.add(name, structures.n_atoms * steps / seconds / 1e6, "M atom-steps/s", goal=goal, note=note)


def own_dynamics(b: Benchmark, structures: pf.Structures, dtype: torch.dtype, late: bool) -> Callable[[int], float]:
    """Velocity Verlet in float64, forces in a precision: a function of steps.

    It gives the greatest change of a system's energy, eV/atom.
    """
    potential = b.silicon.to(b.device, dtype)
    numbers = structures.flatten(structures.atomic_numbers)
    systems = MovingSystems(potential, structures.sizes, numbers, skin=0.5, late=late)
    systems.set_cells(structures.cell, structures.pbc)
    positions = structures.flatten(structures.positions).clone()
    mass = 28.0855
    generator = torch.Generator().manual_seed(1)
    velocities = torch.randn(positions.shape, generator=generator, dtype=torch.float64).to(b.device)
    velocities *= (units.kB * 600 / mass) ** 0.5  # half of it becomes potential energy
    step = 1.0 * units.fs

    def run(n: int) -> float:
        nonlocal positions, velocities
        found = systems.predict(positions, derivatives=True)
        first = totals(found)
        for _ in range(n):
            velocities = velocities + found.forces.double() * (step / 2 / mass)
            positions = positions + velocities * step
            found = systems.predict(positions, derivatives=True)
            velocities = velocities + found.forces.double() * (step / 2 / mass)
        return float((totals(found) - first).abs().max()) / structures.sizes[0]

    def totals(found: pf.Prediction) -> Tensor:
        kinetic = (mass / 2 * velocities.square()).sum(dim=1)
        return found.energy.double() + kinetic.view(len(structures), -1).sum(dim=1)

    return run


def members_of(b: Benchmark) -> list[int]:
    return [1, 2] if b.small else b.options.members


def points_of(b: Benchmark, n_points: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (n_points, b.like.n_parameters)
    return (0.2 * torch.rand(shape, dtype=torch.float64, generator=generator) - 0.1).to(b.device)


def energies(b: Benchmark) -> None:
    """Loss and gradient of energies, beside the floor of closure.py on this device."""
    roofline = Roofline(b.clock, b.table, *SIZES[b.small])
    training_set = b.set_of(b.structures)
    before = {1: "0.272", 8: "1.06", 32: "3.47", 128: "13.2"}
    for dtype in DTYPES:
        objective = Objective(training_set.to(b.device, dtype))
        for n_members in members_of(b):
            best = closure_floor(roofline, training_set.n_atoms, n_members, dtype)
            task = partial(gradient, objective, b.like, points_of(b, n_members))
            known = before.get(n_members, "") if dtype == torch.float64 else ""
            name = f"loss and gradient, energies, K = {n_members}, {name_of(dtype)}"
            note = f"roofline {best:.3f} ms"
            one_evaluation(b, name, task, objective, b.like, n_members, before=known, note=note)


def closure_floor(roofline: Roofline, n_atoms: int, n_members: int, dtype: torch.dtype) -> float:
    """Milliseconds: for each product and each sigmoid the longer of its numbers and its operations."""
    seconds = 0.0

    def step(n_numbers: float, n_operations: float = 0.0) -> None:
        nonlocal seconds
        moving, doing = n_numbers * dtype.itemsize / roofline.bandwidth, n_operations / roofline.products[dtype]
        seconds += n_atoms * max(moving, doing)

    for layer, (a, b) in enumerate(pairwise(LAYERS)):
        inputs = a if layer == 0 else n_members * a  # all members share the features
        b *= n_members
        for _ in range(2):  # outputs, and the gradient by the weights
            step(inputs + b, 2 * a * b)
        if layer:
            step(inputs + b, 2 * a * b)  # the gradient by the inputs
            step(2 * inputs)  # the sigmoid of the inputs
            step(3 * inputs)  # and its derivative
    return 1000 * seconds


def one_evaluation(
    b: Benchmark,
    name: str,
    task: Callable[[], object],
    objective: Objective,
    like: ElementNetworks,
    n_members: int,
    *,
    goal: str = "",
    before: str = "",
    note: str = "",
) -> None:
    """Rows of an evaluation as it is called, and as training records it: in parts where there are many members."""
    b.table.add(f"{name}, called", b.clock.milliseconds(task), "ms", note=note)
    if waits := b.clock.waits(task):
        b.table.failures.append(f"{name}: the host waits {waits} times for the GPU")
    most = objective.recordable_points
    if not most:
        return
    recorded = Recorded(partial(gradient, objective, like))
    points = points_of(b, n_members)

    def round_of_parts() -> list[Tensor]:
        return [recorded(part).clone() for part in points.split(most)]

    for _ in range(4):
        round_of_parts()
    found, expected = torch.cat(round_of_parts()), gradient(objective, like, points)
    # Other numbers of members may be multiplied in another order.
    tolerance = 1e-9 if objective.dtype == torch.float64 else 1e-3
    if not float((found - expected).abs().max() / expected.abs().max()) < tolerance:
        b.table.failures.append(f"{name}: a recorded evaluation differs")
    b.table.add(f"{name}, recorded", b.clock.milliseconds(round_of_parts), "ms", goal=goal, before=before, note=note)


def forces(b: Benchmark) -> None:
    """Loss and gradient of energies and forces of a tenth of the set, J^T J, and rounds of a fit."""
    small = b.set_of(b.structures.select(range(0, len(b.structures), 1 if b.small else 10)))
    for dtype in DTYPES:
        part = small.to(b.device, dtype)
        double = dtype == torch.float64
        for how, memory, goal, before in (("kept", float("inf"), "1.5", "6.0"), ("anew", 0.0, "3", "34.9")):
            objective = Objective(part, {"forces": 0.1}, memory=memory)
            for n_members in members_of(b)[:3]:
                name = f"loss and gradient, forces {how}, {small.n_atoms} atoms, K = {n_members}, {name_of(dtype)}"
                task = partial(gradient, objective, b.like, points_of(b, n_members))
                own = {"goal": goal, "before": before} if n_members == 1 and double else {}
                one_evaluation(b, name, task, objective, b.like, n_members, **own)
            closure = Closure(objective, b.like.to(b.device), NormPenalty(0.0, b.like.to(b.device)))
            point = points_of(b, 1)[0]
            for _ in range(5 if b.clock.on_gpu else 1):
                closure.matrix(0, point, keep=False)
            ms = b.clock.milliseconds(lambda closure=closure, point=point: closure.matrix(0, point, keep=False), 5)
            b.table.add(f"J^T J, forces {how}, {small.n_atoms} atoms, {name_of(dtype)}", ms, "ms")
    for n_members in members_of(b)[:3]:
        settings = pf.FitSettings(steps=1 if b.small else 30, seed=1, validation_interval=0, force_weight=0.1)
        fit_rounds(b, f"a round of a fit to forces, K = {n_members}", small, settings, n_members)


def fits(b: Benchmark) -> None:
    training_set = b.set_of(b.structures)
    before = {1: "1.2 to 1.6", 8: "2.8 to 3.6", 32: "6.4 to 7.7", 128: "20 to 23"}
    for n_members in members_of(b):
        settings = pf.FitSettings(steps=1 if b.small else 30, seed=1, validation_interval=0)
        name = f"a round of a fit to energies, K = {n_members}"
        fit_rounds(b, name, training_set, settings, n_members, before=before.get(n_members, ""))


def fit_rounds(
    b: Benchmark, name: str, training_set: pf.TrainingSet, settings: pf.FitSettings, n_members: int, before: str = ""
) -> None:
    on_device = training_set.to(b.device, torch.float64)
    potential = b.potential.to(b.device, torch.float64)
    pf.fit(potential, on_device, members=n_members, settings=replace(settings, steps=1))
    b.clock.wait()
    started = time.perf_counter()
    history = pf.fit(potential, on_device, members=n_members, settings=settings)
    b.clock.wait()
    ms = 1000 * (time.perf_counter() - started) / history.n_evaluations * n_members
    b.table.add(name, ms, "ms", before=before, note=f"{history.n_evaluations} evaluations, recordings included")


SECTIONS: dict[str, Callable[[Benchmark], None]] = {
    "agreement": agreement,
    "search": search,
    "features": features,
    "predictions": predictions,
    "dynamics": dynamics,
    "large": large,
    "forces": forces,
    "energies": energies,
    "kernels": kernels,
    "fits": fits,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=Path)
    parser.add_argument("--members", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="few atoms and single calls: tries the script itself")
    parser.add_argument("--once", action="store_true", help="single calls, for a profiler")
    parser.add_argument("--only", nargs="+", choices=tuple(SECTIONS))
    parser.add_argument("--out", type=Path, help="JSON of the table")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: nothing to measure (--device cpu --small tries the script)")
    started = time.perf_counter()
    b = Benchmark(options)
    card = torch.cuda.get_device_name() if b.clock.on_gpu else "CPU"
    print(f"# {card}, torch {torch.__version__}, {len(b.structures)} structures, {b.structures.n_atoms} atoms")
    print(f"# fused kernels: {has_fused_kernels(b.device)}")
    for name, task in SECTIONS.items():
        b.table.section(name, partial(task, b))
    b.table.finish(options.out)
    print(f"{time.perf_counter() - started:.0f} s in all")
    if b.table.failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
