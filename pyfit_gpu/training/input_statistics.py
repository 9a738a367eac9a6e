"""Statistics of the inputs over the atoms that train, and the conditioning that follows from them.

With s_f the standard deviation of input f over the atoms of one element in all structures that train with a weight
above 0, and s_0^2 the mean over f of s_f^2, the networks see z = (x - mean) / t_f, where t_f depends on the kind:

    half: sqrt(s_f s_0)      std: s_f      centre: s_0      none: z = x

`half` keeps half of the inputs' natural sizes, in their logarithms: these say that far neighbours matter little.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pyfit_gpu.datasets.feature_rows import read_features
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import shortened
from pyfit_gpu.log import log
from pyfit_gpu.models.conditioning import Conditioning
from pyfit_gpu.sums import ordered_sum

ConditioningKind = Literal["half", "std", "centre", "none"]

_AT_ONCE = 4096  # atoms; the same whether features are in memory or read, so that sums have the same bits
_ROUNDING = 16  # units in the last place by which equal inputs may differ


def statistics_bytes(n_atoms: int, n_features: int, n_elements: int) -> int:
    """Count the bytes of mean and scale, and the temporary ones that finding them takes beside reading."""
    kept = 16 * n_elements * n_features
    atoms = min(n_atoms, _AT_ONCE)
    return kept + 8 * (3 * n_atoms + 6 * atoms * n_features)


def condition(train: TrainingSet, kind: ConditioningKind) -> Conditioning | None:
    """Find mean and scale of every input, float64 on the host, rounded to the precision of the features.

    An input that is the same for all atoms of an element has the scale s_0 and is named in the log. An element of whose
    inputs all are has the scale 1; one without atoms the mean 0, too.

    Args:
        train: the structures that train; those without weight do not count.
    """
    if kind == "none" or not bool((train.weight > 0).any()):  # of which there is no loss either
        return None
    counts, mean, deviation = input_moments(train)
    dtype = train.features.dtype  # what the objective computes in is what is folded
    constant = deviation == 0
    typical = deviation.square().mean(dim=1, keepdim=True).sqrt()  # s_0
    typical = torch.where(typical > 0, typical, 1.0).expand_as(deviation)
    scale = {"half": (deviation * typical).sqrt(), "std": deviation, "centre": typical}[kind]
    scale = torch.where(constant, typical, scale)
    _name(constant & (counts > 0)[:, None], train.descriptor.elements)
    return Conditioning(mean.to(dtype).double(), scale.to(dtype).double())


def input_moments(train: TrainingSet) -> tuple[Tensor, Tensor, Tensor]:
    """Atoms that count (S,), and mean and standard deviation (S, n_features) of their inputs, float64 on the host.

    Both are 0 for an element without atoms. A deviation is 0 where inputs differ by no more than rounding.
    """
    counts, mean, variance = (found.cpu() for found in _moments(train))
    noise = _ROUNDING * torch.finfo(train.features.dtype).eps * mean.abs()
    return counts, mean, torch.where(variance > noise.square(), variance, 0.0).sqrt()


def atoms_with_weight(train: TrainingSet) -> Tensor:
    """(n,) int64: numbers of the atoms of all structures with a weight above 0."""
    has_weight = (train.weight > 0)[torch.repeat_interleave(train.sizes, output_size=train.n_atoms)]
    return has_weight.nonzero()[:, 0]


def _moments(train: TrainingSet) -> tuple[Tensor, Tensor, Tensor]:
    """Atoms that count (S,), and mean and variance (S, n_features) of their inputs, float64; 0 without atoms.

    Sums are over differences from the element's first atom: those of equal inputs are exactly 0.
    """
    elements = range(train.descriptor.n_elements)
    atoms = atoms_with_weight(train)
    species = train.species[atoms]
    counts = torch.bincount(species, minlength=len(elements))
    first = torch.stack([(species == element).byte().argmax() for element in elements])  # any atom, where there is none
    origin = read_features(train.features[atoms[first]]).double()
    sums = torch.zeros(2, *origin.shape, dtype=torch.float64, device=species.device)
    for rows, own in zip(atoms.split(_AT_ONCE), species.split(_AT_ONCE), strict=True):
        moved = read_features(train.features[rows]).double() - origin[own]
        for element in elements:
            columns = torch.where((own == element)[:, None], moved, 0.0).T.contiguous()
            sums[0, element] += ordered_sum(columns)
            sums[1, element] += ordered_sum(columns.square_())
    moved, square = sums / counts.clamp(min=1)[:, None]
    mean = torch.where((counts > 0)[:, None], origin + moved, 0.0)
    return counts, mean, (square - moved.square()).clamp(min=0)


def _name(constant: Tensor, elements: tuple[str, ...]) -> None:
    """Log which inputs (S, n_features) are the same for all atoms, counted from 1 as in the potential's file."""
    n_features = constant.shape[1]
    found = []
    for element, own in zip(elements, constant.tolist(), strict=True):
        numbers = [str(number) for number, is_constant in enumerate(own, start=1) if is_constant]
        if numbers:
            found.append(f"{element} {'all' if len(numbers) == n_features else shortened(numbers)}")
    if found:
        log.info("inputs that are the same for all atoms that train (number, by element): %s", shortened(found))
