"""The split of a training set that the command line asks for, and its digest in run files."""

from __future__ import annotations

import hashlib
from typing import Any

from pyfit_gpu.commands.train.options import SplitOptions
from pyfit_gpu.datasets.splits import SPLIT_RULE, Split
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.formats.training_set.named_splits import named_split

SEED = 2
TRAIN_FRACTION = 0.9


def split_of(whole: TrainingSet, path: str, wanted: SplitOptions, rule: int = SPLIT_RULE) -> Split:
    """Divide a set as the options say; the structures of other files are not in it yet.

    Args:
        path: file of the set.
        rule: see `TrainingSet.plan_split`.

    Raises:
        InputError: as `named_split` and `TrainingSet.plan_split`.
    """
    if wanted.name:
        return named_split(
            whole,
            path,
            wanted.name,
            train_fraction=wanted.train_fraction,
            seed=wanted.seed,
            test_groups=wanted.test_groups,
        )
    fraction = TRAIN_FRACTION if wanted.train_fraction is None else wanted.train_fraction
    if wanted.validation:
        fraction = 1.0
    seed = SEED if wanted.seed is None else wanted.seed
    return whole.plan_split(fraction, seed, wanted.test_groups or (), rule=rule)


def split_digest(split: Split) -> str:
    """Hash of the rows that train, validate and test."""
    return hashlib.sha256(repr((split.train, split.validation, split.test)).encode()).hexdigest()[:16]


def describe_split(split: Split) -> dict[str, Any]:
    """How a set was divided, for a run file: from it the same rows can be drawn, and known by their digest."""
    return {
        "train_fraction": split.train_fraction,
        "test_groups": list(split.test_groups),
        "digest": split_digest(split),
    }
