"""Weights of forces and virials in a loss, from the scales of a set's labels."""

from __future__ import annotations

import torch
from torch import Tensor

from pyfit_gpu.datasets.training_set import TrainingSet

# Energy per atom that a force or virial of the size of their root mean square counts as, as a share of the spread of
# the energies; and at least so much: energies per atom of large cells hardly differ, and forces must count there too.
FORCE_SHARE = 0.7
STRESS_SHARE = 0.3
_LEAST = 0.05  # eV/atom


def balanced_weights(train: TrainingSet) -> tuple[float, float]:
    """Find the weights of the forces (Å^2) and of the virials in the loss that suit the labels, to two digits.

    They are (max(c s_E, 0.05 eV) / s)^2, with c = 0.7 for forces and 0.3 for virials per atom, s_E the standard
    deviation of the energies per atom about what the composition explains, and s the root mean square of the force
    components or of those of the virial per atom; 0 where a label is not known or is always 0. Structures count with
    their weights.

    Args:
        train: the structures that train.
    """
    weight = (train.weight * train.has_energy).double()
    by_atom = train.forces.double().nan_to_num().square().mean(dim=1)
    forces = torch.zeros_like(weight).index_add_(0, torch.repeat_interleave(train.sizes), by_atom)
    virials = (train.stress.double().nan_to_num() * train.volume_per_atom.double()[:, None]).square().mean(dim=1)
    spread = _energy_spread(train)
    return (
        _balanced(FORCE_SHARE * spread, forces, train.sizes.double(), weight * train.has_forces),
        _balanced(STRESS_SHARE * spread, virials, torch.ones_like(weight), weight * train.has_stress),
    )


def _balanced(energy: float, squares: Tensor, counts: Tensor, weight: Tensor) -> float:
    """Weight of a label, from the sums of its squares (B,), of how many numbers each, and the structures' weights."""
    total, number = float((weight * squares).sum()), float((weight * counts).sum())
    return float(f"{max(energy, _LEAST) ** 2 * number / total:.2g}") if total > 0 else 0.0


def _energy_spread(train: TrainingSet) -> float:
    """Standard deviation of the energies per atom about their least squares by composition, eV."""
    counted = train.has_energy & (train.weight > 0)
    if not bool(counted.any()):
        return 0.0
    weight, sizes = train.weight[counted].double().cpu(), train.sizes[counted].double().cpu()
    counts = [train.count_species(k)[counted].double().cpu() for k in range(train.descriptor.n_elements)]
    composition = torch.stack(counts, dim=1) / sizes[:, None]
    per_atom = train.energy_used[counted].cpu() / sizes
    root = weight.sqrt()[:, None]
    found = torch.linalg.lstsq(composition * root, per_atom[:, None] * root, driver="gelsd").solution[:, 0]
    residual = per_atom - composition @ found
    return float((weight * residual.square()).sum() / weight.sum()) ** 0.5
