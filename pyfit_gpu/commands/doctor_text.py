"""The text of a diagnosis: a summary, then the findings, worst first, each with its first structures."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from pyfit_gpu.doctor.findings import Diagnosis, Finding
from pyfit_gpu.errors import how_many

_WIDTH = 110
_MOST = 5  # structures shown of a finding


def describe(found: Diagnosis) -> str:
    """Describe a diagnosis in some lines."""
    return "\n".join(
        [*_summary(found), *(line for k, one in enumerate(found.findings, 1) for line in _finding(k, one))]
    )


def _summary(found: Diagnosis) -> Iterator[str]:
    about, labels = found.summary, found.summary["labels"]
    yield (
        f"{how_many(about['structures'])}, {how_many(about['atoms'], 'atom')} of {' '.join(about['elements'])}, "
        f"{how_many(len(about['groups']), 'group')}, {how_many(len(about['files']), 'file')}; {labels['energy']} with "
        f"an energy, {labels['forces']} with forces, {labels['stress']} with stress"
    )
    for what, steps in about["steps"].items():
        yield (
            f"energies against {what}: {how_many(steps['all'], 'step')} between neighbours, {steps['tell_the_sign']} "
            "of them large enough to show a wrong sign"
        )
    if about["inputs"] is None:
        yield "network inputs: not looked at (a potential or a training set gives them)"
        what = "copies with other energies"
    else:
        what = f"structures with equal inputs ({about['inputs']} of each atom) and other energies"
    yield f"noise floor: {about['noise_floor']:.3g} meV/atom, from {what}"
    if about["committee"]:
        yield f"outliers of the committee: looked for with {about['committee']} members"
    yield f"found: {', '.join(how_many(n, name) for name, n in about['findings'].items())}"


def _finding(number: int, finding: Finding) -> Iterator[str]:
    yield ""
    yield f"{number:>3} {finding.severity}: {finding.kind}"
    yield from textwrap.wrap(
        finding.text, _WIDTH, initial_indent="    ", subsequent_indent="    ", break_long_words=False
    )
    shown = finding.frames[: _MOST if len(finding.frames) > _MOST + 1 else None]
    yield from (f"      {frame}" for frame in shown)
    if len(shown) < len(finding.frames):
        yield f"      ... ({len(finding.frames) - len(shown)} more)"
