"""Derivatives of network inputs with respect to pair vectors, for the atoms of a batch, kept or computed anew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.descriptors.pair_sums import PairSums
from pyfit_gpu.models.surroundings import on_cpu
from pyfit_gpu.parallel import Workers
from pyfit_gpu.structures.neighbors import Neighbors

_BLOCK_BYTES = 2**29  # most bytes of one kept block: making it takes a few times as much temporarily


def jacobian_bytes(n_pairs: float, n_features: int, itemsize: int) -> int:
    """Count the bytes of the derivatives of features with respect to `n_pairs` pair vectors, padding included."""
    return int(3 * n_pairs * n_features * itemsize)


def making_bytes(n_bytes: int) -> int:
    """Count the temporary bytes that making `n_bytes` of derivatives takes, beside those that are kept."""
    return int(1.5 * min(n_bytes, _BLOCK_BYTES))


@dataclass(frozen=True, eq=False)
class MapBlock:
    """A chunk of atoms with the derivatives that map dE/d(features) to dE/d(pair vectors)."""

    chunk: Chunk
    slope: Tensor  # (n, n_features), derivatives of the networks' inputs with respect to G
    jacobian: Tensor | None  # (n, n_features, 3 K), and with respect to pair vectors; None: not kept

    @classmethod
    def of(
        cls, descriptor: LocalStructureParameters, scale: Tensor | None, species: Tensor, chunk: Chunk, keep: bool
    ) -> MapBlock:
        """Compute the slopes of a chunk that is not used otherwise and, if wanted, the derivatives to keep.

        Args:
            scale: (S, n_features), by which the features are divided; None: by 1.
            species: of the atoms of the chunk's batch.
        """
        once = chunk.fresh()
        slope = descriptor.transform_slope(once.raw())
        if scale is not None:
            slope = slope / scale[species[chunk.atoms]]
        return cls(chunk, slope, once.jacobian().flatten(2).mul_(slope[..., None]) if keep else None)

    def jacobian_of(self, rows: Tensor) -> Tensor:
        """Derivatives of the inputs of some atoms of the chunk, (n', n_features, 3, K), kept or computed anew.

        Args:
            rows: (n',) int64, ascending.
        """
        if self.jacobian is not None:
            return self.jacobian.index_select(0, rows).unflatten(2, (3, -1))
        return self.chunk.part(rows).jacobian().mul_(self.slope.index_select(0, rows)[..., None, None])

    def grad_vectors(self, grad_features: Tensor) -> Tensor:
        """Map dE/d(features) (n, M, n_features) to dE/d(pair vectors) (n, M, 3, K)."""
        if self.jacobian is not None:
            return _products(grad_features, self.jacobian).unflatten(-1, (3, -1))
        chunk = self.chunk.fresh()
        members = (grad_features * self.slope[:, None]).unbind(1)
        return torch.stack([chunk.vjp(member) for member in members], dim=1)

    def vjp(self, tangent: Tensor) -> Tensor:
        """Vector-Jacobian product of `grad_vectors`: (n, M, 3, K) to (n, M, n_features)."""
        if self.jacobian is not None:
            return _products(tangent.flatten(2), self.jacobian.transpose(1, 2))
        chunk = self.chunk.fresh()
        return torch.stack([chunk.jvp(member) for member in tangent.unbind(1)], dim=1) * self.slope[:, None]


def _products(rows: Tensor, matrices: Tensor) -> Tensor:
    """(n, M, b): products of rows (n, M, a) and matrices (n, a, b).

    A single row on a CPU takes little more than reading the matrices with NumPy's loops, and twice that with torch's.
    """
    if on_cpu(rows) and rows.shape[1] == 1:
        found = np.einsum("na,nab->nb", rows.detach()[:, 0].numpy(), matrices.numpy())
        return torch.from_numpy(found)[:, None]
    return torch.bmm(rows, matrices)


@dataclass(frozen=True, eq=False)
class MapPart:
    """The map for structures of similar size."""

    sums: PairSums
    blocks: tuple[MapBlock, ...]
    n_structures: int
    n_atoms: int
    kept_bytes: int  # of derivatives

    @classmethod
    def of(
        cls,
        neighbors: Neighbors,
        species: Tensor,
        sizes: Tensor,
        descriptor: LocalStructureParameters,
        *,
        memory: float = 0,
        scale: Tensor | None = None,
    ) -> MapPart:
        """Cut the atoms into chunks, and compute the derivatives that there is memory for.

        Args:
            neighbors: vectors in the dtype of the result.
            species: (n_atoms,) int64.
            sizes: (B,) int64, atoms of each structure.
            memory: most bytes of derivatives to keep.
            scale: (S, n_features), by which the networks' inputs are smaller than the features; None: 1.
        """
        itemsize = neighbors.vectors.dtype.itemsize
        bytes_per_pair = jacobian_bytes(1, descriptor.n_features, itemsize)
        planned: list[tuple[Chunk, bool]] = []
        kept_bytes = 0
        for chunk in descriptor.chunks(neighbors, species, max_pairs=max(1, _BLOCK_BYTES // bytes_per_pair)):
            n_bytes = jacobian_bytes(chunk.pairs.numel(), descriptor.n_features, itemsize)
            keep = kept_bytes + n_bytes <= memory
            kept_bytes += n_bytes if keep else 0
            planned.append((chunk, keep))
        # One thread for each: products in several threads may be rounded otherwise.
        blocks = Workers.shared(neighbors.vectors.device).map(
            lambda item: MapBlock.of(descriptor, scale, species, *item), planned
        )
        sums = PairSums(neighbors, sizes, largest=int(sizes.max()))
        return cls(sums, tuple(blocks), len(sizes), len(species), kept_bytes)
