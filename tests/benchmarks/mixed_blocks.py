"""Variants of gi_mode 6 for several elements: blocks that do not tell elements apart, or only blocks of one element.

The blocks of several elements add up to the feature of one element, so each variant is a fixed matrix on G. It is
computed from all blocks: good for comparing accuracy, not for comparing time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import Tensor

from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.structures.neighbors import Neighbors

Block = tuple[int, ...]
# Name of the new block (None: left out) by the elements of a block.
KINDS: dict[str, Callable[[Block], Block | None]] = {
    "all": lambda elements: elements,
    "blind": lambda elements: (),
    "same": lambda elements: elements if len(set(elements)) == 1 else None,
    "none": lambda elements: None,
}


@dataclass(frozen=True)
class MixedBlocks(LocalStructureParameters):
    """Settings with a kind of block for cross terms (n' > n) and one for four-body terms."""

    cross_blocks: str = "all"
    triple_blocks: str = "all"

    @property
    def n_features(self) -> int:
        return self.columns[1]

    @property
    def columns(self) -> tuple[list[int], int]:
        """For each feature of all blocks the number of the new one that it is added to, -1: none; and their number."""
        new: dict[tuple[Any, ...], int] = {}
        found = []
        for key in self._keys():
            found.append(-1 if key is None else new.setdefault(key, len(new)))
        return found, len(new)

    def _keys(self) -> Iterator[tuple[Any, ...] | None]:
        n = len(self.gaussian_centers)
        for pair in combinations_with_replacement(range(self.n_elements), 2):
            for order in self.legendre_orders:
                for distance in range(self.cross_terms + 1):
                    block = KINDS[self.cross_blocks if distance else "all"](pair)
                    for center in range(n - distance):
                        yield None if block is None else ("pair", block, order, distance, center)
        for elements in combinations_with_replacement(range(self.n_elements), 3):
            block = KINDS[self.triple_blocks](elements)
            for triple in self.triples:
                for center in range(n):
                    yield None if block is None else ("four-body", block, triple, center)

    def chunks(self, neighbors: Neighbors, species: Tensor, **options: Any) -> Iterator[Chunk]:
        columns, number = self.columns
        matrix = neighbors.vectors.new_zeros(len(columns), number + 1)  # the last column takes what is left out
        matrix[range(len(columns)), columns] = 1.0
        for chunk in super().chunks(neighbors, species, **options):
            yield _MixedChunk(chunk, matrix[:, :number])


class _MixedChunk:
    """A chunk whose features are a matrix (all, new) times those of another."""

    def __init__(self, chunk: Chunk, matrix: Tensor) -> None:
        self.chunk, self.matrix = chunk, matrix

    def __getattr__(self, name: str) -> Any:
        return getattr(self.chunk, name)

    def fresh(self) -> _MixedChunk:
        return _MixedChunk(self.chunk.fresh(), self.matrix)

    def raw(self) -> Tensor:
        return self.chunk.raw() @ self.matrix

    def vjp(self, grad: Tensor) -> Tensor:
        return self.chunk.vjp(grad @ self.matrix.T)

    def jvp(self, tangent: Tensor) -> Tensor:
        return self.chunk.jvp(tangent) @ self.matrix

    def jacobian(self, *, pad: bool = False) -> Tensor:
        return torch.matmul(self.matrix.T, self.chunk.jacobian().flatten(2)).unflatten(-1, (3, -1))
