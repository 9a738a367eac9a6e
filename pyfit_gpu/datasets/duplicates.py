"""Copies among the structures of a training set, whatever their labels, and what they mean for a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyfit_gpu.datasets.feature_rows import FeatureRows, read_features
from pyfit_gpu.datasets.splits import Split, groups_without_validation
from pyfit_gpu.errors import InputError, shortened
from pyfit_gpu.structures.copies import KEY_BYTES, as_keys, structure_key


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
    numbers, places, cells, periodic = (value.cpu().numpy() for value in (atomic_numbers, positions, cell, pbc))
    ends = np.cumsum(sizes.cpu().numpy())
    keys = bytearray()
    for row, (start, end) in enumerate(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)):
        if np.isnan(places[start, 0]):
            rows = read_features(features[torch.arange(start, end)])
            digest = blake2b(numbers[start:end].tobytes(), digest_size=KEY_BYTES)
            digest.update(rows.cpu().numpy().tobytes())
            keys += digest.digest()
        else:
            keys += structure_key(numbers[start:end], places[start:end], cells[row], periodic[row])
    return as_keys(keys)


def keep_copies_together(split: Split, first: NDArray[np.int64], groups: Sequence[str]) -> Split:
    """Put all copies of a structure on one side of a split.

    What tests stays: its copies neither train nor validate. Copies of structures that train, train.

    Args:
        first: (B,) row of the first copy of each structure, see `first_rows`.
        groups: (B,) names.

    Raises:
        InputError: copies of structures that test are all that would train.
    """
    overlap = CopiesAcross.of(split, first)
    if not (overlap.validation or overlap.test):
        return split
    tested = set(first[split.test].tolist())
    train = [row for row in split.train if first[row] not in tested]
    if not train:
        raise InputError(
            f"test_groups: {shortened(split.test_groups)}: every structure that would train is a copy of one of them: "
            "nothing is left to train on"
        )
    trained = set(first[train].tolist())
    left = [row for row in split.validation if first[row] not in tested]
    train += [row for row in left if first[row] in trained]
    validation = [row for row in left if first[row] not in trained]
    lacking = groups_without_validation(groups, train, validation) if split.train_fraction < 1.0 else ()
    return replace(split, train=train, validation=validation, groups_without_validation=lacking)


@dataclass(frozen=True)
class CopiesAcross:
    """Numbers of structures of a set that are copies of others of it."""

    all: int  # of a structure before them, wherever
    validation: int  # those that validate and have a copy that trains
    test: int  # those that test and have a copy that trains or validates

    @classmethod
    def of(cls, split: Split, first: NDArray[np.int64]) -> CopiesAcross:
        """Count copies, with `first` as in `keep_copies_together`."""
        train, validation, test = (first[rows] for rows in (split.train, split.validation, split.test))
        return cls(
            all=int((first != np.arange(len(first))).sum()),
            validation=int(np.isin(validation, train).sum()),
            test=int(np.isin(test, np.concatenate((train, validation))).sum()),
        )
