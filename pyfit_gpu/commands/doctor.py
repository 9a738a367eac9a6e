"""The verb `doctor`: what is wrong or doubtful with data, down to file and frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pyfit_gpu.commands.doctor_text import describe
from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.commands.messages import shown
from pyfit_gpu.commands.progress import Progress
from pyfit_gpu.commands.warnings import warn_of_equal_members
from pyfit_gpu.datasets.training_set import TrainingSet, require_same_inputs
from pyfit_gpu.doctor.examine import PARTS, examine
from pyfit_gpu.doctor.findings import Diagnosis
from pyfit_gpu.doctor.records import Records
from pyfit_gpu.errors import InputError
from pyfit_gpu.files import atomic_text
from pyfit_gpu.formats.extxyz.writer import write_extxyz
from pyfit_gpu.formats.kinds import EXTXYZ, RUN, TrainingSetKind, identify, potential_kind
from pyfit_gpu.formats.nn_dat import asks_for_random_weights
from pyfit_gpu.formats.opening import load_potentials, load_training_set, read_frames
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.read_report import ReadReport
from pyfit_gpu.log import log
from pyfit_gpu.models.potential import Potential

STATUS_ERRORS = 1  # exit status where something is wrong with the data


def doctor(
    data: Sequence[str],
    *,
    setup: Setup,
    potential: str | Sequence[str] = (),
    cutoff: float | None = None,
    json_file: str = "",
    write_clean: str = "",
    leave_out: Sequence[int] = (),
    reading: ReadOptions | None = None,
) -> Diagnosis:
    """Print what is wrong or doubtful with data, and write it (`pyfit-gpu doctor`).

    `pyfit_gpu.examine` (doctor/examine.py) is the function of the library.

    Args:
        data: files of structures, and training sets.
        potential: one file, or the files of a committee; none: nothing is said of network inputs, unless `data` is a
            training set.
        cutoff: Å within which an atom should have a neighbour; None: that of the potential, or 6 Å.
        json_file: for all findings; empty: none.
        write_clean: `.extxyz` for the structures that are not left out; empty: none.
        leave_out: numbers of findings, from 1, whose structures are left out there.
        reading: names of labels, units, and what else the files leave open.
    """
    members = [potential] if isinstance(potential, str) else list(potential)
    inputs = [*data, *members]
    if write_clean and not write_clean.endswith(EXTXYZ.endings):
        raise InputError(f"{write_clean}: expected a name that ends in {' or '.join(EXTXYZ.endings)}")
    if bool(write_clean) != bool(leave_out):
        raise InputError("--write-clean and --leave-out: expected both or none")
    json_file, write_clean = (setup.output(path, inputs) if path else "" for path in (json_file, write_clean))
    model = load_potentials(members, device=setup.device) if members else None
    if model is not None and model.networks.n_members > 1:
        warn_of_equal_members(model, members)
    records, training_set = _read(data, reading, model)
    trained = not any(potential_kind(path) is not RUN and asks_for_random_weights(path) for path in members)
    progress = Progress("doctor", len(PARTS), "parts", quiet=setup.quiet, uneven=True)
    found = examine(
        records,
        model,
        training_set=training_set,
        trained=trained,
        cutoff=cutoff,
        progress=lambda part: progress.update(PARTS.index(part)),
    )
    progress.close()
    if not setup.quiet:
        print(shown(describe(found)))
    _write(found, records, json_file, write_clean, leave_out)
    return found


def _read(
    paths: Sequence[str], reading: ReadOptions | None, model: Potential | None
) -> tuple[Records, TrainingSet | None]:
    """Read all data, and the training set where one is all there is."""
    report = ReadReport(reading)
    parts, sets, frames = [], [], False
    for path in paths:
        if isinstance(identify(path), TrainingSetKind):
            sets.append(load_training_set(path, lazy=True))
            parts.append(Records.of_set(sets[-1], path))
        else:
            own = list(report.watch(path, read_frames(path, options=reading)))
            if not own:
                raise InputError(f"{path}: expected at least one structure, found none", where=path)
            frames = True
            parts.append(Records.of_frames(own))
    if frames:
        report.require_used()
    elif model is not None:
        for path, own_set in zip(paths, sets, strict=True):
            require_same_inputs(model.descriptor, own_set.descriptor, f"{path} does not fit the potential")
    return Records.joined(parts), sets[0] if len(paths) == 1 and sets else None


def _write(found: Diagnosis, records: Records, json_file: str, write_clean: str, leave_out: Sequence[int]) -> None:
    if write_clean:
        left_out = found.rows_of(leave_out)
        kept = [row for row in range(len(records)) if row not in left_out]
        if not kept:
            raise InputError(f"--leave-out: the findings name all {len(records)} structures: nothing is left to write")
        if not records.has_positions[kept].all():
            raise InputError(f"{write_clean}: the data hold no positions to write")
        with atomic_text(write_clean) as file:
            write_extxyz(file, (records.frame(row) for row in kept))
        log.info("wrote %s: %d of %d structures", write_clean, len(kept), len(records))
    if json_file:
        content: dict[str, Any] = found.as_dict()
        with atomic_text(json_file) as file:
            json.dump(content, file, indent=1, ensure_ascii=False)
            file.write("\n")
        log.info("wrote %s", json_file)
