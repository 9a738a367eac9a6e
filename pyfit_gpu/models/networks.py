"""Fully connected networks, one per element and member, as stacked layers evaluated in batched products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.models.activations import ACTIVATIONS, SIGMOIDS, Sigmoid
from pyfit_gpu.sums import ragged_range

Seed = int | tuple[int, ...] | None  # None: a random seed

_ALWAYS_ONE = 50.0  # sigmoid(50) = 1 / (1 + 2e-22)

Vjp = Callable[[Tensor], Tensor]  # from derivatives with respect to outputs to those with respect to inputs


@dataclass(frozen=True, eq=False)
class NetworkPass:
    """Outputs of networks for some atoms, the inputs of their last layer, and the vector-Jacobian products of both."""

    outputs: Tensor  # (.., n_out)
    hidden: Tensor  # (.., n_hidden), activations of the last hidden layer; the networks' inputs, where there is none
    vjp: Vjp
    hidden_vjp: Vjp


@dataclass(frozen=True, eq=False)
class ElementNetworks:
    """K members x S elements x layers. Hidden layers have the activation, the output layer is linear."""

    weights: tuple[Tensor, ...]  # per layer (K, S, n_in, n_out)
    biases: tuple[Tensor, ...]  # per layer (K, S, n_out)
    activation: int  # one of ACTIVATIONS

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            known = "; ".join(f"{number}: {formula}" for number, formula in ACTIVATIONS.items())
            raise InputError(f"activation: expected one of ({known}), got {self.activation}", setting="activation")

    @property
    def sigmoid(self) -> Sigmoid:
        """The activation in terms of the logistic function."""
        return SIGMOIDS[self.activation]

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
        """Number of parameters of one member."""
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

        That is per element, per layer: the weights of input 1, of input 2, .., then the biases.
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
        flat = draw_parameters(n_elements * count_parameters(layer_sizes), max_random, seed)
        return cls.from_flat(flat, layer_sizes, n_elements=n_elements, activation=activation)

    @torch.no_grad()
    def copy_member(self, number: int, other: ElementNetworks, its_number: int) -> None:
        """Overwrite one member's parameters with those of a member of other networks with the same layers."""
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
            (K, S, M, n_out); entries of padding are arbitrary.
        """
        hidden = self._repeated(inputs)
        last = len(self.weights) - 1
        for layer in range(last + 1):
            hidden = self._layer(layer, hidden)
            if layer < last:
                hidden = self.sigmoid.activated(self._logistic(hidden))
        return hidden.unflatten(0, (self.n_members, self.n_elements))

    def with_flat(self, flat: Tensor) -> ElementNetworks:
        """Networks of the same layers whose tensors are views of other parameters, `flat` (K, n_parameters)."""
        return self.from_flat(flat, self.layer_sizes, n_elements=self.n_elements, activation=self.activation)

    def without_offset(self) -> ElementNetworks:
        """Networks with activation 0 and the same outputs: what activation 1 takes off goes into the biases.

        The factors of activation 2 go into weights and biases.
        """
        weights, biases = list(self.weights), list(self.biases)
        for layer in range(1, len(biases)):
            if self.sigmoid.offset:
                biases[layer] = biases[layer] - self.sigmoid.offset * weights[layer].sum(dim=2)
        for layer, (of_weights, of_biases) in enumerate(self._factors()):
            if of_weights != 1:
                weights[layer] = of_weights * weights[layer]
            if of_biases != 1:
                biases[layer] = of_biases * biases[layer]
        return replace(self, weights=tuple(weights), biases=tuple(biases), activation=0)

    def _factors(self) -> list[tuple[float, float]]:
        """Factors of each layer's weights and biases that make an activation of height and steepness 1."""
        last = len(self.weights) - 1
        height, steepness = self.sigmoid.height, self.sigmoid.steepness
        inner = [steepness if layer < last else 1.0 for layer in range(last + 1)]
        return [(factor * (height if layer else 1.0), factor) for layer, factor in enumerate(inner)]

    def gradient_from_without_offset(self, grad: Tensor) -> Tensor:
        """Convert a gradient with respect to the parameters of `without_offset()` to one with respect to these.

        Args:
            grad: (K, n_parameters), as the result.
        """
        if self.activation == 0:
            return grad
        flat = grad.clone()
        views = self.with_flat(flat)
        layers = zip(views.weights, views.biases, self._factors(), strict=True)
        for layer, (weight, bias, (of_weights, of_biases)) in enumerate(layers):
            if of_biases != 1:
                bias.mul_(of_biases)
            if of_weights != 1:
                weight.mul_(of_weights)
            if layer:
                weight.sub_(bias[:, :, None], alpha=self.sigmoid.offset)
        return flat

    @cached_property
    def augmented(self) -> list[Tensor]:
        """Layers with the biases as last row: (S, K, n_in + 1, n_out + 1), the last layer (S, K, n_in + 1, n_out).

        Inputs have a last component 1; the last column gives an output that the sigmoid turns into 1 again. Cached;
        use only where parameters are never changed in place, as those of `without_offset()`.
        """
        found = []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True), start=1):
            both = torch.cat((weight, bias[:, :, None]), dim=2)
            if layer < len(self.weights):
                both = torch.nn.functional.pad(both, (0, 1))
                both[..., -1, -1] = _ALWAYS_ONE
            found.append(both.transpose(0, 1))
        return found

    def with_vjp(self, inputs: Tensor) -> NetworkPass:
        """Outputs and their vector-Jacobian product, both differentiable with respect to the parameters.

        Args:
            inputs: (S, M, n_in), as for a call.

        Returns:
            outputs (K, S, M, n_out) and the rest likewise; the products give derivatives (K, S, M, n_in).
        """
        hidden = self._repeated(inputs)
        last = len(self.weights) - 1
        sigmoids: list[Tensor] = []
        for layer in range(last):
            sigmoids.append(self._logistic(self._layer(layer, hidden)))
            hidden = self.sigmoid.activated(sigmoids[layer])
        outputs = self._layer(last, hidden)
        members = (self.n_members, self.n_elements)

        transposed = [layer.flatten(0, 1).transpose(1, 2) for layer in self.weights]

        def from_hidden(grad: Tensor) -> Tensor:
            for layer in reversed(range(last)):
                slope = sigmoids[layer] * (1 - sigmoids[layer])
                if self.sigmoid.height != 1:
                    slope = self.sigmoid.height * self.sigmoid.steepness * slope
                grad = torch.bmm(grad * slope, transposed[layer])
            return grad.unflatten(0, members)

        def vjp(grad: Tensor) -> Tensor:
            grad = grad.flatten(0, 1)
            # With one output this product is a broadcast.
            grad = grad * transposed[last] if grad.shape[2] == 1 else torch.bmm(grad, transposed[last])
            return from_hidden(grad)

        return NetworkPass(
            outputs.unflatten(0, members),
            hidden.unflatten(0, members),
            vjp,
            lambda grad: from_hidden(grad.flatten(0, 1)),
        )

    def with_gradient(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The single output and its gradient with respect to the inputs, both differentiable as in `with_vjp`.

        Args:
            inputs: (S, M, n_in), as for a call.

        Returns:
            (K, S, M) and (K, S, M, n_in).
        """
        found = self.with_vjp(inputs)
        return found.outputs.squeeze(-1), found.vjp(torch.ones_like(found.outputs))

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

    def _logistic(self, hidden: Tensor) -> Tensor:
        steepness = self.sigmoid.steepness
        return torch.sigmoid(hidden if steepness == 1 else steepness * hidden)


def member_seed(seed: int | None, restart: int, member: int) -> Seed:
    """Seed of member 0, 1, .. for its parameters at the start (0) or at a restart (1, 2, ..).

    A tuple of numbers, not a sum: neighbouring seeds of a job array must not draw one another's parameters.
    """
    if seed is None:
        return None
    if member:
        return (seed, restart, member)
    return (seed, restart) if restart else seed


def draw_parameters(count: int, max_random: float, seed: Seed) -> Tensor:
    """(1, count) float64 uniform in +-max_random, the same on every machine for one seed."""
    return torch.from_numpy(np.random.default_rng(seed).uniform(-max_random, max_random, (1, count)))


def count_parameters(layer_sizes: Sequence[int]) -> int:
    """Number of weights and biases of one network."""
    return sum((n_in + 1) * n_out for n_in, n_out in pairwise(layer_sizes))


@dataclass(frozen=True, eq=False)
class ElementLayout:
    """Places of atoms that are arranged by element. With one element nothing moves."""

    atom: Tensor | None  # (S, M) int64, atom at each place, 0 where padded; None: one element
    place: Tensor | None  # (n_atoms,) int64, flat place of each atom

    @classmethod
    def of(cls, species: Tensor, n_elements: int) -> ElementLayout:
        """Lay out atoms of `species` (n_atoms,) int64."""
        if n_elements == 1:
            return cls(None, None)
        counts = torch.bincount(species, minlength=n_elements)
        largest = max(1, int(counts.max())) if len(species) else 1
        order = torch.argsort(species, stable=True)
        first = largest * torch.arange(n_elements, device=species.device)
        _, sorted_place = ragged_range(first, counts, len(order))
        place = torch.empty_like(order)
        place[order] = sorted_place
        atom = torch.zeros(n_elements * largest, dtype=torch.int64, device=species.device)
        atom[sorted_place] = order
        return cls(atom.view(n_elements, largest), place)

    def arrange(self, per_atom: Tensor) -> Tensor:
        """(n_atoms, F) to (S, M, F)."""
        return per_atom[None] if self.atom is None else per_atom[self.atom]

    def arrange_members(self, per_atom: Tensor) -> Tensor:
        """(K, n_atoms, F) to (K, S, M, F)."""
        return per_atom[:, None] if self.atom is None else per_atom[:, self.atom]

    def restore(self, arranged: Tensor) -> Tensor:
        """(K, S, M, n_out) to (K, n_atoms, n_out)."""
        flat = arranged.flatten(1, 2)
        return flat if self.place is None else flat.index_select(1, self.place)

    def restored(self, found: NetworkPass) -> NetworkPass:
        """Results for atoms in their own order, (K, n_atoms, ..), from those for `arrange`d ones."""
        return NetworkPass(
            self.restore(found.outputs),
            self.restore(found.hidden),
            lambda grad: self.restore(found.vjp(self.arrange_members(grad))),
            lambda grad: self.restore(found.hidden_vjp(self.arrange_members(grad))),
        )
