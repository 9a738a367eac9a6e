"""The expansion of expansion.py by fused kernels: sums over neighbours, features and their derivatives.

A few launches for any number of atoms, of which none waits for the host. Pairs lie as the neighbour search gives them
(`FlatPairs`), and pieces of atoms that follow one another bound the memory; or they are those of a chunk
(`PaddedPairs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import combinations_with_replacement, permutations
from typing import Any

import torch
from torch import Tensor

from pyfit_gpu.descriptors.basis import Basis
from pyfit_gpu.descriptors.couplings import triples_of_elements
from pyfit_gpu.descriptors.kernels.cubic import Forms
from pyfit_gpu.descriptors.kernels.invariants import features_source, slopes_source, sums_gradient_source
from pyfit_gpu.descriptors.kernels.neighborhoods import elements_at_once, moved_sums_source, sums_source
from pyfit_gpu.descriptors.kernels.pairs import FlatPairs, Pairs
from pyfit_gpu.descriptors.kernels.source import compiled
from pyfit_gpu.descriptors.kernels.vectors import gradient_source, jacobian_source
from pyfit_gpu.fused import current
from pyfit_gpu.structures.neighbors import Neighbors

_WARP = 32  # threads
_GRADIENT_WARPS = 4  # of a program that has a thread for each pair
_JACOBIAN_WARPS = 8  # most warps of one that has a thread for each pair and Gaussian
_BYTES_OF_SUMS = 2**28  # of a piece of atoms, where nothing else decides (not measured)
# Kernels have a line or two for each sum of an element, and for each coefficient of the four-body terms.
_MOST_SUMS = 2048
_MOST_CENTERS = 64
_MOST_ENTRIES = 2048


class FusedExpansion:
    """Features of atoms and their derivatives by kernels, for the basis of one device and dtype.

    All functions take pairs of n atoms. Sums, which most of them need, are computed anew where they are not given.
    """

    def __init__(self, basis: Basis) -> None:
        """Describe it; kernels are written when they are first used, and compiled when they are first launched."""
        self.basis = basis
        self.width = 1 << (basis.n_centers - 1).bit_length()  # threads for the Gaussians of an atom, a power of two
        self.atoms = max(1, _WARP // self.width)  # of one program

    @staticmethod
    def suits(basis: Basis) -> bool:
        """Whether the kernels are short enough to be compiled in a reasonable time."""
        entries = sum(len(slope.entries) for slope in Forms.of(basis).slopes) if basis.n_sums <= _MOST_SUMS else 0
        return basis.n_sums <= _MOST_SUMS and basis.n_centers <= _MOST_CENTERS and entries <= _MOST_ENTRIES

    def sums(self, pairs: Pairs) -> Tensor:
        """(n, S, n_angular, n_r0): sums over the neighbours of each element, x of neighbourhoods.py."""
        out = self._empty_sums(pairs)
        self._over_neighbors(sums_source(self.basis), pairs, out)
        return out

    def raw(self, pairs: Pairs, sums: Tensor | None = None) -> Tensor:
        """(n, n_features): G."""
        sums = self.sums(pairs) if sums is None else sums
        out = sums.new_empty(len(pairs.starts), self.basis.n_features)
        self._over_atoms(features_source(self.basis), len(out), len(self._blocks[1]), sums, *self._blocks, out)
        return out

    def vjp(self, pairs: Pairs, grad: Tensor, sums: Tensor | None = None) -> Tensor:
        """(n_pairs, 3) or (n, 3, K) eV/Å: dE/dv of the pairs, for `grad` = dE/dG (n, n_features)."""
        sums = self.sums(pairs) if sums is None else sums
        by_sums = torch.empty_like(sums)
        arguments = (sums, grad.contiguous(), self._numbers, self._table, by_sums)
        self._over_atoms(sums_gradient_source(self.basis), len(grad), self.basis.n_elements, *arguments)
        out = sums.new_empty(pairs.shape)
        source, tile = gradient_source(self.basis, padded=pairs.padded), {"PLACES": _GRADIENT_WARPS * _WARP}
        self._over_pairs(source, pairs, (by_sums, self._table, out), tile, _GRADIENT_WARPS)
        return out

    def jvp(self, pairs: Pairs, tangent: Tensor, sums: Tensor | None = None) -> Tensor:
        """(n, n_features): JVP of G along `tangent`, a change of every pair's vector, shaped as `vjp` gives them."""
        sums = self.sums(pairs) if sums is None else sums
        moved, out = self._empty_sums(pairs), sums.new_empty(len(pairs.starts), self.basis.n_features)
        source = moved_sums_source(self.basis, padded=pairs.padded)
        self._over_neighbors(source, pairs, tangent.contiguous(), moved, pairs.last)
        source = features_source(self.basis, tangent=True)
        self._over_atoms(source, len(out), len(self._blocks[1]), sums, moved, *self._blocks, out)
        return out

    def jacobian(self, pairs: Pairs, sums: Tensor | None = None) -> Tensor:
        """(n_features, 3, n_pairs) or (n, n_features, 3, K) 1/Å: dG/dv of the pairs, zero for dummies."""
        sums = self.sums(pairs) if sums is None else sums
        slopes = self._slopes(sums)
        shape = pairs.shape_of_jacobian(self.basis.n_features)
        # Blocks without the element of the neighbour are not written.
        out = sums.new_zeros(shape) if self.basis.n_elements > 1 else sums.new_empty(shape)
        source, tile = jacobian_source(self.basis, padded=pairs.padded), {"PLACES": _WARP, "WIDTH": self.width}
        arguments = (sums, slopes, self._table, self._numbers, out)
        self._over_pairs(source, pairs, arguments, tile, min(self.width, _JACOBIAN_WARPS))
        return out

    def _slopes(self, sums: Tensor) -> Tensor:
        """(n, S (S + 1) / 2, slopes, n_r0): derivatives of the four-body terms, for each pair of other elements."""
        count = self.basis.n_elements
        n_others, forms = count * (count + 1) // 2, Forms.of(self.basis)
        out = sums.new_empty(len(sums), n_others, len(forms.slopes), self.basis.n_centers)
        if forms.slopes:
            # Elements b and c, and 1/2 if they are the same: that is what the blocks of two elements have, too.
            others = self._numbers[count * n_others :]
            self._over_atoms(slopes_source(self.basis), len(sums), n_others, sums, others, self._blocks[1], out)
        return out

    def _empty_sums(self, pairs: Pairs) -> Tensor:
        basis = self.basis
        return pairs.vectors.new_empty(len(pairs.starts), basis.n_elements, basis.n_angular, basis.n_centers)

    def _over_neighbors(self, source: str, pairs: Pairs, *arguments: Any) -> None:
        """Start a kernel whose threads go through the neighbours of an atom."""
        n, groups = len(pairs.starts), -(-self.basis.n_elements // elements_at_once(self.basis))
        of_pairs = (pairs.vectors, pairs.kinds_or_any, pairs.starts, pairs.ends)
        self._over_atoms(source, n, groups, *of_pairs, self._table, *arguments)

    def _over_atoms(self, source: str, n: int, second: int, *arguments: Any) -> None:
        """Start a kernel whose threads have a Gaussian of an atom each, on a grid (programs, second)."""
        grid, shape = (-(-n // self.atoms), second), {"ATOMS": self.atoms, "WIDTH": self.width}
        self._launch(source, grid, (*arguments, n), shape, max(1, self.width // _WARP))

    def _over_pairs(
        self, source: str, pairs: Pairs, arguments: Sequence[Any], tile: dict[str, int], n_warps: int
    ) -> None:
        """Start a kernel whose programs have a tile of pairs each."""
        own = (pairs.vectors, pairs.kinds_or_any, *pairs.where, *arguments, pairs.n_places)
        self._launch(source, (-(-pairs.n_places // tile["PLACES"]),), own, tile, n_warps)

    def _launch(
        self, source: str, grid: tuple[int, ...], arguments: Sequence[Any], shape: dict[str, int], n_warps: int
    ) -> None:
        # Multiplications and additions are fused: twice as many operations, and the last bits are no promise here.
        if grid[0]:
            with current(self.basis.norm.device):
                compiled(source)[grid](*arguments, **shape, num_warps=n_warps, enable_fp_fusion=True)

    def raw_of_all(self, neighbors: Neighbors, species: Tensor) -> Tensor:
        """(n, n_features): G of all atoms of a batch, in pieces that bound the memory. Nothing waits for a GPU.

        Args:
            species: (n_atoms,) int64, index of each atom's element.
        """
        basis, n = self.basis, len(neighbors.counts)
        pairs = FlatPairs.of(neighbors, species, basis.n_elements, derivatives=False)
        length = max(1, _BYTES_OF_SUMS // (basis.n_elements * basis.n_sums * basis.norm.itemsize))
        if n <= length:
            return self.raw(pairs)
        out = pairs.vectors.new_empty(n, basis.n_features)
        for start in range(0, n, length):
            piece = pairs.piece(range(start, min(start + length, n)), pairs.pairs)
            out[start : piece.atoms.stop] = self.raw(piece)
        return out

    @cached_property
    def _table(self) -> Tensor:
        """(2 n_r0,): the Gaussian centres in Å, and 1 / r0."""
        return torch.cat((self.basis.centers[:, 0], self.basis.radii.reciprocal()))

    @cached_property
    def _blocks(self) -> tuple[Tensor, Tensor]:
        """For each block of features its elements a, b and c, (n_blocks, 3) int32, and h or o / 6 of invariants.py."""
        pairs = [(a, b, 0) for a, b in self.basis.blocks]
        triples = triples_of_elements(self.basis.n_elements) if self.basis.triples else []
        factors = [0.5 if a == b else 1.0 for a, b, _ in pairs] + [len(set(permutations(own))) / 6 for own in triples]
        device = self.basis.norm.device
        elements = torch.tensor(pairs + triples, dtype=torch.int32, device=device)
        return elements, torch.tensor(factors, dtype=self.basis.norm.dtype, device=device)

    @cached_property
    def _numbers(self) -> Tensor:
        """int32: for each element a and each b <= c the number of the block of three elements, then all b and c."""
        elements = range(self.basis.n_elements)
        others = list(combinations_with_replacement(elements, 2))
        blocks = {block: number for number, block in enumerate(triples_of_elements(self.basis.n_elements))}
        numbers = [blocks[tuple(sorted((a, *own)))] for a in elements for own in others]  # type: ignore[index]
        both = [element for own in others for element in own]
        return torch.tensor(numbers + both, dtype=torch.int32, device=self.basis.norm.device)


@lru_cache(maxsize=16)
def expansion_of(basis: Basis) -> FusedExpansion:
    """The expansion of a basis, cached: its tables come from the host, which a loop over batches would wait for."""
    return FusedExpansion(basis)
