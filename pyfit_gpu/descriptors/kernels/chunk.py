"""A chunk of atoms whose features' derivatives are computed by fused kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from torch import Tensor

from pyfit_gpu.descriptors.basis import Basis
from pyfit_gpu.descriptors.kernels.expansion import FusedExpansion
from pyfit_gpu.descriptors.kernels.pairs import PaddedPairs
from pyfit_gpu.fused import current


@dataclass(frozen=True, eq=False)
class FusedChunk:
    """Derivatives as those of `Chunk`, in the same layout. The sums over neighbours are kept, and nothing else."""

    expansion: FusedExpansion
    pairs: PaddedPairs

    @classmethod
    def of(cls, basis: Basis, pairs: Tensor, vectors: Tensor, kinds: Tensor | None) -> FusedChunk:
        """Describe a chunk.

        Args:
            pairs: (n, K) int64, numbers of each atom's pairs, which follow one another, then dummies len(vectors).
            vectors: (all pairs, 3) Å.
            kinds: (all pairs,) uint8, element of each neighbour; None: there is one element.
        """
        return cls(_expansion_of(basis), PaddedPairs.of(pairs, vectors, kinds))

    @cached_property
    def _sums(self) -> Tensor:
        return self.expansion.sums(self.pairs)

    def vjp(self, grad: Tensor) -> Tensor:
        """(n, 3, K) eV/Å: dE/dv of every pair, for `grad` = dE/dG (n, n_features)."""
        with current(grad.device):
            return self.expansion.vjp(self.pairs, grad, self._sums)

    def jvp(self, tangent: Tensor) -> Tensor:
        """(n, n_features): JVP of G along `tangent` (n, 3, K), a change of every pair's vector."""
        with current(tangent.device):
            return self.expansion.jvp(self.pairs, tangent, self._sums)

    def jacobian(self) -> Tensor:
        """(n, n_features, 3, K) 1/Å: dG/dv of every pair; zero for dummy pairs."""
        with current(self.pairs.vectors.device):
            return self.expansion.jacobian(self.pairs, self._sums)


_expansion_of = lru_cache(maxsize=16)(FusedExpansion)  # its tables come from the host
