"""Warnings before a fit: about its split, and about what it will leave as it is."""

from __future__ import annotations

from pyfit_gpu.datasets.duplicates import CopiesAcross
from pyfit_gpu.datasets.splits import Split
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import shortened
from pyfit_gpu.log import log


def warn_of_split(whole: TrainingSet, split: Split) -> None:
    """Warn of groups that do not validate, and of copies."""
    no_part = int(whole.has_energy.sum()) - sum(map(len, (split.train, split.validation, split.test)))
    if split.test and no_part:
        log.warning("%d structures are copies of test structures: they neither train nor validate", no_part)
    if split.groups_without_validation and split.train_fraction < 1.0:
        log.warning("groups without a validation structure: %s", shortened(split.groups_without_validation))
    warn_of_copies(whole, split)


def warn_of_copies(whole: TrainingSet, split: Split) -> None:
    """Warn of copies in a set, and of those on two sides of its split."""
    copies = CopiesAcross.of(split, whole.first_copies)
    if copies.all:
        log.warning(
            "%d of %d structures are copies of others in the set, and all of them count "
            "(prepare --unique-structures leaves copies out)",
            copies.all,
            len(whole),
        )
    for what, number, n in (("validation", copies.validation, len(split.validation)),
                            ("test", copies.test, len(split.test))):  # fmt: skip
        if number:
            log.warning("%d of %d %s structures have copies on another side of the split: their errors look too small",
                        number, n, what)  # fmt: skip
