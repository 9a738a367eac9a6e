"""Bonds of atoms with the numbers of pairs of atoms in a list of neighbours, kept while parameters train.

Lengths depend on the vectors of few pairs each: that of a bond on one, and the detour x = r_ik + r_jk - r_ij on two,

    dx = (v_jk / r_jk) . (dv_ik - dv_ij) + u_ik . dv_ik - u_ij . dv_ij

No array is padded to equally many neighbours, so that atoms can be computed at once whatever neighbours they have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from pyfit_gpu.models.kept_surroundings import Lengths, joined, kept_bytes, without_neighbors
from pyfit_gpu.models.surroundings import Surroundings
from pyfit_gpu.parallel import lazy
from pyfit_gpu.sums import RepeatedPlaces, take_columns

T = TypeVar("T")


def joined_pieces(found: Iterable[tuple[T, Surroundings]], join: Callable[[Sequence[T]], T], most: int) -> Iterator[T]:
    """Join pieces with equally many places for bonds until there are enough atoms: long arrays cost less.

    Args:
        found: pieces with their surroundings.
        most: screening atoms and places for bonds of a piece, about.
    """
    waiting: dict[int, list[T]] = {}  # by places for bonds
    sizes: dict[int, int] = {}
    for piece, around in found:
        n_bonds = around.bonds.distance.shape[1]
        waiting.setdefault(n_bonds, []).append(piece)
        sizes[n_bonds] = sizes.get(n_bonds, 0) + len(around.triples.bond) + around.bonds.smooth.numel()
        if sizes[n_bonds] >= most:
            yield join(waiting.pop(n_bonds))
            del sizes[n_bonds]
    for pieces in waiting.values():
        yield join(pieces)


@dataclass(frozen=True, eq=False)
class PairBonds:
    """Bonds and screening atoms of n atoms. Pairs are numbered; the number of none is that after the last one."""

    atoms: Tensor  # (n,) int64
    around: Surroundings  # without neighbours
    bonds: Tensor  # (n, B) int64, pair of each bond
    neighbors: Tensor  # (T,) int64, pairs of the atoms that screen
    between: Tensor  # (3, T), unit vector from j to k

    @classmethod
    def of(cls, atoms: Tensor, pairs: Tensor, around: Surroundings) -> PairBonds:
        """Take them from surroundings.

        Args:
            pairs: (n, K) int64, of each neighbour.
        """
        bonds, triples = around.bonds, around.triples
        ends = take_columns(around.vectors.flatten(1), triples.neighbor)
        starts = take_columns((bonds.unit * bonds.distance).flatten(1), triples.bond)
        return cls(
            atoms,
            without_neighbors(around),
            pairs.gather(1, bonds.column),
            pairs.view(-1).index_select(0, triples.neighbor),
            (ends - starts) / triples.distance,
        )

    @classmethod
    def joined(cls, parts: Sequence[PairBonds]) -> PairBonds:
        """Join some with equally many places for bonds."""
        return cls(
            torch.cat([part.atoms for part in parts]),
            joined([part.around for part in parts]),
            torch.cat([part.bonds for part in parts]),
            torch.cat([part.neighbors for part in parts]),
            torch.cat([part.between for part in parts], dim=1),
        )

    @property
    def n_bytes(self) -> int:
        """Bytes of all this."""
        more = (self.atoms, self.bonds, self.neighbors, self.between)
        return kept_bytes(self.around) + sum(value.numel() * value.itemsize for value in more)

    @lazy
    def _screening(self) -> RepeatedPlaces:
        return RepeatedPlaces.of(self.neighbors, -1)

    def changes(self, moves: Tensor, outward: Tensor) -> Lengths:
        """Changes of the lengths while vectors of pairs change, to first order.

        Args:
            moves: (3, n_pairs + 1) Å, changes of the vectors.
            outward: (n_pairs + 1,) Å, of the distances.
        """
        bonds, triples = self.around.bonds, self.around.triples
        of_bonds = take_columns(moves, self.bonds.view(-1)).view_as(bonds.unit)
        along = outward.index_select(0, self.bonds.view(-1)).view_as(bonds.distance)
        detour = outward.index_select(0, self.neighbors) - self.around.from_bonds(along)
        for axis, own, unit in zip(moves, of_bonds, self.between, strict=True):
            detour.addcmul_(axis.index_select(0, self.neighbors).sub_(self.around.from_bonds(own)), unit)
        return Lengths(
            distance=along,
            unit=(of_bonds - bonds.unit * along) / bonds.distance,
            smooth=bonds.slope * along,
            detour=detour,
            smooth_detour=triples.smooth * triples.steepness * detour,
        )

    def add_vjp(self, of_detours: Tensor, of_bonds: Tensor, table: Tensor) -> None:
        """Add derivatives by the vectors of pairs to the first three rows of a table (4, n_pairs + 1).

        The last row is for derivatives by distances.

        Args:
            of_detours: (T,), derivatives by x.
            of_bonds: (3, n, B), by the vectors of bonds.
        """
        around = self.around
        self._screening.add(table[3], of_detours)
        total = of_bonds - around.bonds.unit * around.sum_to_bonds(of_detours)
        for row, own, unit in zip(table, total, self.between, strict=False):
            pulled = of_detours * unit
            self._screening.add(row, pulled)
            # Bonds have a pair each; nothing is added for places without.
            row.index_add_(0, self.bonds.view(-1), (own - around.sum_to_bonds(pulled)).view(-1))
