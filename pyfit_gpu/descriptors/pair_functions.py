"""Radial and angular functions of the pairs of a chunk of atoms, and their derivatives, each computed once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyfit_gpu.descriptors.basis import LINE, Basis
from pyfit_gpu.descriptors.harmonics import angular_jvp, angular_rows, n_rows
from pyfit_gpu.parallel import lazy


class PairFunctions:
    """Functions of n atoms with K places for neighbours each. Everything is cached."""

    def __init__(self, basis: Basis, atoms: Tensor, pairs: Tensor, vectors: Tensor, kinds: Tensor | None) -> None:
        """Describe them; nothing is computed yet.

        Args:
            atoms: (n,) int64, numbers of the atoms in the batch.
            pairs: (n, K) int64, numbers of the pairs; n_pairs is the dummy that pads.
            vectors: (n_pairs, 3) Å, of all pairs.
            kinds: (n_pairs,) whole numbers, element of each pair's neighbour; None: there is one element.
        """
        self.basis = basis
        self.atoms = atoms
        self.pairs = pairs
        self._all_vectors = vectors
        self._all_kinds = kinds

    @property
    def vectors(self) -> Tensor:
        """(n, 3, K) Å; entries of dummy pairs are arbitrary."""
        return self.components.transpose(0, 1)

    @property
    def components(self) -> Tensor:
        """(3, n, K) Å, the same, components first."""
        return self._components.view(3, *self.pairs.shape)

    @property
    def distances(self) -> Tensor:
        """(n, K) Å; dummy pairs stand at the cutoff."""
        return self._distance.view(self.pairs.shape)

    @property
    def all_vectors(self) -> Tensor:
        """(n_pairs, 3) Å, of all pairs that `pairs` may name."""
        return self._all_vectors

    @property
    def is_pair(self) -> Tensor:
        """(n, K) bool, False for dummy pairs."""
        return self.pairs < len(self._all_vectors)

    @lazy
    def kinds(self) -> Tensor | None:
        """(n, K) whole numbers, elements of the neighbours; None: there is one element. Arbitrary for dummy pairs."""
        return None if self._all_kinds is None else self._own(self._all_kinds).view(self.pairs.shape)

    def _own(self, values: Tensor) -> Tensor:
        """(.., n K) values of this chunk's pairs, from (.., n_pairs) of all. Entries of dummy pairs are arbitrary."""
        if values.shape[-1] == 0:
            values = values.new_ones(*values.shape[:-1], 1)
        numbers = self.pairs.reshape(-1).clamp(max=values.shape[-1] - 1)
        return values.gather(-1, numbers.expand(*values.shape[:-1], -1))

    @lazy
    def _components(self) -> Tensor:
        """(3, n K) Å, one row per component."""
        return self._own(self._all_vectors.T)

    @lazy
    def _distance(self) -> Tensor:
        """(n K,) Å."""
        x, y, z = self._components
        distance = (x * x).addcmul_(y, y).addcmul_(z, z).sqrt_()
        return distance.masked_fill_(self.pairs.reshape(-1) == len(self._all_vectors), self.basis.cutoff)

    @lazy
    def _unit(self) -> tuple[Tensor, Tensor]:
        """Unit vectors (3, n K) and the inverse distance (n K,)."""
        inverse = self._distance.reciprocal()
        return self._components * inverse, inverse

    @lazy
    def _angular(self) -> Tensor:
        """(n, padded n_angular, K)."""
        return self._blocks(self._rows_of(angular_rows), self.basis.padded_angular)

    def _blocks(self, rows: Tensor, n_padded: int, mask: Tensor | None = None) -> Tensor:
        """(n, n_padded, K), a matrix for each atom, from rows (n_rows, n, K) times a mask (n, K).

        On a CPU every matrix and every row in it begins at a multiple of 64 bytes, and rows of padding are zero. On a
        GPU, of which no bits are promised, the result is a view of the rows.
        """
        if rows.device.type != "cpu":
            return (rows if mask is None else rows * mask).transpose(0, 1)
        count, n, width = rows.shape
        line = LINE // rows.itemsize
        whole = rows.new_empty(n, n_padded, -(-width // line) * line)[:, :, :width]
        if mask is None:
            whole[:, :count] = rows.transpose(0, 1)
        else:
            torch.mul(rows.transpose(0, 1), mask[:, None], out=whole[:, :count])
        if n_padded > count:
            whole[:, count:] = 0
        return whole

    def _rows_of(self, function: Callable[..., Tensor], *more: Tensor) -> Tensor:
        unit, orders = self._unit[0], self.basis.legendre_orders
        rows = unit.new_empty(n_rows(orders), unit.shape[1])
        return function(unit, orders, *more, out=rows).view(-1, *self.pairs.shape)

    @lazy
    def _gaussians(self) -> Tensor:
        """(n_r0, n K), without the cutoff."""
        basis = self.basis
        offset = self._distance - basis.centers
        return torch.addcmul(basis.zero, offset, offset, value=-1 / basis.gaussian_width**2, out=offset).exp_()

    @lazy
    def _to_cutoff(self) -> tuple[Tensor, Tensor, Tensor]:
        """x = r - rc, at most 0; x^4; x^4 + d^4: each (n K,)."""
        inside = (self._distance - self.basis.cutoff).clamp_(max=0.0)
        # Products, not pow: its last bit depends on where in the array a number stands.
        fourth = (inside * inside).square_()
        return inside, fourth, fourth + self.basis.cutoff_width**4

    @lazy
    def _cutoff(self) -> Tensor:
        """(n K,): fc."""
        _, fourth, denominator = self._to_cutoff
        return fourth / denominator

    @lazy
    def _radial(self) -> Tensor:
        """(n_r0, n, K)."""
        return (self._gaussians * self._cutoff).view(-1, *self.pairs.shape)

    @lazy
    def _radial_derivative(self) -> Tensor:
        """(n_r0, n, K) 1/Å."""
        basis = self.basis
        inside, _, denominator = self._to_cutoff
        cutoff_slope = inside * inside
        cutoff_slope.mul_(inside).mul_(4 * basis.cutoff_width**4).div_(denominator).div_(denominator)
        slope = (self._distance - basis.centers).mul_(self._cutoff * (-2 / basis.gaussian_width**2))
        return slope.add_(cutoff_slope).mul_(self._gaussians).view(-1, *self.pairs.shape)

    @lazy
    def _masks(self) -> Tensor | None:
        """(S, n, K) bool, whether the neighbour is of each element; None: there is one element."""
        kinds = self.kinds
        if kinds is None:
            return None
        elements = torch.arange(self.basis.n_elements, device=self.pairs.device, dtype=kinds.dtype)
        return elements[:, None, None] == kinds

    def _mask(self, kind: int) -> Tensor | None:
        """(n, K) bool, whether the neighbour is of one element; None: all are."""
        return None if self._masks is None else self._masks[kind]

    def _radial_blocks(self, rows: Tensor) -> list[Tensor]:
        """Rows (n_r0, n, K) as blocks (n, padded n_r0, K) for each element, zero for neighbours of another one."""
        columns = len(self.basis.padded_norm)
        return [self._blocks(rows, columns, self._mask(kind)) for kind in range(self.basis.n_elements)]

    def _along_axes(self) -> tuple[Tensor, Tensor]:
        """Derivatives along each axis of v: of the angular functions (n, .., 3 K) as blocks, of f (n, n_r0, 3, K)."""
        n, width = self.pairs.shape
        unit, inverse = self._unit
        shaped = unit.view(3, n, 1, width).expand(-1, -1, 3, -1)
        own = unit.view(3, n, width).transpose(0, 1)  # (n, 3, K)
        tangent = (self.basis.axes[:, None, :, None] - shaped * own).mul_(inverse.view(n, 1, width))
        rows = unit.new_empty(self.basis.n_angular, 3 * unit.shape[1])
        angular_jvp(shaped.reshape(3, -1), self.basis.legendre_orders, tangent.reshape(3, -1), out=rows)
        turned = self._blocks(rows.view(-1, n, 3 * width), self.basis.padded_angular)
        return turned, self._radial_derivative.transpose(0, 1)[:, :, None] * own[:, None]
