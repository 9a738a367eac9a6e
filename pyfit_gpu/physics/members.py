"""The members of a potential, each evaluated for structures of its own: many cells of a member in one call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.models.energy import energy_model
from pyfit_gpu.models.energy_shift import evaluation_shift
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import Prediction, predict
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.parallel import Workers
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.frames import Frame

Group = tuple[int, Sequence[Atoms]]  # number of a member, and cells that it is to evaluate


@dataclass(frozen=True, eq=False)
class Evaluated:
    """One cell by one member."""

    energy: float  # eV, on the scale of the DFT data
    forces: FloatArray  # (n, 3) eV/Å
    stress: FloatArray  # (6,) eV/Å^3, ASE's sign and order; NaN without a full cell
    grade: float  # highest of the atoms; NaN without an uncertainty


class Members:
    """Evaluates cells with the members of a potential, which relax differently and so have different cells."""

    def __init__(self, potential: Potential, uncertainty: Uncertainty | None = None) -> None:
        """
        Args:
            uncertainty: of the potential or one of its members, for the grades.

        Raises:
            InputError: an uncertainty of another potential.
        """
        energy_model(potential, "compute_physics")
        grade = None if uncertainty is None else uncertainty.of_potential(potential).grade
        # In single precision differences of energies and forces, on which most of this rests, would be noise.
        potential = potential.to(potential.device, torch.float64)
        self.potentials = [potential.member(number) for number in range(potential.networks.n_members)]
        self.shift = torch.tensor(evaluation_shift(potential, None), dtype=torch.float64, device=potential.device)
        self._uncertainties: list[Uncertainty | None] = [None] * len(self)
        if grade is not None:
            grade = grade.to(potential.device, torch.float64)
            self._uncertainties = [Uncertainty.of(member, grade) for member in self.potentials]

    def __len__(self) -> int:
        return len(self.potentials)

    @property
    def device(self) -> torch.device:
        return self.potentials[0].device

    @property
    def elements(self) -> tuple[str, ...]:
        return self.potentials[0].descriptor.elements

    @property
    def cutoff(self) -> float:
        """Å, within which energies depend on atoms."""
        return self.potentials[0].neighbor_cutoff

    @property
    def has_grades(self) -> bool:
        return self._uncertainties[0] is not None

    def structures(self, cells: Sequence[Atoms]) -> Structures:
        return Structures.from_frames([as_frame(atoms) for atoms in cells], device=self.device)

    def evaluate(
        self, groups: Sequence[Group], *, derivatives: bool = True, grades: bool = True
    ) -> list[list[Evaluated]]:
        """Evaluate groups of cells, all those of a member in one batch, or in as many as there are cores for it.

        A cell that has no features, with two atoms at one place, has NaN.

        Args:
            groups: number of the member, and the cells.
            derivatives: whether forces and stress are wanted; NaN otherwise.
            grades: whether grades are wanted, if there is an uncertainty.
        """
        flat = [(member, atoms) for member, cells in groups for atoms in cells]
        workers = Workers.shared(self.device)
        jobs: list[list[int]] = []  # places of cells of one member
        for number in range(len(self)):
            own = [place for place, (member, _) in enumerate(flat) if member == number]
            n_parts = min(len(own), math.ceil(workers.count / len(self)))
            jobs += (own[part::n_parts] for part in range(n_parts))

        def compute(places: list[int]) -> list[Evaluated]:
            cells = [flat[place][1] for place in places]
            return self._evaluate(flat[places[0]][0], cells, derivatives=derivatives, grades=grades)

        found: dict[int, Evaluated] = {}
        for places, evaluated in zip(jobs, workers.map(compute, jobs), strict=True):
            found |= zip(places, evaluated, strict=True)
        following = iter(range(len(flat)))
        return [[found[place] for place in islice(following, len(cells))] for _, cells in groups]

    def _evaluate(self, number: int, cells: Sequence[Atoms], *, derivatives: bool, grades: bool) -> list[Evaluated]:
        structures = self.structures(cells)
        potential = self.potentials[number]
        uncertainty = self._uncertainties[number] if grades else None
        try:
            found = predict(potential, structures, derivatives=derivatives, uncertainty=uncertainty)
        except InputError:  # two atoms at one place: a bad potential pulls them there
            if len(cells) == 1:
                return [Evaluated(np.nan, np.full((len(cells[0]), 3), np.nan), np.full(6, np.nan), np.nan)]
            halves = cells[: len(cells) // 2], cells[len(cells) // 2 :]
            return [
                one for half in halves for one in self._evaluate(number, half, derivatives=derivatives, grades=grades)
            ]
        return _split(found, self.shift_of(potential, structures), structures.sizes)

    def shift_of(self, potential: Potential, structures: Structures) -> Tensor:
        """(B,) eV, to take off the networks' energies."""
        rows = torch.repeat_interleave(torch.tensor(structures.sizes, device=potential.device))
        shifts = self.shift[potential.species_index(structures)]
        return shifts.new_zeros(len(structures)).index_add(0, rows, shifts)


def _split(found: Prediction, shifts: Tensor, sizes: Sequence[int]) -> list[Evaluated]:
    energies = (found.energy - shifts).tolist()
    n_atoms = sum(sizes)
    forces, stress = np.full((n_atoms, 3), np.nan), np.full((len(sizes), 6), np.nan)
    if found.forces is not None and found.stress is not None:
        forces, stress = found.forces.cpu().numpy(), found.stress.cpu().numpy()
    grades = np.full(n_atoms, np.nan)
    if found.uncertainty is not None:
        grades = found.uncertainty.grade.cpu().numpy()
    ends = np.cumsum(sizes)
    return [
        Evaluated(energy, forces[end - size : end], tensor, float(grades[end - size : end].max()))
        for energy, tensor, size, end in zip(energies, stress, sizes, ends, strict=True)
    ]


def highest_grade(evaluated: Sequence[Sequence[Evaluated]]) -> float | None:
    """The highest grade of all cells of all groups; None: no uncertainty was given."""
    grades = [one.grade for group in evaluated for one in group]
    return float(np.max(grades)) if grades and not np.isnan(grades).any() else None


def as_frame(atoms: Atoms) -> Frame:
    """A cell as the package reads one from a file."""
    return Frame.of_atoms(atoms, f"a cell of {atoms.get_chemical_formula()}")
