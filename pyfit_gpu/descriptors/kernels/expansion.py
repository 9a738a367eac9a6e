"""The expansion of expansion.py by fused kernels: sums over neighbours, features and their derivatives.

A few launches for any number of atoms, and nothing is padded. Pairs lie as the neighbour search gives them; pieces of
atoms that follow one another bound the memory.
"""

from __future__ import annotations

from functools import cached_property
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from pyfit_gpu.descriptors.basis import Basis
from pyfit_gpu.descriptors.couplings import triples_of_elements
from pyfit_gpu.descriptors.kernels.invariants import features_source
from pyfit_gpu.descriptors.kernels.neighborhoods import elements_at_once, sums_source
from pyfit_gpu.descriptors.kernels.pairs import FlatPairs
from pyfit_gpu.descriptors.kernels.source import compiled

_WARP = 32  # threads


class FusedExpansion:
    """Features of atoms and their derivatives by kernels, for the basis of one device and dtype."""

    def __init__(self, basis: Basis) -> None:
        """Describe it; kernels are written when they are first used."""
        self.basis = basis
        self.width = 1 << (basis.n_centers - 1).bit_length()  # threads for the Gaussians of an atom, a power of two
        self.atoms = max(1, _WARP // self.width)  # of one program

    def sums(self, pairs: FlatPairs) -> Tensor:
        """(S, n_angular, n, n_r0): sums over the neighbours of each element, x of neighbourhoods.py."""
        basis, n = self.basis, len(pairs.atoms)
        group = elements_at_once(basis, pairs.vectors.itemsize)
        out = pairs.vectors.new_empty(basis.n_elements, basis.n_angular, n, basis.n_centers)
        kinds = pairs.vectors if pairs.kinds is None else pairs.kinds
        arguments = (pairs.vectors, kinds, pairs.first, self._table, out, pairs.atoms.start, n)
        self._launch(sums_source(basis, pairs.vectors.itemsize), n, -(-basis.n_elements // group), *arguments)
        return out

    def raw(self, pairs: FlatPairs, sums: Tensor | None = None) -> Tensor:
        """(n, n_features): G.

        Args:
            sums: of `sums`, where they are at hand.
        """
        n = len(pairs.atoms)
        sums = self.sums(pairs) if sums is None else sums
        out = sums.new_empty(n, self.basis.n_features)
        self._launch(features_source(self.basis), n, len(self._blocks[1]), sums, *self._blocks, out, n)
        return out

    def _launch(self, source: str, n_atoms: int, second: int, *arguments: Any) -> None:
        """Start a kernel whose threads have a Gaussian of an atom each, on a grid (programs, second)."""
        if n_atoms == 0:
            return
        grid = (-(-n_atoms // self.atoms), second)
        n_warps = max(1, self.width // _WARP)
        compiled(source)[grid](*arguments, ATOMS=self.atoms, WIDTH=self.width, num_warps=n_warps)

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
