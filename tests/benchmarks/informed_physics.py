"""Networks on structures unlike those they trained on: straight and physically informed ones side by side.

    python tests/benchmarks/informed_physics.py train FOLDER [--sets near bulk] [--seeds 1 2] [--steps 40] [--l2 1e-7]
                                                           [--spread-penalty C]
    python tests/benchmarks/informed_physics.py report FOLDER [--image FILE.png]

NIST silicon, whole groups left out: `near` trains crystals, defects, liquid and amorphous cells near the density of
the crystal at rest, `bulk` the same and those groups that are compressed and expanded; neither has a surface, a sheet
or a cluster. A straight network 40-16-16-1 and an informed one 40-16-16-8 with the same inputs take as many steps on
the same structures. The informed one begins with a baseline that is fitted alone, which is reported as a third
potential. `report` prints errors by kind of structure and draws dimers, the diamond crystal against volume and
energies of surfaces beside DFT. The optional folder of reference data beside the checkout holds the structures.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from members import SHARED
from numpy.typing import NDArray

import pyfit_gpu as pf
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.new_potential import new_potential
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.baseline import fit_baseline

SHIFT = 0.795023  # eV/atom: energies are those above atoms alone
CUTOFF = 4.5  # Å
LIKE = {"gi_mode": 2, "legendre_orders": (0, 1, 2, 4, 6), "n_centers": 8, "first_center": 1.5, "hidden": (16, 16)}
MOST_ATOMS = 500  # of a group: larger ones are many cells alike, of which every so many-th is taken


def _groups(letter: str, *numbers: int) -> tuple[str, ...]:
    return tuple(f"Si_{letter}{number}" for number in numbers)


KINDS = {
    "crystals near rest": _groups("B", 2, 15, 31, 32, 33, 36, 37, 42),
    "defects": _groups("D", 11, 12, 13, 16, 17, 18, 19, 20, 21),
    "liquid, amorphous": _groups("L", 3) + _groups("A", 3),
    "crystals, 0.4 to 2.6 V": _groups("B", 1, 3, 4, 5, 6, 7, 8, 9, 10, 17, 21, 41),
    "liquid, amorphous, 0.7 to 2.4 V": _groups("L", 1) + _groups("A", 1),
    "surfaces": _groups("S", *range(1, 9)) + _groups("D", *range(27, 31)),
    "sheets": _groups("T", 1, 3, 6, 9, 12, 15, *range(18, 24)),
    "clusters": _groups("C", *range(2, 23)),
    "dimer": _groups("C", 1),
}
TRAINED = {"near": list(KINDS)[:3], "bulk": list(KINDS)[:5]}
WAYS = ("straight", "baseline", "informed")


def rows_of(groups: Sequence[str], kinds: Sequence[str]) -> list[int]:
    wanted = {group for kind in kinds for group in KINDS[kind]}
    return [row for row, group in enumerate(groups) if group in wanted]


def thinned(structures: pf.Structures, rows: Sequence[int]) -> list[int]:
    """Take so many structures of each group, at even distances, that they have at most `MOST_ATOMS` atoms."""
    kept = []
    for group in dict.fromkeys(structures.groups[row] for row in rows):
        own = [row for row in rows if structures.groups[row] == group]
        kept += own[:: -(-sum(structures.sizes[row] for row in own) // MOST_ATOMS)]
    return kept


def with_weights(potential: pf.Potential, seed: int) -> pf.Potential:
    networks = ElementNetworks.random(
        potential.networks.layer_sizes, potential.max_random, seed, n_elements=1, activation=1
    )
    return replace(potential, networks=networks)


def baseline_alone(potential: pf.Potential) -> pf.Potential:
    """The potential whose network adds nothing to the baseline."""
    return replace(potential, networks=potential.networks.with_flat(torch.zeros_like(potential.networks.flat())))


def train_all(options: argparse.Namespace) -> None:
    """Save all potentials, and a line of JSON for each network."""
    torch.set_num_threads(1)
    options.folder.mkdir(exist_ok=True, parents=True)
    structures = pf.load_structures(SHARED / "data" / "silicon_nist.poscar.dat")
    empty = {
        "straight": new_potential(["Si"], CUTOFF, **LIKE),
        "informed": new_potential(["Si"], CUTOFF, form="plain", **LIKE),
    }
    for name in options.sets:
        rows = thinned(structures, rows_of(structures.groups, TRAINED[name]))
        one = with_weights(empty["straight"], 1)
        parts = pf.build_training_set(structures.select(rows), one, e_shift=SHIFT).split(0.9, 2)
        print(
            f"{name}: {len(parts[0])} structures train, {parts[0].n_atoms} atoms; {len(parts[1])} validate", flush=True
        )
        for seed in options.seeds:
            for way, potential in empty.items():
                train(options, name, way, with_weights(potential, seed), parts, seed)


def train(
    options: argparse.Namespace,
    name: str,
    way: str,
    potential: pf.Potential,
    parts: tuple[pf.TrainingSet, pf.TrainingSet],
    seed: int,
) -> None:
    settings = pf.FitSettings(steps=options.steps, seed=seed, l2=options.l2, l2_form="squared")
    started = time.perf_counter()
    if potential.is_physically_informed:
        settings = replace(settings, spread_penalty=options.spread_penalty)
        potential = fit_baseline(potential, parts[0], settings, starts=3)
        pf.save_potential(baseline_alone(potential), path_of(options.folder, name, "baseline", seed))
    begun = time.perf_counter()
    history = pf.fit(potential, *parts, random_starts=True, settings=settings)
    ended = time.perf_counter()
    pf.save_potential(potential, path_of(options.folder, name, way, seed))
    line = {
        "set": name, "way": way, "seed": seed, "baseline, s": round(begun - started), "fit, s": round(ended - begun),
        "training loss, meV/atom": round(1e3 * history.loss[-1], 2),
        "least validation RMSE, meV/atom": round(1e3 * (history.best.kept_validation or 0.0), 2),
    }  # fmt: skip
    print(json.dumps(line), flush=True)


def path_of(folder: Path, name: str, way: str, seed: int) -> Path:
    return folder / f"{name}.{way}.{seed}.{'nn.dat' if way == 'straight' else 'pinn'}"


def potentials_of(folder: Path, name: str, way: str) -> list[pf.Potential]:
    return [pf.load_potential(path) for path in sorted(folder.glob(f"{name}.{way}.*"))]


def energies(potential: pf.Potential, atoms: Sequence[Atoms]) -> NDArray[np.float64]:
    """eV per atom, above atoms alone."""
    frames = [Frame.of_atoms(one, "made here") for one in atoms]
    sizes = np.array([len(one) for one in atoms])
    return pf.evaluate(potential, pf.Structures.from_frames(frames)).numpy() / sizes


class Found:
    """Energies, eV per atom above atoms alone, of structures by the potentials of a training set, by way and seed."""

    def __init__(self, folder: Path, name: str, structures: pf.Structures) -> None:
        self.name, self.structures = name, structures
        self.known = per_atom(structures, structures.energy) + SHIFT
        self.potentials = {way: potentials_of(folder, name, way) for way in WAYS}
        self.energies = {
            way: [per_atom(structures, pf.evaluate(one, structures)) for one in own]
            for way, own in self.potentials.items()
        }

    def print_errors(self) -> None:
        """RMSE and MAE by kind of structure, meV/atom: means over the seeds, and the range of the RMSE."""
        print(f"\n| {self.name} | n | {' | '.join(WAYS)} |\n|---|---|{'---|' * len(WAYS)}")
        for kind in KINDS:
            rows = rows_of(self.structures.groups, [kind])
            cells = []
            for way in WAYS:
                errors = [1e3 * (found - self.known)[rows] for found in self.energies[way]]
                roots = [float(own.square().mean().sqrt()) for own in errors]
                mae = np.mean([float(own.abs().mean()) for own in errors])
                cells.append(f"{np.mean(roots):.0f} ({min(roots):.0f} to {max(roots):.0f}); {mae:.0f}")
            trained = "" if kind in TRAINED[self.name] else ", left out"
            print(f"| {kind}{trained} | {len(rows)} | {' | '.join(cells)} |", flush=True)


def per_atom(structures: pf.Structures, energy: torch.Tensor) -> torch.Tensor:
    return energy / torch.tensor(structures.sizes)


def diamonds(relative: NDArray[np.float64], volume: float) -> list[Atoms]:
    return [bulk("Si", a=(8 * volume * one) ** (1 / 3)) for one in relative]


def dimers(lengths: NDArray[np.float64]) -> list[Atoms]:
    return [Atoms("Si2", [(0, 0, 0), (0, 0, length)]) for length in lengths]


def known_dimers(structures: pf.Structures) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lengths, Å, and energies, eV, of the dimers of the set."""
    rows = rows_of(structures.groups, ["dimer"])
    ends = structures.positions[rows, :2]
    energy = structures.energy[rows] + 2 * SHIFT
    return (ends[:, 1] - ends[:, 0]).norm(dim=-1).numpy(), energy.numpy()


