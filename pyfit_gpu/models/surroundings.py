"""The surroundings of atoms as a bond-order potential sees them: bonds, and for each bond the atoms that screen it.

Nothing here depends on the parameters of the potential. Atom i has a bond with each neighbour j nearer than rc; of the
neighbours k, those with x = r_ik + r_jk - r_ij < rc screen it, which are about a sixth of all pairs (j, k) in a metal.
They are found by one product of matrices, from

    r_jk^2 - (rc + r_ij - r_ik)^2 = -2 v_j . v_k + 2 c_j r_k + r_j^2 - c_j^2 < 0,    c_j = rc + r_ij

(where c_j < r_k the left side is positive by the triangle inequality), and kept as one list, bond by bond.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.parallel import lazy

# Rows of the factors of the product, of which five are used: every matrix then begins at a multiple of 64 bytes.
_INNER = 8
# Least r_jk, Å, and least rc - x: what they are divided by. Atoms are never as near to each other.
_LEAST = 1e-8


def on_cpu(values: Tensor) -> bool:
    """Whether the ways of a CPU are the quicker ones."""
    return values.device.type == "cpu"


@dataclass(frozen=True, eq=False)
class Bonds:
    """Bonds of n atoms with B places for each. Where a place is empty, the cutoff function and its slope are zero."""

    column: Tensor  # (n, B) int64, the neighbour's place among the K of its atom
    distance: Tensor  # (n, B) Å; the cutoff where there is none
    unit: Tensor  # (3, n, B), zero where there is none
    smooth: Tensor  # (n, B), fc(r)
    slope: Tensor  # (n, B) 1/Å, fc'(r)
    kind: Tensor | None  # (n, B) int64, element of the neighbour; None: there is one element

    @lazy
    def polynomials(self) -> Tensor:
        """(9, n, B): products of two components of the unit vectors, xx yy zz yz xz xy, and the components."""
        x, y, z = self.unit
        return torch.stack((x * x, y * y, z * z, y * z, x * z, x * y, x, y, z))

    def polynomials_change(self, of_unit: Tensor) -> Tensor:
        """(9, n, B): how `polynomials` change while the unit vectors change by (3, n, B)."""
        whole = self.polynomials.new_empty(self.polynomials.shape)
        torch.mul(self.unit, of_unit, out=whole[:3]).mul_(2)
        for row, (a, b) in zip(whole[3:6], ((1, 2), (0, 2), (0, 1)), strict=True):
            torch.mul(self.unit[a], of_unit[b], out=row).addcmul_(self.unit[b], of_unit[a])
        whole[6:] = of_unit
        return whole

    def turned(self, matrix: Tensor) -> Tensor:
        """(3, n, B): the unit vectors times symmetric matrices (6, n, 1), xx yy zz yz xz xy."""
        xx, yy, zz, yz, xz, xy = matrix
        x, y, z = self.unit
        rows = ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))
        return torch.stack([(a * x).addcmul(b, y).addcmul(c, z) for a, b, c in rows])


@dataclass(frozen=True, eq=False)
class Triples:
    """Screened bonds and the neighbours that screen them: T pairs of a bond (i, j) and a neighbour k, bond by bond."""

    place: Tensor  # (T,) int64, in a flat array (n, B, K)
    bond: Tensor  # (T,) int64, in a flat array (n, B)
    neighbor: Tensor  # (T,) int64, in a flat array (n, K)
    counts: Tensor  # (n B,) int64, neighbours that screen each bond
    detour: Tensor  # (T,) Å, x
    distance: Tensor  # (T,) Å, r_jk
    smooth: Tensor  # (T,), fc(x)
    steepness: Tensor  # (T,) 1/Å, fc'(x) / fc(x)
    kind: Tensor | None  # (T,) int64, element of k; None: there is one element


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Neighbours, bonds and screening atoms of n atoms."""

    n_elements: int
    vectors: Tensor  # (3, n, K) Å
    distances: Tensor  # (n, K) Å
    bonds: Bonds
    triples: Triples

    @classmethod
    def of(cls, chunk: Chunk, rows: Tensor, n_bonds: int, cutoff: float, width: float, n_elements: int) -> Surroundings:
        """Find bonds and screening atoms.

        Args:
            rows: (n,) int64, which atoms of the chunk.
            n_bonds: B, places for bonds, a multiple of 8.
            cutoff: rc, Å.
            width: of the cutoff function, Å.
        """
        is_pair = chunk.is_pair.index_select(0, rows)
        # A place for padding never screens, wherever its vector points.
        vectors = torch.where(is_pair, chunk.components.index_select(1, rows), 0.0)
        distances = torch.where(is_pair, chunk.distances.index_select(0, rows), 2 * cutoff)
        kinds = None if chunk.kinds is None else chunk.kinds.index_select(0, rows).long()
        bonds = _bonds(vectors, distances, kinds, n_bonds, cutoff, width)
        triples = _triples(vectors, distances, kinds, bonds, cutoff, width)
        return cls(n_elements, vectors, distances, bonds, triples)

    def of_bonds(self, values: Tensor) -> Tensor:
        """(n, S) values of the neighbour's element for each bond, (n, B); of one element (n, 1)."""
        return values if self.bonds.kind is None else values.gather(1, self.bonds.kind)

    def to_elements(self, of_bonds: Tensor) -> Tensor:
        """Sum values of bonds, (n, B), over those of each element of the neighbour: (n, S)."""
        if self.bonds.kind is None:
            return of_bonds.sum(dim=1, keepdim=True)
        sums = [torch.where(self.bonds.kind == b, of_bonds, 0.0).sum(dim=1) for b in range(self.n_elements)]
        return torch.stack(sums, dim=1)

    def of_triples(self, values: Tensor) -> Tensor:
        """(n, S, S) values of the elements of j and k for each triple, (T,)."""
        n, n_bonds = self.bonds.distance.shape
        if self.bonds.kind is None or self.triples.kind is None:
            return values.view(n, 1).expand(n, n_bonds).reshape(-1).index_select(0, self.triples.bond)
        by_bond = values.gather(1, self.bonds.kind[:, :, None].expand(-1, -1, self.n_elements))
        return by_bond.view(-1).index_select(0, self.triples.bond * self.n_elements + self.triples.kind)

    def to_pairs_of_elements(self, of_triples: Tensor, of_bonds: Tensor) -> Tensor:
        """Sum products of values of triples, (T,), and of their bonds, (n, B), for each pair of elements of j and k.

        Returns:
            (n, S, S).
        """
        sums = []
        for b in range(self.n_elements):
            own = of_triples if self.triples.kind is None else torch.where(self.triples.kind == b, of_triples, 0.0)
            sums.append(self.to_elements(self.sum_to_bonds(own) * of_bonds))
        return torch.stack(sums, dim=2)

    def sum_to_bonds(self, of_triples: Tensor) -> Tensor:
        """(T,) to (n, B): sums over the atoms that screen each bond."""
        sums = torch.segment_reduce(of_triples, "sum", lengths=self.triples.counts, unsafe=True)
        return sums.view(self.bonds.distance.shape)

    def sum_to_neighbors(self, of_triples: Tensor) -> Tensor:
        """(T,) to (n, K): sums over the bonds that each neighbour screens."""
        if not on_cpu(of_triples):  # a GPU adds in any order
            return self.scattered(of_triples).sum(dim=1)
        sums = of_triples.new_zeros(self.distances.shape)
        sums.view(-1).scatter_add_(0, self.triples.neighbor, of_triples)
        return sums

    def scattered(self, of_triples: Tensor) -> Tensor:
        """(T,) to (n, B, K), zero for neighbours that do not screen."""
        whole = of_triples.new_zeros(*self.bonds.distance.shape, self.distances.shape[1])
        whole.view(-1).scatter_(0, self.triples.place, of_triples)
        return whole

    def from_bonds(self, of_bonds: Tensor) -> Tensor:
        """(n, B) to (T,): the value of the bond that is screened."""
        return of_bonds.reshape(-1).index_select(0, self.triples.bond)


