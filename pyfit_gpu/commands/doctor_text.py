"""The text of a diagnosis: a summary, then the findings, worst first, each with its first structures."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from pyfit_gpu.doctor.findings import Diagnosis, Finding

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
        f"{about['structures']} structures, {about['atoms']} atoms of {' '.join(about['elements'])}, "
        f"{len(about['groups'])} groups, {len(about['files'])} files; {labels['energy']} with an energy, "
        f"{labels['forces']} with forces, {labels['stress']} with stress"
    )
    for what, steps in about["steps"].items():
        yield (
            f"energies against {what}: {steps['all']} steps between neighbours, of which {steps['tell_the_sign']} "
            "tell a wrong sign"
        )
    if about["inputs"] is None:
        yield "network inputs: not looked at (a potential or a training set gives them)"
        what = "of copies"
    else:
        what = f"of structures with equal inputs ({about['inputs']} of each atom)"
    yield f"noise floor: {about['noise_floor']:.3g} meV/atom, from energies {what} that differ"
    counts = [f"{n} {name}{'' if n == 1 else 's'}" for name, n in about["findings"].items()]
    yield f"found: {', '.join(counts)}"


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
