"""Bond-order parameters to begin a fit with, from bond lengths, coordination and cohesive energies.

Published potentials agree in units of the bond length r1: alpha r1 is 10 to 12, beta r1 2 to 3, and a, h and the share
of the promotion energy are alike. So are these, and A, B and sigma follow from two conditions for an atom with Z bonds
of length r1, all other neighbours left out: its energy is minus the cohesive energy, and r1 is where it is least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyfit_gpu.models.elemental_solids import elemental_solid
from pyfit_gpu.models.potential import Form
from pyfit_gpu.structures.bonds import Bonds

_ALPHA, _BETA = 11.0, 2.6  # 1 / bond length
_LAMBDA = 3.0  # 1 / bond length, as it stands in the screening: squared or plain
_A = 0.85  # likewise
_PROMOTION = 0.4  # share of the cohesive energy
_LEAST_CUTOFF = 0.1  # of the cutoff function at a bond, where the cutoff is hardly beyond it


def usual_bonds(elements: Sequence[str]) -> Bonds:
    """Bonds of the elements as solids; between different ones, means of both."""
    solids = [elemental_solid(symbol) for symbol in elements]
    own = torch.tensor([solid.bond_length for solid in solids], dtype=torch.float64)
    coordination = torch.tensor([float(solid.coordination) for solid in solids], dtype=torch.float64)
    return Bonds((own[:, None] + own) / 2, coordination)


def starting_baseline(
    elements: Sequence[str], bonds: Bonds, form: Form, *, cutoff: float, cutoff_width: float
) -> tuple[float, ...]:
    """Bond-order parameters of each element in turn, in the order of `Potential.bond_order_parameters`.

    With fc = fc(r1), b = (1 + a (Z / 3 - 1))^(-1/2), as for bonds in evenly spread directions, E the cohesive energy
    and p the share of the promotion energy

        exp(B - beta r1) = 2 (1 - p) E / (Z fc b (1 - beta / alpha))
        exp(A - alpha r1) = beta / alpha b exp(B - beta r1)
        sigma = p E / sqrt(Z fc b)

    Args:
        cutoff, cutoff_width: rc and d, Å.
    """
    energies = torch.tensor([elemental_solid(symbol).cohesive_energy for symbol in elements], dtype=torch.float64)
    parameters: list[float] = []
    for energy, lengths, coordination in zip(energies, bonds.lengths, bonds.coordination, strict=True):
        to_fourth = (lengths - cutoff).clamp(max=0.0) ** 4
        fc = (to_fourth / (cutoff_width**4 + to_fourth)).clamp(min=_LEAST_CUTOFF)
        order = (1 + _A * max(float(coordination) / 3 - 1, 0.0)) ** -0.5
        attraction = 2 * (1 - _PROMOTION) * (energy * energies).sqrt()
        attraction /= coordination * fc * order * (1 - _BETA / _ALPHA)
        repulsion = _BETA / _ALPHA * order * attraction
        of_pairs = torch.stack((repulsion.log() + _ALPHA, _ALPHA / lengths, attraction.log() + _BETA, _BETA / lengths))
        sigma = _PROMOTION * energy / (coordination * fc.mean() * order).sqrt()
        between = 2 / (lengths[:, None] + lengths)  # (S, S), for the pairs of neighbours
        a, screening = torch.full_like(between, _A), _LAMBDA * between
        if form == "squared":
            a, screening = a.sqrt(), screening.sqrt()
        parts: tuple[Tensor, ...] = (of_pairs, torch.zeros_like(between), sigma, a, screening)
        parameters += torch.cat([part.flatten() for part in parts]).tolist()
    assert all(map(math.isfinite, parameters))
    return tuple(parameters)
