"""Labels: which are missing, which look wrong by themselves, and groups too small to validate."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pyfit_gpu.doctor.findings import Finding, Severity
from pyfit_gpu.doctor.records import Records
from pyfit_gpu.errors import how_many, shortened
from pyfit_gpu.structures import doubts
from pyfit_gpu.structures.frames import StructureSummary

MISSING = "labels missing"
SMALL_GROUP = "small group"

_LEAST = 2  # structures of a group: the extremes in volume train, what lies between can validate

# Names of the findings for doubts about single structures (structures/doubts.py), and how bad they are.
_DOUBTS: dict[str, tuple[str, Severity]] = {
    doubts.STRESS: ("large stress", "warning"),
    doubts.FORCES: ("net force", "error"),
    doubts.HIGH_ENERGY: ("high energy", "error"),
    doubts.LOW_ENERGY: ("low energy", "error"),
    doubts.PER_ATOM: ("energy per atom", "error"),
    doubts.OTHER_LABELS: ("other labels", "error"),
}


def missing_labels(records: Records) -> Iterator[Finding]:
    """Yield labels that some structures lack, or atoms, or all."""
    full_cell = records.volume > 0
    some = (records.force_counts > 0) & ~records.has_forces
    if some.any():
        text = f"forces on some atoms only in {how_many(int(some.sum()))}: such structures do not train forces"
        yield Finding.of(records, MISSING, "warning", text, np.flatnonzero(some))
    part = np.isnan(records.stress).any(axis=1) & ~np.isnan(records.stress).all(axis=1)
    if part.any():
        text = f"some components of the stress only in {how_many(int(part.sum()))}"
        yield Finding.of(records, MISSING, "warning", text, np.flatnonzero(part))
    for name, known, may in (
        ("energy", ~np.isnan(records.energy), np.ones(len(records), dtype=np.bool_)),
        ("forces", records.has_forces | some, np.ones(len(records), dtype=np.bool_)),
        ("stress", records.has_stress | part, full_cell),
    ):
        yield from _missing(records, name, known, may)


def _missing(records: Records, name: str, known: NDArray[np.bool_], may: NDArray[np.bool_]) -> Iterator[Finding]:
    lacking = may & ~known
    n, of = int(lacking.sum()), int(may.sum())
    if not n:
        return
    if n == of:
        yield Finding.of(records, MISSING, "note", f"no structure has {name}")
        return
    where = Counter(records.groups[row] for row in np.flatnonzero(lacking).tolist())
    groups = shortened(f"{group} {count}" for group, count in where.most_common())
    severity: Severity = "note" if name == "stress" else "warning"
    text = f"no {name} in {n} of {how_many(of)} (by group: {groups})"
    yield Finding.of(records, MISSING, severity, text, np.flatnonzero(lacking))


def doubtful_labels(records: Records) -> Iterator[Finding]:
    """Yield what `Doubts` finds, by kind and file: net forces, units, energies per atom, other labels of copies."""
    collector = doubts.Doubts()
    rows: dict[str, list[int]] = defaultdict(list)
    for row, path in enumerate(records.files):
        rows[path].append(row)
        frame = records.frame(row)
        known = records.has_positions[row]
        summary = None if known else StructureSummary(frame.element_counts, frame.group, frame.source, frame.energy)
        collector.add(path, len(rows[path]), summary or frame)
    for found in collector.findings():
        kind, severity = _DOUBTS[found.kind]
        yield Finding.of(
            records, kind, severity, found.text, [rows[found.path][number - 1] for number in found.structures]
        )


def small_groups(records: Records) -> Iterator[Finding]:
    """Yield groups of which, with their copies put together, no structure can validate."""
    labelled = np.flatnonzero(~np.isnan(records.energy))
    distinct = labelled[records.first_copy[labelled] == labelled]
    of_group: dict[str, list[int]] = defaultdict(list)
    for row in distinct.tolist():
        of_group[records.groups[row]].append(row)
    small = {group: rows for group, rows in of_group.items() if len(rows) <= _LEAST}
    if small and len(of_group) > 1:
        names = shortened(f"{group} ({len(rows)})" for group, rows in sorted(small.items()))
        text = (
            f"{how_many(len(small), 'group')} of at most {_LEAST} structures with an energy: none of a group of two "
            f"validates, and groups of one are split together: {names}"
        )
        yield Finding.of(records, SMALL_GROUP, "note", text, [row for rows in small.values() for row in rows])
