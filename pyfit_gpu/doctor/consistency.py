"""Findings from energies against forces and stress: single structures, whole files, and files against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from pyfit_gpu.doctor.findings import Finding
from pyfit_gpu.doctor.offsets import OFFSET
from pyfit_gpu.doctor.records import Records
from pyfit_gpu.doctor.work import Steps
from pyfit_gpu.errors import how_many

FORCES = "forces against energies"
STRESS = "stress against energies"

# Energy change over work, where all labels of a file have another sign or unit.
_RATIOS = {
    FORCES: {
        -1.0: "the sign is turned: they are gradients",
        51.4221: "they are in hartree/bohr",
        25.7110: "they are in Ry/bohr",
        1 / 27.2114: "energies are in hartree, and forces are not",
        1 / 13.6057: "energies are in Ry, and forces are not",
        1.8897: "both are in atomic units, hartree and hartree/bohr or Ry and Ry/bohr",
    },
    STRESS: {
        -1.0: "the sign is turned: it is a pressure",
        1 / 160.2177: "it is in GPa",
        -1 / 160.2177: "it is in GPa, with the sign of a pressure",
        1 / 1602.177: "it is in kbar",
        -1 / 1602.177: "it is in kbar, with the sign of a pressure",
    },
}
_RATIO_ERROR = 0.1  # relative


def check_steps(records: Records, steps: Steps, kind: str) -> Iterator[Finding]:
    """Yield what steps between structures show: labels of a whole file, of single structures, offsets between files.

    Args:
        kind: `FORCES` or `STRESS`, from which the work follows.
    """
    file = np.unique(np.array(records.files, dtype=object).astype(str), return_inverse=True)[1]
    across = file[steps.first] != file[steps.second]
    yield from _between_files(records, steps.select(across & steps.fails))
    inside = steps.select(~across)
    for number in np.unique(file[inside.first]).tolist():
        own = inside.select(file[inside.first] == number)
        if own.fails.any():
            yield _in_file(records, own, kind)


def _in_file(records: Records, steps: Steps, kind: str) -> Finding:
    """Say what is wrong in one file, some steps of which fail."""
    what = "forces" if kind == FORCES else "stress"
    failing = steps.select(steps.fails)
    worst = int(np.argmax(np.abs(failing.change - failing.work) / failing.tolerance))
    example = (
        f"from {records.sources[failing.first[worst]]} to {records.sources[failing.second[worst]]} the energy changes "
        f"by {failing.change[worst]:.4g} eV, by the {what} {failing.work[worst]:.4g} eV"
    )
    off = np.abs(failing.change - failing.work)
    if 2 * len(failing.first) > np.count_nonzero(steps.tells | steps.fails):
        ratio = float(failing.change @ failing.work / max(float(failing.work @ failing.work), 1e-300))
        hint = next(
            (text for value, text in _RATIOS[kind].items() if abs(ratio / value - 1) < _RATIO_ERROR),
            "another unit, other conventions, or labels of another calculation",
        )
        rows = np.unique(np.concatenate((failing.first, failing.second)))
        text = (
            f"{records.files[rows[0]]}: energies and {what} do not belong together in {len(failing.first)} of "
            f"{how_many(len(steps.first), 'step')} between neighbours: {example} (energy change / work is {ratio:.4g}: "
            f"{hint})"
        )
        return Finding.of(records, kind, "error", text, rows, ratio, "")
    rows = np.array(_culprits(steps))
    text = f"energy or {what} out of line with that of the neighbours in {how_many(len(rows))}: {example}"
    return Finding.of(records, kind, "error", text, rows, float(off.max()), "eV")


def _culprits(steps: Steps) -> list[int]:
    """Fewest structures that explain all steps that fail; both of a pair that stands alone."""
    pairs = list(zip(steps.first[steps.fails].tolist(), steps.second[steps.fails].tolist(), strict=True))
    good = Counter(np.concatenate((steps.first[~steps.fails], steps.second[~steps.fails])).tolist())
    found: list[int] = []
    while pairs:
        bad = Counter(row for pair in pairs for row in pair)
        rank = {row: (count / (count + good[row]), count) for row, count in bad.items()}
        most = max(rank.values())
        first = min(row for row, value in rank.items() if value == most)
        partners = [row for pair in pairs if first in pair for row in pair if row != first]
        found += [first, *(row for row in partners if rank[row] == most)]
        pairs = [pair for pair in pairs if not set(found) & set(pair)]
    return sorted(set(found))


def _between_files(records: Records, failing: Steps) -> Iterator[Finding]:
    """Yield pairs of files whose energies lie apart for neighbouring structures."""
    by_files: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for first, second, gap in zip(
        failing.first.tolist(), failing.second.tolist(), (failing.change - failing.work).tolist(), strict=True
    ):
        (one, _), (other, later) = sorted(((records.files[first], first), (records.files[second], second)))
        sign = 1 if records.files[second] == other else -1
        by_files.setdefault((one, other), []).append((sign * gap / records.sizes[first], later))
    for (one, other), values in by_files.items():
        offset = float(np.median([value for value, _ in values]))
        text = (
            f"energies of {other} lie {offset:+.4g} eV/atom off those of {one} for neighbouring structures "
            f"({how_many(len(values), 'step')} between the files): the calculations may differ"
        )
        yield Finding.of(records, OFFSET, "error", text, sorted({row for _, row in values}), offset, "eV/atom")
