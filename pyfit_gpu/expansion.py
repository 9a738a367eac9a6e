"""The neighbour density of atoms in radial and angular functions, its invariants G, and their exact derivatives.

    A^a_n,lm = sum_{j of a} f_n(r_ij) Y_lm(u_ij)          Y: rows of harmonics.py, u: the unit vector
    G^ab_ln  = (2 - delta_ab) / N_n sum_m w_lm A^a_n,lm A^b_n,lm

Everything is done for a chunk of atoms with equal padded neighbour counts: sums over neighbours are then batched
matrix products, and rows of pairs stay in cache. Padded places hold a dummy pair at the cutoff, where f and f' are
exactly zero, so nothing needs a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from pyfit_gpu.harmonics import angular_derivatives, angular_pull_back, angular_rows, n_rows, pair_weights


@dataclass(frozen=True, eq=False)
class Basis:
    """The functions of an expansion as tensors of one device and dtype."""

    cutoff: float  # Å
    cutoff_width: float  # Å
    gaussian_width: float  # Å
    legendre_orders: tuple[int, ...]
    n_elements: int
    centers: Tensor  # (n_r0, 1) Å
    norm: Tensor  # (n_r0,) N_n
    weights: Tensor  # (n_angular, n_l) w_lm, zero where the row is of another order
    first: Tensor  # (n_blocks,) int64, the elements a and b of each block of features
    second: Tensor  # (n_blocks,) int64
    block: Tensor  # (S, S) int64, the block of two elements in either order

    @classmethod
    def of(
        cls,
        *,
        cutoff: float,
        cutoff_width: float,
        gaussian_width: float,
        legendre_orders: Sequence[int],
        gaussian_centers: Sequence[float],
        norm: Sequence[float],
        n_elements: int,
        like: Tensor,
    ) -> Basis:
        first, second = torch.triu_indices(n_elements, n_elements, device=like.device)
        block = first.new_empty(n_elements, n_elements)
        block[first, second] = block[second, first] = torch.arange(len(first), device=like.device)
        return cls(
            cutoff=cutoff,
            cutoff_width=cutoff_width,
            gaussian_width=gaussian_width,
            legendre_orders=tuple(legendre_orders),
            n_elements=n_elements,
            centers=like.new_tensor(gaussian_centers)[:, None],
            norm=like.new_tensor(norm),
            weights=pair_weights(legendre_orders, device=like.device, dtype=like.dtype),
            first=first,
            second=second,
            block=block,
        )

    @property
    def n_centers(self) -> int:
        return len(self.norm)

    @property
    def n_blocks(self) -> int:
        return len(self.first)


class Chunk:
    """n atoms with K places for neighbours each."""

    def __init__(self, basis: Basis, atoms: Tensor, pairs: Tensor, components: Tensor, kinds: Tensor | None) -> None:
        """
        Args:
            atoms: (n,) int64, numbers of the atoms in the batch.
            pairs: (n, K) int64, numbers of the pairs; the last of all pairs is the dummy.
            components: (3, n_pairs + 1) Å, of all pairs, the dummy last.
            kinds: (n_pairs + 1,) int64, element of each pair's neighbour; None: there is one element.
        """
        self.basis = basis
        self.atoms = atoms
        self.pairs = pairs
        self._components = components
        self._kinds = kinds

    def fresh(self) -> Chunk:
        """The same without what was computed from it."""
        return Chunk(self.basis, self.atoms, self.pairs, self._components, self._kinds)

    @property
    def vectors(self) -> Tensor:
        """(n, 3, K) Å."""
        return self._components[:, self.pairs].transpose(0, 1)

    @cached_property
    def _unit(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Components of the unit vectors, distance and its inverse, each (n K,)."""
        flat = self.pairs.reshape(-1)
        x, y, z = (component[flat] for component in self._components)
        distance = (x * x + y * y + z * z).sqrt_()
        inverse = distance.reciprocal()
        return x * inverse, y * inverse, z * inverse, distance, inverse

    @cached_property
    def _angular(self) -> Tensor:
        """(n_angular, n, K)."""
        x, y, z, distance, _ = self._unit
        orders = self.basis.legendre_orders
        rows = distance.new_empty(n_rows(orders), len(distance))
        return angular_rows(x, y, z, orders, out=rows).view(-1, *self.pairs.shape)

    @cached_property
    def _gaussians(self) -> Tensor:
        """(n_r0, n K), without the cutoff."""
        basis, distance = self.basis, self._unit[3]
        return (distance - basis.centers).div_(basis.gaussian_width).square_().neg_().exp_()

    @cached_property
    def _cutoff(self) -> tuple[Tensor, Tensor]:
        """fc and its derivative, each (n K,)."""
        inside = (self._unit[3] - self.basis.cutoff).clamp_(max=0.0)
        # Products, not pow: its last bit depends on where in the array a number stands.
        square = inside * inside
        fourth, width = square * square, self.basis.cutoff_width**4
        denominator = fourth + width
        return fourth / denominator, (4 * width) * inside * square / (denominator * denominator)

    @cached_property
    def _radial(self) -> Tensor:
        """(n_r0, n, K)."""
        return (self._gaussians * self._cutoff[0]).view(-1, *self.pairs.shape)

    @cached_property
    def _radial_derivative(self) -> Tensor:
        """(n_r0, n, K) 1/Å."""
        value, derivative = self._cutoff
        slope = (self._unit[3] - self.basis.centers).mul_(-2 / self.basis.gaussian_width**2)
        return slope.mul_(value).add_(derivative).mul_(self._gaussians).view(-1, *self.pairs.shape)

    @cached_property
    def _of_kind(self) -> Tensor | None:
        """(S, n, K) bool, whether the neighbour is of an element; None: there is one."""
        if self._kinds is None:
            return None
        elements = torch.arange(self.basis.n_elements, device=self.pairs.device)
        return elements[:, None, None] == self._kinds[self.pairs]

    def _by_kind(self, radial: Tensor) -> Tensor:
        """(n_r0, n, K) to (n, S n_r0, K): the neighbours of each element, zero for the others."""
        if self._of_kind is None:
            return radial.permute(1, 0, 2)
        split = radial[None] * self._of_kind[:, None]  # (S, n_r0, n, K)
        return split.flatten(0, 1).permute(1, 0, 2)

    @cached_property
    def _radial_by_kind(self) -> Tensor:
        return self._by_kind(self._radial)

    @cached_property
    def _sums(self) -> Tensor:
        """(n, S, n_r0, n_angular): A."""
        sums = torch.bmm(self._radial_by_kind, self._angular.permute(1, 2, 0))
        return sums.view(len(self.atoms), self.basis.n_elements, self.basis.n_centers, -1)

    def raw(self) -> Tensor:
        """(n, n_features): G."""
        first, second = self.basis.first, self.basis.second
        return self._invariants(self._sums[:, first] * self._sums[:, second])

    def _invariants(self, products: Tensor) -> Tensor:
        """(n, n_features) from the products A^a A^b, (n, n_blocks, n_r0, n_angular)."""
        basis = self.basis
        copies = (1 + (basis.first != basis.second).to(products.dtype))[:, None, None]
        blocks = torch.matmul(products, basis.weights) * copies / basis.norm[:, None]
        return blocks.transpose(2, 3).reshape(len(self.atoms), -1)

    def pull_back(self, grad: Tensor) -> Tensor:
        """(n, 3, K) eV/Å: dE/dv of every pair's vector v, for `grad` = dE/dG (n, n_features)."""
        basis, sums = self.basis, self._sums
        n, width = self.pairs.shape
        by_block = grad.view(n, basis.n_blocks, len(basis.legendre_orders), basis.n_centers) / basis.norm
        spread = torch.matmul(by_block.transpose(2, 3), 2 * basis.weights.T)  # (n, n_blocks, n_r0, n_angular)
        of_sums = (spread[:, basis.block] * sums[:, None]).sum(dim=2)  # dE/dA
        of_sums = of_sums.flatten(1, 2)  # (n, S n_r0, n_angular)
        of_radial = torch.bmm(of_sums, self._angular.permute(1, 0, 2)).unflatten(1, (basis.n_elements, -1))
        if self._of_kind is None:
            of_radial = of_radial[:, 0]
        else:
            of_radial = (of_radial * self._of_kind.permute(1, 0, 2)[:, :, None]).sum(dim=1)
        of_angular = torch.bmm(of_sums.transpose(1, 2), self._radial_by_kind)  # (n, n_angular, K)
        along = (of_radial.permute(1, 0, 2) * self._radial_derivative).sum(dim=0)  # dE/dr
        rows = of_angular.permute(1, 0, 2).reshape(-1, n * width)
        x, y, z, _, inverse = self._unit
        of_unit = angular_pull_back(x, y, z, basis.legendre_orders, rows)
        # What the unit vector cannot follow, its own direction, is taken out.
        outward = x * of_unit[0] + y * of_unit[1] + z * of_unit[2]
        along = along.view(-1) - outward * inverse
        parts = [(g * inverse + u * along).view(n, width) for g, u in zip(of_unit, (x, y, z), strict=True)]
        return torch.stack(parts, dim=1)

    def push_forward(self, tangent: Tensor) -> Tensor:
        """(n, n_features): how fast G changes when every pair's vector moves by `tangent` (n, 3, K)."""
        moves = tangent.transpose(0, 1).reshape(3, -1)
        *unit, _, inverse = self._unit
        along = sum(u * move for u, move in zip(unit, moves, strict=True))  # dr
        turns = [((move - u * along) * inverse).view(self.pairs.shape) for u, move in zip(unit, moves, strict=True)]
        angular = sum(d * turn for d, turn in zip(self._angular_derivatives, turns, strict=True))
        radial = self._by_kind(self._radial_derivative * along.view(self.pairs.shape))
        sums = torch.bmm(radial, self._angular.permute(1, 2, 0))
        sums = sums.baddbmm_(self._radial_by_kind, angular.permute(1, 2, 0)).view_as(self._sums)
        first, second = self.basis.first, self.basis.second
        return self._invariants(sums[:, first] * self._sums[:, second] + self._sums[:, first] * sums[:, second])

    @cached_property
    def _angular_derivatives(self) -> Tensor:
        """(3, n_angular, n, K): of the rows with respect to the components of the unit vector."""
        x, y, z, _, _ = self._unit
        return angular_derivatives(x, y, z, self.basis.legendre_orders).unflatten(-1, self.pairs.shape)

    def jacobian(self) -> Tensor:
        """(n, n_features, 3, K) 1/Å: dG/dv of every pair's vector v; zero for the dummy."""
        basis, sums = self.basis, self._sums
        n, width = self.pairs.shape
        x, y, z, _, inverse = (row.view(n, width) for row in self._unit)
        unit = torch.stack((x, y, z))  # (3, n, K)
        of_unit = self._angular_derivatives
        outward = (of_unit * unit[:, None]).sum(dim=0)  # (n_angular, n, K)
        angular = [self._angular, *((of_unit[k] - outward * unit[k]) * inverse for k in range(3))]
        slopes = [(self._radial_derivative * unit[k]).permute(1, 0, 2)[:, None] for k in range(3)]
        radial = self._radial.permute(1, 0, 2)[:, None]  # (n, 1, n_r0, K)
        result = sums.new_zeros(n, basis.n_blocks, len(basis.legendre_orders), basis.n_centers, 3, width)
        for number, (a, b) in enumerate(combinations_with_replacement(range(basis.n_elements), 2)):
            # A neighbour of element a moves A^a, which G^ab multiplies with A^b, and the other way round.
            for moved, other in ((a, b),) if a == b else ((a, b), (b, a)):
                # (n, n_l, n_r0, n_angular): 2 w A / N
                factor = 2 * basis.weights.T[:, None] * (sums[:, other] / basis.norm[:, None])[:, None]
                value, *derivatives = (
                    torch.bmm(factor.flatten(1, 2), row.permute(1, 0, 2)).view(n, -1, basis.n_centers, width)
                    for row in angular
                )
                if self._of_kind is not None:
                    chosen = self._of_kind[moved][:, None, None]
                    value, derivatives = value * chosen, [derivative * chosen for derivative in derivatives]
                for k in range(3):
                    result[:, number, :, :, k].addcmul_(value, slopes[k]).addcmul_(derivatives[k], radial)
        return result.view(n, -1, 3, width)
