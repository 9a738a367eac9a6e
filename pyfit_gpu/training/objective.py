"""The loss of networks on one whole set (loss.py), with its gradient: lanes of blocks, added up in a fixed order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.conditioning import Conditioning
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.parallel import Workers
from pyfit_gpu.sums import ordered_sum
from pyfit_gpu.training.atomic_energies import AtomicEnergies, Informed
from pyfit_gpu.training.blocks import Block, BlockValue
from pyfit_gpu.training.group_errors import GroupErrors
from pyfit_gpu.training.lanes import (
    BLOCK_ATOMS,
    N_LANES,
    RECORDED_ATOMS,
    cut_blocks,
    lane_bounds,
    least_lane_atoms,
)
from pyfit_gpu.training.local_penalty import PENALTY, LocalPenalty
from pyfit_gpu.training.loss import (
    TERMS,
    Errors,
    LabelWeights,
    LossWeights,
    WeightedTerm,
    check_weights,
    counted_errors,
    huber_squares,
    squares_of,
    taking_part,
)
from pyfit_gpu.training.normal_matrix import NormalMatrix, symmetric

T = TypeVar("T")
_Lane = list[tuple[Block, slice]]  # blocks, and which structures of the set they hold


class Processes(Protocol):
    """Processes that share the work of one fit, as an objective sees them."""

    size: int

    def share_of(self, lanes: list[T]) -> list[T]:
        """Lanes that this process computes, in order."""

    def values(
        self,
        objective: Objective,
        points: Tensor,
        template: ElementNetworks,
        factor: Tensor | None,
        sums: Tensor | None,
        *,
        gradient: bool,
    ) -> BlockValue:
        """Sum of the `Objective.lane_values` of all processes."""

    def matrices(
        self, objective: Objective, point: Tensor, template: ElementNetworks, factor: Tensor | None
    ) -> Iterator[Tensor]:
        """Yield the `Objective.lane_matrices` of all lanes in order, each process having computed some."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Result of evaluating A members, each at its own parameters."""

    errors: Errors
    energies: Tensor  # (A, B) eV/atom, float64
    minimised: Tensor  # (A,) eV/atom, float64: the loss, with the penalty on local parameters if there is one
    gradient: Tensor | None  # (A, n_parameters) float64, of what is minimised; zero where that is 0


def objective_bytes(n_atoms: int, n_structures: int, itemsize: int) -> int:
    """Count the bytes that the objectives of a set and their blocks keep beside features and derivatives."""
    by_structure = 8 * (len(TERMS) + 1 + 2 + 1)  # label weights, target, place in the groups; size, in its block
    in_precision = 4 * itemsize  # in its block: 1 / atoms, target, weight, slope
    by_atom = 16  # structure and element of an atom, in its block
    return by_atom * n_atoms + (by_structure + in_precision) * n_structures


