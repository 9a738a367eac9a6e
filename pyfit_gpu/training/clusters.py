"""Clusters of the training atoms' inputs, from which the extrapolation grade follows (models/extrapolation.py).

Per element, over the atoms of all structures with a weight above 0, and s_f the standard deviations of their inputs:

1. Scale inputs by t_f = sqrt(s_f s_0), s_0^2 the mean of s_f^2, as a fit does; s_f counts as s_0 / 1000 at least.
2. Place centres by greedy k-means++ and Lloyd's iterations in scaled inputs, on at most 20,000 atoms, evenly taken: one
   for each 500 atoms (5 F, if that is more), at most 64, and fewer if fewer places differ. Move them once more, to the
   means of all atoms.
3. Take the mean squares of (x - mu_c)(x - mu_c)' over all atoms of each cluster and their principal directions with
   mean squares above f^2 = sum_f s_f^2 / 200^2; in all others an atom is taken to spread by f.
4. The edge of a cluster is the largest distance of its atoms; the median edge of the element if that is larger, and
   at least 1, so that an atom within f of a centre is never outside.

Nothing is random but the start of k-means, from a fixed seed; sums have a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.datasets.feature_rows import FeatureRows, read_features
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError, how_many
from pyfit_gpu.log import log
from pyfit_gpu.models.extrapolation import ExtrapolationGrade
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.parallel import Workers, one_thread
from pyfit_gpu.training.input_statistics import atoms_with_weight, input_moments

MAX_CLUSTERS = 64
CLUSTER_ATOMS = 500  # atoms of a cluster on average, at least
CLUSTER_ATOMS_PER_INPUT = 5
SAMPLE_ATOMS = 20_000
FLOOR = 1 / 200  # f over the total spread of the inputs

_LEAST_DEVIATION = 1e-3  # s_f over s_0
_ITERATIONS = 30
_AT_ONCE = 4096  # atoms
_SEED = 0
_DRAWS = 6  # atoms of which one becomes a place
_SAME_PLACE = 1e-10  # squared distance in scaled inputs

T = TypeVar("T")


def build_extrapolation_grade(training_set: TrainingSet, potential: Potential) -> ExtrapolationGrade:
    """Find the clusters of a training set's atoms, float64 on the host; features in files are read piece by piece.

    Args:
        training_set: the structures that trained; those without weight do not count.
        potential: whose inputs they are.

    Raises:
        InputError: inputs of another potential, or no structure with a weight above 0.
    """
    difference = potential.descriptor.difference(training_set.descriptor)
    if difference:
        raise InputError(f"extrapolation grade: the training set has other inputs than the potential: {difference}")
    atoms = atoms_with_weight(training_set)
    if not len(atoms):
        raise InputError("extrapolation grade: expected structures with a weight above 0, got none")
    _, mean, deviation = input_moments(training_set)
    scales, found = [], []
    for element, symbol in enumerate(potential.descriptor.elements):
        own = atoms[training_set.species[atoms] == element]
        spread = _Spread.of(mean[element], deviation[element])
        inputs = _Inputs(training_set.features, own, Workers.shared(atoms.device))
        clusters = _find_clusters(inputs, spread, element) if len(own) else None
        scales.append(spread.scale)
        if clusters is not None:
            found.append(clusters)
        number = how_many(_count(clusters), "cluster")
        log.info("extrapolation grade: %s: %d training atoms, %s", symbol, len(own), number)
    return _joined(found, torch.stack(scales))


def _count(clusters: ExtrapolationGrade | None) -> int:
    return 0 if clusters is None else len(clusters.element)


def _joined(parts: list[ExtrapolationGrade], scale: Tensor) -> ExtrapolationGrade:
    """Clusters of all elements in one table."""
    rank = max(part.directions.shape[1] for part in parts)
    padded = [torch.nn.functional.pad(p.directions, (0, 0, 0, rank - p.directions.shape[1])) for p in parts]
    names = ("element", "n_atoms", "centers", "weight")
    whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return ExtrapolationGrade(scale=scale, directions=torch.cat(padded), **whole)


@dataclass(frozen=True, eq=False)
class _Spread:
    """Spread of the inputs of an element's atoms; 1 in all where there is none at all."""

    mean: Tensor  # (F,)
    scale: Tensor  # (F,), t
    floor: float  # f

    @classmethod
    def of(cls, mean: Tensor, deviation: Tensor) -> _Spread:
        total = float(deviation.square().sum().sqrt())
        typical = total / len(deviation) ** 0.5 or 1.0
        scale = (deviation.clamp(min=_LEAST_DEVIATION * typical) * typical).sqrt()
        return cls(mean, scale, FLOOR * (total or 1.0))

    def scaled(self, inputs: Tensor) -> Tensor:
        return (inputs - self.mean.to(inputs.device)) / self.scale.to(inputs.device)

    def unscaled(self, places: Tensor) -> Tensor:
        return self.mean.to(places.device) + places * self.scale.to(places.device)


