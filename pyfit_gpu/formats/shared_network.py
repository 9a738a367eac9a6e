"""One network for all elements, as in `.pinn` files, and the networks of the elements that do the same.

With S elements the last layer of a shared network has a slice of outputs for each element of the host atom. Its inputs
are the features (Kind II), or the features once per element of the host atom, of which all but the host's own stand
for G = 0 (Kind I).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.sums import ordered_sum


@dataclass(frozen=True)
class SharedNetwork:
    """Layout of one network for several elements."""

    n_elements: int  # S
    sizes: tuple[int, ...]  # layers of each element's own network
    n_inputs: int  # how many times the features are among the inputs: S (Kind I) or 1 (Kind II)
    n_slices: int  # of the outputs: S, or 1, where all elements have the same
    constant: float  # input that stands for G = 0

    @property
    def name(self) -> str:
        return "Kind I" if self.n_inputs > 1 else "Kind II"

    @property
    def file_sizes(self) -> tuple[int, ...]:
        """Layers of the network for all elements."""
        first, *between, last = self.sizes
        return (first * self.n_inputs, *between, last * self.n_slices)

    def split(self, flat: Tensor) -> Tensor:
        """Parameters (1, P) of the shared network to those of the elements' own, in the order of a .nn.dat file."""
        shared = ElementNetworks.from_flat(flat, self.file_sizes, n_elements=1, activation=0)
        weights = [weight[0].expand(self.n_elements, -1, -1) for weight in shared.weights]  # (S, n_in, n_out)
        biases = [bias[0].expand(self.n_elements, -1) for bias in shared.biases]
        if self.n_inputs > 1:
            weights[0] = weights[0][0].unflatten(0, (self.n_inputs, -1))
            biases[0] = biases[0] + self._constant_part(weights[0])
        if self.n_slices > 1:
            weights[-1], biases[-1] = _own_slice(weights[-1]), _own_slice(biases[-1])
        layers = zip(weights, biases, strict=True)
        parts = [part for weight, bias in layers for part in (weight.flatten(1), bias)]
        return torch.cat(parts, dim=1).flatten()[None]

    def join(self, networks: ElementNetworks) -> Tensor | None:
        """Parameters (1, P) of a shared network that does the same as those of the elements; None: there is none."""
        weights = [weight[0, 0] for weight in networks.weights]
        biases = [bias[0, 0] for bias in networks.biases]
        if self.n_inputs > 1:
            weights[0] = networks.weights[0][0].flatten(0, 1)
            biases[0] = _common_part(networks.biases[0][0], self._constant_part(networks.weights[0][0]))
        if self.n_slices > 1:
            if len(weights) == 1 and self.n_inputs > 1:
                return None  # without a hidden layer Kind II does as well
            weights[-1] = networks.weights[-1][0].transpose(0, 1).flatten(1)
            biases[-1] = networks.biases[-1][0].flatten()
        flat = torch.cat([part.flatten() for layer in zip(weights, biases, strict=True) for part in layer])[None]
        return flat if _does_the_same(networks.with_flat(self.split(flat)), networks) else None

    def _constant_part(self, weights: Tensor) -> Tensor:
        """(S, n_out): what the inputs that stand for G = 0 add to the first layer of each element.

        Args:
            weights: (S, n_in, n_out) of the elements' own inputs.
        """
        own = ordered_sum(weights.transpose(1, 2).contiguous())
        return self.constant * (own.sum(dim=0) - own)


def _does_the_same(found: ElementNetworks, expected: ElementNetworks) -> bool:
    pairs = zip(found.weights + found.biases, expected.weights + expected.biases, strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def _common_part(sums: Tensor, added: Tensor) -> Tensor:
    """(n,): numbers b with b + added = sums for all elements, to the last bit where there are such.

    Rounded sums leave an interval for b from each element; the middle of what they have in common is as good as what
    was added to, but for the rounding of the interval itself.

    Args:
        sums, added: (S, n).
    """
    half = (torch.nextafter(sums.abs(), torch.full_like(sums, torch.inf)) - sums.abs()) / 2
    apart = sums - added
    middle = ((apart - half).amax(dim=0) + (apart + half).amin(dim=0)) / 2
    up, down = (torch.full_like(middle, end) for end in (torch.inf, -torch.inf))
    found = middle
    for candidate in (torch.nextafter(middle, up), torch.nextafter(middle, down)):
        fits = (candidate + added == sums).all(dim=0) & ~(found + added == sums).all(dim=0)
        found = torch.where(fits, candidate, found)
    return found


def input_of_nothing(descriptor: LocalStructureParameters) -> float:
    """The network input that stands for G = 0."""
    return float(descriptor.mode.transform(torch.zeros((), dtype=torch.float64), descriptor.shift))


def _own_slice(of_all: Tensor) -> Tensor:
    """(S, .., S N) to (S, .., N): of each element's outputs its own slice."""
    n_elements = len(of_all)
    return torch.stack([of_all[k].unflatten(-1, (n_elements, -1))[..., k, :] for k in range(n_elements)])


def joined(networks: ElementNetworks, constant: float) -> tuple[SharedNetwork, Tensor] | None:
    """One network for all elements that does the same as those of one member, and its parameters; None: there is none.

    Args:
        constant: input that stands for G = 0.
    """
    n_elements, sizes = networks.n_elements, networks.layer_sizes
    for n_inputs in (1, n_elements):
        for n_slices in (1, n_elements) if sizes[-1] == 1 else (n_elements,):
            layout = SharedNetwork(n_elements, sizes, n_inputs, n_slices, constant)
            flat = layout.join(networks)
            if flat is not None:
                return layout, flat
    return None
