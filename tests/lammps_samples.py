"""Potentials and structures for the tests with LAMMPS, and the scripts that run them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from sample_sets import make_potential

from pyfit_gpu.formats.nn_dat import save_potential
from pyfit_gpu.interfaces.ase import PyfitCalculator
from pyfit_gpu.interfaces.lammps.cells import Box
from pyfit_gpu.interfaces.lammps.data_file import boundary, write_data
from pyfit_gpu.interfaces.lammps.installation import Installation
from pyfit_gpu.interfaces.lammps.running import run_lammps, types_of
from pyfit_gpu.models.batches import featurize
from pyfit_gpu.models.extrapolation import ExtrapolationGrade
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame

_SCALE = 30.0
E_SHIFT = {"Si": 107.25, "C": -3.5, "Ge": 0.125}  # eV


def sample_potential(elements: Sequence[str] = ("Si",), **settings: object) -> Potential:
    """A potential of random numbers with energy shifts, and forces of about 1 eV/Å."""
    potential = make_potential(elements, **settings)
    potential.networks.weights[-1].data.mul_(_SCALE)
    return replace(potential, energy_shift=torch.tensor([E_SHIFT[symbol] for symbol in elements], dtype=torch.float64))


def save_committee(folder: Path, n_members: int, elements: Sequence[str] = ("Si",), **settings: object) -> list[Path]:
    """Files of potentials that differ in their parameters alone."""
    folder.mkdir(exist_ok=True)
    files = [folder / f"{number}.nn.dat" for number in range(n_members)]
    for number, file in enumerate(files):
        save_potential(sample_potential(elements, seed=number, **settings), file)
    return files


def coefficients(files: Sequence[Path], elements: str = "Si C") -> str:
    """Arguments of pair_coeff."""
    return f"* * {' '.join(map(str, files))} {elements}"


def as_atoms(frame: Frame) -> Atoms:
    return Atoms(frame.atomic_numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)


def as_frame(atoms: Atoms) -> Frame:
    return Frame.of_atoms(atoms, "made")


def crystal(repeat: Sequence[int] = (2, 2, 2), *, symbol: str = "Si", second: str | None = None) -> Atoms:
    """Cells of 8 atoms of the diamond or zincblende structure, 5.43 Å long, off their sites by about 0.1 Å."""
    kind = ("diamond", symbol) if second is None else ("zincblende", symbol + second)
    atoms = bulk(kind[1], kind[0], a=5.43, cubic=True) * tuple(repeat)
    atoms.rattle(0.1, seed=5)
    return atoms


@dataclass(frozen=True)
class Runner:
    """LAMMPS with the plugin, in a folder."""

    lammps: Installation
    plugin: Path
    folder: Path

    def __call__(self, *commands: str, ranks: int = 1) -> str:
        """Run commands after loading the plugin, and return what LAMMPS prints.

        Raises:
            Failure: with LAMMPS' message.
        """
        return run_lammps(
            self.lammps, "\n".join([f"plugin load {self.plugin}", *commands, ""]), self.folder, ranks=ranks
        )

    def setup(
        self,
        atoms: Atoms,
        coefficients: str,
        *,
        style: str = "pyfit",
        elements: Sequence[str] = (),
        units: str = "metal",
    ) -> list[str]:
        """Commands that read a structure, whose types are `elements` or those in it, and choose a potential."""
        frame = as_frame(atoms)
        elements = elements or list(dict.fromkeys(atoms.get_chemical_symbols()))
        box = Box.of(frame)
        with open(self.folder / "atoms.data", "w", encoding="utf-8") as file:
            write_data(file, box, types_of(frame, elements), elements, [28.0] * len(elements), "made")
        return [
            f"units {units}",
            f"boundary {boundary(box)}",
            "box tilt large",
            "read_data atoms.data",
            f"pair_style {style}",
            f"pair_coeff {coefficients}",
        ]

    def dump(self, name: str = "dump") -> np.ndarray:
        """(frames, atoms, columns): a dump of the same atoms each time."""
        lines = (self.folder / name).read_text(encoding="utf-8").splitlines()
        starts = [k for k, line in enumerate(lines) if line.startswith("ITEM: ATOMS")]
        n_atoms = int(lines[lines.index("ITEM: NUMBER OF ATOMS") + 1])
        return np.array([[list(map(float, row.split())) for row in lines[k + 1 : k + 1 + n_atoms]] for k in starts])


def thermo(output: str) -> np.ndarray:
    """(rows, columns): the numbers of the last run."""
    block = output.split("Per MPI rank memory allocation")[-1].split("Loop time")[0]
    rows = [line.split() for line in block.splitlines()[2:]]
    return np.array([[float(cell) for cell in row] for row in rows if row and re.match(r"-?\d", row[0])])


def calculated(atoms: Atoms, files: Sequence[Path]) -> Atoms:
    """The same atoms with the calculator of some potential files."""
    atoms = atoms.copy()
    atoms.calc = PyfitCalculator([str(file) for file in files], skin=0.0)
    return atoms


def inputs_of(atoms: Atoms, potential: Potential) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, F) inputs of the networks and (n,) species."""
    structures = Structures.from_frames([as_frame(atoms)])
    kinds = [potential.descriptor.elements.index(symbol) for symbol in atoms.get_chemical_symbols()]
    return featurize(structures, potential), torch.tensor(kinds)


def sample_uncertainty(
    atoms: Atoms, potential: Potential, *, n_clusters: Sequence[int], n_directions: int = 5, weight: float = 4.0
) -> Uncertainty:
    """Clusters about the inputs of some of the atoms, `n_clusters` for each element, with random directions."""
    draw = torch.Generator().manual_seed(1)
    inputs, species = inputs_of(atoms, potential)
    n_inputs = inputs.shape[1]
    owners = torch.repeat_interleave(torch.arange(len(n_clusters)), torch.tensor(n_clusters))
    chosen = [torch.nonzero(species == k)[: n_clusters[k] * 3 : 3, 0] for k in range(len(n_clusters))]
    weights = weight * (1 + torch.rand(len(owners), generator=draw, dtype=torch.float64))
    square = torch.randn(len(owners), n_inputs, n_inputs, generator=draw, dtype=torch.float64)
    shares = torch.rand(len(owners), n_directions, 1, generator=draw, dtype=torch.float64)
    rows = torch.linalg.qr(square).Q[:, :n_directions] * (weights[:, None, None] * shares).sqrt()
    grade = ExtrapolationGrade(
        scale=0.1 + torch.rand(len(n_clusters), n_inputs, generator=draw, dtype=torch.float64),
        element=owners,
        n_atoms=torch.ones_like(owners),
        centers=inputs[torch.cat(chosen)] + 0.01,
        weight=weights,
        directions=rows,
    )
    return Uncertainty.of(potential, grade)
