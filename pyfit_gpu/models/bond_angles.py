"""The sum over bonds at an angle to a bond, and its derivatives, without a sum over pairs of bonds.

    z_ij = sum_{k != i,j} a^jk w_k (cos theta_jik - h^jk)^2

The square is a sum of products of a function of u_j and one of u_k, as cos theta = u_j . u_k, so with moments of the
bonds to the neighbours of each element b

    Q^b = sum_k w_k u_k (x) u_k,    q^b = sum_k w_k u_k,    W^b = sum_k w_k

z_ij is the sum over b of a (u_j . Q u_j - 2 h u_j . q + h^2 W - w_j (1 - h)^2), the last for j of element b.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.models.surroundings import Surroundings
from pyfit_gpu.sums import sum_first_axis


@dataclass(frozen=True, eq=False)
class _Part:
    """Contribution of the bonds to the neighbours of one element to all bonds."""

    strength: Tensor  # (n, B or 1), a
    preferred: Tensor  # (n, B or 1), h
    weights: Tensor  # (n, B), w; 0 for neighbours of other elements
    moments: Tensor  # (9, n, 1), Q and q
    linear: Tensor  # (n, B), q . u
    total: Tensor  # (n, 1), W
    values: Tensor  # (n, B), the contribution over a


@dataclass(frozen=True, eq=False)
class BondAngles:
    """Sums z over bonds at an angle for the bonds of some atoms, by one member's parameters."""

    around: Surroundings
    bonds: Tensor  # (n, B), z
    _parts: tuple[_Part, ...]  # by element of the neighbour k

    @classmethod
    def of(cls, around: Surroundings, weights: Tensor, strength: Tensor, preferred: Tensor) -> BondAngles:
        """Sum over the bonds.

        Args:
            weights: (n, B), w; zero where there is no bond.
            strength: (n, S, S), a for the elements of j and k.
            preferred: (n, S, S), h, likewise.
        """
        parts = [
            _part(around, b, weights, around.of_bonds(strength[:, :, b]), around.of_bonds(preferred[:, :, b]))
            for b in range(around.n_elements)
        ]
        whole = sum_first_axis(torch.stack([part.strength * part.values for part in parts]))
        return cls(around, whole, tuple(parts))

    def vjp(self, grad: Tensor, *, vectors: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Derivatives with respect to weights (n, B), a and h (n, S, S), and the bonds' unit vectors (3, n, B).

        The component of the last along the unit vectors means nothing.

        Args:
            grad: (n, B), dE/dz.
            vectors: whether the last is wanted; else it is zero.
        """
        unit = self.around.bonds.unit
        grad_weights, grad_unit = torch.zeros_like(grad), torch.zeros_like(unit)
        grad_strength, grad_preferred = [], []
        for element, part in enumerate(self._parts):
            own, h = grad * part.strength, part.preferred
            grad_strength.append(self.around.to_elements(grad * part.values))
            slope = h * part.total - part.linear + part.weights * (1 - h)
            grad_preferred.append(self.around.to_elements(2 * own * slope))
            # The same sums from the side of k.
            moments = self.around.bonds.moments(own, own * h)
            square, linear = self.around.bonds.of_moments(moments)
            total = (own * h.square()).sum(dim=-1, keepdim=True)
            grad_weights += _only(self.around, element, square - 2 * linear + total - own * (1 - h).square())
            if vectors:
                pulled = self.around.bonds.turned(moments[:6]) - moments[6:]
                turned = self.around.bonds.turned(part.moments[:6]) - h * part.moments[6:]
                grad_unit += 2 * (part.weights * pulled + own * turned)
        return grad_weights, torch.stack(grad_strength, dim=2), torch.stack(grad_preferred, dim=2), grad_unit


def _part(around: Surroundings, element: int, weights: Tensor, strength: Tensor, preferred: Tensor) -> _Part:
    weights = _only(around, element, weights)
    moments = around.bonds.moments(weights, weights)
    square, linear = around.bonds.of_moments(moments)
    total = weights.sum(dim=-1, keepdim=True)
    values = square - 2 * preferred * linear + preferred.square() * total - weights * (1 - preferred).square()
    return _Part(strength, preferred, weights, moments, linear, total, values)


def _only(around: Surroundings, element: int, of_bonds: Tensor) -> Tensor:
    """The same values (n, B), zero for neighbours of other elements."""
    return of_bonds if around.bonds.kind is None else torch.where(around.bonds.kind == element, of_bonds, 0.0)
