"""A chunk of atoms whose features and derivatives come from fused kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from pyfit_gpu.descriptors.basis import Basis
from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.descriptors.kernels.expansion import expansion_of
from pyfit_gpu.descriptors.kernels.pairs import PaddedPairs
from pyfit_gpu.fused import by_kernels
from pyfit_gpu.parallel import lazy


class FusedChunk(Chunk):
    """Chunk by kernels, which read the pairs' vectors and pad nothing but what they give. It has the shapes of `Chunk`.

    A kernel that cannot be compiled leaves the work to torch's operations.
    """

    def __init__(
        self,
        basis: Basis,
        atoms: Tensor,
        pairs: Tensor,
        vectors: Tensor,
        kinds: Tensor | None,
        places: PaddedPairs | None = None,
    ) -> None:
        """Describe it, as `Chunk`.

        Args:
            places: the pairs as kernels take them, where they are at hand.
        """
        super().__init__(basis, atoms, pairs, vectors, kinds)
        self._places = places or PaddedPairs.of(pairs, vectors, kinds)
        self._expansion = expansion_of(basis)

    def fresh(self) -> FusedChunk:
        return FusedChunk(self.basis, self.atoms, self.pairs, self._all_vectors, self._all_kinds, self._places)

    def part(self, rows: Tensor) -> FusedChunk:
        return FusedChunk(self.basis, self.atoms[rows], self.pairs[rows], self._all_vectors, self._all_kinds)

    @lazy
    def _fused_sums(self) -> Tensor:
        return self._expansion.sums(self._places)

    def raw(self) -> Tensor:
        return self._either(lambda: self._expansion.raw(self._places, self._fused_sums), super().raw)

    def vjp(self, grad: Tensor) -> Tensor:
        fused = lambda: self._expansion.vjp(self._places, grad, self._fused_sums)  # noqa: E731
        return self._either(fused, partial(super().vjp, grad))

    def jvp(self, tangent: Tensor) -> Tensor:
        fused = lambda: self._expansion.jvp(self._places, tangent, self._fused_sums)  # noqa: E731
        return self._either(fused, partial(super().jvp, tangent))

    def jacobian(self, *, pad: bool = False) -> Tensor:
        fused = lambda: self._expansion.jacobian(self._places, self._fused_sums)  # noqa: E731
        return self._either(fused, partial(super().jacobian, pad=pad))

    def _either(self, fused: Callable[[], Tensor], plain: Callable[[], Tensor]) -> Tensor:
        return by_kernels(self.pairs.device, fused, plain)
