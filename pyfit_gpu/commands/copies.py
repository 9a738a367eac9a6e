"""Copies among structures on their way into a training set: left out on request, or counted in a warning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.data import atomic_numbers as ATOMIC_NUMBERS
from numpy.typing import NDArray

from pyfit_gpu.datasets.duplicates import set_labels
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.log import log
from pyfit_gpu.structures.copies import UniqueStructures, first_rows


def seen_structures(elements: Sequence[str], existing: TrainingSet | None = None) -> UniqueStructures:
    """Begin with the structures of a set, if any, whose elements are the only ones of the files."""
    found = UniqueStructures(ATOMIC_NUMBERS[elements[0]] if len(elements) == 1 else 0)
    if existing is not None:
        labels = set_labels(existing.sizes, existing.energy, existing.forces, existing.stress)
        for key, of_structure in zip(existing.structure_keys(), labels, strict=True):
            found.add(bytes(key), of_structure)
    return found


def say_what_was_left_out(unique: UniqueStructures, n_structures: int) -> None:
    """Log how many copies were left out of all structures, and warn where labels were lost with them."""
    if unique.n_copies:
        log.info("%d of %d structures are copies and were left out", unique.n_copies, n_structures)
    if unique.n_other_labels:
        log.warning(
            "%d of these copies have other labels, or more of them, than the structure that stays",
            unique.n_other_labels,
        )


def warn_of_added_copies(keys: NDArray[np.void], added: Sequence[str]) -> None:
    """Warn of added structures that are copies of those before them.

    Args:
        keys: (B,) of all structures of the set, see `TrainingSet.structure_keys`.
        added: where each of the last structures was read.
    """
    n_before = len(keys) - len(added)
    rows = np.arange(n_before, len(keys))
    first = first_rows(keys)[n_before:]
    for is_copy, what in (
        (first < n_before, "are in the set already"),
        ((first >= n_before) & (first < rows), "are copies of others in the files"),
    ):
        if is_copy.any():
            log.warning(
                "%d of %d structures %s, the first is %s (--unique-structures leaves copies out)",
                np.count_nonzero(is_copy), len(added), what, added[int(np.argmax(is_copy))],
            )  # fmt: skip
