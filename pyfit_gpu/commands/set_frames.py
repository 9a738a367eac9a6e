"""Structures of a training set as frames, for verbs that otherwise read files of structures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError, shortened
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.structures.frames import Frame

Item = TypeVar("Item")


def frames_of_set(training_set: TrainingSet, rows: Sequence[int], path: str) -> list[Frame]:
    """Structures of a training set, with their labels.

    Raises:
        InputError: it holds no positions.
    """
    chosen = training_set.select(list(rows))
    if bool(chosen.positions.isnan().any()):
        raise InputError(f"{path}: expected a training set with positions, found one without (the classic text)")
    sizes = chosen.sizes.tolist()
    atoms = (chosen.positions, chosen.atomic_numbers, chosen.forces)
    of_atoms = zip(*([part.cpu().numpy() for part in values.split(sizes)] for values in atoms), strict=True)
    of_structures = zip(
        *(values.cpu().numpy() for values in (chosen.cell, chosen.pbc, chosen.stress)),
        chosen.energy.tolist(),
        chosen.weight.tolist(),
        strict=True,
    )
    return [
        Frame(
            positions=positions.astype(np.float64),
            cell=cell.astype(np.float64),
            pbc=pbc,
            atomic_numbers=numbers,
            group=group,
            source=f"{path}, structure {row + 1}",
            energy=None if np.isnan(energy) else energy,
            forces=None if np.isnan(forces).any() else forces.astype(np.float64),
            stress=None if np.isnan(stress).any() else stress.astype(np.float64),
            weight=weight,
        )
        for row, group, (positions, numbers, forces), (cell, pbc, stress, energy, weight) in zip(
            rows, chosen.groups, of_atoms, of_structures, strict=True
        )
    ]


def held_out_frames(path: str, split: str) -> list[Frame]:
    """Structures of a training set that validate or test in the split that it stores under a name.

    Raises:
        InputError: no training set, no such split, or one in which all structures train.
    """
    whole = load_training_set(path, lazy=True)
    if split not in whole.splits:
        there = shortened(sorted(whole.splits)) or "none"
        raise InputError(f"{path}: split {split!r}: expected one that the set stores, found {there}")
    found = whole.splits[split]
    rows = [*found.validation, *found.test]
    if not rows:
        raise InputError(f"{path}: split {split!r}: expected structures that do not train, found none")
    return frames_of_set(whole, rows, path)


def evenly_spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, evenly spread, the first among them."""
    if len(items) <= most:
        return list(items)
    return [items[k] for k in np.linspace(0, len(items) - 1, most).round().astype(int)]
