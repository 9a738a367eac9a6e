"""A potential's report, put together from what was found out about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pyfit_gpu.doctor.findings import Diagnosis
from pyfit_gpu.errors import shortened
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.physics.properties import Physics
from pyfit_gpu.report.contents import Fact, Report, Section, Table, Tone, Value, number
from pyfit_gpu.report.doctor_sections import doctor_section
from pyfit_gpu.report.error_sections import data_section, error_section, error_values, worst_section
from pyfit_gpu.report.evaluated import Evaluated
from pyfit_gpu.report.learning import Curves, learning_section
from pyfit_gpu.report.physics_sections import instabilities, physics_section, physics_values
from pyfit_gpu.report.spread_sections import (
    calibration_section,
    calibration_values,
    grade_section,
    grade_values,
)


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything that was found out about a potential; what is None or empty has no section."""

    potential: Potential
    name: str  # of the potential's file
    evaluated: Evaluated | None = None
    shows_errors: bool = True  # whether the report has sections about the errors
    shows_data: bool = True  # and one about the structures
    curves: Sequence[Curves] = ()
    diagnosis: Diagnosis | None = None
    physics: Physics | None = None
    stable: tuple[str, ...] | None = None  # phases that should be stable; None: the ground states

    @cached_property
    def values(self) -> list[Value]:
        """All numbers that have a name."""
        found: list[Value] = []
        if self.evaluated is not None and self.shows_errors:
            found += error_values(self.evaluated)
            found += calibration_values(self.evaluated)
            found += grade_values(self.evaluated)
        if self.physics is not None:
            found += physics_values(self.physics)
        return found

    def stable_phases(self) -> tuple[str, ...]:
        """Phases that should be stable; none without physical properties."""
        if self.physics is None:
            return ()
        return self.physics.stable if self.stable is None else self.stable

    def instabilities(self) -> list[str]:
        """Lines about phases that should be stable and are not."""
        if self.physics is None:
            return [f"{phase}: the report has no physical properties" for phase in self.stable or ()]
        return instabilities(self.physics, self.stable)


def build_report(findings: Findings, violations: Sequence[str] | None = None) -> Report:
    """Put a report together.

    Args:
        violations: limits that are broken, a line each; None: no limits were given.
    """
    values = findings.values
    evaluated = findings.evaluated
    sections: list[Section | None] = [_gate_section(violations)]
    if evaluated is not None and findings.shows_errors:
        sections += [error_section(evaluated), calibration_section(evaluated), grade_section(evaluated)]
        sections.append(worst_section(evaluated))
    if findings.physics is not None:
        sections.append(physics_section(findings.physics, findings.stable_phases(), findings.instabilities()))
    sections.append(learning_section(findings.curves))
    if findings.diagnosis is not None:
        sections.append(doctor_section(findings.diagnosis))
    if evaluated is not None and findings.shows_data:
        sections.append(data_section(evaluated))
    sections.append(_potential_section(findings))
    return Report(
        title=f"Report of {findings.name}",
        subtitle=_subtitle(findings),
        facts=tuple(_facts(findings, values, violations)),
        sections=tuple(section for section in sections if section is not None),
        values=tuple(values),
        details={
            "violations": violations,
            "diagnosis": None if findings.diagnosis is None else findings.diagnosis.as_dict(),
        },
    )


def _subtitle(findings: Findings) -> str:
    networks, descriptor = findings.potential.networks, findings.potential.descriptor
    count = f"{networks.n_members} members" if networks.n_members > 1 else "one network"
    return f"{', '.join(descriptor.elements)}; {count}; cutoff {descriptor.cutoff:g} Å"


def _facts(findings: Findings, values: Sequence[Value], violations: Sequence[str] | None) -> list[Fact]:
    """The numbers at the top: errors of what did not train, where that is known."""
    by_name = {value.full_name: value for value in values}
    facts = []
    if violations is not None:
        text = f"{len(violations)} broken" if violations else "kept"
        facts.append(Fact("limits", text, "bad" if violations else "good"))
    for label in ("energy", "forces", "stress"):
        for of, more in ((" of test", "test"), (" of validation", "validation"), ("", "all structures")):
            value = by_name.get(f"{label}-rmse{of}")
            if value is not None:
                facts.append(Fact(f"RMSE of {label}", f"{number(value.value, 3)} {value.unit}", more=more))
                break
    for stem, what in (("energy-error-bar", "error bars"), ("energy-spread", "committee spread")):
        value = by_name.get(f"{stem}-within-2")
        if value is not None:
            facts.append(Fact("energies within 2 σ", f"{100 * value.value:.0f} %", more=f"{what}; 95 % expected"))
            break
    stable, unstable = findings.stable_phases(), findings.instabilities()
    if stable or unstable:
        text = f"{len(unstable)} sign{'s' * (len(unstable) != 1)} against it" if unstable else "nothing against it"
        facts.append(Fact("stable crystals", text, "bad" if unstable else "good", more=shortened(stable)))
    if findings.diagnosis is not None:
        counts = findings.diagnosis.summary["findings"]
        text = ", ".join(f"{count} {severity}{'s' * (count != 1)}" for severity, count in counts.items() if count)
        facts.append(Fact("found in the data", text or "nothing", "bad" if counts["error"] else "plain"))
    stopped = [max(one.loss) for one in findings.curves if one.is_stopped and one.loss]
    if stopped:
        text = f"{max(stopped)} step{'s' * (max(stopped) != 1)}"
        tone: Tone = "plain" if max(stopped) else "bad"
        facts.append(Fact("training", text, tone, more="stopped; more time may make it better"))
    outside = by_name.get("share-outside")
    if outside is not None:
        facts.append(Fact("outside of the training set", f"{100 * outside.value:.1f} %", more="of the structures"))
    return facts


def _gate_section(violations: Sequence[str] | None) -> Section | None:
    if not violations:
        return None
    return Section("Limits", (), (Table("Broken limits", ("limit",), tuple((line,) for line in violations)),))


def _potential_section(findings: Findings) -> Section:
    descriptor, networks = findings.potential.descriptor, findings.potential.networks
    rows = (
        ("elements", ", ".join(descriptor.elements)),
        ("gi_mode", str(descriptor.gi_mode)),
        ("cutoff", f"{descriptor.cutoff:g} Å"),
        ("inputs of a network", str(descriptor.n_features)),
        ("layers", "-".join(str(size) for size in networks.layer_sizes)),
        ("parameters of a member", f"{networks.n_parameters:,}"),
        ("members", str(networks.n_members)),
    )
    return Section("Potential", (), (Table("Settings", ("setting", "value"), rows),))
