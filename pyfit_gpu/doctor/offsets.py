"""Energies off the shift: files and groups whose energies are those of another code or pseudopotential."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pyfit_gpu.doctor.findings import Finding
from pyfit_gpu.doctor.records import Records
from pyfit_gpu.errors import how_many
from pyfit_gpu.models.energy_shift import composition_residuals
from pyfit_gpu.structures.cells import FloatArray

OFFSET = "energies off the shift"

# eV/atom: no crystal is bound by more (tungsten by 8.9), so physics does not explain it ..
_COHESION = 10.0
_SPREADS = 6.0  # .. and so many times the spread of the others


def energy_residuals(records: Records) -> FloatArray:
    """(B,) eV/atom less its least squares by composition; NaN without an energy."""
    known = ~np.isnan(records.energy)
    residual = np.full(len(records), np.nan)
    if known.any():
        residual[known] = composition_residuals(records.counts[known], records.energy_per_atom[known])
    return residual


def check_offsets(records: Records) -> Iterator[Finding]:
    """Yield files, and groups of the other files, whose energies stand apart from all others."""
    residual = energy_residuals(records)
    left = ~np.isnan(residual)
    if not left.any() or np.ptp(residual[left]) <= _COHESION:  # nothing can be apart, however many groups there are
        return
    for what, names in (("file", records.files), ("group", records.groups)):
        for name, rows, offset in list(_apart(residual, left, names)):
            text = (
                f"{what} {name}: {how_many(len(rows))} with energies {offset:+.4g} eV/atom off those of all others, "
                "beside what the composition explains: another code, pseudopotential or unit"
            )
            yield Finding.of(records, OFFSET, "error", text, rows, float(offset), "eV/atom")
            left[rows] = False


def _apart(
    residual: FloatArray, among: NDArray[np.bool_], names: Sequence[str]
) -> Iterator[tuple[str, NDArray[np.int64], float]]:
    """Yield sources whose median lies far from the others' median: name, rows and offset."""
    unique, number = np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)
    if len(unique) < 2:
        return
    for k, name in enumerate(unique.tolist()):
        own, others = among & (number == k), among & (number != k)
        if not own.any() or own.sum() > others.sum():
            continue
        middle = np.median(residual[others])
        spread = 1.4826 * np.median(np.abs(residual[others] - middle))
        offset = np.median(residual[own]) - middle
        if abs(offset) > max(_COHESION, _SPREADS * spread):
            yield name, np.flatnonzero(own), float(offset)
