"""What training minimises: the errors of energies, forces and stress, plus a penalty on the weights.

    loss      = sqrt( e^2 + force_weight f^2 + stress_weight v^2 )                 eV/atom
    e^2       = sum_s w_s ((E_nn,s - E_used,s) / n_s)^2 / sum_s w_s
    f^2       = sum_s w_s sum_{i in s} |F_nn,i - F_i|^2 / (3 sum_s w_s n_s)         over structures with forces
    v^2       = sum_s w_s sum_{6} (V_s / n_s (sigma_nn,s - sigma_s))^2 / (6 sum_s w_s)    over those with stress
    optimised = loss + l2 * sum over weight and bias tensors of ||p||_2

w_s is the weight of a structure. The stress enters as virial per atom, so that all terms are energies per atom and a
cell with much vacuum does not vanish. Without forces and stress, and with every weight 1, this is the loss of the
classic program (docs/theory.md). Where groups have a target RMSE t_g,

    e^2       = sum_g W_g max(0, e_g - t_g)^2,      e_g the RMSE of group g, W_g its share of the weights

which is the same for t_g = 0, and smooth where e_g passes t_g.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.parallel import Workers
from pyfit_gpu.sums import ordered_sum, sum_runs
from pyfit_gpu.training.blocks import Block, BlockValue, Shares

if TYPE_CHECKING:
    from pyfit_gpu.training.distributed import Team

N_LANES = 24  # at most: sums that are added up one after the other, whatever the number of threads or processes
# At least, of energies alone and of forces: threads that take turns at the interpreter need operations that last.
LANE_ATOMS = (16_384, 2_048)
# Times points, on a GPU: up to about here to start operations takes as long as they do (H100, 40-16-16-1).
RECORDED_ATOMS = 3_000_000
BLOCK_ATOMS = 24_576  # at most, on a CPU

_Lane = list[tuple[Block, slice]]  # blocks, and which structures of the set they hold


@dataclass(frozen=True)
class LossWeights:
    """Of the terms beside the energies, whose weight is 1."""

    force: float = 0.0  # Å^2
    stress: float = 0.0

    def __post_init__(self) -> None:
        for name in ("force", "stress"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{name}_weight: expected a number >= 0, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Errors:
    """Of A members on one set: the loss and the root-mean-square error of every label that takes part; float64."""

    loss: Tensor  # (A,) eV/atom
    energy: Tensor  # (A,) eV/atom
    forces: Tensor | None = None  # (A,) eV/Å, per component
    stress: Tensor | None = None  # (A,) eV/Å^3, per component


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Of A members at one point each."""

    errors: Errors
    energies: Tensor  # (A, B) eV/atom, float64
    gradient: Tensor | None  # (A, n_parameters) float64, of the loss; zero where the fit is exact


