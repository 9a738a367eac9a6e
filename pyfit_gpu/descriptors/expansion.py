"""The neighbour density of atoms in radial and angular functions, its invariants G, and their exact derivatives.

    A^a_lm,n = sum_{j of a} Y_lm(u_ij) f_n(r_ij)          Y: rows of harmonics.py, u: the unit vector
    G^ab_ln  = (2 - delta_ab) / N_n sum_m w_lm A^a_lm,n A^b_lm,n

Everything is done for a chunk of atoms with equal padded neighbour counts: sums over neighbours are then batched
matrix products, and rows of pairs stay in cache. A dummy pair in a padded place stands at the cutoff, where f and f'
are exactly zero, so nothing else needs a mask.

On a CPU an atom has the same bits whichever other atoms are in the chunk. Libraries choose how to multiply small
matrices by their shapes, strides and addresses (MKL by the address of the result modulo 64 bytes on some processors,
by that of the factors on others), so none of these may depend on the chunk: rows of pairs, which lie one after the
other for all atoms, are copied to blocks, a matrix for each atom; every matrix begins at a multiple of 64 bytes; and
the numbers of rows and columns are padded until the next one does as well (`padded`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pyfit_gpu.descriptors.basis import WIDTH_STEP, padded
from pyfit_gpu.descriptors.couplings import FourBody
from pyfit_gpu.descriptors.cross_terms import add_grad_of_product, derivative_of_product, sum_of_products
from pyfit_gpu.descriptors.harmonics import angular_jvp, angular_vjp, rows_of_orders
from pyfit_gpu.descriptors.pair_functions import PairFunctions
from pyfit_gpu.parallel import lazy
from pyfit_gpu.sums import sum_first_axis


class Chunk(PairFunctions):
    """Chunk of n atoms with K places for neighbours each. Everything computed from it is cached."""

    def fresh(self) -> Chunk:
        """The same chunk with nothing cached."""
        return Chunk(self.basis, self.atoms, self.pairs, self._all_vectors, self._all_kinds)

    def part(self, rows: Tensor) -> Chunk:
        """A chunk of some of the atoms, `rows` (n',) int64, with nothing cached."""
        return Chunk(self.basis, self.atoms[rows], self.pairs[rows], self._all_vectors, self._all_kinds)

    @lazy
    def _radial_by_kind(self) -> list[Tensor]:
        return self._radial_blocks(self._radial)

    @lazy
    def _sums(self) -> list[Tensor]:
        """A^a for each element, (n, padded n_angular, padded n_r0)."""
        return [torch.bmm(self._angular, radial.transpose(1, 2)) for radial in self._radial_by_kind]

    @lazy
    def _four_body(self) -> FourBody | None:
        basis = self.basis
        return FourBody(basis.couplings, basis.radii, self._sums) if basis.triples else None

    def raw(self) -> Tensor:
        """(n, n_features): G."""
        return self._features([(self._sums, self._sums)], None if self._four_body is None else self._four_body.raw())

    def _features(
        self, factors: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]], four_body: Tensor | None
    ) -> Tensor:
        """(n, n_features) from sums over products of two A, each given by element, and from the four-body terms."""
        basis, n, n_orders = self.basis, len(self.atoms), len(self.basis.legendre_orders)
        whole = self._sums[0].new_empty(n, basis.n_features)
        shape = (len(basis.blocks), n_orders, basis.radial_products[-1].stop)
        result = whole[:, : basis.n_pair_features].unflatten(1, shape)
        coefficients = basis.padded_coefficients.expand(n, -1, -1)
        for k, (own, norm) in enumerate(zip(basis.radial_products, basis.radial_norms, strict=True)):
            for block, (a, b) in zip(result.unbind(1), basis.blocks, strict=True):
                pairs = [(x[a], y[b]) for x, y in factors]
                if k and a != b:
                    pairs += [(x[b], y[a]) for x, y in factors]
                copies = 2 if k == 0 and a != b else 1
                sums = torch.bmm(coefficients, sum_of_products(pairs, k))[:, :n_orders, : len(norm)]
                torch.div(sums, norm / copies, out=block[:, :, own])
        if four_body is not None:
            whole[:, basis.n_pair_features :].unflatten(1, four_body.shape[1:]).copy_(four_body)
        return whole

    def vjp(self, grad: Tensor) -> Tensor:
        """(n, 3, K) eV/Å: dE/dv with respect to every pair's vector v, for `grad` = dE/dG (n, n_features)."""
        basis, (n, width) = self.basis, self.pairs.shape
        angular = self._angular
        along = angular.new_zeros(n, width)  # dE/dr
        grad_angular = angular.new_empty(n, angular.shape[1], width)
        for kind, grad_sums in enumerate(self._grad_sums(grad)):
            grad_radial = torch.bmm(grad_sums.transpose(1, 2), angular)[:, : basis.n_centers].transpose(0, 1)
            moved = sum_first_axis(grad_radial * self._radial_derivative)
            mask = self._mask(kind)
            along += moved if mask is None else moved * mask
            grad_angular.baddbmm_(grad_sums, self._radial_by_kind[kind], beta=min(kind, 1))
        rows = grad_angular[:, : basis.n_angular].transpose(0, 1).reshape(basis.n_angular, -1)
        unit, inverse = self._unit
        grad_unit = angular_vjp(unit, basis.legendre_orders, rows).mul_(inverse)
        # Project out the radial component: a unit vector cannot move along itself.
        outward = sum_first_axis(grad_unit * unit)
        grad_unit.addcmul_(unit, along.view(-1) - outward)
        return grad_unit.view(3, *self.pairs.shape).transpose(0, 1)

    def _grad_sums(self, grad: Tensor) -> list[Tensor]:
        """dE/dA^a for each element, (n, padded n_angular, padded n_r0)."""
        basis, n_orders = self.basis, len(self.basis.legendre_orders)
        shape = (len(basis.blocks), n_orders, basis.radial_products[-1].stop)
        pairs = grad[:, : basis.n_pair_features].unflatten(1, shape).transpose(0, 1)
        result: dict[int, Tensor] = {}
        for (a, b), spread in zip(basis.blocks, self._spread(pairs[..., : basis.n_centers], 0), strict=True):
            for moved, other in _moved_and_other(a, b):
                product = spread * self._sums[other]
                result[moved] = result[moved] + product if moved in result else product
        for k in range(1, basis.cross_terms + 1):
            for (a, b), spread in zip(basis.blocks, self._spread(pairs[..., basis.radial_products[k]], k), strict=True):
                for x, y in _moved_and_other(a, b):
                    add_grad_of_product(self._sums[x], self._sums[y], (result[x], result[y]), spread, k)
        by_element = [result[element] for element in range(basis.n_elements)]
        if self._four_body is not None:
            shape = (-1, len(basis.triples), basis.n_centers)
            self._four_body.add_grad(grad[:, basis.n_pair_features :].unflatten(1, shape), by_element)
        return by_element

    def _spread(self, grad: Tensor, k: int) -> Iterator[Tensor]:
        """Yield w dE/dG / N for each row, (n, padded n_angular, padded n_r0), of each block of `grad`."""
        basis = self.basis
        by_block = grad * ((1 if k else 2) / basis.radial_norms[k])
        columns, rows = len(basis.padded_norm), len(basis.padded_coefficients)
        padding = (0, columns - grad.shape[-1], 0, rows - grad.shape[-2])
        if grad.device.type == "cpu" or any(padding):
            by_block = torch.nn.functional.pad(by_block, padding).contiguous()
        coefficients = basis.padded_coefficients.T.expand(len(self.atoms), -1, -1)
        for own in by_block:
            yield torch.bmm(coefficients, own)

    def jvp(self, tangent: Tensor) -> Tensor:
        """(n, n_features): JVP of G along `tangent` (n, 3, K), a change of every pair's vector."""
        moves = tangent.transpose(0, 1).reshape(3, -1)
        unit, inverse = self._unit
        along = (unit * moves).sum(dim=0)  # dr
        unit_tangent = (moves - unit * along).mul_(inverse)
        turned = self._blocks(self._rows_of(angular_jvp, unit_tangent), self.basis.padded_angular)
        radial = self._radial_blocks(self._radial_derivative * along.view(self.pairs.shape))
        sums = [
            torch.bmm(self._angular, moved.transpose(1, 2)).add_(torch.bmm(turned, still.transpose(1, 2)))
            for moved, still in zip(radial, self._radial_by_kind, strict=True)
        ]
        four_body = None if self._four_body is None else self._four_body.jvp(sums)
        return self._features([(sums, self._sums), (self._sums, sums)], four_body)

    def jacobian(self, *, pad: bool = False) -> Tensor:
        """(n, n_features, 3, K) 1/Å: dG/dv with respect to every pair's vector v; zero for dummy pairs.

        Args:
            pad: whether features of zeros fill up to what products need on a CPU.
        """
        n, n_features = len(self.atoms), self.basis.n_features
        n_padded = padded(n_features, self._radial, WIDTH_STEP) if pad else n_features
        whole = self._radial.new_empty(n, n_padded, 3, self.pairs.shape[1])
        whole[:, n_features:] = 0
        along_axes = self._along_axes()
        self._fill_pair_terms(whole[:, : self.basis.n_pair_features], *along_axes)
        if self._four_body is not None:
            self._fill_four_body(whole[:, self.basis.n_pair_features : n_features], *along_axes)
        return whole

    def _fill_pair_terms(self, out: Tensor, turned: Tensor, slopes: Tensor) -> None:
        """Fill the rows of products of two sums in the Jacobian, with what `_along_axes` gives."""
        basis = self.basis
        result = out.unflatten(1, (len(basis.blocks), len(basis.legendre_orders), -1))
        factors = [
            (2 * basis.padded_coefficients.sum(dim=0)[:, None] / basis.padded_norm) * sums for sums in self._sums
        ]
        for block, (a, b) in zip(result.unbind(1), basis.blocks, strict=True):
            for own, rows in zip(block.unbind(1), rows_of_orders(basis.legendre_orders), strict=True):
                # 2 w A / N
                moves = [(moved, factors[other][:, rows].permute(2, 0, 1)) for moved, other in _moved_and_other(a, b)]
                self._fill_pair_order(own, moves, rows, turned, slopes)

    def _fill_pair_order(
        self, out: Tensor, moves: Sequence[tuple[int, Tensor]], rows: slice, turned: Tensor, slopes: Tensor
    ) -> None:
        """Fill the rows of one block and order, from each element that moves and the factors of the other one."""
        basis, radial = self.basis, self._radial.transpose(0, 1)[:, :, None]
        parts: list[list[Tensor]] = [[] for _ in basis.radial_products]
        for moved, factor in moves:
            value, part = self._weighted(factor, rows, turned)
            mask = self._mask(moved)
            for k in range(basis.cross_terms, -1, -1):  # 0 last: it changes `part`
                own = derivative_of_product(value, part, radial, slopes, basis.radii, k)
                parts[k].append(own if mask is None else own * mask[:, None, None])
        for columns, (first, *others) in zip(basis.radial_products, parts, strict=True):
            out[:, columns] = first + others[0] if others else first

    def _fill_four_body(self, out: Tensor, turned: Tensor, slopes: Tensor) -> None:
        """Fill the rows of the four-body terms in the Jacobian, with what `_along_axes` gives."""
        assert self._four_body is not None
        radial = self._radial.transpose(0, 1)[:, :, None]
        result = out.unflatten(1, (-1, len(self.basis.triples), self.basis.n_centers)).zero_()
        for block, triple, moved, rows, factor in self._four_body.derivatives():
            value, part = self._weighted(factor.permute(2, 1, 0), rows, turned)
            own = derivative_of_product(value, part, radial, slopes, self.basis.radii, 0)
            mask = self._mask(moved)
            result[:, block, triple] += own if mask is None else own * mask[:, None, None]

    def _weighted(self, factor: Tensor, rows: slice, turned: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over some angular functions, (n, n_r0, K), and over their derivatives, (n, n_r0, 3, K).

        Args:
            factor: (n_r0, n, n_rows).
            turned: derivatives of all angular functions along each axis.
        """
        blocks = self._blocks(factor, len(self.basis.padded_norm))
        value, part = (torch.bmm(blocks, f[:, rows])[:, : self.basis.n_centers] for f in (self._angular, turned))
        return value, part.unflatten(2, (3, self.pairs.shape[1]))


def _moved_and_other(a: int, b: int) -> tuple[tuple[int, int], ...]:
    """Pairs (c, d) such that a moving neighbour of element c changes A^c, which multiplies A^d in G^ab."""
    return ((a, b),) if a == b else ((a, b), (b, a))