def known_diamonds(structures: pf.Structures) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Volumes, Å^3 per atom, and energies, eV per atom, of the diamond crystals of the set."""
    rows = [row for row, group in enumerate(structures.groups) if group == "Si_B1"]
    return (structures.volume[rows] / 2).numpy(), (structures.energy[rows] / 2 + SHIFT).numpy()


def surface_energies(structures: pf.Structures, found: torch.Tensor, crystal: float) -> NDArray[np.float64]:
    """eV/Å^2 of the slabs: energy above the crystal over both faces, which the two shorter vectors of the cell span."""
    rows = rows_of(structures.groups, ["surfaces"])
    height = structures.cell[rows].norm(dim=-1)
    cells = structures.cell[rows].gather(1, height.argsort(1)[:, :2, None].expand(-1, -1, 3))
    areas = torch.linalg.cross(cells[:, 0], cells[:, 1]).norm(dim=-1)
    sizes = torch.tensor(structures.sizes)[rows]
    return (sizes * (found[rows] - crystal) / (2 * areas)).numpy()


LENGTHS = np.arange(1.5, 6.001, 0.05)
RELATIVE = np.arange(0.6, 2.001, 0.02)


def draw(found: Found, axes: Sequence[Any]) -> None:
    """Dimers, the diamond crystal and surfaces beside DFT; print errors of surface energies."""
    volumes, crystals = known_diamonds(found.structures)
    rest = float(volumes[crystals.argmin()])
    right = surface_energies(found.structures, found.known, crystals.min())
    for color, way in zip(("C0", "0.6", "C3"), WAYS, strict=True):
        for number, one in enumerate(found.potentials[way]):
            style = {"color": color, "lw": 1, "label": None if number else way}
            crystal = energies(one, diamonds(RELATIVE, rest))
            own = surface_energies(found.structures, found.energies[way][number], crystal.min())
            axes[0].plot(LENGTHS, 2 * energies(one, dimers(LENGTHS)), **style)
            axes[1].plot(RELATIVE * rest, crystal, **style)
            axes[2].plot(right, own, ".", ms=2, color=color)
            print(f"{found.name}, {way}, {number + 1}: surfaces, RMSE {np.sqrt(np.mean((own - right) ** 2)):.4f}, mean "
                  f"error {np.mean(own - right):+.4f} of {np.mean(right):.4f} eV/Å^2", flush=True)  # fmt: skip
    axes[0].plot(*known_dimers(found.structures), "k.", ms=4, label="DFT")
    axes[0].set(xlabel="length of the dimer (Å)", ylabel="energy (eV)", ylim=(-9, 8))
    axes[0].set_title(f"trained on: {found.name}", fontsize=9, loc="left")
    axes[1].plot(volumes, crystals, "k.", ms=3)
    axes[1].set(xlabel="volume of diamond (Å$^3$/atom)", ylabel="energy (eV/atom)", ylim=(-5.5, -1), xlim=(11, 42))
    axes[2].plot([0, 0.3], [0, 0.3], "k", lw=0.5)
    axes[2].set(xlabel="surface energy, DFT (eV/Å$^2$)", ylabel="found (eV/Å$^2$)", xlim=(0.05, 0.3), ylim=(-0.1, 0.4))


def report(options: argparse.Namespace) -> None:
    """Print errors, and draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    torch.set_num_threads(1)
    structures = pf.load_structures(SHARED / "data" / "silicon_nist.poscar.dat")
    structures = structures.select(thinned(structures, range(len(structures.groups))))
    names = [name for name in TRAINED if potentials_of(options.folder, name, "informed")]
    figure, axes = pyplot.subplots(len(names), 3, figsize=(11, 3.3 * len(names)), squeeze=False)
    for name, row in zip(names, axes, strict=True):
        found = Found(options.folder, name, structures)
        draw(found, row)
        found.print_errors()
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(options.image, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(required=True)
    training = tasks.add_parser("train")
    training.add_argument("--sets", nargs="+", choices=tuple(TRAINED), default=list(TRAINED))
    training.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    training.add_argument("--steps", type=int, default=40)
    training.add_argument("--l2", type=float, default=1e-7, help="prefactor of the squares of the parameters")
    training.add_argument("--spread-penalty", type=float, default=0.0, help="of the informed networks, as in `train`")
    training.set_defaults(work=train_all)
    reporting = tasks.add_parser("report")
    reporting.add_argument("--image", default="informed_physics.png")
    reporting.set_defaults(work=report)
    for one in (training, reporting):
        one.add_argument("folder", type=Path)
    options = parser.parse_args()
    options.work(options)


if __name__ == "__main__":
    main()
