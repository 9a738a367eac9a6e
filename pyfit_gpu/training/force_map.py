"""Forces and virials of a training set as a linear map of the networks' gradients, and its transpose.

The features of a training set never change, so neither do their derivatives with respect to the pair vectors: forces
are a fixed linear map of dE/d(features). Where the memory allows, the blocks of the map are kept, and a step of the
optimiser reads them once each way; the others are computed anew each time, in chunks, which gives the same sums to
rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.descriptors.pair_sums import PairSums
from pyfit_gpu.errors import InputError
from pyfit_gpu.parallel import Workers
from pyfit_gpu.structures.batch import size_batches
from pyfit_gpu.structures.neighbors import find_neighbors

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
            return torch.bmm(grad_features, self.jacobian).unflatten(-1, (3, -1))
        chunk = self.chunk.fresh()
        members = (grad_features * self.slope[:, None]).unbind(1)
        return torch.stack([chunk.vjp(member) for member in members], dim=1)

    def vjp(self, tangent: Tensor) -> Tensor:
        """Vector-Jacobian product of `grad_vectors`: (n, M, 3, K) to (n, M, n_features)."""
        if self.jacobian is not None:
            return torch.bmm(tangent.flatten(2), self.jacobian.transpose(1, 2))
        chunk = self.chunk.fresh()
        return torch.stack([chunk.jvp(member) for member in tangent.unbind(1)], dim=1) * self.slope[:, None]


@dataclass(frozen=True, eq=False)
class MapPart:
    """The map for structures of similar size."""

    sums: PairSums
    blocks: tuple[MapBlock, ...]
    n_structures: int
    n_atoms: int


def require_positions(training_set: TrainingSet) -> None:
    """Refuse a set without positions, which training on forces or stress needs.

    Raises:
        InputError: the set does not hold them.
    """
    if bool(torch.isnan(training_set.positions).any()):
        raise InputError(
            "training on forces or stress needs positions, which this training set does not hold: a text set "
            "cannot, an HDF5 set made from structures does"
        )


class ForceMap:
    """The map for some structures of a set. Their atoms are in the map's own order."""

    def __init__(
        self,
        training_set: TrainingSet,
        rows: Sequence[int],
        *,
        virials: bool,
        memory: float,
        scale: Tensor | None = None,
    ) -> None:
        """Find neighbours, and compute the derivatives that there is memory for.

        Args:
            rows: the structures; at least one.
            virials: whether virials are wanted, or only forces.
            memory: most bytes of derivatives to keep.
            scale: (S, n_features), by which the networks' inputs are smaller than the features, on the set's device and
                in its dtype; None: 1.

        Raises:
            InputError: a structure whose positions the set does not hold.
        """
        self.virials = virials
        self.kept_bytes = 0
        self._memory = memory
        self._scale = scale
        first = (torch.cumsum(training_set.sizes, 0) - training_set.sizes).tolist()
        sizes = training_set.sizes.tolist()
        order: list[int] = []
        parts = []
        for batch in size_batches([sizes[row] for row in rows]):
            chosen = [rows[place] for place in batch]
            parts.append(self._part(training_set.select(chosen)))
            order += chosen
        self.parts = tuple(parts)  # their structures and atoms one after the other, in the map's order
        device = training_set.sizes.device
        self.rows = torch.tensor(order, device=device)  # (B',) int64, structures of the set in the map's order
        atoms = [torch.arange(first[row], first[row] + sizes[row], device=device) for row in order]
        self.atoms = torch.cat(atoms)  # (n',) int64, atoms of the set in the map's order

    def _part(self, chosen: TrainingSet) -> MapPart:
        require_positions(chosen)
        descriptor, dtype = chosen.descriptor, chosen.features.dtype
        neighbors = find_neighbors(chosen.structures(), descriptor.neighbor_cutoff).to(dtype)
        bytes_per_pair = jacobian_bytes(1, descriptor.n_features, dtype.itemsize)
        planned: list[tuple[Chunk, bool]] = []
        for chunk in descriptor.chunks(neighbors, chosen.species, max_pairs=max(1, _BLOCK_BYTES // bytes_per_pair)):
            n_bytes = jacobian_bytes(chunk.pairs.numel(), descriptor.n_features, dtype.itemsize)
            keep = self.kept_bytes + n_bytes <= self._memory
            self.kept_bytes += n_bytes if keep else 0
            planned.append((chunk, keep))
        # One thread for each: products in several threads may be rounded otherwise.
        blocks = Workers.shared(neighbors.vectors.device).map(
            lambda item: MapBlock.of(descriptor, self._scale, chosen.species, *item), planned
        )
        return MapPart(PairSums(neighbors, chosen.sizes), tuple(blocks), len(chosen), chosen.n_atoms)

    def __call__(self, grad_features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Forces (n', M, 3) eV/Å and virials (B', M, 6) eV; differentiable.

        Args:
            grad_features: (n', M, n_features), dE/d(features) of the map's atoms, for M members.
        """
        forces, virials = _Apply.apply(grad_features, self)
        return forces, virials

    def apply(self, grad_features: Tensor) -> tuple[Tensor, Tensor | None]:
        forces, virials = [], []
        for part, own in zip(self.parts, grad_features.split([part.n_atoms for part in self.parts]), strict=True):
            pairs = ((block.chunk, block.grad_vectors(own[block.chunk.atoms])) for block in part.blocks)
            part_forces, part_virials = part.sums(pairs, virials=self.virials)
            forces.append(part_forces)
            if part_virials is not None:
                virials.append(part_virials)
        return torch.cat(forces), torch.cat(virials) if self.virials else None

    def vjp(self, grad_forces: Tensor, grad_virials: Tensor | None) -> Tensor:
        """Vector-Jacobian product (n', M, n_features), from derivatives with respect to forces and virials."""
        result = []
        by_atoms = [part.n_atoms for part in self.parts]
        by_structures = [part.n_structures for part in self.parts]
        own_virials = [None] * len(self.parts) if grad_virials is None else grad_virials.split(by_structures)
        for part, own_forces, own in zip(self.parts, grad_forces.split(by_atoms), own_virials, strict=True):
            n_features = part.blocks[0].slope.shape[1]
            collected = own_forces.new_empty(part.n_atoms, own_forces.shape[1], n_features)
            for block in part.blocks:
                tangent = part.sums.vjp(block.chunk, own_forces, own)
                collected[block.chunk.atoms] = block.vjp(tangent)
            result.append(collected)
        return torch.cat(result)


class _Apply(torch.autograd.Function):
    """The map as an autograd function. It is linear, so nothing is saved."""

    @staticmethod
    def forward(ctx: Any, grad_features: Tensor, force_map: ForceMap) -> tuple[Tensor, Tensor | None]:
        ctx.force_map = force_map
        return force_map.apply(grad_features)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_forces: Tensor, grad_virials: Tensor | None) -> tuple[Tensor, None]:
        return ctx.force_map.vjp(grad_forces.contiguous(), grad_virials), None
