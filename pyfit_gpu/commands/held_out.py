"""Structures of a training set that a split keeps from training."""

from __future__ import annotations

from pyfit_gpu.commands.jobs import frames_of_set
from pyfit_gpu.errors import InputError, shortened
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.structures.frames import Frame


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
