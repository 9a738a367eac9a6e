"""Extrapolation grade: how far the inputs of an atom lie outside of those of the training atoms of its element.

Training atoms of an element are in clusters. An atom belongs to the cluster c whose centre mu_c is nearest in scaled
inputs, |(x - mu_c) / t|, the first of several. With the principal directions v_r of the cluster's atoms, along which
their mean squares e_r are above a floor f^2, and that floor along all others, the squared Mahalanobis distance is

    d^2 = |x - mu_c|^2 / f^2 - sum_r (1/f^2 - 1/e_r) (v_r (x - mu_c))^2

and the grade is d over the cluster's edge: the largest d of its training atoms, the median of these largest d over the
element's clusters, or 1, whichever is the greatest. What does not depend on x is stored in two quantities,
w_c = 1 / (f edge)^2 and rows u_r:

    grade^2 = w_c |x - mu_c|^2 - sum_r (u_r (x - mu_c))^2

As GRACE does (https://gracemaker.readthedocs.io): nearest centre first, then the distance in that cluster alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyfit_gpu.descriptors.feature_names import feature_names
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.errors import Failure
from pyfit_gpu.parallel import Workers, lazy

_NUMBERS_CPU = 2**17  # temporary ones of a piece of atoms, which stay in the cache of a core
_NUMBERS_GPU = 2**26
_RANK_STEP = 4  # clusters have numbers of directions in such steps


def _at_once(numbers: int, of_an_atom: int) -> int:
    return max(1, numbers // max(1, of_an_atom))


class ExtrapolationError(Failure):
    """An atom has a higher extrapolation grade than is allowed."""

    def __init__(self, fault: str, *, atom: int, grade: float) -> None:
        super().__init__(fault)
        self.atom = atom  # counted from 0
        self.grade = grade


@dataclass(frozen=True, eq=False)
class ExtrapolationGrade:
    """Clusters of the training atoms of all elements, those of one element after those of another."""

    scale: Tensor  # (S, F), t above 0
    element: Tensor  # (C,) int64 ascending, the element of each cluster
    n_atoms: Tensor  # (C,) int64, training atoms of each cluster
    centers: Tensor  # (C, F), mu
    weight: Tensor  # (C,), w above 0
    directions: Tensor  # (C, R, F), u; zero beyond the number that a cluster has

    @property
    def n_elements(self) -> int:
        return self.scale.shape[0]

    @property
    def n_inputs(self) -> int:
        return self.scale.shape[1]

    def to(self, device: torch.device | str, dtype: torch.dtype) -> ExtrapolationGrade:
        numbers = {name: getattr(self, name).to(device, dtype) for name in ("scale", "centers", "weight", "directions")}
        return replace(self, element=self.element.to(device), n_atoms=self.n_atoms.to(device), **numbers)

    @lazy
    def _own_clusters(self) -> Tensor:
        """(S, C) bool: whether a cluster is one of an element."""
        return self.element == torch.arange(self.n_elements, device=self.element.device)[:, None]

    @lazy
    def _has_clusters(self) -> Tensor:
        """(S,) bool."""
        return self._own_clusters.any(dim=1)

    @lazy
    def _origin(self) -> Tensor:
        """(F,): differences from a point among the centres keep their digits in float32."""
        return self.centers.mean(dim=0)

    @lazy
    def _planes(self) -> tuple[Tensor, Tensor]:
        """(C,) and (F, C): offset and slope of |(x - mu) / t|^2 / 2 as a function of x, without its part of x alone."""
        moved = self.centers - self._origin
        slope = moved / self.scale[self.element].square()
        return (moved * slope).sum(dim=1) / 2, slope.T.contiguous()

    @lazy
    def _rank(self) -> Tensor:
        """(C,) int64, directions of each cluster, to a multiple: few different numbers."""
        rank = (self.directions != 0).any(dim=2).sum(dim=1)
        return ((rank + _RANK_STEP - 1) // _RANK_STEP * _RANK_STEP).clamp(max=self.directions.shape[1])

    def __call__(self, inputs: Tensor, species: Tensor) -> Tensor:
        """(n,): the grade of atoms; infinite for elements without training atoms.

        Args:
            inputs: (n, F), of the networks, as `LocalStructureParameters` gives them.
            species: (n,) int64, their elements.
        """
        grade = inputs.new_empty(len(inputs))
        cluster = self.clusters(inputs, species)

        def compute(piece: tuple[Tensor, int]) -> None:
            atoms, rank = piece
            own = cluster[atoms]
            grade[atoms] = self._grade(inputs[atoms] - self.centers[own], own, rank)

        Workers.shared(inputs.device).run(compute, self._pieces(cluster))
        return grade if self.n_elements == 1 else torch.where(self._has_clusters[species], grade, torch.inf)

    def _pieces(self, cluster: Tensor) -> Iterator[tuple[Tensor, int]]:
        """Yield atoms whose clusters (n,) have equally many directions, and that number; all at once on a GPU."""
        _, most, n_inputs = self.directions.shape
        if cluster.device.type != "cpu":
            for atoms in torch.arange(len(cluster), device=cluster.device).split(
                _at_once(_NUMBERS_GPU, most * n_inputs)
            ):
                yield atoms, most
            return
        ranks, order = self._rank[cluster].sort(stable=True)
        numbers, counts = torch.unique_consecutive(ranks, return_counts=True)
        for rank, run in zip(numbers.tolist(), order.split(counts.tolist()), strict=True):
            for atoms in run.split(_at_once(_NUMBERS_CPU, rank * n_inputs)):
                yield atoms, rank

    def clusters(self, inputs: Tensor, species: Tensor) -> Tensor:
        """(n,) int64: the cluster of each atom, any for elements without training atoms; arguments as of a call."""
        offset, slope = self._planes
        square = torch.addmm(offset, inputs - self._origin, slope, alpha=-1)
        if self.n_elements > 1:
            square = torch.where(self._own_clusters[species], square, torch.inf)
        return square.argmin(dim=1)

    def contributions(self, inputs: Tensor, species: Tensor) -> Tensor:
        """(n, F): the summands of grade^2, one of each input f: (x - mu)_f [w (x - mu) - sum_r u_r (u_r (x - mu))]_f.

        The input that is farthest out is the one with the largest. Arguments as of a call, of few atoms.
        """
        cluster = self.clusters(inputs, species)
        moved = inputs - self.centers[cluster]
        along = torch.einsum("nrf,nf->nr", self.directions[cluster], moved)
        whole = self.weight[cluster, None] * moved - torch.einsum("nrf,nr->nf", self.directions[cluster], along)
        return moved * whole

    def describe_farthest(self, inputs: Tensor, species: int, descriptor: LocalStructureParameters) -> str:
        """Name the input of one atom, (F,), that is farthest out."""
        if not bool(self._has_clusters[species]):
            return f"no atom of {descriptor.elements[species]} trained"
        element = torch.tensor([species], device=inputs.device)
        farthest = int(self.contributions(inputs[None], element).argmax())
        return f"input {farthest + 1}, {feature_names(descriptor)[farthest]}"

    def _grade(self, moved: Tensor, cluster: Tensor, rank: int) -> Tensor:
        # Products and sums of rows, not a matrix product: bits do not depend on which other atoms are computed.
        along = (self.directions[:, :rank][cluster] * moved[:, None]).sum(dim=2)
        square = self.weight[cluster] * moved.square().sum(dim=1) - along.square().sum(dim=1)
        return square.clamp(min=0).sqrt()
