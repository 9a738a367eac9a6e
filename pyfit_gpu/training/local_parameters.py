"""The local parameters of a physically informed network over a set: whether they make sense, and which are negative."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.log import log
from pyfit_gpu.models.bond_order import parameter_names
from pyfit_gpu.models.conditioning import Conditioning
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.parallel import one_thread
from pyfit_gpu.sums import ordered_sum
from pyfit_gpu.training.atomic_energies import Informed
from pyfit_gpu.training.bond_map import BondMap
from pyfit_gpu.training.local_penalty import is_barred
from pyfit_gpu.training.objective import Objective

SAMPLE_ATOMS = 4_000
_LARGEST_SCALE = 10.0  # of an output, beside its number in the baseline


def require_sense(objective: Objective, points: Tensor, template: ElementNetworks, groups: tuple[str, ...]) -> None:
    """Refuse parameters of networks with which an atom has no energy.

    Args:
        objective: of the structures that train, of a physically informed network.
        points: (K, P), parameters of all members.
        groups: of the structures.

    Raises:
        InputError: with the atom and its local parameters.
    """
    assert objective.informed is not None
    for rows, block, local in objective.local(points, template):
        wrong = ~local.energies.isfinite()
        if not bool(wrong.any()):
            continue
        member, atom = wrong.nonzero()[0].tolist()
        structure = int(block.structure[atom])
        number = atom - int(block.sizes[:structure].sum())
        assert local.parameters is not None
        species = int(block.species[atom])
        model = objective.informed.model
        outputs = local.parameters[member, atom]
        if model.baseline is not None:
            outputs = outputs - model.baseline[species]
        whose = f"member {member + 1}" if len(points) > 1 else "the network"
        row = rows.start + structure
        raise InputError(
            f"structure {row + 1} of those that train (group {groups[row]}), atom {number + 1}: expected outputs of "
            f"{whose} that make sense, but there is no energy with {model.describe(outputs, species)}"
        )


def warn_of_negative(objective: Objective, point: Tensor, template: ElementNetworks) -> None:
    """Log which local parameters are negative that should not be, of how many atoms, and the least of each.

    Args:
        objective: as for `require_sense`.
        point: (1, P).
    """
    assert objective.informed is not None
    model = objective.informed.model
    least: Tensor | None = None
    count: Tensor | None = None
    n_atoms = 0
    for _, _, local in objective.local(point, template):
        assert local.parameters is not None
        own = local.parameters[0]
        lowest, below = own.min(dim=0).values, (own < 0).sum(dim=0)
        least = lowest if least is None else torch.minimum(least, lowest)
        count = below if count is None else count + below
        n_atoms += len(own)
    if least is None or count is None:
        return
    barred = is_barred(model.form, model.n_elements) & (count > 0).cpu()
    names = parameter_names(model.n_elements)
    for number in barred.nonzero()[:, 0].tolist():
        log.warning(
            "local parameter %s is negative for %d of %d atoms that train, %.3g at least",
            names[number], int(count[number]), n_atoms, float(least[number]),
        )  # fmt: skip


def condition_outputs(potential: Potential, train: TrainingSet, found: Conditioning | None) -> Conditioning | None:
    """Condition, where inputs are and local parameters are outputs, these too."""
    if found is None or not potential.is_physically_informed or not potential.use_baseline:
        return found
    return replace(found, outputs=output_scales(potential, train))


def output_scales(potential: Potential, train: TrainingSet) -> Tensor:
    """(S, N) float64 on the host: scales of outputs, by which a unit of each changes energies of atoms alike.

    They are 1 over the root mean squares of dE/dp over the atoms of each element in a sample, at the baseline; 1 where
    that is 0 or not a number. None is more than ten times the number of the baseline, or ten: with a number on which
    hardly any energy depends, random outputs would otherwise make no sense.
    """
    how = Informed.of(potential, torch.empty(0, dtype=torch.float64))
    assert how is not None
    assert how.model.baseline is not None
    sample = sample_of(train).to("cpu", torch.float64)
    with one_thread(), torch.no_grad():
        bonds = BondMap(sample, how.model, how.reach, memory=0)
        _, slopes = bonds(how.model.baseline[sample.species][None], gradient=True)
        squares = torch.stack([
            ordered_sum(torch.where((sample.species == element)[:, None], slopes[0].square(), 0.0).T.contiguous())
            for element in range(potential.descriptor.n_elements)
        ])  # fmt: skip
    counts = torch.bincount(sample.species, minlength=len(squares)).clamp(min=1)
    found = (squares / counts[:, None]).rsqrt()
    most = _LARGEST_SCALE * how.model.baseline.abs().clamp(min=1.0)
    return torch.where(found.isfinite(), found.minimum(most), 1.0)


def sample_of(train: TrainingSet) -> TrainingSet:
    """Every so many-th structure with a weight; all of them in a small set."""
    rows = (train.weight > 0).nonzero()[:, 0]
    step = max(1, int(train.sizes[rows].sum()) // SAMPLE_ATOMS)
    return train.select(rows[::step])
