"""The verb `report`: evaluates a potential and writes what was found as a page, with numbers and pictures beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ase.units import GPa

from pyfit_gpu.commands.evaluate import FramePrediction, predict_frames
from pyfit_gpu.commands.fit_beside import FitBeside
from pyfit_gpu.commands.grades import chosen_uncertainty, own_file
from pyfit_gpu.commands.jobs import Setup, Sources, frames_of_set, read_all_frames
from pyfit_gpu.commands.messages import shown
from pyfit_gpu.commands.report_options import PARTS
from pyfit_gpu.commands.train.options import SplitOptions
from pyfit_gpu.commands.train.outputs import beside
from pyfit_gpu.commands.warnings import warn_of_equal_members, warn_of_untrained_predictions
from pyfit_gpu.datasets.training_set import TrainingSet, require_same_inputs
from pyfit_gpu.errors import InputError
from pyfit_gpu.files import atomic_text, check_output, unique_path
from pyfit_gpu.formats.opening import load_potentials, load_training_set
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.log import log
from pyfit_gpu.models.energy import energy_model
from pyfit_gpu.models.energy_shift import EnergyShift, evaluation_shift, shift_of_structures
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.report.build import Findings, build_report
from pyfit_gpu.report.contents import Report
from pyfit_gpu.report.evaluated import Evaluated, Label
from pyfit_gpu.report.gate import Gate, load_gate
from pyfit_gpu.report.learning import Curves
from pyfit_gpu.report.page import write_page
from pyfit_gpu.report.pictures import save_picture
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.elements import count_elements
from pyfit_gpu.structures.frames import Frame

_FAILED = 1  # exit status when a limit is passed


def parse_parts(text: str | None) -> tuple[str, ...]:
    """Read the names of parts; None: all of them.

    Raises:
        InputError: one that is not known.
    """
    names = PARTS if text is None else tuple(filter(None, (name.strip() for name in text.split(","))))
    for name in names:
        if name not in PARTS:
            raise InputError(f"--parts: expected {', '.join(PARTS)}, got {name!r}")
    return names


def report(
    dft_files: Sequence[str],
    *,
    potential: Sequence[str],
    out: str,
    setup: Setup,
    training_set: str | None = None,
    gate: str | None = None,
    parts: Sequence[str] = PARTS,
    e_shift: EnergyShift | None = None,
    uncertainty: str | None = None,
    reading: ReadOptions | None = None,
) -> int:
    """Write a page about a potential, its numbers and its plots (`pyfit-gpu report`).

    Args:
        dft_files, training_set: structures with labels, and a training set.
        out: folder to write to.
        gate: file of limits.
        parts: names from `PARTS`.
        e_shift: as for `evaluate`, of the files.
        uncertainty: uncertainty file of the potential; None: the one beside it, if there is one; "none": none.

    Returns:
        Exit status: 1 if a value passes a limit, which is printed.

    Raises:
        InputError: as `evaluate`; an output that cannot be written.
    """
    folder = _checked_folder(out, setup)
    limits = None if gate is None else load_gate(gate)
    model = load_potentials(list(potential))
    energy_model(model, "report")
    known = chosen_uncertainty(uncertainty, potential, model)
    fit = FitBeside.of(potential[0], model)
    evaluated = None
    if {"errors", "data"} & set(parts):
        evaluated = _evaluated(dft_files, training_set, model, known, fit, setup, e_shift, reading)
    findings = Findings(
        potential=model,
        name=shown(Path(potential[0]).name if len(potential) == 1 else f"{len(potential)} potentials"),
        evaluated=evaluated,
        curves=_curves(potential[0], fit) if "training" in parts else (),
    )
    violations = None if limits is None else limits.violations(findings.values())
    _write(build_report(findings, violations), folder)
    for line in violations or ():
        print(shown(f"limit passed: {line}"))
    return _FAILED if violations else 0


def _checked_folder(out: str, setup: Setup) -> Path:
    """Refuse a folder that could not be written, or that holds a report already, before any work is done."""
    folder = unique_path(out) if setup.unique else Path(out)
    if not folder.exists():
        check_output(folder, overwrite=False)
        return folder
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder for the report, found a file")
    for name in ("report.html", "report.json"):
        check_output(folder / name, overwrite=setup.overwrite)
    return folder


def _write(report: Report, folder: Path) -> None:
    try:
        (folder / "plots").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot write: {error.strerror}") from error
    for plot in report.plots:
        save_picture(plot, folder / "plots" / f"{plot.name}.png")
    with atomic_text(folder / "report.json") as file:
        json.dump(report.to_json(), file, ensure_ascii=False, allow_nan=False)
    write_page(report, folder / "report.html")
    log.info("wrote %s, report.json and %d plots", folder / "report.html", len(report.plots))


def _curves(potential: str, fit: FitBeside) -> list[Curves]:
    """Learning curves from the run file, or else from the logs beside a potential."""
    if fit.run is not None:
        members = fit.run.state.members
        names = [f"member {fit.run.first_member + k}" if len(members) > 1 else "" for k in range(len(members))]
        pairs = zip(names, members, strict=True)
        return [Curves.of_history(name, member["history"]) for name, member in pairs]
    logs = [beside(potential, ending) for ending in (".loss.txt", ".validation.txt")]
    texts = [Path(path).read_text(encoding="utf-8", errors="replace") if os.path.exists(path) else "" for path in logs]
    return [Curves.of_logs("", *texts)]


def _evaluated(
    dft_files: Sequence[str],
    training_set: str | None,
    model: Potential,
    known: Uncertainty | None,
    fit: FitBeside,
    setup: Setup,
    e_shift: EnergyShift | None,
    reading: ReadOptions | None,
) -> Evaluated | None:
    """Predict the structures of a set and of files."""
    found: list[Evaluated] = []
    if model.networks.n_members > 1:
        warn_of_equal_members(model, [])
    if training_set is not None:
        own = load_training_set(training_set, lazy=True)
        require_same_inputs(model.descriptor, own.descriptor, f"{training_set} was not made for this potential")
        frames = frames_of_set(own, range(len(own)), training_set)
        shift = own.energy_shift if own.energy_shift is not None else (0.0,) * own.descriptor.n_elements
        found.append(_predicted(frames, _parts_of(own, training_set, fit), shift, model, known, setup))
    if dft_files:
        frames = read_all_frames(Sources.of(dft_files, reading), training=False)
        shift = evaluation_shift(model, e_shift)
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
                   flat(None if spread is None else spread.forces), flat(None if bars is None else bars.forces))  # fmt: skip
    stresses = [none if frame.stress is None or np.isnan(own).any() else frame.stress / GPa
                for frame, own in zip(frames, found.stress, strict=True)]  # fmt: skip
    stress_spread = None if spread is None or spread.stress is None else tuple(spread.stress / GPa)
    stress = Label("stress", "GPa", "GPa", 1.0, tuple(found.stress / GPa), tuple(stresses), stress_spread)
    return energy, forces, stress