def smooth_end(inside: Tensor, width: float) -> tuple[Tensor, Tensor]:
    """Cutoff function fc = y^4 / (d^4 + y^4) of y = r - rc <= 0, and 4 d^4 / (d^4 + y^4), which is y fc' / fc."""
    fourth = inside.square().square_()
    inverse = (fourth + width**4).reciprocal_()
    return fourth.mul_(inverse), inverse.mul_(4 * width**4)


def _bonds(
    vectors: Tensor, distances: Tensor, kinds: Tensor | None, n_bonds: int, cutoff: float, width: float
) -> Bonds:
    is_bond = distances < cutoff
    column = torch.sort(is_bond.logical_not().to(torch.uint8), dim=1, stable=True)[1][:, :n_bonds]
    is_bond = is_bond.gather(1, column)
    # Dummy bonds stand at the cutoff, where everything ends.
    distance = torch.where(is_bond, distances.gather(1, column), cutoff)
    components = vectors.gather(2, column.expand(3, -1, -1))
    inside = distance - cutoff
    smooth, relative = smooth_end(inside, width)
    return Bonds(
        column=column,
        distance=distance,
        unit=torch.where(is_bond, components / distance, 0.0),
        smooth=smooth,
        slope=smooth * relative / torch.where(inside < 0, inside, -1.0),
        kind=None if kinds is None else kinds.gather(1, column),
    )


