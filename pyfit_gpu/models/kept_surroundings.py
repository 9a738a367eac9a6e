"""Surroundings that are kept while parameters change: joined, without what only vectors need, or as they move."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from pyfit_gpu.models.screening import detours_vjp
from pyfit_gpu.models.surroundings import Surroundings
from pyfit_gpu.sums import sum_first_axis


def tensors_of(around: Surroundings) -> Iterator[Tensor]:
    """Yield everything that surroundings hold."""
    for one in (around, around.bonds, around.triples):
        for field in fields(one):
            value = getattr(one, field.name)
            if isinstance(value, Tensor):
                yield value
            else:
                assert value is None or isinstance(value, int) or is_dataclass(value)


def kept_bytes(around: Surroundings) -> int:
    """Count the bytes of surroundings, with those of products of unit vectors that are made when first used."""
    unit = around.bonds.unit
    return sum(value.numel() * value.itemsize for value in (*tensors_of(around), unit, unit, unit))


def for_parameters(parts: Sequence[Surroundings]) -> Surroundings:
    """Join surroundings with equally many places for bonds; only energies and their derivatives by parameters are left.

    A third of the numbers is kept, and long arrays cost less than short ones.
    """
    bonds, triples = [part.bonds for part in parts], [part.triples for part in parts]
    starts = accumulate((bond.distance.numel() for bond in bonds), initial=0)
    nothing = triples[0].detour.new_zeros(0)
    none = triples[0].bond.new_zeros(0)
    return Surroundings(
        n_elements=parts[0].n_elements,
        vectors=nothing,
        distances=nothing,
        bonds=replace(
            bonds[0],
            column=none,
            distance=torch.cat([bond.distance for bond in bonds]),
            unit=torch.cat([bond.unit for bond in bonds], dim=1),
            smooth=torch.cat([bond.smooth for bond in bonds]),
            slope=nothing,
            kind=_joined([bond.kind for bond in bonds]),
        ),
        triples=replace(
            triples[0],
            place=none,
            bond=torch.cat([one.bond + start for one, start in zip(triples, starts, strict=False)]),
            neighbor=none,
            counts=torch.cat([one.counts for one in triples]),
            detour=torch.cat([one.detour for one in triples]),
            distance=nothing,
            smooth=torch.cat([one.smooth for one in triples]),
            steepness=nothing,
            kind=_joined([one.kind for one in triples]),
        ),
    )


def _joined(kinds: Sequence[Tensor | None]) -> Tensor | None:
    known = [kind for kind in kinds if kind is not None]
    return torch.cat(known) if known else None


@dataclass(frozen=True, eq=False)
class Lengths:
    """The numbers by which an energy depends on the neighbours' vectors, or their changes."""

    distance: Tensor  # (n, B) Å
    unit: Tensor  # (3, n, B)
    smooth: Tensor  # (n, B)
    detour: Tensor  # (T,) Å
    smooth_detour: Tensor  # (T,), fc(x)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield all of them."""
        return (getattr(self, field.name) for field in fields(self))


def with_leaves(around: Surroundings) -> tuple[Surroundings, Lengths]:
    """The same surroundings with lengths by which autograd differentiates, each independent of the others."""
    bonds, triples = around.bonds, around.triples
    values = (bonds.distance, bonds.unit, bonds.smooth, triples.detour, triples.smooth)
    leaves = Lengths(*(value.detach().requires_grad_() for value in values))
    bonds = replace(bonds, distance=leaves.distance, unit=leaves.unit, smooth=leaves.smooth)
    triples = replace(triples, detour=leaves.detour, smooth=leaves.smooth_detour)
    return replace(around, bonds=bonds, triples=triples), leaves


def changes_of(around: Surroundings, moves: Tensor) -> Lengths:
    """Changes of the lengths while the neighbours' vectors change by `moves`, (3, n, K) Å, to first order."""
    bonds, triples = around.bonds, around.triples
    of_bonds = moves.gather(2, bonds.column.expand(3, -1, -1))
    outward = sum_first_axis(bonds.unit * of_bonds)
    along = sum_first_axis(around.vectors * moves) / around.distances  # (n, K)
    detour = _moved_apart(around, moves, of_bonds).index_select(0, triples.place).div_(triples.distance)
    detour += along.view(-1).index_select(0, triples.neighbor)
    detour -= around.from_bonds(outward)
    return Lengths(
        distance=outward,
        unit=(of_bonds - bonds.unit * outward) / bonds.distance,
        smooth=bonds.slope * outward,
        detour=detour,
        smooth_detour=triples.smooth * triples.steepness * detour,
    )


def _moved_apart(around: Surroundings, moves: Tensor, of_bonds: Tensor) -> Tensor:
    """(n B K,) Å^2: r_jk times its change, (v_k - v_j) . (V_k - V_j), for all bonds and neighbours."""
    bonds, vectors = around.bonds, around.vectors
    starts = bonds.unit * bonds.distance
    left = vectors.new_empty(*bonds.distance.shape, 8)
    left[..., :3] = of_bonds.movedim(0, -1)
    left[..., 3:6] = starts.movedim(0, -1)
    left[..., 6] = sum_first_axis(starts * of_bonds)
    left[..., 7] = 1
    left[..., :6].neg_()
    right = vectors.new_empty(len(around.distances), 8, around.distances.shape[1])
    right[:, :3] = vectors.transpose(0, 1)
    right[:, 3:6] = moves.transpose(0, 1)
    right[:, 6] = 1
    right[:, 7] = sum_first_axis(vectors * moves)
    return torch.bmm(left, right).view(-1)


def changes_vjp(around: Surroundings, grad: Lengths) -> Tensor:
    """(3, n, K): derivatives by the neighbours' vectors from those by the lengths; the transpose of `changes_of`."""
    bonds, triples = around.bonds, around.triples
    whole = detours_vjp(around, grad.detour + triples.smooth * triples.steepness * grad.smooth_detour)
    along = grad.distance + bonds.slope * grad.smooth
    across = (grad.unit - bonds.unit * sum_first_axis(grad.unit * bonds.unit)) / bonds.distance
    return whole.scatter_add_(2, bonds.column.expand(3, -1, -1), across + bonds.unit * along)
