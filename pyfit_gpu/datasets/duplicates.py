"""Copies among the structures of a training set, whatever their labels, and what they mean for a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyfit_gpu.datasets.feature_rows import FeatureRows, read_features
from pyfit_gpu.datasets.splits import Split, groups_without_validation
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.copies import Labels, as_keys, hash_parts, label_numbers, rounded


def structure_keys(
    sizes: Tensor, atomic_numbers: Tensor, positions: Tensor, cell: Tensor, pbc: Tensor, features: Tensor | FeatureRows
) -> NDArray[np.void]:
    """(B,) keys that copies share: see `structure_key`; where positions are not known, elements and features decide.

    Args:
        sizes: (B,) atoms of each structure, which stand one after the other in what follows.
        atomic_numbers: (n_atoms,).
        positions: (n_atoms, 3) Å; NaN: not known.
        cell: (B, 3, 3) Å.
        pbc: (B, 3) bool.
        features: (n_atoms, n_features), read where they decide.
    """
    unknown = positions[:, 0].isnan().cpu().numpy()
    numbers, places, cells, periodic = (
        np.ascontiguousarray(value).reshape(len(value), width).view(np.uint8)
        for value, width in (
            (atomic_numbers.cpu().numpy(), 1),
            (_rounded(positions), 3),
            (_rounded(cell), 9),
            (pbc.cpu().numpy(), 3),
        )
    )  # bytes, in rows: rounded all at once, which takes a quarter of the time
    keys = bytearray()
    start = 0
    for row, size in enumerate(sizes.tolist()):
        atoms = slice(start, start + size)
        if unknown[start]:
            values = read_features(features[torch.arange(start, start + size)]).cpu().numpy()
            keys += hash_parts(numbers[atoms].data, values.tobytes())
        else:
            keys += hash_parts(numbers[atoms].data, periodic[row].data, cells[row].data, places[atoms].data)
        start += size
    return as_keys(keys)


def _rounded(lengths: Tensor) -> FloatArray:
    return rounded(lengths.cpu().numpy())


def set_labels(sizes: Tensor, energy: Tensor, forces: Tensor, stress: Tensor) -> list[Labels]:
    """(B,) numbers by which labels of copies are compared, see `label_numbers`; NaN where a label is not known.

    Args:
        sizes: (B,) atoms of each structure.
        energy: (B,) eV.
        forces: (n_atoms, 3) eV/Å.
        stress: (B, 6) eV/Å^3.
    """
    parts = np.split(forces.cpu().numpy(), np.cumsum(sizes.cpu().numpy())[:-1])
    return [label_numbers(*labels) for labels in zip(energy.cpu().tolist(), parts, stress.cpu().numpy(), strict=True)]


def first_among(first: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) for each of some rows in ascending order, the first one of them that is a copy of it; often itself.

    Args:
        first: (B,) row of the first copy in the whole set, see `first_rows`.
    """
    _, places, inverse = np.unique(first[rows], return_index=True, return_inverse=True)
    return np.asarray(rows[places[inverse]], dtype=np.int64)


def with_copies(split: Split, rows: NDArray[np.int64], leaders: NDArray[np.int64], groups: Sequence[str]) -> Split:
    """Complete a split of structures that each stand in it once: copies go where the first one went, after the others.

    Args:
        rows: (n,) that take part, in ascending order.
        leaders: (n,) first copy of each, see `first_among`.
        groups: (B,) names.
    """
    copies = [(row, leader) for row, leader in zip(rows.tolist(), leaders.tolist(), strict=True) if row != leader]
    if not copies:
        return split
    trains = set(split.train)
    train = split.train + [row for row, leader in copies if leader in trains]
    validation = split.validation + [row for row, leader in copies if leader not in trains]
    lacking = groups_without_validation(groups, train, validation) if split.train_fraction < 1.0 else ()
    return replace(split, train=train, validation=validation, groups_without_validation=lacking)


@dataclass(frozen=True)
class CopiesAcross:
    """Numbers of structures of a set that are copies of others of it."""

    all: int  # of a structure before them, among those that the split divides
    validation: int  # those that validate and have a copy that trains
    test: int  # those that test and have a copy that trains or validates

    @classmethod
    def of(cls, split: Split, first: NDArray[np.int64]) -> CopiesAcross:
        """Count copies, with `first` as in `first_among`."""
        train, validation, test = (first[rows] for rows in (split.train, split.validation, split.test))
        return cls(
            all=int((first != np.arange(len(first)))[: split.n_structures].sum()),
            validation=int(np.isin(validation, train).sum()),
            test=int(np.isin(test, np.concatenate((train, validation))).sum()),
        )
