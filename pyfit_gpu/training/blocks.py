"""Blocks: some structures of a training set, and their part of the squared loss of networks and of its gradient.

With label weights that add up to 1 over a whole set (loss.py), sums over the blocks of a set are

    e^2 = sum_s weight_s ((E_nn,s - E_used,s) / n_s)^2,     f^2, v^2 and the squares of further terms likewise

and so are their gradients: blocks know nothing of one another. Where only energies train, the gradient is written out;
the other terms go through autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pyfit_gpu.datasets.feature_rows import FeatureRows, read_features
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.models.conditioning import Conditioning
from pyfit_gpu.models.force_rows import RowGroup, structure_groups
from pyfit_gpu.models.network_jacobian import NetworkJacobian, atoms_by_element
from pyfit_gpu.models.networks import ElementLayout, ElementNetworks
from pyfit_gpu.sums import sum_over_atoms
from pyfit_gpu.training.atomic_energies import (
    AtomicEnergies,
    Informed,
    as_outputs,
    informed,
    map_of,
    penalty_rows,
    straight,
)
from pyfit_gpu.training.bond_map import BondMap
from pyfit_gpu.training.force_map import require_positions
from pyfit_gpu.training.labels import Labels
from pyfit_gpu.training.lanes import cut_blocks
from pyfit_gpu.training.local_penalty import PENALTY
from pyfit_gpu.training.loss import LabelWeights, WeightedTerm, counted_errors, huber_squares, squares_of
from pyfit_gpu.training.packed_atoms import PackedAtoms, forward, vjp

_EnergyRows = tuple[slice, slice, list[slice | Tensor], list[RowGroup]]
_ROW_ATOMS = 4096  # most atoms for whose structures' energies rows of the Jacobian are made at once


@dataclass(frozen=True, eq=False)
class BlockValue:
    """The parts of the squared loss of A members on some structures, and its gradient."""

    energies: Tensor  # (A, B) eV/atom
    # (A,) each, sums of label weight times squared error, see `LossTerm`, and the penalty on local parameters
    squares: Mapping[str, Tensor]
    gradient: Tensor | None  # (A, n_parameters), gradient of e^2 + force_weight f^2 + ..
    sums: Tensor | None = None  # (A, S N) of local parameters, where their means are wanted

    @classmethod
    def sum(cls, values: Sequence[BlockValue]) -> BlockValue:
        """Add up blocks of the same members, in the given order."""
        squares, gradient, sums = dict(values[0].squares), values[0].gradient, values[0].sums
        for value in values[1:]:
            squares = {name: square + value.squares[name] for name, square in squares.items()}
            gradient = None if gradient is None or value.gradient is None else gradient + value.gradient
            sums = None if sums is None or value.sums is None else sums + value.sums
        return cls(torch.cat([value.energies for value in values], dim=1), squares, gradient, sums)

    @classmethod
    def join(cls, values: Sequence[BlockValue]) -> BlockValue:
        """Concatenate results for different members."""
        if len(values) == 1:
            return values[0]
        gradients = [value.gradient for value in values if value.gradient is not None]
        sums = [value.sums for value in values if value.sums is not None]
        return cls(
            torch.cat([value.energies for value in values]),
            {name: torch.cat([value.squares[name] for value in values]) for name in values[0].squares},
            torch.cat(gradients) if gradients else None,
            torch.cat(sums) if sums else None,
        )

    def named(self) -> dict[str, Tensor]:
        """Everything by name, for `Columns`."""
        others = {"gradient": self.gradient, "sums": self.sums}
        known = {name: value for name, value in others.items() if value is not None}
        return {"energies": self.energies, **self.squares, **known}

    @classmethod
    def from_named(cls, values: Mapping[str, Tensor]) -> BlockValue:
        """Build a value from the result of `named`."""
        squares = {name: value for name, value in values.items() if name not in ("energies", "gradient", "sums")}
        return cls(values["energies"], squares, values.get("gradient"), values.get("sums"))


class Block:
    """Some structures of a set, arranged once in memory of their own, on the device and in the dtype of its features.

    A streamed block holds neither features nor derivatives: `opened` gives a copy that does.
    """

    def __init__(
        self,
        chosen: TrainingSet,
        label_weights: LabelWeights,
        terms: Sequence[WeightedTerm] = (),
        *,
        memory: float,
        stream: bool = False,
        conditioning: Conditioning | None = None,
        huber: float = 0.0,
        how: Informed | None = None,
    ) -> None:
        """Arrange the structures, unless the block is streamed.

        Args:
            chosen: the block's structures.
            label_weights: weights of the block's structures in the whole set.
            terms: terms beside the energy that take part in the whole set.
            memory: most bytes of derivatives to keep.
            stream: whether to read the features, and compute derivatives, each time the block is opened.
            conditioning: of the networks' inputs; None: they are the features.
            huber: eV/atom, see `huber_squares`.
            how: what energies follow from beside the features; None: a straight network's output is the energy.
        """
        self._huber = huber
        self._informed = how
        device, dtype = chosen.features.device, chosen.features.dtype
        self._source: Tensor | FeatureRows = chosen.features
        if how is not None and how.is_bare:
            self._source, conditioning = torch.empty(chosen.n_atoms, 0, dtype=dtype, device=device), None
        self._conditioning = None if conditioning is None else conditioning.to(device, dtype)
        self.sizes = chosen.sizes
        self.species = chosen.species
        self.structure = torch.repeat_interleave(chosen.sizes)
        self.per_atom = 1.0 / chosen.sizes.to(dtype)
        # In float64 first: total energies of hundreds of eV would cost float32 its digits.
        self.target = (chosen.energy_used / chosen.sizes).to(dtype)  # (B,) eV/atom
        self.weight = label_weights["energy"].to(dtype)
        self.slope = 2 * self.weight * self.per_atom
        self.squares = squares_of(terms)
        rows = _with_labels(label_weights, terms)
        if how is not None and len(rows):  # bonds are those of the map, which then has all structures
            rows = torch.arange(len(chosen), device=device)
        arrange = ElementLayout.of if len(rows) else PackedAtoms.of
        self.layout = arrange(chosen.species, chosen.descriptor.n_elements)
        self._make_labels: Callable[[], Labels] | None = None
        if len(rows):
            if stream:  # faults show before the first evaluation
                require_positions(chosen.select(rows))
            scale = None if self._conditioning is None else self._conditioning.scale
            memory = 0 if stream else memory
            self._make_labels = partial(Labels, chosen, label_weights, terms, rows, memory=memory, scale=scale, how=how)
        self.labels: Labels | None = None
        self._make_bonds: Callable[[], BondMap] | None = None
        if how is not None and not len(rows):
            require_positions(chosen)
            self._make_bonds = partial(map_of, how, chosen, 0 if stream else memory)
        self.bonds: BondMap | None = None
        self._found_groups: list[_EnergyRows] | None = None
        self.is_open = False
        if not stream:
            self._open()

    def opened(self) -> Block:
        """This block, or a copy that holds features and derivatives if this one is streamed."""
        if self.is_open:
            return self
        block = copy(self)
        block._open()
        return block

    def _open(self) -> None:
        # In memory of its own: results must not depend on where in a larger tensor the block's rows begin.
        if isinstance(self.layout, PackedAtoms):
            self.features = self.layout.arrange(self._source, self._conditioning)
        else:
            arranged = self.layout.arrange(read_features(self._source))
            lazy = isinstance(self._source, FeatureRows)
            self.features = arranged if lazy else arranged.clone(memory_format=torch.contiguous_format)
            if self._conditioning is not None:
                mean, scale = self._conditioning
                self.features.sub_(mean[:, None]).div_(scale[:, None])
        self.labels = self._make_labels() if self._make_labels else None
        self.bonds = self._make_bonds() if self._make_bonds else None
        self.is_open = True
        del self._source, self._make_labels, self._make_bonds  # and with them the set's own tensors

    @property
    def kept_bytes(self) -> int:
        """Bytes of the derivatives that are kept."""
        return sum(kept.kept_bytes for kept in (self.labels, self.bonds) if kept is not None)

    def value(
        self, networks: ElementNetworks, factor: Tensor | None, means: Tensor | None = None, *, gradient: bool
    ) -> BlockValue:
        """Evaluate all members of the networks.

        Args:
            networks: with activation 0, in the dtype and on the device of the features.
            factor: (A, B), scales the gradient of each structure's squared energy error; None: 1.
            means: (A, S, N) of local parameters, see `LocalPenalty`; None: not known or not needed.
        """
        with torch.no_grad():
            if isinstance(self.layout, PackedAtoms):
                return self._energy_value(self.layout, networks, factor, means, gradient)
            return self._full_value(self.layout, networks, factor, means, gradient)

    def jacobian_rows(self, networks: ElementNetworks, factor: Tensor | None) -> Iterator[Tensor]:
        """Yield rows (n, P) of the Jacobian of the residuals, whose squares add up to the squared loss, of one member.

        Args:
            networks, factor: as for `value`, with one member. A factor scales the squares of the energies' rows, where
                the loss is not the sum of their squares (group_errors.py): that linearises it.
        """
        with torch.no_grad():
            inputs, species = self._inputs_by_atom(), self.species
            scale = self._scaled(factor if factor is None else factor[0]).sqrt() * self.per_atom
            local = None if self._informed is None else self.local(networks, gradient=True)
            slopes = None if local is None or local.slopes is None else local.slopes[0]
            for structures, atoms, by_element, groups in self._energy_rows(networks.n_elements):
                own = None if slopes is None else slopes[atoms]
                jacobian = NetworkJacobian(networks, inputs[atoms], by_element, own)
                for group in groups:
                    yield jacobian.energy_rows(group.members) * scale[structures][group.rows][:, None]
            if self.labels is not None:
                yield from self.labels.jacobian_rows(networks, inputs, species, local)
            if local is not None and self._informed is not None and self._informed.penalty is not None:
                yield from penalty_rows(self._informed, networks, inputs, species, local)

    def local(self, networks: ElementNetworks, *, gradient: bool = False) -> AtomicEnergies:
        """Energies of atoms and the local parameters that they follow from, of a physically informed network."""
        assert self._informed is not None
        with torch.no_grad():
            if isinstance(self.layout, PackedAtoms):
                outputs = self.layout.restore(forward(networks, self.layout, self.features)[0], len(self.structure))
            else:
                outputs = as_outputs(self.layout.restore(networks(self.features)))
            bonds = self.bonds if self.labels is None else self.labels.slopes
            assert bonds is not None
            return informed(self._informed, bonds, outputs, self.species, None, gradient=gradient)

    def _energy_rows(self, n_elements: int) -> list[_EnergyRows]:
        """Rows of J of energies: the structures and atoms that a `NetworkJacobian` is made for, and their groups."""
        if self._found_groups is None:
            self._found_groups = []
            sizes = self.sizes.tolist()
            start = 0
            for first, end in cut_blocks(sizes, _ROW_ATOMS):
                structures, atoms = slice(first, end), slice(start, start + sum(sizes[first:end]))
                own = self.species[atoms]
                groups = structure_groups(self.sizes[structures], own, n_elements)
                self._found_groups.append((structures, atoms, atoms_by_element(own, n_elements), groups))
                start = atoms.stop
        return self._found_groups

    def _inputs_by_atom(self) -> Tensor:
        """(n_atoms, F): the networks' inputs, conditioned."""
        if isinstance(self.layout, PackedAtoms):
            arranged = self.features.transpose(1, 2).flatten(0, 1)
            width = arranged.shape[1] - 1
            place = self.layout.place
            chosen = arranged[: len(self.structure)] if place is None else arranged.index_select(0, place)
            return chosen[:, :width]
        return self.layout.restore(self.features[None])[0]

    def _energy_value(
        self,
        packed: PackedAtoms,
        networks: ElementNetworks,
        factor: Tensor | None,
        means: Tensor | None,
        gradient: bool,
    ) -> BlockValue:
        outputs, sigmoids = forward(networks, packed, self.features)
        outputs = packed.restore(outputs, len(self.structure))
        if self._informed is None or self.bonds is None:
            found = straight(outputs)
        else:
            found = informed(self._informed, self.bonds, outputs, self.species, means, gradient=gradient)
        energies = self._per_atom(found.energies)
        squares = self._no_squares(energies) | ({} if found.penalty is None else {PENALTY: found.penalty})
        if not gradient:
            return BlockValue(energies, squares, None, found.sums)
        # The same for all atoms of a structure.
        grad_atomic = counted_errors(energies - self.target, self._huber) * self._slope(factor)
        grad_outputs = packed.arrange_values(found.pull(grad_atomic.index_select(1, self.structure)))
        found_gradient = vjp(networks, packed, self.features, sigmoids, grad_outputs)
        return BlockValue(energies, squares, found_gradient, found.sums)

    def _full_value(
        self,
        layout: ElementLayout,
        networks: ElementNetworks,
        factor: Tensor | None,
        means: Tensor | None,
        gradient: bool,
    ) -> BlockValue:
        assert self.labels is not None
        leaf = networks.flat().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            found = self.labels.predict(networks.with_flat(leaf), layout, self.features, self.species, means)
            energies = self._per_atom(found.energies)
            square = (huber_squares(energies - self.target, self._huber) * self._scaled(factor)).sum(dim=1)
            other, squares = self.labels.squares(found)
            total = (square + other).sum()
            if found.penalty is not None:
                total = total + found.penalty.sum()
                squares[PENALTY] = found.penalty.detach()
            grad = torch.autograd.grad(total, leaf)[0] if gradient else None
        return BlockValue(energies.detach(), {**self._no_squares(energies), **squares}, grad, found.sums)

    def _no_squares(self, energies: Tensor) -> dict[str, Tensor]:
        """Zeros (A,): blocks of one set have the same squares, whichever labels their own structures have."""
        return {name: energies.new_zeros(len(energies)) for name in self.squares}

    def _per_atom(self, atomic: Tensor) -> Tensor:
        """(A, n_atoms) eV to (A, B) eV/atom."""
        return sum_over_atoms(atomic, self.sizes) * self.per_atom

    def _slope(self, factor: Tensor | None) -> Tensor:
        """Derivative of the weighted squared error with respect to the energy of an atom, divided by the error."""
        return self.slope if factor is None else self.slope * factor.to(self.slope.dtype)

    def _scaled(self, factor: Tensor | None) -> Tensor:
        return self.weight if factor is None else self.weight * factor.to(self.weight.dtype)


def _with_labels(label_weights: LabelWeights, terms: Sequence[WeightedTerm]) -> Tensor:
    """(B',) int64, structures that have a label of one of the terms and a weight."""
    wanted = torch.zeros_like(label_weights["energy"], dtype=torch.bool)
    for one in terms:
        wanted |= label_weights[one.term.name] > 0
    return wanted.nonzero()[:, 0]
