"""The examination of data: all checks, one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.doctor.committee import Errors, check_outliers
from pyfit_gpu.doctor.consistency import FORCES, STRESS, check_steps
from pyfit_gpu.doctor.copies import copies, equal_inputs, equal_rows, noise_floor
from pyfit_gpu.doctor.distances import DEFAULT_CUTOFF, Nearest, check_distances
from pyfit_gpu.doctor.findings import Diagnosis, Finding
from pyfit_gpu.doctor.inputs import Inputs, check_spread, windows_of_records, windows_of_set
from pyfit_gpu.doctor.labels import doubtful_labels, missing_labels, small_groups
from pyfit_gpu.doctor.offsets import check_offsets
from pyfit_gpu.doctor.records import Records
from pyfit_gpu.doctor.work import displaced, strained
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.energy import energy_model
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame

# The parts of an examination, in their order; inputs and outliers where a potential or a set gives them.
PARTS = ("labels", "energies by source", FORCES, STRESS, "distances", "network inputs", "outliers", "copies",
         "missing labels", "groups")  # fmt: skip


def examine(
    data: Structures | TrainingSet | Records | Sequence[Frame],
    potential: Potential | None = None,
    *,
    training_set: TrainingSet | None = None,
    trained: bool = True,
    cutoff: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Find what is wrong or doubtful with data: see docs/doctor.md.

    Args:
        data: structures or a training set.
        potential: gives the network inputs; several members are a committee, which finds outliers.
        training_set: has the inputs of `data`, structure by structure; a training set as `data` is its own.
        trained: whether the parameters of the potential mean anything.
        cutoff: Å within which an atom should have a neighbour; None: that of the potential or the set, or 6 Å.
        progress: called with the name of each part before it begins.

    Raises:
        InputError: no structure, no energy at all, an element that the potential lacks.
    """
    if isinstance(data, TrainingSet):
        training_set = training_set or data
    records = _records(data)
    if np.isnan(records.energy).all():
        raise InputError(f"expected structures with energies, found none in {len(records)}")
    source = potential or (None if training_set is None else training_set.potential)
    if cutoff is not None and cutoff <= 0:
        raise InputError(f"cutoff: expected a distance above 0, got {cutoff:g}", setting="cutoff")
    if source is not None:
        records = records.of_elements(source.descriptor.elements)
    if cutoff is None:
        cutoff = DEFAULT_CUTOFF if source is None else source.descriptor.neighbor_cutoff
    begin = progress or (lambda part: None)
    summary = _summary(records)
    findings: list[Finding] = []
    for part, check in _checks(records, potential, training_set, trained, cutoff, summary):
        begin(part)
        findings += check()
    return Diagnosis.of(findings, summary)


def _records(data: Structures | TrainingSet | Records | Sequence[Frame]) -> Records:
    if isinstance(data, Records):
        return data
    if isinstance(data, TrainingSet):
        return Records.of_set(data)
    return Records.of_structures(data) if isinstance(data, Structures) else Records.of_frames(data)


Check = tuple[str, Callable[[], Iterator[Finding]]]


def _checks(
    records: Records,
    potential: Potential | None,
    training_set: TrainingSet | None,
    trained: bool,
    cutoff: float,
    summary: dict[str, Any],
) -> Iterator[Check]:
    """Yield the checks that the data allow; the summary is completed on the way."""
    yield "labels", lambda: doubtful_labels(records)
    yield "energies by source", lambda: check_offsets(records)
    yield FORCES, lambda: _steps(records, FORCES, summary)
    yield STRESS, lambda: _steps(records, STRESS, summary)
    yield "distances", lambda: check_distances(records, Nearest.of(records, cutoff), cutoff)
    has_positions = records.has_positions  # classic text sets have none, and from these nothing is computed
    if training_set is not None or (potential is not None and has_positions.all()):
        yield "network inputs", lambda: _check_inputs(records, potential, training_set, summary)
    else:
        summary["noise_floor"] = 1000 * noise_floor(records.energy_per_atom, records.first_copy)
    if potential is not None and trained and potential.networks.n_members > 1 and has_positions.any():
        energy_model(potential, "examine")
        summary["committee"] = potential.networks.n_members
        yield "outliers", lambda: check_outliers(records, Errors.of(records, potential))
    yield "copies", lambda: copies(records)
    yield "missing labels", lambda: missing_labels(records)
    yield "groups", lambda: small_groups(records)


def _steps(records: Records, kind: str, summary: dict[str, Any]) -> Iterator[Finding]:
    steps = displaced(records) if kind == FORCES else strained(records)
    what = "forces" if kind == FORCES else "stress"
    summary["steps"][what] = {"all": len(steps.first), "tell_the_sign": int(steps.tells.sum())}
    yield from check_steps(records, steps, kind)


def _check_inputs(
    records: Records, potential: Potential | None, training_set: TrainingSet | None, summary: dict[str, Any]
) -> Iterator[Finding]:
    if training_set is not None:
        inputs, descriptor = Inputs.of(windows_of_set(training_set, records)), training_set.descriptor
    else:
        assert potential is not None
        inputs = Inputs.of(windows_of_records(records, potential, potential.device))
        descriptor = potential.descriptor
    first = equal_rows(inputs.rows)
    summary["noise_floor"] = 1000 * noise_floor(records.energy_per_atom, first)
    summary["inputs"] = descriptor.n_features
    yield from equal_inputs(records, first)
    yield from check_spread(records, inputs, descriptor)


def _summary(records: Records) -> dict[str, Any]:
    """Numbers of the data, in words of JSON."""
    return {
        "structures": len(records),
        "atoms": records.n_atoms,
        "elements": [chemical_symbols[k] for k in records.elements],
        "files": dict(Counter(records.files)),
        "groups": dict(Counter(records.groups)),
        "labels": {
            "energy": int((~np.isnan(records.energy)).sum()),
            "forces": int(records.has_forces.sum()),
            "stress": int(records.has_stress.sum()),
        },
        "steps": {},
        "inputs": None,
        "committee": None,  # members that outliers were looked for with
        "noise_floor": None,  # meV/atom
    }
