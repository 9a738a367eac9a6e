"""The structures of a report, from a training set and from files, with a potential's predictions for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase.units import GPa

from pyfit_gpu.commands.evaluate import FramePrediction, predict_frames
from pyfit_gpu.commands.fit_beside import FitBeside
from pyfit_gpu.commands.jobs import Setup, Sources, frames_of_set, read_all_frames
from pyfit_gpu.commands.messages import shown
from pyfit_gpu.commands.train.options import SplitOptions
from pyfit_gpu.commands.warnings import warn_of_untrained_predictions
from pyfit_gpu.datasets.training_set import TrainingSet, require_same_inputs
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.log import log
from pyfit_gpu.models.energy_shift import EnergyShift, evaluation_shift, shift_of_structures
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.report.evaluated import Evaluated, Label
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.elements import count_elements
from pyfit_gpu.structures.frames import Frame


@dataclass(frozen=True)
class ReportData:
    """Files whose structures a report is about."""

    dft_files: tuple[str, ...]
    training_set: str | None
    e_shift: EnergyShift | None  # of the files; None: the potential's own
    reading: ReadOptions

    def evaluated(self, model: Potential, known: Uncertainty | None, fit: FitBeside, setup: Setup) -> Evaluated | None:
        """Predict the structures of the set, then those of the files; None if there is neither.

        Raises:
            InputError: as the readers; a set of another descriptor; an element that the potential does not have.
        """
        found: list[Evaluated] = []
        if self.training_set is not None:
            own = load_training_set(self.training_set, lazy=True)
            where = f"{self.training_set} was not made for this potential"
            require_same_inputs(model.descriptor, own.descriptor, where)
            frames = frames_of_set(own, range(len(own)), self.training_set)
            shift = (0.0,) * own.descriptor.n_elements if own.energy_shift is None else own.energy_shift
            found.append(_predicted(frames, _parts_of(own, self.training_set, fit), shift, model, known, setup))
        if self.dft_files:
            frames = read_all_frames(Sources.of(self.dft_files, self.reading), training=False)
            shift = evaluation_shift(model, self.e_shift)
            found.append(_predicted(frames, [""] * len(frames), shift, model, known, setup))
        if not found:
            return None
        return found[0] if len(found) == 1 else found[0].joined(found[1])


def _parts_of(own: TrainingSet, path: str, fit: FitBeside) -> list[str]:
    """What each structure of a set did in the training; empty where the run file does not tell."""
    parts = [""] * len(own)
    if fit.run is None:
        return parts
    split = fit.split(own, path, SplitOptions())
    if not fit.is_split(split):
        log.info("%s: another split than that of %s: what trained is not known", path, fit.path)
        return parts
    for name, rows in (("training", split.train), ("validation", split.validation), ("test", split.test)):
        for row in rows:
            parts[row] = name
    return parts


def _predicted(
    frames: list[Frame],
    parts: Sequence[str],
    shift: Sequence[float],
    model: Potential,
    known: Uncertainty | None,
    setup: Setup,
) -> Evaluated:
    counts = count_elements(frames, model.descriptor.elements)
    warn_of_untrained_predictions(model, counts)
    found = predict_frames(frames, model, setup, derivatives=True, uncertainty=known)
    shifts = shift_of_structures(torch.from_numpy(counts), tuple(shift)).numpy()
    n_atoms = np.array([frame.n_atoms for frame in frames])
    return Evaluated(
        names=tuple(shown(frame.source) for frame in frames),
        groups=tuple(shown(frame.group) for frame in frames),
        parts=tuple(parts),
        n_atoms=n_atoms,
        volume_per_atom=np.array([frame.volume for frame in frames]) / n_atoms,
        labels=_labels(frames, found, shifts),
        grades=None if found.grades is None else tuple(found.grades),
    )


def _labels(frames: Sequence[Frame], found: FramePrediction, shifts: FloatArray) -> tuple[Label, ...]:
    """Energies per atom on the networks' scale, forces, and stress in GPa."""
    n_atoms = np.array([frame.n_atoms for frame in frames])
    none = np.empty(0)
    assert found.forces is not None
    assert found.stress is not None

    def per_atom(energies: FloatArray) -> tuple[FloatArray, ...]:
        return tuple((energies / n_atoms)[:, None])

    def flat(parts: Sequence[FloatArray] | None) -> tuple[FloatArray, ...] | None:
        return None if parts is None else tuple(part.ravel() for part in parts)

    spread, bars = found.spread, found.error_bars
    energies = [none if frame.energy is None else np.array([frame.energy + shift]) / frame.n_atoms
                for frame, shift in zip(frames, shifts.tolist(), strict=True)]  # fmt: skip
    energy = Label("energy", "eV/atom", "meV/atom", 1000.0, per_atom(found.energy), tuple(energies),
                   None if spread is None else per_atom(spread.energy),
                   None if bars is None else per_atom(bars.energy))  # fmt: skip
    forces = Label("forces", "eV/Å", "eV/Å", 1.0, tuple(part.ravel() for part in found.forces),
                   tuple(none if frame.forces is None else frame.forces.ravel() for frame in frames),
                   flat(None if spread is None else spread.forces))  # fmt: skip
    stresses = [none if frame.stress is None or np.isnan(own).any() else frame.stress / GPa
                for frame, own in zip(frames, found.stress, strict=True)]  # fmt: skip
    stress_spread = None if spread is None or spread.stress is None else tuple(spread.stress / GPa)
    stress = Label("stress", "GPa", "GPa", 1.0, tuple(found.stress / GPa), tuple(stresses), stress_spread)
    return energy, forces, stress
