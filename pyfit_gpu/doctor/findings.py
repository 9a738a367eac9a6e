"""Findings of an examination, worst first, and a summary of the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from pyfit_gpu.doctor.records import Records
from pyfit_gpu.errors import InputError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)

FORMAT = "pyfit-gpu diagnosis"
VERSION = 1


@dataclass(frozen=True)
class Finding:
    """Something wrong or doubtful with some structures, or with the data as a whole."""

    kind: str  # a few words, the same for all findings of a check
    severity: Severity
    text: str  # what was found, a number and what it may mean
    frames: tuple[str, ...] = ()  # "file, structure N" of each structure, worst first; none: the data as a whole
    numbers: tuple[int, ...] = ()  # rows of these structures among all, from 0
    value: float | None = None  # the largest, or that of the whole
    unit: str = ""

    @classmethod
    def of(
        cls,
        records: Records,
        kind: str,
        severity: Severity,
        text: str,
        rows: Iterable[int] = (),
        value: float | None = None,
        unit: str = "",
    ) -> Finding:
        """Make a finding about some rows of the records."""
        numbers = tuple(int(row) for row in rows)
        return cls(kind, severity, text, tuple(records.sources[row] for row in numbers), numbers, value, unit)


@dataclass(frozen=True)
class Diagnosis:
    """All findings about some data, worst first, and what was looked at."""

    findings: tuple[Finding, ...]
    summary: dict[str, Any]

    @classmethod
    def of(cls, findings: Iterable[Finding], summary: Mapping[str, Any]) -> Diagnosis:
        """Put findings in order: by severity, of equally severe ones as the checks give them."""
        ordered = sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
        counts = {severity: sum(one.severity == severity for one in ordered) for severity in SEVERITIES}
        return cls(tuple(ordered), {**summary, "findings": counts})

    @property
    def has_errors(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)

    def rows_of(self, numbers: Sequence[int]) -> set[int]:
        """Find the rows of the structures that some findings name.

        Args:
            numbers: of the findings, from 1.

        Raises:
            InputError: no such finding, or one about no structure in particular.
        """
        rows: set[int] = set()
        for number in numbers:
            if not 1 <= number <= len(self.findings):
                there = f"1 to {len(self.findings)}" if self.findings else "of which there are none"
                raise InputError(f"expected the number of a finding, {there}, got {number}")
            finding = self.findings[number - 1]
            if not finding.numbers:
                raise InputError(f"finding {number} ({finding.kind}) is about no structure that could be left out")
            rows.update(finding.numbers)
        return rows

    def as_dict(self) -> dict[str, Any]:
        """All of it in lists and dictionaries, for JSON."""
        numbered = [{"number": k, **asdict(finding)} for k, finding in enumerate(self.findings, start=1)]
        return {"format": FORMAT, "version": VERSION, "summary": self.summary, "findings": numbered}
