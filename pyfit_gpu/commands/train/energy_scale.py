"""The scale of a set's energies, on which it depends whether a bond-order potential can follow them."""

from __future__ import annotations

import torch

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.log import log
from pyfit_gpu.models.elemental_solids import elemental_solid
from pyfit_gpu.models.potential import Potential

_ODD_SHARE = 0.5  # of the cohesive energies, by which the lowest energy may be off


def warn_of_scale(potential: Potential, train: TrainingSet) -> None:
    """Warn of energies that seem not to be those of atomisation, which are all that a bond-order potential can have.

    Those are 0 for isolated atoms, and near minus the cohesive energies for the most strongly bound structure.

    Args:
        train: the structures that train.
    """
    known = (train.has_energy & (train.weight > 0)).nonzero()[:, 0]
    if not potential.is_physically_informed or not len(known):
        return
    elements = potential.descriptor.elements
    solids = [train.count_species(k)[known] * elemental_solid(one).cohesive_energy for k, one in enumerate(elements)]
    of_solids = -sum(solids, torch.zeros_like(train.energy[known])) / train.sizes[known]
    per_atom = train.energy_used[known] / train.sizes[known]
    lowest = int((per_atom - of_solids).argmin())
    found, expected = float(per_atom[lowest]), float(of_solids[lowest])
    if abs(found - expected) > _ODD_SHARE * abs(expected):
        log.warning(
            "energies of bond-order potentials are those of atomisation, and the lowest of this set is %.4g eV/atom, "
            "where the elements as solids have about %.3g: expected a set with another e_shift "
            "(prepare --e-shift atomisation)",
            found, expected,
        )  # fmt: skip
