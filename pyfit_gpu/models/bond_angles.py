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
            polynomials = self.around.bonds.polynomials
            moments = _weighted(polynomials, own, own * h).sum(dim=-1, keepdim=True)
            square, linear = _parts_of(polynomials * moments)
            total = (own * h.square()).sum(dim=-1, keepdim=True)
            grad_weights += _only(self.around, element, square - 2 * linear + total - own * (1 - h).square())
            if vectors:
                pulled = self.around.bonds.turned(moments[:6]) - moments[6:]
                turned = self.around.bonds.turned(part.moments[:6]) - h * part.moments[6:]
                grad_unit += 2 * (part.weights * pulled + own * turned)
        return grad_weights, torch.stack(grad_strength, dim=2), torch.stack(grad_preferred, dim=2), grad_unit

    def change(self, of_unit: Tensor, of_weights: Tensor, of_strength: Tensor, of_preferred: Tensor) -> AngleChange:
        """How the sums change, to first order.

        Args:
            of_unit: (3, n, B), the change of the unit vectors, and likewise those of the arguments of `of`.
        """
        around = self.around
        of_polynomials = around.bonds.polynomials_change(of_unit)
        parts = [
            _part_change(
                around, b, part, of_polynomials, of_weights,
                around.of_bonds(of_strength[:, :, b]), around.of_bonds(of_preferred[:, :, b]),
            )
            for b, part in enumerate(self._parts)
        ]  # fmt: skip
        whole = sum_first_axis(
            torch.stack([
                moved.strength * part.values + part.strength * moved.values
                for moved, part in zip(parts, self._parts, strict=True)
            ])
        )  # fmt: skip
        return AngleChange(self, whole, of_polynomials, tuple(parts))


@dataclass(frozen=True, eq=False)
class AngleChange:
    """How the sums over bonds at an angle change while what they depend on does."""

    of: BondAngles
    bonds: Tensor  # (n, B), of z
    _polynomials: Tensor  # (9, n, B), of those of the bonds
    _parts: tuple[_Part, ...]  # of those of the sums

    def vjp(self, grad: Tensor, change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Changes of the first three of `BondAngles.vjp`, while dE/dz, `grad` (n, B), changes too."""
        around, of_polynomials = self.of.around, self._polynomials
        polynomials = around.bonds.polynomials
        of_weights, of_strength, of_preferred = torch.zeros_like(grad), [], []
        for element, (part, moved) in enumerate(zip(self.of._parts, self._parts, strict=True)):
            own, of_own = grad * part.strength, change * part.strength + grad * moved.strength
            h, of_h, rest = part.preferred, moved.preferred, 1 - part.preferred
            of_strength.append(around.to_elements(change * part.values + grad * moved.values))
            slope = h * part.total - part.linear + part.weights * rest
            of_slope = of_h * (part.total - part.weights) + h * moved.total - moved.linear + moved.weights * rest
            of_preferred.append(around.to_elements(2 * (of_own * slope + own * of_slope)))
            across, of_across = own * h, of_own * h + own * of_h
            moments = _weighted(polynomials, own, across).sum(dim=-1, keepdim=True)
            of_moments = _weighted(polynomials, of_own, of_across) + _weighted(of_polynomials, own, across)
            of_moments = of_moments.sum(dim=-1, keepdim=True)
            square, linear = _parts_of((polynomials * of_moments).addcmul_(of_polynomials, moments))
            total = (of_across * h + across * of_h).sum(dim=-1, keepdim=True)
            by_weight = square - 2 * linear + total + rest * (2 * own * of_h - of_own * rest)
            of_weights += _only(around, element, by_weight)
        return of_weights, torch.stack(of_strength, dim=2), torch.stack(of_preferred, dim=2)


def _part(around: Surroundings, element: int, weights: Tensor, strength: Tensor, preferred: Tensor) -> _Part:
    weights = _only(around, element, weights)
    polynomials = around.bonds.polynomials
    moments = (polynomials * weights).sum(dim=-1, keepdim=True)
    square, linear = _parts_of(polynomials * moments)
    total = weights.sum(dim=-1, keepdim=True)
    values = square - 2 * preferred * linear + preferred.square() * total - weights * (1 - preferred).square()
    return _Part(strength, preferred, weights, moments, linear, total, values)


def _part_change(
    around: Surroundings,
    element: int,
    part: _Part,
    of_polynomials: Tensor,
    weights: Tensor,
    strength: Tensor,
    preferred: Tensor,
) -> _Part:
    """The change of a part, from those of what it is made of."""
    polynomials, h = around.bonds.polynomials, part.preferred
    weights = _only(around, element, weights)
    moments = (polynomials * weights).addcmul_(of_polynomials, part.weights).sum(dim=-1, keepdim=True)
    square, linear = _parts_of((polynomials * moments).addcmul_(of_polynomials, part.moments))
    total = weights.sum(dim=-1, keepdim=True)
    rest = 1 - h
    values = square - 2 * (preferred * part.linear + h * linear) + h * (2 * preferred * part.total + h * total)
    values += rest * (2 * part.weights * preferred - weights * rest)
    return _Part(strength, preferred, weights, moments, linear, total, values)


def _weighted(polynomials: Tensor, of_squares: Tensor, of_components: Tensor) -> Tensor:
    """(9, n, B): the polynomials with weights (n, B) for products of two components, and others for components."""
    return torch.cat((polynomials[:6] * of_squares, polynomials[6:] * of_components))


def _parts_of(products: Tensor) -> tuple[Tensor, Tensor]:
    """u . Q u and q . u, (n, B) each, from the products (9, n, B) of polynomials and moments."""
    xx, yy, zz, yz, xz, xy, x, y, z = products.unbind()
    return xx + yy + zz + 2 * (yz + xz + xy), x + y + z


def _only(around: Surroundings, element: int, of_bonds: Tensor) -> Tensor:
    """The same values (n, B), zero for neighbours of other elements."""
    return of_bonds if around.bonds.kind is None else torch.where(around.bonds.kind == element, of_bonds, 0.0)
