"""Shifted and scaled inputs of networks, in which they train; their first layers absorb shift and scale.

    z_f = (x_f - mean_f) / scale_f,   W_file[f] = W[f] / scale_f,   b_file = b - sum_f mean_f W[f] / scale_f

Likewise the outputs of a physically informed network are local parameters over a scale, which the last layer absorbs:

    p_k = scale_k o_k,   W_file[k] = scale_k W[k],   b_file[k] = scale_k b[k]

W, b: first layer of a network of z; with the subscript: of the network of x with the same outputs, as files have it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.sums import sum_first_axis


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Shift and scale of the inputs of each element's network, and scale of its outputs."""

    mean: Tensor  # (S, n_in)
    scale: Tensor  # (S, n_in), above 0
    outputs: Tensor | None = None  # (S, n_out), above 0; None: 1

    @classmethod
    def none(cls, n_elements: int, n_inputs: int) -> Conditioning:
        """Leave the inputs as they are; `fold` and `unfold` then change no bit."""
        size = (n_elements, n_inputs)
        return cls(torch.zeros(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64))

    def __iter__(self) -> Iterator[Tensor]:
        """Yield mean and scale of the inputs."""
        return iter((self.mean, self.scale))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Conditioning:
        outputs = None if self.outputs is None else self.outputs.to(device, dtype)
        return Conditioning(self.mean.to(device, dtype), self.scale.to(device, dtype), outputs)

    def fold(self, networks: ElementNetworks) -> ElementNetworks:
        """Networks of the inputs as they are, from networks of the conditioned ones."""
        own = self.to(networks.weights[0].device, networks.weights[0].dtype)
        if own.outputs is not None:
            networks = _with_outputs(networks, own.outputs)
        first = networks.weights[0] / own.scale[:, :, None]
        return _with_first(networks, first, networks.biases[0] - own._shift(first))

    def unfold(self, networks: ElementNetworks) -> ElementNetworks:
        """Networks of the conditioned inputs, from networks of the inputs as they are: the inverse of `fold`."""
        own = self.to(networks.weights[0].device, networks.weights[0].dtype)
        if own.outputs is not None:
            networks = _with_outputs(networks, 1 / own.outputs)
        bias = networks.biases[0] + own._shift(networks.weights[0])
        return _with_first(networks, networks.weights[0] * own.scale[:, :, None], bias)

    def _shift(self, first: Tensor) -> Tensor:
        """Sum of mean times first layer (K, S, n_in, n_out) over the inputs, in their order: (K, S, n_out)."""
        if not first.shape[2]:  # a bare potential
            return first.sum(dim=2)
        return sum_first_axis((self.mean[:, :, None] * first).movedim(2, 0))


def _with_outputs(networks: ElementNetworks, scale: Tensor) -> ElementNetworks:
    """The same networks with outputs times a scale (S, n_out)."""
    weight, bias = networks.weights[-1] * scale[:, None], networks.biases[-1] * scale
    return replace(networks, weights=(*networks.weights[:-1], weight), biases=(*networks.biases[:-1], bias))


def _with_first(networks: ElementNetworks, weight: Tensor, bias: Tensor) -> ElementNetworks:
    """The same networks with another first layer."""
    return replace(networks, weights=(weight, *networks.weights[1:]), biases=(bias, *networks.biases[1:]))