class Objective:
    """The loss of networks on one set, full batch, in the dtype and on the device of the set's features.

    A set is cut into lanes of whole structures, which depend on nothing but the set, and lanes into blocks. Sums go
    over the blocks of a lane and then over lanes, in order, so the same parameters give the same bits whatever is
    computed beside them: on a CPU every member is computed by itself, on a GPU all at once.
    """

    def __init__(
        self,
        training_set: TrainingSet,
        weights: LossWeights | None = None,
        *,
        targets: Mapping[str, float] | None = None,
        huber: float = 0.0,
        memory: float = math.inf,
        stream: bool = False,
        conditioning: Conditioning | None = None,
        processes: Processes | None = None,
        potential: Potential | None = None,
        penalties: Mapping[str, float] | None = None,
        n_lanes: int | None = None,
        block_atoms: int | None = None,
    ) -> None:
        """Prepare the structures of a set, all of which must have an energy; other labels count where they are known.

        Args:
            weights: of the terms beside the energy, by term, such as `{"forces": 0.1}`; None: energies only.
            targets: eV/atom, by group; an energy RMSE of the group below it costs nothing.
            huber: eV/atom; errors of energies beyond it count linearly; 0: none do.
            memory: bytes, at most, of derivatives kept for the terms beside the energy.
            stream: keep neither features nor derivatives: each evaluation reads the features, block by block, and
                finds neighbours again. The same bits as with all features in memory and no derivatives kept.
            conditioning: of the networks' inputs: parameters are then those of conditioned ones; None: the inputs are
                the features.
            processes: the processes that share the lanes; None: this one computes them all.
            potential: which trains; its networks' parameters do not matter. None: a straight network.
            penalties: prefactors of those on local parameters, by name, see `LocalPenalty`; None: all are 0.
            n_lanes, block_atoms: None: chosen for the device.

        Raises:
            InputError: a structure without an energy, no structure, all weights zero, a weight that is negative or not
                finite, or one for forces or stress, or a physically informed network, of a set without positions.
        """
        if len(training_set) == 0 or not bool(training_set.has_energy.all()):
            raise InputError("training needs structures that all have an energy (split() leaves out those without)")
        if not bool(training_set.weight.sum() > 0):
            raise InputError("training needs at least one structure with a weight above 0")
        check_weights(weights or {})
        self.label_weights = LabelWeights.of(training_set)
        self.terms = taking_part(weights or {}, self.label_weights)
        self.squares = squares_of(self.terms)
        self.huber = huber
        self.target = training_set.energy_used / training_set.sizes  # (B,) eV/atom, float64
        self.groups = GroupErrors(training_set.groups, self.label_weights["energy"], targets or {})
        self.n_residuals = _count_residuals(training_set, self.terms, self.label_weights)
        device = training_set.features.device
        self.dtype = training_set.features.dtype
        self.on_gpu = device.type == "cuda"
        self.processes = processes
        sizes = training_set.sizes.tolist()
        self.n_atoms = sum(sizes)
        default = (processes.size if processes else 1) if self.on_gpu else N_LANES
        is_informed = potential is not None and potential.is_physically_informed
        least = least_lane_atoms(bonds=is_informed, forces=bool(self.terms))
        self.bounds = lane_bounds(sizes, n_lanes or default, least)
        block_atoms = block_atoms or (self.n_atoms if self.on_gpu else BLOCK_ATOMS)
        self.stream = stream
        self.conditioning = conditioning
        self._penalty = _penalty_of(potential, training_set, penalties or {})
        self.informed = Informed.of(potential, training_set.features, self._penalty, conditioning)
        if self._penalty is not None:
            self.squares = [*self.squares, PENALTY]
        self.n_sums = self._penalty.n_sums if self._penalty is not None and self._penalty.needs_means else 0
        self.kept_bytes = 0  # bytes of derivatives that are kept
        self.lanes: list[_Lane] = []
        for first, end in self.bounds if processes is None else processes.share_of(self.bounds):
            cuts = [(first + a, first + b) for a, b in cut_blocks(sizes[first:end], block_atoms)]
            self.lanes.append([(self._block(training_set, a, b, memory), slice(a, b)) for a, b in cuts])
        self._workers = Workers(device)

    def _block(self, training_set: TrainingSet, first: int, end: int, memory: float) -> Block:
        rows = torch.arange(first, end, device=training_set.sizes.device)
        block = Block(
            training_set.select(rows),
            self.label_weights.select(rows),
            self.terms,
            memory=memory - self.kept_bytes,
            stream=self.stream,
            conditioning=self.conditioning,
            huber=self.huber,
            how=self.informed,
        )
        self.kept_bytes += block.kept_bytes
        return block

    @property
    def recordable_points(self) -> int:
        """Most points whose evaluation is the same operations on a GPU each time, and worth recording; 0: none."""
        if not self.on_gpu or self.stream or self.processes or self.informed:
            return 0
        return RECORDED_ATOMS[bool(self.terms)] // self.n_atoms

    def evaluate(self, points: Tensor, template: ElementNetworks, *, gradient: bool = True) -> Evaluation:
        """Evaluate the loss of networks with the layers of `template` at parameters `points` (A, n_parameters)."""
        factor = sums = None
        if (self.groups.has_targets and gradient) or self.n_sums:
            before = self._values(points, template, None, gradient=False)
            if self.groups.has_targets and gradient:
                factor = self.groups.factor(self._counted_squares(before.energies))
            sums = before.sums
        value = self._values(points, template, factor, sums, gradient=gradient)
        energies = value.energies.double()
        square = energy_square = ordered_sum(self._squared_errors(energies) * self.label_weights["energy"])
        if self.groups.has_targets:
            square = self.groups.square(self._counted_squares(energies))
        elif self.huber:
            square = ordered_sum(self._counted_squares(energies) * self.label_weights["energy"])
        errors = {"energy": energy_square.sqrt()}
        for one in self.terms:
            square = square + one.weight * value.squares[one.term.counted].double()
            errors[one.term.name] = value.squares[one.term.reported].double().sqrt()
        loss = minimised = square.sqrt()
        if self._penalty is not None:
            square = square + value.squares[PENALTY].double()
            minimised = square.sqrt()
        grad = None
        if value.gradient is not None:
            exact = square == 0
            grad_square = template.gradient_from_without_offset(value.gradient).double()
            grad = grad_square / torch.where(exact, 1.0, 2 * minimised)[:, None]
            grad = torch.where(exact[:, None], 0.0, grad)
        return Evaluation(Errors(loss, errors), energies, minimised, grad)

    def normal_matrices(self, points: Tensor, template: ElementNetworks) -> Iterator[Tensor]:
        """Yield J^T J (P, P) float64 of each member, J = dr/d(parameters), where r^T r is the squared loss.

        Where groups have targets, J is that of residuals whose weights are those of the gradient at these points.

        Args:
            points: (A, P), parameters of networks with the layers of `template`.
        """
        for k in range(len(points)):
            point, factor = points[k : k + 1], None
            if self.groups.has_targets or self.huber:
                factor = self._row_factor(self._values(point, template, None, gradient=False).energies)
            if self.processes is None:
                matrices = self.lane_matrices(point, template, factor, slice(None))
            else:
                matrices = self.processes.matrices(self, point, template, factor)
            total = next(matrices)
            for matrix in matrices:
                total.add_(matrix)
            total = template.gradient_from_without_offset(symmetric(total))
            yield template.gradient_from_without_offset(total.T.contiguous())

    def lane_matrices(
        self, point: Tensor, template: ElementNetworks, factor: Tensor | None, lanes: slice
    ) -> Iterator[Tensor]:
        """Yield the lower triangle of J^T J (P, P) float64 of one member, lane by lane.

        They are with respect to the parameters of `ElementNetworks.without_offset()`.

        Args:
            point: (1, P).
            factor: (1, B) for the whole set, see `Block.jacobian_rows`.
            lanes: among those that this process has.
        """
        networks = template.with_flat(point.detach().to(self.dtype).clone()).without_offset()

        def work(lane: _Lane) -> Tensor:
            total = NormalMatrix(point.shape[1], point.device)
            for block, rows in lane:
                ready = block.opened()
                for jacobian in ready.jacobian_rows(networks, None if factor is None else factor[:, rows]):
                    total.add(jacobian)
                del ready  # before the next is opened
            return total.lower

        return self._workers.each(work, self.lanes[lanes])

    def local(self, points: Tensor, template: ElementNetworks) -> Iterator[tuple[slice, Block, AtomicEnergies]]:
        """Yield the structures and local parameters of every block, of a physically informed network."""
        networks = template.with_flat(points.detach().to(self.dtype).clone()).without_offset()
        for lane in self.lanes:
            for block, rows in lane:
                yield rows, block, block.opened().local(networks)

    def _squared_errors(self, energies: Tensor) -> Tensor:
        """(A, B) of the energies (A, B), without weights."""
        return (energies.double() - self.target).square()

    def _counted_squares(self, energies: Tensor) -> Tensor:
        """(A, B) of the energies (A, B) as the loss counts them, without weights."""
        return huber_squares(energies.double() - self.target, self.huber)

    def _row_factor(self, energies: Tensor) -> Tensor:
        """(A, B): factor of the squares of the energies' rows of J, by which they have the gradient of the loss."""
        errors = energies.double() - self.target
        factor = torch.where(errors == 0, 1.0, counted_errors(errors, self.huber) / errors)
        return factor * self.groups.factor(self._counted_squares(energies)) if self.groups.has_targets else factor

    def _values(
        self,
        points: Tensor,
        template: ElementNetworks,
        factor: Tensor | None,
        sums: Tensor | None = None,
        *,
        gradient: bool,
    ) -> BlockValue:
        if self.processes is None:
            return BlockValue.sum(self.lane_values(points, template, factor, sums, gradient=gradient))
        return self.processes.values(self, points, template, factor, sums, gradient=gradient)

    def lane_values(
        self,
        points: Tensor,
        template: ElementNetworks,
        factor: Tensor | None,
        sums: Tensor | None = None,
        *,
        gradient: bool,
    ) -> list[BlockValue]:
        """Evaluate all members, lane by lane, on the lanes that this process owns.

        Gradients are with respect to the parameters of `ElementNetworks.without_offset()`.

        Args:
            factor: (A, B) for the whole set, see `Block.value`.
            sums: (A, n_sums) of the local parameters over the whole set; None: not known or not needed.
        """
        points = points.detach().to(self.dtype)
        means = None if sums is None or self._penalty is None else self._penalty.means(sums.double())
        n_members = len(points)
        at_once = [slice(0, n_members)] if self.on_gpu else [slice(k, k + 1) for k in range(n_members)]
        # A block that is streamed is opened for all members; otherwise each has a task of its own.
        numbers = list(range(len(at_once)))
        tasks = [numbers] if self.stream else [[number] for number in numbers]
        # Copies: the bits of a product can depend on where in memory its factors begin.
        networks = [template.with_flat(points[members].clone()).without_offset() for members in at_once]

        def work(item: tuple[_Lane, list[int]]) -> BlockValue:
            lane, chosen = item
            totals: list[BlockValue] = []
            for block, rows in lane:
                ready = block.opened()
                for k, number in enumerate(chosen):
                    part = None if factor is None else factor[at_once[number], rows]
                    own = None if means is None else means[at_once[number]]
                    value = ready.value(networks[number], part, own, gradient=gradient)
                    totals[k : k + 1] = [BlockValue.sum([*totals[k : k + 1], value])]
                del ready  # before the next is opened
            return BlockValue.join(totals)

        values = self._workers.map(work, [(lane, chosen) for lane in self.lanes for chosen in tasks])
        n = len(tasks)
        return [BlockValue.join(values[k : k + n]) for k in range(0, len(values), n)]

    def group_errors(self, energies: Tensor) -> Tensor:
        """(A, n_groups) eV/atom: RMSE of the energies (A, B) in each group, in the order of `groups.names`."""
        return self.groups.mean_squares(self._squared_errors(energies)).sqrt()


def _count_residuals(training_set: TrainingSet, terms: Sequence[WeightedTerm], weights: LabelWeights) -> int:
    """Count the numbers that are compared: energies, and components of forces and stress."""
    counted = int((weights["energy"] > 0).sum())
    for one in terms:
        places = training_set.sizes if one.term.per_atom else torch.ones_like(training_set.sizes)
        counted += int(places[weights[one.term.name] > 0].sum()) * one.term.components
    return counted


def _penalty_of(
    potential: Potential | None, training_set: TrainingSet, penalties: Mapping[str, float]
) -> LocalPenalty | None:
    """The penalty on local parameters; None: there is none."""
    if potential is None or not potential.is_physically_informed or not any(penalties.values()):
        return None
    counts = torch.bincount(training_set.species, minlength=potential.descriptor.n_elements)
    return LocalPenalty(**penalties, form=potential.form, counts=counts)
