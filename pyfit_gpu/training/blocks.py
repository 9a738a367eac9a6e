"""Some structures of a training set, and what they add to the squared loss of networks and to its gradient.

With shares that add up to 1 over a whole set (objective.py), sums over the blocks of a set are

    e^2 = sum_s share_s ((E_nn,s - E_used,s) / n_s)^2,     f^2 and v^2 likewise

and so are their gradients: blocks know nothing of one another. Where only energies train, the gradient is written out;
the terms of forces and stress go through autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pyfit_gpu.datasets.feature_rows import FeatureRows, read_features
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.models.networks import ElementLayout, ElementNetworks
from pyfit_gpu.sums import ordered_sum, sum_over_atoms
from pyfit_gpu.training.energy_runs import Runs, forward, pull_back
from pyfit_gpu.training.force_map import ForceMap, require_positions


@dataclass(frozen=True, eq=False)
class Shares:
    """Of each structure in the mean squares of a set, float64; zero where the label is not known or has no weight."""

    energy: Tensor  # (B,) of the energy per atom
    force: Tensor  # (B,) of each force component
    stress: Tensor  # (B,) of each stress component

    @classmethod
    def of(cls, training_set: TrainingSet) -> Shares:
        weight = training_set.weight
        of_forces, of_stress = weight * training_set.has_forces, weight * training_set.has_stress
        return cls(
            _normalized(weight, ordered_sum(weight)),
            _normalized(of_forces, 3 * ordered_sum(of_forces * training_set.sizes)),
            _normalized(of_stress, 6 * ordered_sum(of_stress)),
        )

    def select(self, rows: Tensor) -> Shares:
        return Shares(self.energy[rows], self.force[rows], self.stress[rows])


def _normalized(weight: Tensor, total: Tensor) -> Tensor:
    return torch.where(total > 0, weight / total, 0.0)


@dataclass(frozen=True, eq=False)
class BlockValue:
    """Of A members on the structures of a block."""

    energies: Tensor  # (A, B) eV/atom
    squares: Tensor  # (A, 3) sums of share times square: force, virial per atom, and stress, each component
    gradient: Tensor | None  # (A, n_parameters), of e^2 + force_weight f^2 + stress_weight v^2

    @classmethod
    def sum(cls, values: list[BlockValue]) -> BlockValue:
        """Added up in the given order."""
        squares, gradient = values[0].squares, values[0].gradient
        for value in values[1:]:
            squares = squares + value.squares
            gradient = None if gradient is None or value.gradient is None else gradient + value.gradient
        return cls(torch.cat([value.energies for value in values], dim=1), squares, gradient)

    @classmethod
    def join(cls, values: list[BlockValue]) -> BlockValue:
        """Of other members each."""
        if len(values) == 1:
            return values[0]
        gradients = [value.gradient for value in values if value.gradient is not None]
        return cls(
            torch.cat([value.energies for value in values]),
            torch.cat([value.squares for value in values]),
            torch.cat(gradients) if gradients else None,
        )


class Block:
    """Tensors are arranged once, in memory of their own, on the device and in the dtype of the set's features.

    A block that is streamed holds neither features nor derivatives until it is opened, and then for as long as the
    opened one is in use.
    """

    def __init__(
        self,
        chosen: TrainingSet,
        shares: Shares,
        *,
        force_weight: float,
        stress_weight: float,
        memory: float,
        stream: bool = False,
    ) -> None:
        """
        Args:
            chosen: the block's structures.
            shares: of the block's structures in the whole set.
            force_weight, stress_weight: zero where the label takes no part.
            memory: bytes, at most, of derivatives that are kept.
            stream: read the features, and compute derivatives, each time the block is opened.
        """
        self._source = chosen.features
        dtype = chosen.features.dtype
        self.sizes = chosen.sizes
        self.structure = torch.repeat_interleave(chosen.sizes)
        self.per_atom = 1.0 / chosen.sizes.to(dtype)
        # Added up in float64: total energies of hundreds of eV cost float32 its digits.
        self.target = (chosen.energy_used / chosen.sizes).to(dtype)  # (B,) eV/atom
        self.share = shares.energy.to(dtype)
        self.slope = 2 * self.share * self.per_atom
        rows = _with_labels(shares, force_weight=force_weight, stress_weight=stress_weight)
        arrange = ElementLayout.of if len(rows) else Runs.of
        self.layout = arrange(chosen.species, chosen.descriptor.n_elements)
        self._make_labels: Callable[[], _Labels] | None = None
        if len(rows):
            if stream:  # what is wrong shows before the first evaluation
                require_positions(chosen.select(rows))
            self._make_labels = partial(
                _Labels,
                chosen,
                shares,
                rows,
                force_weight=force_weight,
                stress_weight=stress_weight,
                memory=0 if stream else memory,
            )
        self.labels: _Labels | None = None
        self.is_open = False
        if not stream:
            self._open()

    def opened(self) -> Block:
        """This one, or if it is streamed another that holds everything."""
        if self.is_open:
            return self
        block = copy(self)
        block._open()
        return block

    def _open(self) -> None:
        # Memory of its own: what the block computes must not depend on where in a larger tensor its rows begin.
        if isinstance(self.layout, Runs):
            self.features = self.layout.arrange(self._source)
        else:
            arranged = self.layout.arrange(read_features(self._source))
            lazy = isinstance(self._source, FeatureRows)
            self.features = arranged if lazy else arranged.clone(memory_format=torch.contiguous_format)
        self.labels = self._make_labels() if self._make_labels else None
        self.is_open = True
        del self._source, self._make_labels  # and with them the set's own tensors

    @property
    def kept_bytes(self) -> int:
        """Of derivatives kept in memory."""
        return 0 if self.labels is None else self.labels.map.kept_bytes

    def value(self, networks: ElementNetworks, factor: Tensor | None, *, gradient: bool) -> BlockValue:
        """Of all members of the networks.

        Args:
            networks: with activation 0, in the dtype and on the device of the features.
            factor: (A, B) by which the gradient of each structure's squared energy error is scaled; None: 1.
        """
        with torch.no_grad():
            if isinstance(self.layout, Runs):
                return self._of_energies(self.layout, networks, factor, gradient)
            return self._of_all_labels(self.layout, networks, factor, gradient)

    def _of_energies(self, runs: Runs, networks: ElementNetworks, factor: Tensor | None, gradient: bool) -> BlockValue:
        outputs, sigmoids = forward(networks, runs, self.features)
        energies = self._per_atom(runs.restore(outputs, len(self.structure)))
        squares = energies.new_zeros(len(energies), 3)
        if not gradient:
            return BlockValue(energies, squares, None)
        of_energies = (energies - self.target) * self._slope(factor)
        of_outputs = runs.arrange_values(of_energies.index_select(1, self.structure))
        return BlockValue(energies, squares, pull_back(networks, runs, self.features, sigmoids, of_outputs))

    def _of_all_labels(
        self, layout: ElementLayout, networks: ElementNetworks, factor: Tensor | None, gradient: bool
    ) -> BlockValue:
        assert self.labels is not None
        leaf = networks.flat().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            outputs, of_features = networks.with_flat(leaf).with_gradient(self.features)
            energies = self._per_atom(layout.restore(outputs[..., None])[..., 0])
            square = ((energies - self.target).square() * self._scaled(factor)).sum(dim=1)
            other, squares = self.labels.squares(layout.restore(of_features))
            found = torch.autograd.grad((square + other).sum(), leaf)[0] if gradient else None
        return BlockValue(energies.detach(), squares, found)

    def _per_atom(self, atomic: Tensor) -> Tensor:
        """(A, n_atoms) to (A, B) eV/atom."""
        return sum_over_atoms(atomic, self.sizes) * self.per_atom

    def _slope(self, factor: Tensor | None) -> Tensor:
        """Of share times squared error by the energy of an atom, per error."""
        return self.slope if factor is None else self.slope * factor.to(self.slope.dtype)

    def _scaled(self, factor: Tensor | None) -> Tensor:
        return self.share if factor is None else self.share * factor.to(self.share.dtype)


def _with_labels(shares: Shares, *, force_weight: float, stress_weight: float) -> Tensor:
    """(B',) int64, structures with a label, besides the energy, that counts."""
    wanted = torch.zeros_like(shares.energy, dtype=torch.bool)
    if force_weight > 0:
        wanted |= shares.force > 0
    if stress_weight > 0:
        wanted |= shares.stress > 0
    return wanted.nonzero()[:, 0]


class _Labels:
    """Forces and stress of the structures that have them: labels, shares, and the map from the networks."""

    def __init__(
        self,
        chosen: TrainingSet,
        shares: Shares,
        rows: Tensor,
        *,
        force_weight: float,
        stress_weight: float,
        memory: float,
    ) -> None:
        self.force_weight, self.stress_weight = force_weight, stress_weight
        known = shares.stress > 0
        virials = self.stress_weight > 0 and bool(known[rows].any())
        self.map = ForceMap(chosen, rows.tolist(), virials=virials, memory=memory)
        dtype = chosen.features.dtype
        # In the map's order. What is not known has a share of zero, and gets a target that is not NaN.
        own = self.map.rows
        sizes, volume = chosen.sizes[own], chosen.volume[own]
        self.force_share = torch.repeat_interleave(shares.force[own], sizes).to(dtype)[:, None, None]
        self.forces = chosen.forces[self.map.atoms].nan_to_num().to(dtype)[:, None]
        self.stress_share = shares.stress[own].to(dtype)[:, None, None]
        self.stress = chosen.stress[own].nan_to_num().to(dtype)[:, None]
        self.per_volume = torch.where(known[own], 1 / volume, 0.0).to(dtype)[:, None, None]
        self.volume_per_atom = (volume / sizes).to(dtype)[:, None, None]

    def squares(self, of_features: Tensor) -> tuple[Tensor, Tensor]:
        """Their part of the squared loss (A,), and the sums of `BlockValue.squares`, detached.

        Args:
            of_features: (A, n_atoms, n_features), dE/d(features) of all atoms of the block.
        """
        forces, virials = self.map(of_features.index_select(1, self.map.atoms).transpose(0, 1))
        total = of_features.new_zeros(of_features.shape[0])
        squares = of_features.new_zeros(of_features.shape[0], 3)
        if self.force_weight > 0:
            square = ((forces - self.forces).square() * self.force_share).sum(dim=(0, 2))
            total = total + self.force_weight * square
            squares[:, 0] = square.detach()
        if virials is not None:
            error = virials * self.per_volume - self.stress
            square = ((error * self.volume_per_atom).square() * self.stress_share).sum(dim=(0, 2))
            total = total + self.stress_weight * square
            squares[:, 1] = square.detach()
            squares[:, 2] = (error.detach().square() * self.stress_share).sum(dim=(0, 2))
        return total, squares
