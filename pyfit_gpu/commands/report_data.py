"""The structures of a report, from a training set and from files, with a potential's predictions for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase.units import GPa

from pyfit_gpu.commands.fit_beside import FitBeside
from pyfit_gpu.commands.frame_prediction import FramePrediction, predict_frames
from pyfit_gpu.commands.jobs import Setup, Sources, frames_of_set, read_all_frames
from pyfit_gpu.commands.messages import shown
from pyfit_gpu.commands.warnings import warn_of_offset, warn_of_untrained_predictions
from pyfit_gpu.datasets.training_set import TrainingSet, require_same_inputs
from pyfit_gpu.doctor.records import Records
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.log import log
from pyfit_gpu.models.energy_shift import evaluation_shift, shift_of_structures
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.report.evaluated import Evaluated, Label
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.elements import count_elements
from pyfit_gpu.structures.frames import Frame


@dataclass(frozen=True, eq=False)
class Source:
    """Structures that were read from one place."""

    frames: list[Frame]
    parts: list[str]  # what each did in the training; empty: not known
    shift: tuple[float, ...]  # eV per atom of each element, from the frames' energies to the networks' scale
    training_set: TrainingSet | None = None  # that they were read from, if it was one
    path: str = ""  # its file

    def records(self) -> Records:
        """The structures as they are examined, those of a set with labels that a frame would not have in part."""
        own = self.training_set
        return Records.of_frames(self.frames) if own is None else Records.of_set(own, self.path)


def read_sources(
    dft_files: Sequence[str],
    training_set: str | None,
    model: Potential,
    fit: FitBeside,
    *,
    reading: ReadOptions | None = None,
) -> list[Source]:
    """Read a training set and files of structures, whose energy shift is the potential's.

    Raises:
        InputError: as the readers; a set of another descriptor or without positions.
    """
    found = []
    known: dict[bytes, str] = {}  # what the structures of the set did, by the keys that copies share
    if training_set is not None:
        own = load_training_set(training_set, lazy=True)
        require_same_inputs(model.descriptor, own.descriptor, f"{training_set} was not made for this potential")
        shift = (0.0,) * own.descriptor.n_elements if own.energy_shift is None else own.energy_shift
        frames = frames_of_set(own, range(len(own)), training_set)
        found.append(Source(frames, _parts_of(own, training_set, fit), shift, own, training_set))
        known = dict(zip(own.structure_keys().tolist(), found[0].parts, strict=True))
    if dft_files:
        frames = read_all_frames(Sources.of(dft_files, reading), training=False)
        keys = Records.of_frames(frames).of_elements(model.descriptor.elements).keys.tolist()
        parts = [known.get(key, "") for key in keys]
        found.append(Source(frames, parts, evaluation_shift(model, None)))
    return found


def evaluate_sources(
    sources: Sequence[Source], model: Potential, known: Uncertainty | None, setup: Setup
) -> Evaluated | None:
    """Predict all structures; None if there is none.

    Raises:
        InputError: an element that the potential does not have.
    """
    found: Evaluated | None = None
    for source in sources:
        own = _predicted(source, model, known, setup)
        found = own if found is None else found.joined(own)
    return found


def _parts_of(own: TrainingSet, path: str, fit: FitBeside) -> list[str]:
    """Find what each structure of a set did in the training; empty where the run file does not tell."""
    parts = [""] * len(own)
    split = fit.own_split(own, path)
    if split is None:
        log.info("%s: nothing says which structures trained", path)
        return parts
    for name, rows in (("training", split.train), ("validation", split.validation), ("test", split.test)):
        for row in rows:
            parts[row] = name
    return parts


def _predicted(source: Source, model: Potential, known: Uncertainty | None, setup: Setup) -> Evaluated:
    frames = source.frames
    counts = count_elements(frames, model.descriptor.elements)
    warn_of_untrained_predictions(model, counts)
    found = predict_frames(frames, model, setup, derivatives=True, uncertainty=known)
    shifts = shift_of_structures(torch.from_numpy(counts), source.shift).numpy()
    n_atoms = np.array([frame.n_atoms for frame in frames])
    if source.training_set is None:
        references = np.array([np.nan if frame.energy is None else frame.energy for frame in frames])
        warn_of_offset(model, (found.energy - shifts - references) / n_atoms)
    return Evaluated(
        names=tuple(shown(frame.source) for frame in frames),
        groups=tuple(shown(frame.group) for frame in frames),
        parts=tuple(source.parts),
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
