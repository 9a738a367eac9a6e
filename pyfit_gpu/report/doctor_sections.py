"""Section about the data's soundness: what `doctor` found in it."""

from __future__ import annotations

from pyfit_gpu.doctor.findings import Diagnosis
from pyfit_gpu.report.contents import Cell, Section, Table

_MOST_NAMED = 3  # structures of a finding that a row names


def doctor_section(diagnosis: Diagnosis) -> Section:
    """Make the section of findings, worst first."""
    if not diagnosis.findings:
        return Section("Doctor", ("Nothing doubtful was found.",))
    rows: list[tuple[Cell, ...]] = []
    for finding in diagnosis.findings:
        named = ", ".join(finding.frames[:_MOST_NAMED])
        more = f" and {len(finding.frames) - _MOST_NAMED} more" if len(finding.frames) > _MOST_NAMED else ""
        rows.append((finding.severity, finding.kind, finding.text, finding.value, finding.unit or None,
                     named + more or None))  # fmt: skip
    columns = ("severity", "kind", "finding", "value", "unit", "structures")
    return Section("Doctor", (), (Table("Findings", columns, tuple(rows)),))
