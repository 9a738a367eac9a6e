"""Forces and virials of a training set as a linear map of the networks' gradients, and its transpose.

The features of a training set never change, so neither do their derivatives with respect to the pair vectors: forces
are a fixed linear map of dE/d(features). Where the memory allows, the blocks of the map are kept, and a step of the
optimiser reads them once each way; the others are computed anew each time, in chunks, which gives the same sums to
rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.map_parts import MapPart
from pyfit_gpu.structures.batch import size_batches
from pyfit_gpu.structures.neighbors import find_neighbors


def require_positions(training_set: TrainingSet) -> None:
    """Refuse a set without positions, which training on forces or stress or of bond-order potentials needs.

    Raises:
        InputError: the set does not hold them.
    """
    if bool(torch.isnan(training_set.positions).any()):
        raise InputError(
            "training on forces or stress, or of a physically informed network, needs positions, which this training "
            "set does not hold: a text set cannot, an HDF5 set made from structures does"
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
        reach: float | None = None,
    ) -> None:
        """Find neighbours, and compute the derivatives that there is memory for.

        Args:
            rows: the structures; at least one.
            virials: whether virials are wanted, or only forces.
            memory: most bytes of derivatives to keep.
            scale: (S, n_features), by which the networks' inputs are smaller than the features, on the set's device and
                in its dtype; None: 1.
            reach: Å, within which neighbours are found; None: as far as the features reach.

        Raises:
            InputError: a structure whose positions the set does not hold.
        """
        self.virials = virials
        self.kept_bytes = 0
        self._memory = memory
        self._scale = scale
        self._reach = training_set.descriptor.neighbor_cutoff if reach is None else reach
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
        neighbors = find_neighbors(chosen.structures(), self._reach).to(dtype)
        left = self._memory - self.kept_bytes
        part = MapPart.of(neighbors, chosen.species, chosen.sizes, descriptor, memory=left, scale=self._scale)
        self.kept_bytes += part.kept_bytes
        return part

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
