"""Distances: atoms that are too close to each other, and atoms without a neighbour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from ase.data import chemical_symbols, covalent_radii

from pyfit_gpu.doctor.findings import Finding, Severity
from pyfit_gpu.doctor.records import Records, Rows
from pyfit_gpu.errors import how_many
from pyfit_gpu.parallel import Workers
from pyfit_gpu.structures.batch import size_batches
from pyfit_gpu.structures.cell_list import find_pairs
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.neighbors import MINIMUM_DISTANCE

TOO_CLOSE = "short distance"
ALONE = "atom alone"

DEFAULT_CUTOFF = 6.0  # Å, where no potential gives one
_NEAR = 3.0  # Å: nearly all atoms have a neighbour so near, and only structures with others are searched farther out
_SHORT = 0.6  # of the sum of the covalent radii
_BATCH_ATOMS = 20_000


@dataclass(frozen=True, eq=False)
class Nearest:
    """Nearest neighbour of each atom, by the distance in units of the sum of both covalent radii."""

    distance: FloatArray  # (n,) Å; infinite: there is none within the cutoff
    ratio: FloatArray  # (n,)
    other: Rows  # (n,) number of the neighbour among all atoms; -1: none

    @classmethod
    def of(cls, records: Records, cutoff: float) -> Nearest:
        """Search near, and farther out where an atom has no neighbour there."""
        n = records.n_atoms
        found = cls(np.full(n, np.inf), np.full(n, np.inf), np.full(n, -1, dtype=np.int64))
        rows = np.flatnonzero(records.has_positions)
        found._search(records, rows, min(_NEAR, cutoff))
        if cutoff > _NEAR:
            lonely = np.unique(records.owner[np.isinf(found.distance)])
            found._search(records, lonely[records.has_positions[lonely]], cutoff)
        return found

    def _search(self, records: Records, rows: Rows, cutoff: float) -> None:
        def nearest(batch: list[int]) -> tuple[Rows, FloatArray, FloatArray, Rows]:
            return _nearest(records, rows[batch], cutoff)

        sizes = records.sizes[rows].tolist()
        for atoms, distance, ratio, other in Workers(torch.device("cpu")).each(
            nearest, size_batches(sizes, _BATCH_ATOMS)
        ):
            self.distance[atoms], self.ratio[atoms], self.other[atoms] = distance, ratio, other


def _nearest(records: Records, rows: Rows, cutoff: float) -> tuple[Rows, FloatArray, FloatArray, Rows]:
    """Atoms of some structures, and for each distance, ratio and number of its nearest neighbour."""
    atoms = records.atoms_of_rows(rows)
    counts, index, vectors = find_pairs(records.batch(rows), cutoff)
    distances = torch.linalg.vector_norm(vectors, dim=1).numpy()
    radii = covalent_radii[records.atomic_numbers[atoms]]
    centers = np.repeat(np.arange(len(atoms)), counts.numpy())
    other = index.numpy()
    ratios = distances / (radii[centers] + radii[other])
    result = np.full(len(atoms), np.inf), np.full(len(atoms), np.inf), np.full(len(atoms), -1, dtype=np.int64)
    ends = np.cumsum(counts.numpy())
    has = np.flatnonzero(counts.numpy() > 0)
    if len(has):
        least = np.minimum.reduceat(ratios, (ends - counts.numpy())[has])
        is_least = ratios == np.repeat(least, counts.numpy()[has])
        pair = np.flatnonzero(is_least)
        pair = pair[np.unique(centers[pair], return_index=True)[1]]
        result[0][has], result[1][has], result[2][has] = distances[pair], ratios[pair], atoms[other[pair]]
    return atoms, *result


def check_distances(records: Records, nearest: Nearest, cutoff: float) -> Iterator[Finding]:
    """Yield structures with atoms too close to each other, and those with atoms that have no neighbour."""
    yield from _too_close(records, nearest)
    alone = np.isinf(nearest.distance) & records.has_positions[records.owner]
    if alone.any():
        rows, first = np.unique(records.owner[alone], return_index=True)
        single = records.sizes[rows] == 1
        atom = int(np.flatnonzero(alone)[first[np.argmin(single)]])
        text = (
            f"atoms without a neighbour within {cutoff:g} Å in {how_many(len(rows))}, {int(single.sum())} of them "
            f"isolated atoms; {records.describe_atom(atom)}: its inputs are all zero, and nothing acts on it"
        )
        severity: Severity = "note" if single.all() else "warning"
        yield Finding.of(records, ALONE, severity, text, rows[np.argsort(single, kind="stable")])


def _too_close(records: Records, nearest: Nearest) -> Iterator[Finding]:
    short = np.flatnonzero(nearest.ratio < _SHORT)
    if not len(short):
        return
    short = short[np.argsort(nearest.ratio[short], kind="stable")]
    _, first = np.unique(records.owner[short], return_index=True)
    rows = records.owner[short[np.sort(first)]]
    atom = int(short[0])
    numbers = records.atomic_numbers[[atom, nearest.other[atom]]]
    usual = float(covalent_radii[numbers].sum())
    at_one_place = nearest.distance[atom] < MINIMUM_DISTANCE
    text = (
        f"distances below {_SHORT:g} of the sum of the covalent radii in {how_many(len(rows))}, the shortest "
        f"{nearest.distance[atom]:.3g} Å ({'-'.join(chemical_symbols[k] for k in numbers)}, sum {usual:.3g} Å) "
        f"in {records.describe_atom(atom)}{': two atoms at one place' if at_one_place else ''}"
    )
    severity: Severity = "error" if at_one_place else "warning"
    yield Finding.of(records, TOO_CLOSE, severity, text, rows, float(nearest.distance[atom]), "Å")
