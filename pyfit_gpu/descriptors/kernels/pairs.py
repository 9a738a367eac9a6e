"""Pairs of a batch, or of some of its atoms that follow one another, as the kernels take them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyfit_gpu.structures.neighbors import Neighbors


@dataclass(frozen=True, eq=False)
class FlatPairs:
    """Pairs sorted by their central atoms, unpadded. A piece has the atoms and pairs of two ranges; tensors are whole."""

    vectors: Tensor  # (all pairs, 3) Å
    kinds: Tensor | None  # (all pairs,) uint8, element of each neighbour; None: there is one element
    centers: Tensor  # (all pairs,) int64, the central atom
    first: Tensor  # (all atoms + 1,) int64, number of each atom's first pair
    atoms: range
    pairs: range

    @classmethod
    def of(cls, neighbors: Neighbors, species: Tensor, n_elements: int) -> FlatPairs:
        """Describe all pairs of a batch; nothing waits for a GPU.

        Args:
            species: (n_atoms,) int64, index of each atom's element.
        """
        counts, vectors = neighbors.counts, neighbors.vectors
        return cls(
            vectors=vectors.contiguous(),
            kinds=None if n_elements == 1 else species.to(torch.uint8)[neighbors.index],
            centers=torch.repeat_interleave(counts, output_size=len(vectors)),
            first=torch.nn.functional.pad(torch.cumsum(counts, 0), (1, 0)),
            atoms=range(len(counts)),
            pairs=range(len(vectors)),
        )

    def piece(self, atoms: range, pairs: range) -> FlatPairs:
        """Some atoms that follow one another, with all of their pairs."""
        return replace(self, atoms=atoms, pairs=pairs)