class Objective:
    """The loss of networks on one set, full batch, in the dtype and on the device of the set's features.

    A set is cut into lanes of whole structures, which depend on nothing but the set, and lanes into blocks. Sums go
    over the blocks of a lane and then over lanes, in order, so the same weights give the same bits whatever else is
    computed beside them: on a CPU every member is computed by itself, on a GPU all at once.
    """

    def __init__(
        self,
        training_set: TrainingSet,
        weights: LossWeights | None = None,
        *,
        targets: Mapping[str, float] | None = None,
        memory: float = math.inf,
        stream: bool = False,
        team: Team | None = None,
        n_lanes: int | None = None,
        block_atoms: int | None = None,
    ) -> None:
        """For the structures of a set, all of which must have an energy; other labels count where they are known.

        Args:
            weights: of forces and stress; None: energies only.
            targets: eV/atom, by group; an energy RMSE of the group below it costs nothing.
            memory: bytes, at most, of derivatives kept for forces and stress.
            stream: keep neither features nor derivatives: each evaluation reads the features, block by block, and
                finds neighbours again. The same bits as with all features in memory and no derivatives kept.
            team: processes among which the lanes are dealt; None: this one computes them all.
            n_lanes, block_atoms: None: chosen for the device.

        Raises:
            InputError: a structure without an energy, no structure, all weights zero, or a weight for forces or
                stress of a set without positions.
        """
        if len(training_set) == 0 or not bool(training_set.has_energy.all()):
            raise InputError("training needs structures that all have an energy (split() leaves out those without)")
        if not bool(training_set.weight.sum() > 0):
            raise InputError("training needs at least one structure with a weight above 0")
        weights = weights or LossWeights()
        self.shares = Shares.of(training_set)
        # A weight of a label that no structure has is none.
        self.force_weight = weights.force if bool((self.shares.force > 0).any()) else 0.0
        self.stress_weight = weights.stress if bool((self.shares.stress > 0).any()) else 0.0
        self.target = training_set.energy_used / training_set.sizes  # (B,) eV/atom, float64
        self.groups = _Groups(training_set.groups, self.shares.energy, targets or {})
        device = training_set.features.device
        self.dtype = training_set.features.dtype
        self.on_gpu = device.type == "cuda"
        self.team = team
        sizes = training_set.sizes.tolist()
        self.n_atoms = sum(sizes)
        default = (team.size if team else 1) if self.on_gpu else N_LANES
        self.bounds = lane_bounds(sizes, n_lanes or default, LANE_ATOMS[bool(self.force_weight or self.stress_weight)])
        block_atoms = block_atoms or (self.n_atoms if self.on_gpu else BLOCK_ATOMS)
        self.stream = stream
        self.kept_bytes = 0  # of derivatives
        self.lanes: list[_Lane] = []
        for first, end in self.bounds if team is None else team.share_of(self.bounds):
            cuts = [(first + a, first + b) for a, b in cut_blocks(sizes[first:end], block_atoms)]
            self.lanes.append([(self._block(training_set, a, b, memory), slice(a, b)) for a, b in cuts])
        self._workers = Workers(device)

    def _block(self, training_set: TrainingSet, first: int, end: int, memory: float) -> Block:
        rows = torch.arange(first, end, device=training_set.sizes.device)
        block = Block(
            training_set.select(rows),
            self.shares.select(rows),
            force_weight=self.force_weight,
            stress_weight=self.stress_weight,
            memory=memory - self.kept_bytes,
            stream=self.stream,
        )
        self.kept_bytes += block.kept_bytes
        return block

    def is_recordable(self, n_points: int) -> bool:
        """Whether an evaluation of so many points is the same operations on a GPU each time, and worth a recording."""
        with_labels = self.force_weight > 0 or self.stress_weight > 0
        small = n_points * self.n_atoms <= RECORDED_ATOMS
        return self.on_gpu and small and not (with_labels or self.stream or self.team)

    def evaluate(self, points: Tensor, like: ElementNetworks, *, gradient: bool = True) -> Evaluation:
        """At the weights `points` (A, n_parameters), any dtype, of networks of the same layers as `like`."""
        factor = None
        if self.groups.has_targets and gradient:
            factor = self.groups.factor(self._squared_errors(self._values(points, like, None, gradient=False).energies))
        value = self._values(points, like, factor, gradient=gradient)
        energies = value.energies.double()
        squared = self._squared_errors(energies)
        squares = value.squares.double()
        energy_square = ordered_sum(squared * self.shares.energy)
        counted = self.groups.square(squared) if self.groups.has_targets else energy_square
        square = counted + self.force_weight * squares[:, 0] + self.stress_weight * squares[:, 1]
        loss = square.sqrt()
        slope = None
        if value.gradient is not None:
            exact = square == 0
            slope = like.of_bare(value.gradient).double() / torch.where(exact, 1.0, 2 * loss)[:, None]
            slope = torch.where(exact[:, None], 0.0, slope)
        errors = Errors(
            loss=loss,
            energy=energy_square.sqrt(),
            forces=squares[:, 0].sqrt() if self.force_weight else None,
            stress=squares[:, 2].sqrt() if self.stress_weight else None,
        )
        return Evaluation(errors, energies, slope)

    def _squared_errors(self, energies: Tensor) -> Tensor:
        """(A, B)."""
        return (energies.double() - self.target).square()

    def _values(self, points: Tensor, like: ElementNetworks, factor: Tensor | None, *, gradient: bool) -> BlockValue:
        if self.team is None:
            return BlockValue.sum(self.lane_values(points, like, factor, gradient=gradient))
        return self.team.values(self, points, like, factor, gradient=gradient)

    def lane_values(
        self, points: Tensor, like: ElementNetworks, factor: Tensor | None, *, gradient: bool
    ) -> list[BlockValue]:
        """Of all members, lane by lane; of the lanes that this process owns. Gradients are by the weights of `bare()`.

        Args:
            factor: (A, B) for the whole set, see `Block.value`.
        """
        points = points.detach().to(self.dtype)
        n_members = len(points)
        at_once = [slice(0, n_members)] if self.on_gpu else [slice(k, k + 1) for k in range(n_members)]
        # A block that is streamed is opened for all members; otherwise each has a task of its own.
        numbers = list(range(len(at_once)))
        tasks = [numbers] if self.stream else [[number] for number in numbers]
        # Copies: the bits of a product can depend on where in memory its factors begin.
        networks = [like.with_flat(points[members].clone()).bare() for members in at_once]

        def work(item: tuple[_Lane, list[int]]) -> BlockValue:
            lane, chosen = item
            totals: list[BlockValue] = []
            for block, rows in lane:
                ready = block.opened()
                for k, number in enumerate(chosen):
                    part = None if factor is None else factor[at_once[number], rows]
                    value = ready.value(networks[number], part, gradient=gradient)
                    totals[k : k + 1] = [BlockValue.sum([*totals[k : k + 1], value])]
                del ready  # before the next is opened
            return BlockValue.join(totals)

        values = self._workers.map(work, [(lane, chosen) for lane in self.lanes for chosen in tasks])
        n = len(tasks)
        return [BlockValue.join(values[k : k + n]) for k in range(0, len(values), n)]

    def energies_per_atom(self, networks: ElementNetworks) -> Tensor:
        """(A, B) eV/atom."""
        return self.evaluate(networks.flat(), networks, gradient=False).energies

    def group_errors(self, energies: Tensor) -> Tensor:
        """(A, n_groups) eV/atom: RMSE of the energies (A, B) in each group, in the order of `groups.names`."""
        return self.groups.mean_squares(self._squared_errors(energies)).sqrt()

    def loss(self, networks: ElementNetworks) -> Tensor:
        """(A,) eV/atom, differentiable. At an exact fit, value and gradient are zero; what is not a number stays so."""
        return self.errors(networks).loss

    def errors(self, networks: ElementNetworks) -> Errors:
        """The loss is differentiable by the networks' weights, once."""
        flat = networks.flat()
        found = self.evaluate(flat, networks, gradient=flat.requires_grad)
        if found.gradient is None:
            return found.errors
        loss: Tensor = _Known.apply(flat, found.errors.loss, found.gradient)
        return Errors(loss, found.errors.energy, found.errors.forces, found.errors.stress)


