"""The verb `report`: evaluates a potential and writes what was found as a page, with numbers and pictures beside it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from pyfit_gpu.commands.fit_beside import FitBeside
from pyfit_gpu.commands.grades import chosen_uncertainty
from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.commands.messages import shown
from pyfit_gpu.commands.progress import Progress
from pyfit_gpu.commands.report_data import Source, evaluate_sources, read_sources
from pyfit_gpu.commands.report_options import PARTS
from pyfit_gpu.commands.train.outputs import beside
from pyfit_gpu.doctor.examine import examine
from pyfit_gpu.doctor.findings import Diagnosis
from pyfit_gpu.doctor.records import Records
from pyfit_gpu.errors import InputError
from pyfit_gpu.files import atomic_text, check_output, unique_path
from pyfit_gpu.formats.opening import load_potentials
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.log import log
from pyfit_gpu.models.energy import energy_model
from pyfit_gpu.models.energy_shift import EnergyShift, shift_of_elements
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.physics.compute import PARTS as PHYSICS
from pyfit_gpu.physics.compute import compute_physics
from pyfit_gpu.physics.data_cells import MOST_ATOMS
from pyfit_gpu.physics.properties import Physics
from pyfit_gpu.report.build import Findings, build_report
from pyfit_gpu.report.contents import Report
from pyfit_gpu.report.gate import load_gate
from pyfit_gpu.report.learning import Curves
from pyfit_gpu.report.page import write_page
from pyfit_gpu.report.pictures import save_picture
from pyfit_gpu.report.references import load_references, with_references
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame

_FAILED = 1  # exit status when a limit is broken


def parse_parts(text: str | None) -> tuple[str, ...]:
    """Read the names of parts; None: all of them.

    Raises:
        InputError: one that is not known.
    """
    names = PARTS if text is None else tuple(filter(None, (name.strip() for name in text.split(","))))
    known = (*PARTS, *PHYSICS)
    for name in names:
        if name not in known:
            raise InputError(f"--parts: expected {', '.join(known)}, got {name!r}")
    return names


def report(
    dft_files: Sequence[str],
    *,
    potential: Sequence[str],
    out: str,
    setup: Setup,
    training_set: str | None = None,
    gate: str | None = None,
    references: str | None = None,
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
        references: file of values of physical properties, which take the place of the data's.
        parts: names from `PARTS`, or parts of the physics alone (physics/compute.py).
        e_shift: eV per atom, as for `evaluate`, for the files and the physics; None: the potential's own.
        uncertainty: uncertainty file of the potential; None: the one beside it, if there is one; "none": none.

    Returns:
        Exit status: 1 if a limit is broken, which is printed.

    Raises:
        InputError: as `evaluate`; an output that cannot be written.
    """
    folder = _checked_folder(out, setup)
    limits = None if gate is None else load_gate(gate)
    known_values = {} if references is None else load_references(references)
    model = load_potentials(list(potential))
    energy_model(model, "report")
    if e_shift is not None:
        shift = shift_of_elements(e_shift, model.descriptor.elements)
        model = replace(model, energy_shift=model.energy_shift.new_tensor(shift))
    known = chosen_uncertainty(uncertainty, potential, model)
    fit = FitBeside.of(potential[0], model)
    sources: list[Source] = []
    if set(parts) - {"training"}:
        sources = read_sources(dft_files, training_set, model, fit, reading=reading)
    frames = [frame for source in sources for frame in source.frames]
    evaluated = None
    if {"errors", "data"} & set(parts):
        evaluated = evaluate_sources(sources, model, known, setup)
    findings = Findings(
        potential=model,
        name=shown(Path(potential[0]).name if len(potential) == 1 else f"{len(potential)} potentials"),
        evaluated=evaluated,
        shows_errors="errors" in parts,
        shows_data="data" in parts,
        curves=_curves(potential[0], fit) if "training" in parts else (),
        diagnosis=_diagnosis(sources, model) if "doctor" in parts else None,
        physics=_compared(_physics(model, frames, known, parts, setup), known_values),
        stable=None if limits is None else limits.stable,
    )
    violations = None
    if limits is not None:
        violations = [*limits.violations(findings.values), *findings.instabilities(), *findings.unknown_stability()]
    _write(build_report(findings, violations), folder)
    for line in violations or ():
        print(shown(f"limit broken: {line}"))
    return _FAILED if violations else 0


def _diagnosis(sources: Sequence[Source], model: Potential) -> Diagnosis | None:
    """Examine the structures; without any energy there is nothing to examine."""
    if not any(frame.energy is not None for source in sources for frame in source.frames):
        return None
    own_set = sources[0].training_set if len(sources) == 1 else None  # it holds the network inputs
    return examine(Records.joined([source.records() for source in sources]), model, training_set=own_set)


def _physics(
    model: Potential, frames: Sequence[Frame], known: Uncertainty | None, parts: Sequence[str], setup: Setup
) -> Physics | None:
    chosen = [part for part in PHYSICS if part in parts or "physics" in parts]
    if not chosen:
        return None
    structures = Structures.from_frames(_crystals(frames), device=setup.device) if frames else None
    with closing(Progress("physics", len(chosen) + 1, "parts", quiet=setup.quiet, uneven=True)) as progress:
        begun: list[str] = []

        def begin(part: str) -> None:
            progress.update(len(begun), part)
            begun.append(part)

        moved = None if known is None else known.to(setup.device, torch.float64)
        model = model.to(setup.device, torch.float64)  # small differences of energies
        return compute_physics(model, structures, uncertainty=moved, parts=chosen, progress=begin)


def _compared(physics: Physics | None, references: Mapping[str, float]) -> Physics | None:
    if physics is None:
        return None
    physics, unknown = with_references(physics, references)
    for line in unknown:
        log.warning("references: %s", line)
    return physics


def _crystals(frames: Sequence[Frame]) -> list[Frame]:
    """Choose what the physics looks at: small cells, and the smallest structure of each composition.

    All structures, padded to the largest one, could take more memory than there is.
    """
    smallest: dict[frozenset[tuple[int, int]], Frame] = {}
    for frame in frames:
        counts = frame.element_counts
        divisor = math.gcd(*counts.values())
        composition = frozenset((element, count // divisor) for element, count in counts.items())
        if composition not in smallest or frame.n_atoms < smallest[composition].n_atoms:
            smallest[composition] = frame
    return [*(one for one in frames if one.n_atoms <= MOST_ATOMS),
            *(one for one in smallest.values() if one.n_atoms > MOST_ATOMS)]  # fmt: skip


def _checked_folder(out: str, setup: Setup) -> Path:
    """Refuse a folder that could not be written, or that holds a report already, before any work is done."""
    folder = unique_path(out) if setup.unique else Path(out)
    if not os.path.exists(folder):  # which is false of a name that no disk takes, too
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
