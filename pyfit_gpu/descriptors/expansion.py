"""The neighbour density of atoms in radial and angular functions, its invariants G, and their exact derivatives.

    A^a_lm,n = sum_{j of a} Y_lm(u_ij) f_n(r_ij)          Y: rows of harmonics.py, u: the unit vector
    G^ab_ln  = (2 - delta_ab) / N_n sum_m w_lm A^a_lm,n A^b_lm,n

Everything is done for a chunk of atoms with equal padded neighbour counts: sums over neighbours are then batched
matrix products, and rows of pairs stay in cache. A dummy pair in a padded place stands at the cutoff, where f and f'
are exactly zero, so nothing else needs a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from pyfit_gpu.descriptors.harmonics import (
    angular_pull_back,
    angular_push_forward,
    angular_rows,
    n_rows,
    pair_weights,
    rows_of_orders,
)


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
    weights: Tensor  # (n_l, n_angular) w_lm, zero where the row is of another order
    axes: Tensor  # (3, 3), the unit matrix
    zero: Tensor  # ()

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
        device: torch.device,
        dtype: torch.dtype,
    ) -> Basis:
        return cls(
            cutoff=cutoff,
            cutoff_width=cutoff_width,
            gaussian_width=gaussian_width,
            legendre_orders=tuple(legendre_orders),
            n_elements=n_elements,
            centers=torch.tensor(gaussian_centers, device=device, dtype=dtype)[:, None],
            norm=torch.tensor(norm, device=device, dtype=dtype),
            weights=pair_weights(legendre_orders, device=device, dtype=dtype),
            axes=torch.eye(3, device=device, dtype=dtype),
            zero=torch.zeros((), device=device, dtype=dtype),
        )

    @property
    def n_centers(self) -> int:
        return len(self.norm)

    @cached_property
    def blocks(self) -> list[tuple[int, int]]:
        """The elements a and b of each block of features."""
        return list(combinations_with_replacement(range(self.n_elements), 2))


class Chunk:
    """n atoms with K places for neighbours each."""

    def __init__(self, basis: Basis, atoms: Tensor, pairs: Tensor, vectors: Tensor, kinds: Tensor | None) -> None:
        """
        Args:
            atoms: (n,) int64, numbers of the atoms in the batch.
            pairs: (n, K) int64, numbers of the pairs; n_pairs is the dummy.
            vectors: (n_pairs, 3) Å, of all pairs.
            kinds: (n_pairs,) whole numbers, element of each pair's neighbour; None: there is one element.
        """
        self.basis = basis
        self.atoms = atoms
        self.pairs = pairs
        self._all_vectors = vectors
        self._all_kinds = kinds

    def fresh(self) -> Chunk:
        """The same without what was computed from it."""
        return Chunk(self.basis, self.atoms, self.pairs, self._all_vectors, self._all_kinds)

    @property
    def vectors(self) -> Tensor:
        """(n, 3, K) Å; of the dummy, any."""
        return self._components.view(3, *self.pairs.shape).transpose(0, 1)

    def _own(self, values: Tensor) -> Tensor:
        """(.., n K), of this chunk's pairs, from `values` (.., n_pairs) of all. The dummy has those of any pair."""
        if values.shape[-1] == 0:
            values = values.new_ones(*values.shape[:-1], 1)
        numbers = self.pairs.reshape(-1).clamp(max=values.shape[-1] - 1)
        return values.gather(-1, numbers.expand(*values.shape[:-1], -1))

    @cached_property
    def _components(self) -> Tensor:
        """(3, n K) Å, one row per component."""
        return self._own(self._all_vectors.T)

    @cached_property
    def _distance(self) -> Tensor:
        """(n K,) Å."""
        x, y, z = self._components
        distance = (x * x).addcmul_(y, y).addcmul_(z, z).sqrt_()
        return distance.masked_fill_(self.pairs.reshape(-1) == len(self._all_vectors), self.basis.cutoff)

    @cached_property
    def _unit(self) -> tuple[Tensor, Tensor]:
        """Unit vectors (3, n K) and the inverse distance (n K,)."""
        inverse = self._distance.reciprocal()
        return self._components * inverse, inverse

    @cached_property
    def _angular(self) -> Tensor:
        """(n_angular, n, K)."""
        return self._rows_of(angular_rows)

    def _rows_of(self, function: Callable[..., Tensor], *more: Tensor) -> Tensor:
        unit, orders = self._unit[0], self.basis.legendre_orders
        rows = unit.new_empty(n_rows(orders), unit.shape[1])
        return function(unit, orders, *more, out=rows).view(-1, *self.pairs.shape)

    @cached_property
    def _gaussians(self) -> Tensor:
        """(n_r0, n K), without the cutoff."""
        basis = self.basis
        offset = self._distance - basis.centers
        return torch.addcmul(basis.zero, offset, offset, value=-1 / basis.gaussian_width**2, out=offset).exp_()

    @cached_property
    def _to_cutoff(self) -> tuple[Tensor, Tensor, Tensor]:
        """x = r - rc, at most 0; x^4; x^4 + d^4: each (n K,)."""
        inside = (self._distance - self.basis.cutoff).clamp_(max=0.0)
        # Products, not pow: its last bit depends on where in the array a number stands.
        fourth = (inside * inside).square_()
        return inside, fourth, fourth + self.basis.cutoff_width**4

    @cached_property
    def _cutoff(self) -> Tensor:
        """(n K,): fc."""
        _, fourth, denominator = self._to_cutoff
        return fourth / denominator

    @cached_property
    def _radial(self) -> Tensor:
        """(n_r0, n, K)."""
        return (self._gaussians * self._cutoff).view(-1, *self.pairs.shape)

    @cached_property
    def _radial_derivative(self) -> Tensor:
        """(n_r0, n, K) 1/Å."""
        basis = self.basis
        inside, _, denominator = self._to_cutoff
        of_cutoff = (inside * inside).mul_(inside).mul_(4 * basis.cutoff_width**4).div_(denominator).div_(denominator)
        slope = (self._distance - basis.centers).mul_(self._cutoff * (-2 / basis.gaussian_width**2))
        return slope.add_(of_cutoff).mul_(self._gaussians).view(-1, *self.pairs.shape)

    @cached_property
    def _of_kind(self) -> Tensor | None:
        """(S, n, K) bool, whether the neighbour is of an element; None: there is one."""
        if self._all_kinds is None:
            return None
        elements = torch.arange(self.basis.n_elements, device=self.pairs.device, dtype=self._all_kinds.dtype)
        return elements[:, None, None] == self._own(self._all_kinds).view(self.pairs.shape)

    def _only(self, values: Tensor, kind: int) -> Tensor:
        """(.., n, K) for the neighbours of an element, zero for the others."""
        return values if self._of_kind is None else values * self._of_kind[kind]

    def _by_kind(self, values: Tensor) -> list[Tensor]:
        return [self._only(values, kind) for kind in range(self.basis.n_elements)]

    @cached_property
    def _radial_by_kind(self) -> list[Tensor]:
        return self._by_kind(self._radial)

    @cached_property
    def _sums(self) -> list[Tensor]:
        """A^a for each element, (n, n_angular, n_r0)."""
        angular = self._angular.transpose(0, 1)
        return [_product(angular, radial.permute(1, 2, 0)) for radial in self._radial_by_kind]

    def raw(self) -> Tensor:
        """(n, n_features): G."""
        return self._invariants([self._sums[a] * self._sums[b] for a, b in self.basis.blocks])

    def _invariants(self, products: Sequence[Tensor]) -> Tensor:
        """(n, n_features) from the products A^a A^b of each block, (n, n_angular, n_r0)."""
        basis, n = self.basis, len(self.atoms)
        result = products[0].new_empty(n, len(basis.blocks), len(basis.legendre_orders), basis.n_centers)
        weights = basis.weights.expand(n, -1, -1)
        for block, (a, b), product in zip(result.unbind(1), basis.blocks, products, strict=True):
            copies = 1 if a == b else 2
            torch.div(_product(weights, product), basis.norm / copies, out=block)
        return result.view(n, -1)

    def pull_back(self, grad: Tensor) -> Tensor:
        """(n, 3, K) eV/Å: dE/dv of every pair's vector v, for `grad` = dE/dG (n, n_features)."""
        n, width = self.pairs.shape
        angular = self._angular.transpose(0, 1)
        along = angular.new_zeros(n, width)  # dE/dr
        of_angular = angular.new_empty(n, angular.shape[1], width)
        for kind, of_sums in enumerate(self._grad_of_sums(grad)):
            of_radial = _product(of_sums.transpose(1, 2), angular).transpose(0, 1)  # (n_r0, n, K)
            along += self._only((of_radial * self._radial_derivative).sum(dim=0), kind)
            of_angular.baddbmm_(of_sums, self._radial_by_kind[kind].transpose(0, 1), beta=min(kind, 1))
        rows = of_angular.transpose(0, 1).reshape(angular.shape[1], -1)
        unit, inverse = self._unit
        of_unit = angular_pull_back(unit, self.basis.legendre_orders, rows).mul_(inverse)
        # What the unit vector cannot follow, its own direction, is taken out.
        outward = (of_unit * unit).sum(dim=0)
        of_unit.addcmul_(unit, along.view(-1) - outward)
        return of_unit.view(3, *self.pairs.shape).transpose(0, 1)

    def _grad_of_sums(self, grad: Tensor) -> list[Tensor]:
        """dE/dA^a for each element, (n, n_angular, n_r0)."""
        basis, n = self.basis, len(self.atoms)
        by_block = grad.view(n, len(basis.blocks), -1, basis.n_centers) * (2 / basis.norm)
        weights = basis.weights.T.expand(n, -1, -1)
        result: dict[int, Tensor] = {}
        for (a, b), own in zip(basis.blocks, by_block.unbind(1), strict=True):
            spread = _product(weights, own)  # (n, n_angular, n_r0)
            for moved, other in _moved_and_other(a, b):
                product = spread * self._sums[other]
                result[moved] = result[moved] + product if moved in result else product
        return [result[element] for element in range(basis.n_elements)]

    def push_forward(self, tangent: Tensor) -> Tensor:
        """(n, n_features): how fast G changes when every pair's vector moves by `tangent` (n, 3, K)."""
        moves = tangent.transpose(0, 1).reshape(3, -1)
        unit, inverse = self._unit
        along = (unit * moves).sum(dim=0)  # dr
        turn = (moves - unit * along).mul_(inverse)
        turned = self._rows_of(angular_push_forward, turn).transpose(0, 1)
        angular = self._angular.transpose(0, 1)
        radial = self._by_kind(self._radial_derivative * along.view(self.pairs.shape))
        sums = [
            _product(angular, moved.permute(1, 2, 0)).add_(_product(turned, still.permute(1, 2, 0)))
            for moved, still in zip(radial, self._radial_by_kind, strict=True)
        ]
        return self._invariants(
            [(sums[a] * self._sums[b]).addcmul_(self._sums[a], sums[b]) for a, b in self.basis.blocks]
        )

    def jacobian(self) -> Tensor:
        """(n, n_features, 3, K) 1/Å: dG/dv of every pair's vector v; zero for the dummy."""
        basis = self.basis
        n, width = self.pairs.shape
        radial, turned, slopes = self._radial.transpose(0, 1)[:, :, None], *self._along_axes()
        result = radial.new_empty(n, len(basis.blocks), len(basis.legendre_orders), basis.n_centers, 3, width)
        factors = [(2 * basis.weights.sum(dim=0)[:, None] / basis.norm) * sums for sums in self._sums]
        for block, (a, b) in zip(result.unbind(1), basis.blocks, strict=True):
            for number, rows in enumerate(rows_of_orders(basis.legendre_orders)):
                parts = []
                for moved, other in _moved_and_other(a, b):
                    factor = factors[other][:, rows].transpose(1, 2)  # (n, n_r0, 2 l + 1): 2 w A / N
                    value = _product(factor, self._angular[rows].transpose(0, 1))
                    part = _product(factor, turned[rows].transpose(0, 1)).view(n, -1, 3, width)
                    part.mul_(radial).addcmul_(value[:, :, None], slopes)
                    parts.append(part if self._of_kind is None else part * self._of_kind[moved][:, None, None])
                block[:, number] = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return result.view(n, -1, 3, width)

    def _along_axes(self) -> tuple[Tensor, Tensor]:
        """As v moves along each axis: changes of the angular functions (n_angular, n, 3 K), of f (n, n_r0, 3, K)."""
        n, width = self.pairs.shape
        unit, inverse = self._unit
        shaped = unit.view(3, n, 1, width).expand(-1, -1, 3, -1)
        own = unit.view(3, n, width).transpose(0, 1)  # (n, 3, K)
        turn = (self.basis.axes[:, None, :, None] - shaped * own).mul_(inverse.view(n, 1, width))
        rows = unit.new_empty(len(self._angular), 3 * unit.shape[1])
        angular_push_forward(shaped.reshape(3, -1), self.basis.legendre_orders, turn.reshape(3, -1), out=rows)
        return rows.view(-1, n, 3 * width), self._radial_derivative.transpose(0, 1)[:, :, None] * own[:, None]


def _product(left: Tensor, right: Tensor) -> Tensor:
    """(n, p, q) x (n, q, s) to (n, p, s).

    A single row or column, of one Gaussian centre, would be multiplied in a way that depends on n, which shows in the
    last bits. Two are not.
    """
    if right.shape[2] == 1:
        return torch.bmm(left, right.expand(-1, -1, 2))[:, :, :1]
    if left.shape[1] == 1:
        return torch.bmm(left.expand(-1, 2, -1), right)[:, :1]
    return torch.bmm(left, right)


def _moved_and_other(a: int, b: int) -> tuple[tuple[int, int], ...]:
    """A neighbour of element a moves A^a, which G^ab multiplies with A^b, and the other way round."""
    return ((a, b),) if a == b else ((a, b), (b, a))
