"""Fully connected networks, one per element and member, as stacked weights evaluated in batched products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.errors import InputError

Seed = int | tuple[int, ...] | None  # None: a random one

_RUN = 2048  # atoms of one partial sum on a GPU

ACTIVATIONS = {0: "1 / (1 + exp(-x))", 1: "1 / (1 + exp(-x)) - 1/2"}


@dataclass(frozen=True, eq=False)
class ElementNetworks:
    """K members x S elements x layers. Hidden layers have the activation, the output layer is linear."""

    weights: tuple[Tensor, ...]  # per layer (K, S, n_in, n_out)
    biases: tuple[Tensor, ...]  # per layer (K, S, n_out)
    activation: int  # one of ACTIVATIONS

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            known = "; ".join(f"{number}: {formula}" for number, formula in ACTIVATIONS.items())
            raise InputError(f"activation: expected one of ({known}), got {self.activation}")

    @property
    def n_members(self) -> int:
        return self.weights[0].shape[0]

    @property
    def n_elements(self) -> int:
        return self.weights[0].shape[1]

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Inputs, hidden layers, outputs."""
        return (self.weights[0].shape[2], *(weight.shape[3] for weight in self.weights))

    @property
    def n_parameters(self) -> int:
        """Of one member."""
        return sum(tensor[0].numel() for tensor in (*self.weights, *self.biases))

    def member(self, number: int) -> ElementNetworks:
        """One member, counted from 0; its tensors are views of these."""
        chosen = slice(number, number + 1)
        weights, biases = (tuple(layer[chosen] for layer in layers) for layers in (self.weights, self.biases))
        return replace(self, weights=weights, biases=biases)

    @classmethod
    def from_flat(
        cls, flat: Tensor, layer_sizes: Sequence[int], *, n_elements: int, activation: int
    ) -> ElementNetworks:
        """Networks whose tensors are views of `flat` (K, n_parameters), in the order of the .nn.dat format.

        That is per element, per layer: weights leaving input 1, input 2, .., then biases.
        """
        n_members = flat.shape[0]
        by_element = flat.view(n_members, n_elements, -1)
        weights, biases, start = [], [], 0
        for n_in, n_out in pairwise(layer_sizes):
            weight = by_element[..., start : start + n_in * n_out]
            start += n_in * n_out
            weights.append(weight.unflatten(-1, (n_in, n_out)))
            biases.append(by_element[..., start : start + n_out])
            start += n_out
        return cls(tuple(weights), tuple(biases), activation)

    def flat(self) -> Tensor:
        """(K, n_parameters), a copy in the order of `from_flat`."""
        layers = zip(self.weights, self.biases, strict=True)
        parts = [part for weight, bias in layers for part in (weight.flatten(2), bias)]
        return torch.cat(parts, dim=2).flatten(1)

    @classmethod
    def random(
        cls,
        layer_sizes: Sequence[int],
        max_random: float,
        seed: Seed,
        *,
        n_elements: int,
        activation: int,
    ) -> ElementNetworks:
        """One member, weights and biases uniform in +-max_random, the same on every machine for one seed."""
        count = n_elements * count_parameters(layer_sizes)
        values = np.random.default_rng(seed).uniform(-max_random, max_random, (1, count))
        return cls.from_flat(torch.from_numpy(values), layer_sizes, n_elements=n_elements, activation=activation)

    @torch.no_grad()
    def copy_member(self, number: int, other: ElementNetworks, its_number: int) -> None:
        """Overwrite one member's weights with those of a member of networks with the same layers."""
        for mine, theirs in zip((*self.weights, *self.biases), (*other.weights, *other.biases), strict=True):
            mine[number] = theirs[its_number]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> ElementNetworks:
        return replace(
            self,
            weights=tuple(weight.to(device, dtype or weight.dtype) for weight in self.weights),
            biases=tuple(bias.to(device, dtype or bias.dtype) for bias in self.biases),
        )

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs of every member for atoms arranged by element.

        Args:
            inputs: (S, M, n_in), the atoms of each element, padded to M.

        Returns:
            (K, S, M, n_out); what stands in padded places means nothing.
        """
        hidden = self._repeated(inputs)
        last = len(self.weights) - 1
        for layer in range(last + 1):
            hidden = self._layer(layer, hidden)
            if layer < last:
                hidden = self._activated(torch.sigmoid(hidden))
        return hidden.unflatten(0, (self.n_members, self.n_elements))

    def forward(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Single outputs, and what `pull_back` needs to know of the way to them; not for autograd.

        Args:
            inputs: (S, M, n_in), as for a call.

        Returns:
            (K, S, M), and the sigmoids of each hidden layer, (K S, M, n).
        """
        hidden = self._repeated(inputs)
        sigmoids: list[Tensor] = []
        for weight, bias in self._folded:
            hidden = torch.baddbmm(bias, hidden, weight)
            if len(sigmoids) < len(self.weights) - 1:
                sigmoids.append(hidden.sigmoid_())
        return hidden.squeeze(-1).unflatten(0, (self.n_members, self.n_elements)), sigmoids

    def pull_back(self, inputs: Tensor, sigmoids: Sequence[Tensor], of_outputs: Tensor) -> Tensor:
        """(K, n_parameters), in the order of `flat`: derivatives by weights and biases, from those by the outputs.

        Args:
            inputs: as for `forward`, which gave the sigmoids.
            of_outputs: (K, S, M), zero where padded.
        """
        arriving = of_outputs.flatten(0, 1)[..., None]
        parts: list[Tensor] = []
        for layer in reversed(range(len(self.weights))):
            of_bias = arriving.sum(dim=1)
            if layer:
                of_weight = _sum_over_atoms(sigmoids[layer - 1], arriving)
                if self.activation == 1:
                    of_weight = of_weight - 0.5 * of_bias[:, None]
            else:
                of_weight = _sum_over_atoms_shared(inputs, arriving)
            parts += [of_bias, of_weight.flatten(1)]
            if layer:
                transposed = self._folded[layer][0].transpose(1, 2)
                single = arriving.shape[2] == 1
                arriving = arriving * transposed if single else torch.bmm(arriving, transposed)
                arriving = torch.ops.aten.sigmoid_backward(arriving, sigmoids[layer - 1])
        return torch.cat(parts[::-1], dim=1).view(self.n_members, -1)

    def with_flat(self, flat: Tensor) -> ElementNetworks:
        """Networks of the same layers with other weights, (K, n_parameters); their tensors are views of it."""
        return self.from_flat(flat, self.layer_sizes, n_elements=self.n_elements, activation=self.activation)

    @cached_property
    def _folded(self) -> list[tuple[Tensor, Tensor]]:
        """Per layer (K S, n_in, n_out) and (K S, 1, n_out), so that layers pass on bare sigmoids.

        The 1/2 that activation 1 takes off goes into the next layer's biases: a pass over all atoms less.
        """
        found = []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if layer and self.activation == 1:
                bias = bias - 0.5 * weight.sum(dim=2)
            found.append((weight.flatten(0, 1), bias.flatten(0, 1)[:, None]))
        return found

    def with_gradient(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The single output and its gradient by the inputs, both differentiable by weights.

        Args:
            inputs: (S, M, n_in), as for a call.

        Returns:
            (K, S, M) and (K, S, M, n_in).
        """
        hidden = self._repeated(inputs)
        last = len(self.weights) - 1
        slopes = []
        for layer in range(last):
            sigmoid = torch.sigmoid(self._layer(layer, hidden))
            slopes.append(sigmoid * (1 - sigmoid))
            hidden = self._activated(sigmoid)
        output = self._layer(last, hidden).squeeze(-1)
        gradient = self.weights[last].flatten(0, 1).transpose(1, 2).expand(-1, inputs.shape[1], -1)
        for layer in reversed(range(last)):
            gradient = torch.bmm(gradient * slopes[layer], self.weights[layer].flatten(0, 1).transpose(1, 2))
        members = (self.n_members, self.n_elements)
        return output.unflatten(0, members), gradient.unflatten(0, members)

    def _repeated(self, inputs: Tensor) -> Tensor:
        """(K S, M, n_in)."""
        if self.n_members == 1:
            return inputs
        repeated = inputs[None].expand(self.n_members, *inputs.shape)
        # With one element this is a view with a stride of zero, which the products take as it is.
        return repeated.flatten(0, 1) if self.n_elements > 1 else repeated[:, 0]

    def _layer(self, layer: int, hidden: Tensor) -> Tensor:
        # (K S, M, n_in) x (K S, n_in, n_out): one batched product for all members and elements.
        bias = self.biases[layer].flatten(0, 1)[:, None]
        return torch.baddbmm(bias, hidden, self.weights[layer].flatten(0, 1))

    def _activated(self, sigmoid: Tensor) -> Tensor:
        return sigmoid - 0.5 if self.activation == 1 else sigmoid


def member_seed(seed: int | None, restart: int, member: int) -> Seed:
    """Of what member 0, 1, .. draws at the start (0) or at a restart (1, 2, ..).

    Numbers side by side, not a sum: neighbouring seeds of a job array must not draw one another's weights.
    """
    if seed is None:
        return None
    if member:
        return (seed, restart, member)
    return (seed, restart) if restart else seed


def _sum_over_atoms(hidden: Tensor, arriving: Tensor) -> Tensor:
    """(K S, n_in, n_out): sum over atoms of hidden (K S, M, n_in) times arriving (K S, M, n_out)."""
    main = _length_of_runs(arriving)
    if not main:
        return torch.bmm(hidden.transpose(1, 2), arriving)
    runs = [tensor[:, :main].unflatten(1, (-1, _RUN)).flatten(0, 1) for tensor in (hidden, arriving)]
    found = torch.bmm(runs[0].transpose(1, 2), runs[1]).unflatten(0, (len(hidden), -1)).sum(dim=1)
    return torch.baddbmm(found, hidden[:, main:].transpose(1, 2), arriving[:, main:])


def _sum_over_atoms_shared(inputs: Tensor, arriving: Tensor) -> Tensor:
    """(K S, n_in, n_out): the same with inputs (S, M, n_in) that all members share, which are read once."""
    n_elements, n_atoms, _ = inputs.shape
    together = arriving.unflatten(0, (-1, n_elements)).movedim(0, 2)  # (S, M, K, n_out)
    n_members, n_out = together.shape[2:]
    found = _sum_over_atoms(inputs, together.reshape(n_elements, n_atoms, -1))
    return found.unflatten(2, (n_members, n_out)).movedim(2, 0).flatten(0, 1)


def _length_of_runs(arriving: Tensor) -> int:
    """How many of the atoms (K S, M, n_out) to add up in runs. A GPU has hundreds of processors for a few sums."""
    return arriving.shape[1] // _RUN * _RUN if arriving.device.type == "cuda" else 0


def count_parameters(layer_sizes: Sequence[int]) -> int:
    """Weights and biases of one network."""
    return sum((n_in + 1) * n_out for n_in, n_out in pairwise(layer_sizes))


@dataclass(frozen=True, eq=False)
class ElementLayout:
    """Where each atom stands when atoms are arranged by element. With one element nothing moves."""

    atom: Tensor | None  # (S, M) int64, atom at each place, 0 where padded; None: one element
    place: Tensor | None  # (n_atoms,) int64, flat place of each atom

    @classmethod
    def of(cls, species: Tensor, n_elements: int) -> ElementLayout:
        """For `species` (n_atoms,) int64."""
        if n_elements == 1:
            return cls(None, None)
        counts = torch.bincount(species, minlength=n_elements)
        largest = max(1, int(counts.max())) if len(species) else 1
        order = torch.argsort(species, stable=True)
        kind = species[order]
        first = torch.cumsum(counts, 0) - counts
        sorted_place = kind * largest + torch.arange(len(order), device=species.device) - first[kind]
        place = torch.empty_like(order)
        place[order] = sorted_place
        atom = torch.zeros(n_elements * largest, dtype=torch.int64, device=species.device)
        atom[sorted_place] = order
        return cls(atom.view(n_elements, largest), place)

    def arrange(self, per_atom: Tensor) -> Tensor:
        """(n_atoms, F) to (S, M, F)."""
        return per_atom[None] if self.atom is None else per_atom[self.atom]

    def arrange_values(self, per_atom: Tensor) -> Tensor:
        """(K, n_atoms) to (K, S, M), zero where padded."""
        if self.atom is None or self.place is None:
            return per_atom[:, None]
        arranged = per_atom.new_zeros(len(per_atom), self.atom.numel())
        return arranged.index_copy_(1, self.place, per_atom).unflatten(1, tuple(self.atom.shape))

    def restore(self, arranged: Tensor) -> Tensor:
        """(K, S, M, n_out) to (K, n_atoms, n_out)."""
        flat = arranged.flatten(1, 2)
        return flat if self.place is None else flat.index_select(1, self.place)
