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


def without_neighbors(around: Surroundings) -> Surroundings:
    """The same bonds and screening atoms without vectors of neighbours and places among these."""
    nothing, none = around.vectors.new_zeros(0), around.bonds.column.new_zeros(0)
    return replace(
        around,
        vectors=nothing,
        distances=nothing,
        bonds=replace(around.bonds, column=none),
        triples=replace(around.triples, place=none, neighbor=none, distance=nothing),
    )


def for_parameters(around: Surroundings) -> Surroundings:
    """Keep what energies and their derivatives by parameters need, a third of the numbers."""
    left = without_neighbors(around)
    nothing = left.vectors
    return replace(left, bonds=replace(left.bonds, slope=nothing), triples=replace(left.triples, steepness=nothing))


def joined(parts: Sequence[Surroundings]) -> Surroundings:
    """Join surroundings `without_neighbors` with equally many places for bonds."""
    bonds, triples = [part.bonds for part in parts], [part.triples for part in parts]
    starts = accumulate((bond.distance.numel() for bond in bonds), initial=0)
    return replace(
        parts[0],
        bonds=replace(
            bonds[0],
            distance=torch.cat([bond.distance for bond in bonds]),
            unit=torch.cat([bond.unit for bond in bonds], dim=1),
            smooth=torch.cat([bond.smooth for bond in bonds]),
            slope=torch.cat([bond.slope for bond in bonds]),
            kind=_joined([bond.kind for bond in bonds]),
        ),
        triples=replace(
            triples[0],
            bond=torch.cat([one.bond + start for one, start in zip(triples, starts, strict=False)]),
            counts=torch.cat([one.counts for one in triples]),
            detour=torch.cat([one.detour for one in triples]),
            smooth=torch.cat([one.smooth for one in triples]),
            steepness=torch.cat([one.steepness for one in triples]),
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


def changes_vjp(around: Surroundings, grad: Lengths) -> Tensor:
    """(3, n, K): derivatives by the neighbours' vectors from those by the lengths."""
    bonds, triples = around.bonds, around.triples
    whole = detours_vjp(around, grad.detour + triples.smooth * triples.steepness * grad.smooth_detour)
    along = grad.distance + bonds.slope * grad.smooth
    across = (grad.unit - bonds.unit * sum_first_axis(grad.unit * bonds.unit)) / bonds.distance
    return whole.scatter_add_(2, bonds.column.expand(3, -1, -1), across + bonds.unit * along)
