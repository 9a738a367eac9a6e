"""Screening of bonds by the atoms around them, and its derivatives.

    S_ij = prod_k f_ijk,    f_ijk = 1 - fc(x) exp(-L x),    x = r_ik + r_jk - r_ij

with L the screening parameter of the elements of j and k. A factor can be zero or negative only where L < 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyfit_gpu.models.surroundings import Surroundings, on_cpu
from pyfit_gpu.parallel import lazy


@dataclass(frozen=True, eq=False)
class Screening:
    """Screening of the bonds of some atoms by one member's parameters."""

    around: Surroundings
    parameters: Tensor  # (n, S, S) 1/Å, L for the elements of j and k
    bonds: Tensor  # (n, B), S; 1 where nothing screens, also where there is no bond
    _against: Tensor  # (T,) 1/Å, -L of each triple
    _taken: Tensor  # (T,), fc(x) exp(-L x)
    _factors: Tensor  # (T,), f

    @classmethod
    def of(cls, around: Surroundings, parameters: Tensor) -> Screening:
        """Screen the bonds."""
        triples = around.triples
        against = around.of_triples(-parameters)
        taken = (against * triples.detour).exp_() * triples.smooth
        factors = 1 - taken
        products: Tensor = _Products.apply(factors, around)
        # A factor of exactly zero becomes a power of two so small that the product is zero beside any other number,
        # but the product over this factor still is the product of all others, to the last bit. There is one only where
        # a product is zero; a GPU is not waited for to find out.
        if not on_cpu(factors) or not bool(products.all()):
            factors = factors.masked_fill(factors == 0, 2.0 ** (-200 if factors.dtype == torch.float64 else -60))
            products = _Products.apply(factors, around)
        return cls(around, parameters, products.view(around.bonds.distance.shape), against, taken, factors)

    def vjp(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives with respect to the parameters, (n, S, S), and to x, (T,) eV/Å.

        Args:
            grad: (n, B), dE/dS.
        """
        # dE/dx = -dE/df d(fc exp(-L x))/dx, fc' / fc being the steepness.
        of_bonds = grad * self.bonds
        grad_detour = self.around.from_bonds(of_bonds).mul_(self._shares)
        grad_detour.mul_(self._against + self.around.triples.steepness).neg_()
        return self.grad_parameters(grad), grad_detour

    def grad_parameters(self, grad: Tensor) -> Tensor:
        """Derivatives with respect to the parameters alone, (n, S, S), from dE/dS (n, B): dS/dL = S x (1 - f) / f."""
        return self.around.to_pairs_of_elements(self._shares * self.around.triples.detour, grad * self.bonds)

    def change(self, of_parameters: Tensor, of_detours: Tensor) -> ScreeningChange:
        """How all this changes, to first order.

        Args:
            of_parameters: (n, S, S), the change of the parameters.
            of_detours: (T,) Å, that of x.
        """
        detour, shares = self.around.triples.detour, self._shares
        # dln(1 - f), and from it -dln f and the change of x (1 - f) / f.
        relative = (self._against + self.around.triples.steepness).mul_(of_detours)
        relative.addcmul_(self.around.of_triples(of_parameters), detour, value=-1)
        falling = relative.mul_(shares)
        of_bonds = self.around.sum_to_bonds(falling).mul_(self.bonds).neg_()
        slopes = falling.addcmul(falling, shares).mul_(detour).addcmul_(shares, of_detours)
        return ScreeningChange(self, of_bonds, slopes)

    @lazy
    def _shares(self) -> Tensor:
        """(T,): (1 - f) / f."""
        return self._taken / self._factors


@dataclass(frozen=True, eq=False)
class ScreeningChange:
    """How a screening changes while parameters and detours do."""

    of: Screening
    bonds: Tensor  # (n, B), of S
    _slopes: Tensor  # (T,) Å, of x (1 - f) / f

    def grad_parameters(self, grad: Tensor, change: Tensor) -> Tensor:
        """Change of `Screening.grad_parameters` (n, S, S), while dE/dS, `grad` (n, B), changes too."""
        of = self.of
        slopes = of._shares * of.around.triples.detour
        moved = of.around.to_pairs_of_elements(slopes, change * of.bonds + grad * self.bonds)
        return moved + of.around.to_pairs_of_elements(self._slopes, grad * of.bonds)


def detours_vjp(around: Surroundings, grad_detour: Tensor) -> Tensor:
    """(3, n, K): derivatives by the vectors from those by the detours x of the triples, (T,).

    r_jk depends on both vectors, r_ij and r_ik on one.
    """
    triples, bonds = around.triples, around.bonds
    outward = around.sum_to_bonds(grad_detour)
    # On a CPU products with few rows are three times as fast as with few columns.
    spring = around.scattered(grad_detour / triples.distance)
    ends = around.vectors.new_ones(len(spring), 4, spring.shape[2])
    ends[:, :3] = around.vectors.transpose(0, 1)
    starts = ends.gather(2, bonds.column[:, None].expand(-1, 4, -1))
    pulled = torch.bmm(starts, spring).transpose(0, 1)
    held = torch.bmm(ends, spring.transpose(1, 2)).transpose(0, 1)
    along = around.sum_to_neighbors(grad_detour)  # (n, K): dE/dr_ik
    whole = around.vectors * (pulled[3] + along / around.distances) - pulled[:3]
    of_bonds = bonds.unit * (held[3] * bonds.distance - outward) - held[:3]
    return whole.scatter_add_(2, bonds.column.expand(3, -1, -1), of_bonds)


class _Products(torch.autograd.Function):
    """Products of the factors of each bond, (T,) to (n B,); differentiable as often as wanted, as factors are not 0."""

    @staticmethod
    def forward(ctx: Any, factors: Tensor, around: Surroundings) -> Tensor:
        products = torch.segment_reduce(factors, "prod", lengths=around.triples.counts, unsafe=True)
        ctx.save_for_backward(factors, products)
        ctx.around = around
        return products

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        factors, products = ctx.saved_tensors
        return ctx.around.from_bonds(grad * products) / factors, None
