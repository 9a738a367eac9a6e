"""Warnings about work that gives numbers which mean less than they seem to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pyfit_gpu.datasets.duplicates import CopiesAcross
from pyfit_gpu.datasets.splits import Split
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import shortened
from pyfit_gpu.log import log
from pyfit_gpu.models.potential import Potential, equal_members
from pyfit_gpu.structures.cells import FloatArray

_ODD_OFFSET = 0.01  # eV/atom, mean error of energies on the scale of the references: a potential's own is less


def warn_of_offset(potential: Potential, errors: FloatArray) -> None:
    """Warn of references that seem to be on another scale than a bond-order potential that does not say its e_shift.

    Its energies are those of atomisation. Of straight networks `evaluation_shift` warns.

    Args:
        errors: (B,) predicted minus reference energies without any shift, eV/atom; NaN where unknown.
    """
    if not potential.is_physically_informed or potential.knows_shift or np.isnan(errors).all():
        return
    offset = float(np.nanmean(errors))
    if abs(offset) > _ODD_OFFSET:
        log.warning(
            "the potential does not say its e_shift, and its energies, those of atomisation, are on average %.4g "
            "eV/atom from the references: if these are on another scale, give --e-shift, minus the energy of an "
            "isolated atom (%.6g makes that average 0)", offset, offset,
        )  # fmt: skip


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
            split.n_structures,
        )
    for what, number, n in (("validation", copies.validation, len(split.validation)),
                            ("test", copies.test, len(split.test))):  # fmt: skip
        if number:
            log.warning("%d of %d %s structures have copies on another side of the split: their errors look too small",
                        number, n, what)  # fmt: skip


def warn_of_equal_members(potential: Potential, paths: Sequence[str]) -> None:
    """Warn of members with the same parameters.

    Args:
        paths: of the potentials.
    """
    names = paths if len(paths) == potential.networks.n_members else range(1, potential.networks.n_members + 1)
    for numbers in equal_members(potential)[:3]:
        log.warning("members %s are equal: the spread says nothing of them", shortened(names[k] for k in numbers))


def warn_of_absent_elements(whole: TrainingSet, split: Split) -> tuple[str, ...]:
    """Warn of elements that no training structure with a weight above 0 has, and return them."""
    counts = ((whole.count_species(k) * (whole.weight > 0))[split.train] for k in range(whole.descriptor.n_elements))
    absent = tuple(symbol for symbol, n in zip(whole.descriptor.elements, counts, strict=True) if not n.any())
    for symbol in absent:
        log.warning("no atom of %s trains: its network keeps its starting parameters", symbol)
    return absent


def warn_of_untrained_predictions(potential: Potential, counts: NDArray[np.int64]) -> None:
    """Warn of structures with elements that the potential was never trained on.

    Args:
        counts: (B, S) atoms of each element.
    """
    for k, symbol in enumerate(potential.descriptor.elements):
        n = int((counts[:, k] > 0).sum())
        if n and symbol in potential.untrained:
            log.warning("%d of %d structures have atoms of %s, on which nothing was trained: the network of %s is "
                        "random", n, len(counts), symbol, symbol)  # fmt: skip
