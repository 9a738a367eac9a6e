"""The plugin beside the predictions of the package: the same structures through both, and their differences."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pyfit_gpu.errors import Failure
from pyfit_gpu.interfaces.lammps.installation import Installation
from pyfit_gpu.interfaces.lammps.running import LammpsResult, PairStyle, evaluate_frames
from pyfit_gpu.models.energy_shift import shift_of_structures
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.elements import count_elements
from pyfit_gpu.structures.frames import Frame


@dataclass(frozen=True)
class Difference:
    """The largest difference of one quantity, and the structure it is in."""

    name: str
    unit: str
    tolerance: float  # where the quantity's own numbers are at most 1, else times the largest of them
    largest: float  # 0: nothing was compared
    magnitude: float  # the largest number itself
    source: str

    @property
    def is_small(self) -> bool:
        return self.largest <= self.tolerance * max(1.0, self.magnitude)  # False for NaN


@dataclass(frozen=True)
class Comparison:
    """LAMMPS beside `predict`."""

    n_structures: int
    n_atoms: int
    energies: tuple[float, ...]  # eV, of LAMMPS
    differences: tuple[Difference, ...]

    @property
    def is_small(self) -> bool:
        return all(difference.is_small for difference in self.differences)

    def require_small(self, where: str) -> None:
        """Fail if LAMMPS and `predict` differ by more than rounding.

        Raises:
            Failure: with the largest differences.
        """
        large = [f"{one.name} by {one.largest:.1e} {one.unit}" for one in self.differences if not one.is_small]
        if large:
            raise Failure(f"{where}: LAMMPS and predict differ by more than rounding: {', '.join(large)}")


def compare(
    lammps: Installation,
    pair: PairStyle,
    potential: Potential,
    frames: Sequence[Frame],
    *,
    uncertainty: Uncertainty | None = None,
    ranks: int = 1,
) -> Comparison:
    """Compute structures with both.

    Args:
        pair: the potential for LAMMPS, on the scale of the DFT data.
        potential: the same for `predict`.
        uncertainty: whose file LAMMPS has too; None: no grades are compared.

    Raises:
        InputError, Failure: as `evaluate_frames`.
    """
    with tempfile.TemporaryDirectory(prefix="pyfit-lammps-") as folder:
        found = evaluate_frames(lammps, frames, pair, Path(folder), ranks=ranks)
    prediction = predict(potential, Structures.from_frames(frames), uncertainty=uncertainty).to("cpu", torch.float64)
    assert prediction.forces is not None
    assert prediction.stress is not None
    sizes = [frame.n_atoms for frame in frames]
    shifts = [0.0 if math.isnan(shift) else shift for shift in potential.energy_shift.tolist()]
    counts = torch.from_numpy(count_elements(frames, potential.descriptor.elements))
    energies = (prediction.energy - shift_of_structures(counts, shifts)).numpy()
    forces = [part.numpy() for part in prediction.forces.split(sizes)]
    differences = _differences(frames, found, energies, forces, prediction.stress.numpy())
    if prediction.uncertainty is not None:
        grades = [part.numpy() for part in prediction.uncertainty.grade.split(sizes)]
        differences += (grade_difference(frames, found, grades),)
    return Comparison(
        n_structures=len(frames),
        n_atoms=sum(sizes),
        energies=tuple(one.energy for one in found),
        differences=differences,
    )


def _differences(
    frames: Sequence[Frame],
    found: Sequence[LammpsResult],
    energies: FloatArray,
    forces: Sequence[FloatArray],
    stress: FloatArray,
) -> tuple[Difference, ...]:
    rows = list(zip(frames, found, energies, forces, stress, strict=True))
    by_energy = [(np.array([one.energy]) / frame.n_atoms, e / frame.n_atoms) for frame, one, e, _, _ in rows]
    by_forces = [(one.forces, f) for _, one, _, f, _ in rows]
    none = np.empty(0)
    by_stress = [(one.stress(frame.volume), s) if frame.volume else (none, none) for frame, one, _, _, s in rows]
    sources = [frame.source for frame in frames]
    return (
        _largest("energy", "eV/atom", 1e-10, by_energy, sources),
        _largest("forces", "eV/Å", 1e-9, by_forces, sources),
        _largest("stress", "eV/Å^3", 1e-10, by_stress, sources),
    )


def grade_difference(
    frames: Sequence[Frame], found: Sequence[LammpsResult], grades: Sequence[FloatArray]
) -> Difference:
    """Largest difference of the grades; atoms that are infinitely far out by both do not count."""
    pairs = []
    for one, expected in zip(found, grades, strict=True):
        assert one.grades is not None
        finite = ~(np.isinf(one.grades) & np.isinf(expected))
        pairs.append((one.grades[finite], np.where(np.isinf(expected), math.nan, expected)[finite]))
    # A square root of a small difference of large numbers: near 0 half of the digits are lost.
    return _largest("grade", "-", 1e-5, pairs, [frame.source for frame in frames])


def _largest(
    name: str, unit: str, tolerance: float, pairs: Sequence[tuple[FloatArray, FloatArray]], sources: Sequence[str]
) -> Difference:
    each = [float(np.abs(one - other).max(initial=0.0)) for one, other in pairs]
    worst = int(np.argmax(each))  # NaN counts as the largest
    magnitude = max(float(np.abs(other).max(initial=0.0)) for _, other in pairs)
    return Difference(name, unit, tolerance, each[worst], magnitude, sources[worst])