class _Inputs:
    """Inputs of some atoms, computed with piece by piece, in an order that the atoms alone decide."""

    def __init__(self, features: Tensor | FeatureRows, atoms: Tensor, workers: Workers) -> None:
        self.features = features
        self.atoms = atoms
        self.workers = workers

    def pieces(self) -> Iterator[Tensor]:
        """Yield inputs (n, F), float64."""
        for rows in self.atoms.split(_AT_ONCE):
            yield read_features(self.features[rows]).double()

    def each(self, task: Callable[[Tensor], T], pieces: Iterable[Tensor] | None = None) -> Iterator[T]:
        """Yield the results of a task for all pieces in order, several computed side by side, one thread each."""
        with one_thread():
            yield from self.workers.each(task, self.pieces() if pieces is None else pieces)

    def sample(self, most: int) -> Tensor:
        """Inputs (n, F) of at most so many atoms, evenly taken, float64."""
        n_atoms = len(self.atoms)
        count = min(n_atoms, most)
        return read_features(self.features[self.atoms[torch.arange(count) * n_atoms // count]]).double()


def _find_clusters(inputs: _Inputs, spread: _Spread, element: int) -> ExtrapolationGrade:
    """Clusters of one element."""
    n_atoms, n_inputs = len(inputs.atoms), len(spread.scale)
    wanted = n_atoms // max(CLUSTER_ATOMS, CLUSTER_ATOMS_PER_INPUT * n_inputs)
    sample = spread.scaled(inputs.sample(SAMPLE_ATOMS))
    places = _settled(inputs, sample, _first_places(sample, max(1, min(MAX_CLUSTERS, wanted))))
    whole = (spread.scaled(piece) for piece in inputs.pieces())
    centers = spread.unscaled(_moved(inputs, whole, places))
    draft = ExtrapolationGrade(
        scale=spread.scale.to(centers.device)[None],
        element=torch.zeros(len(centers), dtype=torch.int64, device=centers.device),
        n_atoms=torch.zeros(len(centers), dtype=torch.int64, device=centers.device),
        centers=centers,
        weight=centers.new_full((len(centers),), spread.floor**-2),
        directions=centers.new_zeros(len(centers), 0, n_inputs),
    )
    draft = _with_directions(inputs, draft, spread.floor)
    done = _with_edges(inputs, draft).to("cpu", torch.float64)
    return replace(done, element=torch.full_like(done.element, element))


def _first_places(sample: Tensor, wanted: int) -> Tensor:
    """Places (C, F) of k-means++ in a sample (n, F).

    For each next one a few atoms are drawn by their squared distances from the nearest so far, and that is taken which
    leaves the least sum of squares: another draw would give much the same clusters.
    """
    random = np.random.default_rng(_SEED)
    own = sample.square().sum(dim=1)

    def squares(atoms: Tensor) -> Tensor:
        """(m, n): squared distances from some atoms; those that rounding could make are 0."""
        found = own[atoms, None] + own - 2 * sample[atoms] @ sample.T
        return torch.where(found > _SAME_PLACE, found, 0.0)

    chosen = [int(random.integers(len(sample)))]
    with one_thread():
        left = squares(torch.tensor(chosen, device=sample.device))[0]
        while len(chosen) < wanted:
            total = torch.cumsum(left.cpu(), 0)
            if not total[-1] > 0:  # all atoms are at the places that there are
                break
            drawn = torch.searchsorted(total, torch.from_numpy(random.random(_DRAWS)) * total[-1], right=True)
            trials = torch.minimum(left, squares(drawn.clamp(max=len(sample) - 1).to(sample.device)))
            best = int(trials.sum(dim=1).argmin())
            chosen.append(int(drawn[best]))
            left = trials[best]
    return sample[chosen]


def _settled(inputs: _Inputs, sample: Tensor, places: Tensor) -> Tensor:
    """Places after Lloyd's iterations on a sample (n, F)."""
    for _ in range(_ITERATIONS):
        before, places = places, _moved(inputs, sample.split(_AT_ONCE), places)
        if torch.equal(before, places):
            break
    return places


def _moved(inputs: _Inputs, pieces: Iterable[Tensor], places: Tensor) -> Tensor:
    """Move each place (C, F) to the mean of the atoms that it is nearest to; one without atoms stays."""
    half_squares = places.square().sum(dim=1) / 2

    def sums(piece: Tensor) -> tuple[Tensor, Tensor]:
        nearest = (half_squares - piece @ places.T).argmin(dim=1)
        members = torch.nn.functional.one_hot(nearest, len(places)).to(piece.dtype)
        return members.sum(dim=0), members.T @ piece

    counts, totals = torch.zeros_like(half_squares), torch.zeros_like(places)
    for count, total in inputs.each(sums, pieces):
        counts += count
        totals += total
    return torch.where(counts[:, None] > 0, totals / counts.clamp(min=1)[:, None], places)


def _with_directions(inputs: _Inputs, draft: ExtrapolationGrade, floor: float) -> ExtrapolationGrade:
    """Clusters that have atoms, with their numbers and directions."""

    def scatters(piece: Tensor) -> list[tuple[int, int, Tensor]]:
        cluster = draft.clusters(piece, torch.zeros(len(piece), dtype=torch.int64, device=piece.device))
        found = []
        for number in cluster.unique().tolist():
            moved = piece[cluster == number] - draft.centers[number]
            found.append((number, len(moved), moved.T @ moved))
        return found

    n_clusters, n_inputs = draft.centers.shape
    counts, squares = (
        torch.zeros(n_clusters, dtype=torch.int64),
        draft.centers.new_zeros(n_clusters, n_inputs, n_inputs),
    )
    for part in inputs.each(scatters):
        for number, count, square in part:
            counts[number] += count
            squares[number] += square
    used = counts.nonzero()[:, 0]
    with one_thread():
        mean_squares, directions = torch.linalg.eigh((squares.cpu()[used] / counts[used, None, None]).contiguous())
    above = mean_squares > floor**2
    length = torch.where(above, floor**-2 - 1 / mean_squares.where(above, 1.0), 0.0).sqrt()
    rank = int(above.sum(dim=1).max())
    rows = (directions * length[:, None]).transpose(1, 2).flip(1)[:, :rank]  # the largest first
    device = draft.centers.device
    used_here = used.to(device)
    return replace(
        draft,
        element=draft.element[used_here],
        n_atoms=counts[used].to(device),
        centers=draft.centers[used_here],
        weight=draft.weight[used_here],
        directions=rows.contiguous().to(device),
    )


def _with_edges(inputs: _Inputs, draft: ExtrapolationGrade) -> ExtrapolationGrade:
    """Clusters with distances over their edges."""
    n_clusters = len(draft.element)

    def largest(piece: Tensor) -> Tensor:
        species = torch.zeros(len(piece), dtype=torch.int64, device=piece.device)
        cluster, distance = draft.clusters(piece, species), draft(piece, species)
        return distance.new_zeros(n_clusters).scatter_reduce(0, cluster, distance, "amax")

    edge = draft.weight.new_zeros(n_clusters)
    for part in inputs.each(largest):
        edge = torch.maximum(edge, part)
    edge = edge.clamp(min=max(1.0, float(edge.median())))
    return replace(draft, weight=draft.weight / edge.square(), directions=draft.directions / edge[:, None, None])