class _Known(torch.autograd.Function):
    """A value whose gradient is known already, for autograd."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient.to(flat.dtype))
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_loss[:, None].to(gradient.dtype), None, None


class _Groups:
    """Energy errors by group."""

    def __init__(self, groups: Sequence[str], share: Tensor, targets: Mapping[str, float]) -> None:
        self.names = sorted(set(groups))
        unknown = sorted(set(targets) - set(self.names))
        if unknown:
            raise InputError(f"group targets: expected groups of the training structures, got {', '.join(unknown)}")
        number = {name: k for k, name in enumerate(self.names)}
        order = sorted(range(len(groups)), key=lambda row: number[groups[row]])
        numbers = [number[group] for group in groups]
        device = share.device
        self._order = torch.tensor(order, device=device)
        self._number = torch.tensor(numbers, device=device)
        self._counts = torch.bincount(self._number, minlength=len(self.names))
        self._share = share
        self._of_group = self._sums(share[None])[0]  # (G,)
        limits = [targets.get(name, 0.0) for name in self.names]
        self._target = torch.tensor(limits, dtype=torch.float64, device=device)
        self.has_targets = any(limits)

    def mean_squares(self, squared: Tensor) -> Tensor:
        """(A, B) squared errors to (A, G) means; NaN for a group without weight."""
        return self._sums(squared * self._share) / self._of_group

    def square(self, squared: Tensor) -> Tensor:
        """(A,): e^2 with targets."""
        beyond = (self.mean_squares(squared).sqrt() - self._target).clamp(min=0)
        # What is not a number stays so; a group without weight has no error.
        return torch.where(self._of_group > 0, self._of_group * beyond.square(), 0.0).sum(dim=1)

    def factor(self, squared: Tensor) -> Tensor:
        """(A, B): by how much less each structure counts in the gradient of e^2, max(0, 1 - t_g / e_g)."""
        errors = self.mean_squares(squared).sqrt()
        factors = torch.where(errors > self._target, 1 - self._target / errors, 0.0)
        return factors.index_select(1, self._number)

    def _sums(self, values: Tensor) -> Tensor:
        """(A, B) to (A, G)."""
        ordered = values.index_select(1, self._order).T.contiguous()
        return sum_runs(ordered, self._counts).T


def lane_bounds(sizes: Sequence[int], n_lanes: int, least: int) -> list[tuple[int, int]]:
    """First and one past the last structure of each lane: whole structures, about equal numbers of atoms.

    Fewer lanes than asked for where they would have less than `least` atoms, but one; none is empty.
    """
    return list(_cut(sizes, max(1, min(n_lanes, sum(sizes) // least, len(sizes)))))


def cut_blocks(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """First and one past the last of runs of structures with `most` atoms or less, give or take a structure."""
    return _cut(sizes, -(-sum(sizes) // most))


def _cut(sizes: Sequence[int], n_parts: int) -> Iterator[tuple[int, int]]:
    """Runs of structures, none empty; the middle of a structure decides in which part of all atoms it is."""
    twice_total = 2 * sum(sizes)
    first, done, current = 0, 0, 0
    for row, size in enumerate(sizes):
        part = (2 * done + size) * n_parts // twice_total
        if row and part != current:
            yield first, row
            first = row
        current = part
        done += size
    yield first, len(sizes)


def l2_penalty(networks: ElementNetworks) -> Tensor:
    """(K,) sum over the weight and bias tensors of all elements of their Euclidean norms, not squared."""
    norms = [torch.linalg.vector_norm(weight, dim=(2, 3)) for weight in networks.weights]
    norms += [torch.linalg.vector_norm(bias, dim=2) for bias in networks.biases]
    return torch.stack(norms).sum(dim=(0, 2))
