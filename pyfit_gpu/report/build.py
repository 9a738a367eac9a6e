"""A potential's report, put together from what was found out about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pyfit_gpu.doctor.findings import Diagnosis
from pyfit_gpu.errors import how_many, shortened
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.physics.properties import Physics
from pyfit_gpu.report.contents import Fact, Report, Section, Table, Tone, Value, number
from pyfit_gpu.report.doctor_sections import doctor_section
from pyfit_gpu.report.error_sections import OTHERS, data_section, error_section, error_values, worst_section
from pyfit_gpu.report.evaluated import Evaluated
from pyfit_gpu.report.learning import Curves, learning_section
from pyfit_gpu.report.physics_sections import (
    has_signs,
    instabilities,
    physics_section,
    physics_values,
    unknown_stability,
)
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
        """Phases that should be stable: those given, or the ground states as far as something was computed of that."""
        if self.stable is not None:
            return self.stable
        physics = self.physics
        return () if physics is None else tuple(phase for phase in physics.stable if has_signs(physics, phase))

    def instabilities(self) -> list[str]:
        """Lines about phases that should be stable and are not."""
        return [] if self.physics is None else instabilities(self.physics, self.stable)

    def unknown_stability(self) -> list[str]:
        """Lines about phases that should be stable, where that is not known."""
        return unknown_stability(self.physics, self.stable_phases())


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
        doubts = [*findings.instabilities(), *findings.unknown_stability()]
        sections.append(physics_section(findings.physics, findings.stable_phases(), doubts))
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
        for part in ("test", "validation", OTHERS, ""):
            value = by_name.get(f"{label}-rmse of {part}" if part else f"{label}-rmse")
            if value is not None:
                text = f"{number(value.value, 3)} {value.unit}"
                facts.append(Fact(f"RMSE of {label}", text, more=part or "all structures"))
                break
    for stem, what in (("energy-error-bar", "error bars"), ("energy-spread", "committee spread")):
        value = by_name.get(f"{stem}-within-2")
        if value is not None:
            facts.append(Fact("energies within 2 σ", f"{100 * value.value:.0f} %", more=f"{what}; 95 % expected"))
            break
    facts += _stability_fact(findings)
    if findings.diagnosis is not None:
        counts = findings.diagnosis.summary["findings"]
        text = ", ".join(how_many(count, severity) for severity, count in counts.items() if count)
        facts.append(Fact("found in the data", text or "nothing", "bad" if counts["error"] else "plain"))
    stopped = [max(one.loss) for one in findings.curves if one.is_stopped and one.loss]
    if stopped:
        text = how_many(max(stopped), "step")
        tone: Tone = "plain" if max(stopped) else "bad"
        facts.append(Fact("training", text, tone, more="stopped; more time may make it better"))
    outside = by_name.get("share-outside")
    if outside is not None:
        facts.append(Fact("outside of the training set", f"{100 * outside.value:.1f} %", more="of the structures"))
    return facts


def _stability_fact(findings: Findings) -> list[Fact]:
    stable, unstable = findings.stable_phases(), findings.instabilities()
    if not stable and not unstable:
        return []
    more = shortened(stable)
    if unstable:
        return [Fact("stable crystals", f"{how_many(len(unstable), 'sign')} against it", "bad", more)]
    if findings.unknown_stability():
        return [Fact("stable crystals", "not known", "plain", more)]
    return [Fact("stable crystals", "nothing against it", "good", more)]


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
