"""Pairs of some atoms of a batch, as the kernels take them: one after the other, or padded like those of a chunk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pyfit_gpu.structures.neighbors import Neighbors


@dataclass(frozen=True, eq=False)
class FlatPairs:
    """Pairs of atoms that follow one another. Values of pairs lie as (n_pairs, 3)."""

    vectors: Tensor  # (all pairs, 3) Å
    kinds: Tensor | None  # (all pairs,) uint8, element of each neighbour; None: there is one element
    starts: Tensor  # (n,) int64, number of each atom's first pair
    ends: Tensor  # (n,) int64, and of the first one beyond
    centers: Tensor  # (all pairs,) int64, the central atom
    atoms: range
    pairs: range

    padded: ClassVar[bool] = False

    @property
    def kinds_or_any(self) -> Tensor:
        """Elements of the neighbours, or what is not read where there is one element."""
        return self.vectors if self.kinds is None else self.kinds

    @property
    def n_places(self) -> int:
        return len(self.pairs)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of values of the pairs."""
        return (len(self.pairs), 3)

    def shape_of_jacobian(self, n_features: int) -> tuple[int, ...]:
        return (n_features, 3, len(self.pairs))

    @property
    def where(self) -> tuple[Tensor | int, ...]:
        """Arguments by which a kernel finds the pair and the atom of a place."""
        return self.centers, self.atoms.start, self.pairs.start

    @property
    def last(self) -> int:
        """Argument by which a kernel that has atom and pair finds the place."""
        return self.pairs.start

    @classmethod
    def of(cls, neighbors: Neighbors, species: Tensor, n_elements: int, *, derivatives: bool = True) -> FlatPairs:
        """Describe all pairs of a batch; nothing waits for a GPU.

        Args:
            species: (n_atoms,) int64, index of each atom's element.
            derivatives: whether they are wanted, or features alone, which need no central atoms of pairs.
        """
        counts, vectors = neighbors.counts, neighbors.vectors
        ends = torch.cumsum(counts, 0)
        return cls(
            vectors=vectors.contiguous(),
            kinds=None if n_elements == 1 else species.to(torch.uint8)[neighbors.index],
            starts=ends - counts,
            ends=ends,
            centers=neighbors.centers if derivatives else counts[:0],
            atoms=range(len(counts)),
            pairs=range(len(vectors)),
        )

    def piece(self, atoms: range, pairs: range) -> FlatPairs:
        """Some of the batch's atoms that follow one another, with all of their pairs. `self` has all atoms."""
        own = slice(atoms.start, atoms.stop)
        return replace(self, starts=self.starts[own], ends=self.ends[own], atoms=atoms, pairs=pairs)


@dataclass(frozen=True, eq=False)
class PaddedPairs:
    """Pairs of any atoms, with K places for each. Values of pairs lie as (n, 3, K)."""

    vectors: Tensor  # (all pairs, 3) Å
    kinds: Tensor | None  # (all pairs,) uint8; None: there is one element
    starts: Tensor  # (n,) int64
    ends: Tensor  # (n,) int64
    width: int  # K

    padded: ClassVar[bool] = True

    @property
    def kinds_or_any(self) -> Tensor:
        return self.vectors if self.kinds is None else self.kinds

    @property
    def n_places(self) -> int:
        return len(self.starts) * self.width

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.starts), 3, self.width)

    def shape_of_jacobian(self, n_features: int) -> tuple[int, ...]:
        return (len(self.starts), n_features, 3, self.width)

    @property
    def where(self) -> tuple[Tensor | int, ...]:
        return self.starts, self.ends, self.width

    @property
    def last(self) -> int:
        return self.width

    @classmethod
    def of(cls, pairs: Tensor, vectors: Tensor, kinds: Tensor | None) -> PaddedPairs:
        """Describe the pairs of a chunk.

        Args:
            pairs: (n, K) int64, numbers of each atom's pairs, which follow one another, then dummies len(vectors).
        """
        starts = pairs[:, 0].contiguous()
        return cls(vectors.contiguous(), kinds, starts, starts + (pairs < len(vectors)).sum(dim=1), pairs.shape[1])


Pairs = FlatPairs | PaddedPairs