def _triples(
    vectors: Tensor, distances: Tensor, kinds: Tensor | None, bonds: Bonds, cutoff: float, width: float
) -> Triples:
    (n, n_bonds), n_places = bonds.distance.shape, distances.shape[1]
    reach = bonds.distance + cutoff  # c_j
    excess = _excess(vectors, distances, bonds, reach).view(-1)
    place = _negative(excess)
    firsts = torch.arange(n * n_bonds + 1, device=place.device) * n_places
    counts = torch.searchsorted(place, firsts).diff()
    bond = torch.repeat_interleave(counts, output_size=len(place))
    atom = torch.arange(n, device=place.device)[:, None].expand(n, n_bonds)
    neighbor = place + (firsts[:-1].view(n, n_bonds).neg() + atom * n_places).view(-1).index_select(0, bond)
    rest = reach.view(-1).index_select(0, bond) - distances.view(-1).index_select(0, neighbor)  # c_j - r_k
    distance = excess.index_select(0, place).add_(rest.square()).clamp_(min=_LEAST**2).sqrt_()
    inside = (distance - rest).clamp_(max=-_LEAST)  # x - rc, below 0 so that it can divide
    smooth, relative = smooth_end(inside, width)
    return Triples(
        place=place,
        bond=bond,
        neighbor=neighbor,
        counts=counts,
        detour=inside + cutoff,
        distance=distance,
        smooth=smooth,
        steepness=relative.div_(inside),
        kind=None if kinds is None else kinds.view(-1).index_select(0, neighbor),
    )


def _negative(values: Tensor) -> Tensor:
    """(T,) int64: places of the numbers below 0 in a flat array."""
    if on_cpu(values):  # NumPy takes a fourth of the time that torch takes
        return torch.from_numpy(np.flatnonzero(values.detach().numpy() < 0))
    return (values < 0).nonzero().squeeze(1)


def _excess(vectors: Tensor, distances: Tensor, bonds: Bonds, reach: Tensor) -> Tensor:
    """(n, B, K) Å^2: below 0 where neighbour k screens bond j, see above; j itself does not."""
    (n, n_bonds), n_places = reach.shape, distances.shape[1]
    left = vectors.new_zeros(n, n_bonds, _INNER)
    is_bond = bonds.smooth > 0
    left[..., :3] = (bonds.unit * (-2 * bonds.distance)).movedim(0, -1)
    left[..., 3] = torch.where(is_bond, 2 * reach, 0.0)
    left[..., 4] = torch.where(is_bond, bonds.distance.square() - reach.square(), 1.0)
    right = vectors.new_zeros(n, _INNER, n_places)
    right[:, :3] = vectors.transpose(0, 1)
    right[:, 3] = distances
    right[:, 4] = 1
    excess = torch.bmm(left, right)
    return excess.scatter_(2, bonds.column[:, :, None], 1.0)
