"""Copies, and the noise floor: the least error that any network can have, because it cannot tell structures apart."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pyfit_gpu.datasets.duplicates import first_among
from pyfit_gpu.doctor.findings import Finding
from pyfit_gpu.doctor.records import Records, Rows
from pyfit_gpu.errors import how_many
from pyfit_gpu.structures.cells import FloatArray

COPIES = "copies"
EQUAL_INPUTS = "equal inputs"
NOISE = "noise floor"

_SAME = 1e-6  # of a column's largest deviation: rows that differ by less are equal
_DIRECTIONS = 3
_SAME_ENERGY = 1e-4  # eV/atom up to which the energies of equal structures may differ: convergence, k-points


def copies(records: Records) -> Iterator[Finding]:
    """Yield the structures that are copies of others before them, whatever their labels."""
    rows = np.flatnonzero(records.first_copy != np.arange(len(records)))
    if len(rows):
        text = f"{how_many(len(rows))} of {len(records)} are copies of others before them, and all of them count"
        yield Finding.of(records, COPIES, "warning", text, rows)


def equal_rows(rows: FloatArray) -> Rows:
    """(B,) first row with the same numbers, to rounding.

    Rows are sorted by random projections, which equal rows share, and compared only where these agree: never all pairs.
    """
    deviation = np.abs(rows - rows.mean(axis=0))
    scale = deviation.max(axis=0, initial=0.0)
    scaled = (rows - rows.mean(axis=0))[:, scale > 0] / scale[scale > 0]
    classes = np.zeros(len(rows), dtype=np.int64)
    random = np.random.RandomState(1)
    for _ in range(_DIRECTIONS):
        direction = random.standard_normal(scaled.shape[1])
        along = scaled @ (direction / max(1.0, float(np.linalg.norm(direction))))
        order = np.lexsort((along, classes))
        new = (np.diff(classes[order]) > 0) | (np.diff(along[order]) > 4 * _SAME)
        classes[order] = np.concatenate(([0], np.cumsum(new)))
    first = np.arange(len(rows))
    order = np.argsort(classes, kind="stable")
    ends = np.flatnonzero(np.diff(classes[order])) + 1
    for members in np.split(order, ends):
        rest = members
        while len(rest) > 1:
            same = np.abs(scaled[rest] - scaled[rest[0]]).max(axis=1, initial=0.0) <= _SAME
            first[rest[same]] = rest[0]
            rest = rest[~same]
    return first


def noise_floor(energy_per_atom: FloatArray, first: Rows) -> float:
    """Least root mean square error of energies per atom, eV/atom, that depends on the class of a structure only.

    Args:
        energy_per_atom: (B,) eV/atom; NaN: not known.
        first: (B,) first row of each class.
    """
    known = ~np.isnan(energy_per_atom)
    _, number = np.unique(first, return_inverse=True)
    values = np.where(known, energy_per_atom, 0.0)
    counts = np.bincount(number, known)
    center = np.bincount(number, values) / np.maximum(counts, 1)
    deviation = energy_per_atom - center[number]
    n = int(known.sum())
    return float(np.sqrt(np.nansum(deviation**2) / n)) if n else float("nan")


def equal_inputs(records: Records, first: Rows) -> Iterator[Finding]:
    """Yield structures that a network cannot tell from others: with other energies, and with the same ones.

    Args:
        first: (B,) first row with the same network inputs.
    """
    energy = records.energy_per_atom
    floor = noise_floor(energy, first)
    known = np.flatnonzero(~np.isnan(energy))
    first = first.copy()
    first[known] = first_among(first, known)  # one without an energy could not be compared with
    is_later = (first != np.arange(len(records))) & (records.keys != records.keys[first])
    difference = np.abs(energy - energy[first])
    other = is_later & (difference > _SAME_ENERGY)
    same = is_later & (difference <= _SAME_ENERGY)
    if other.any():
        rows = np.flatnonzero(other)
        rows = rows[np.argsort(-difference[rows], kind="stable")]
        worst = int(rows[0])
        text = (
            f"{how_many(len(rows))} with the network inputs of others before them and other energies, by up to "
            f"{1000 * difference[worst]:.3g} meV/atom ({records.sources[worst]} and {records.sources[first[worst]]}): "
            f"no network on these inputs can have an RMSE below {1000 * floor:.3g} meV/atom"
        )
        yield Finding.of(records, NOISE, "warning", text, rows, 1000 * floor, "meV/atom")
    if same.any():
        rows = np.flatnonzero(same)
        text = (
            f"{how_many(len(rows))} with the network inputs and the energy per atom of others before them "
            "(turned, shifted, repeated or renumbered): they only add weight"
        )
        yield Finding.of(records, EQUAL_INPUTS, "note", text, rows)
