"""Weights of forces in a loss, from the scales of a set's labels."""

from __future__ import annotations

import torch

from pyfit_gpu.datasets.training_set import TrainingSet

# Energy per atom that a force of the size of their root mean square counts as, as a share of the spread of the
# energies; and at least so much: energies per atom of large cells hardly differ, and forces must count there as well.
_SHARE = 0.3
_LEAST = 0.05  # eV/atom


def balanced_force_weight(train: TrainingSet) -> float:
    """Find the weight of the forces in the loss (Å^2, two digits) that suits the labels: 0 without forces.

    It is (max(0.3 s_E, 0.05 eV) / s_F)^2, with s_E the standard deviation of the energies per atom about what the
    composition explains, and s_F the root mean square of the force components; structures count with their weights.

    Args:
        train: the structures that train.
    """
    counts = train.has_forces & train.has_energy & (train.weight > 0)
    if not bool(counts.any()):
        return 0.0
    weight = (train.weight * counts)[torch.repeat_interleave(train.sizes)].double()
    squares = train.forces.double().nan_to_num().square().mean(dim=1)
    mean_square = float((weight * squares).sum() / weight.sum())
    if mean_square == 0:  # of perfect crystals, which say little
        return 0.0
    energy = max(_SHARE * _energy_spread(train), _LEAST)
    return float(f"{energy**2 / mean_square:.2g}")


def _energy_spread(train: TrainingSet) -> float:
    """Standard deviation of the energies per atom about their least squares by composition, eV."""
    counts = train.has_energy & (train.weight > 0)
    weight = train.weight[counts].double().cpu()
    columns = [train.count_species(k)[counts] for k in range(train.descriptor.n_elements)]
    composition = torch.stack(columns, dim=1).double().cpu() / train.sizes[counts].double().cpu()[:, None]
    per_atom = (train.energy_used / train.sizes)[counts].double().cpu()
    root = weight.sqrt()
    found = torch.linalg.lstsq(composition * root[:, None], (per_atom * root)[:, None], driver="gelsd").solution[:, 0]
    residual = per_atom - composition @ found
    return float((weight * residual.square()).sum() / weight.sum()) ** 0.5
