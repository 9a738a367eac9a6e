"""Networks on packed atoms: energies, and the gradient of a function of them with respect to the parameters.

A pack is up to `PACK` atoms of one element, features first: (n_in + 1, L), where the last row is 1. With h_l the input
of layer l, likewise with a last row of 1, and W_l the parameters (n_in + 1, n_out + 1) with the biases as last row,

    a_l = W_l^T h_l,   h_l+1 = sigmoid(a_l),   dF/dW_l = h_l (dF/da_l)^T,   dF/da_l = sigmoid'(a_l) (W_l+1 dF/da_l+1)

The last column of W_l makes the row of ones (`ElementNetworks.augmented`). So biases cost neither a pass over the atoms
nor a sum of their own, rows of atoms are contiguous, and members that share the features are more rows of one product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.datasets.feature_rows import FeatureRows, read_features
from pyfit_gpu.models.conditioning import Conditioning
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.sums import ragged_range, sum_runs

# Most atoms of a pack. On a CPU long packs cost less, but pad more where there are several elements. On a GPU sums
# over atoms are a partial sum per pack, and short ones keep more of it busy (H100: one member in float32 takes 0.15 ms
# with 1024, 0.19 with 2048, 0.29 with 4096; many members take the same).
PACK = {"cpu": 4096, "cuda": 1024}
_ALIGNED = 8  # atoms


@dataclass(frozen=True, eq=False)
class PackedAtoms:
    """The place of each atom in packs of equal length, padded; each pack is of one element."""

    element: Tensor  # (R,) int64, ascending
    packs_of_element: Tensor  # (S,) int64, number of packs of each element
    length: int  # L
    place: Tensor | None  # (n_atoms,) int64, of each atom in the packs laid end to end; None: one element, in order

    @classmethod
    def of(cls, species: Tensor, n_elements: int) -> PackedAtoms:
        """Pack atoms of `species` (n_atoms,) int64."""
        counts = torch.bincount(species, minlength=n_elements)
        largest = max(1, int(counts.max()))
        length = math.ceil(largest / math.ceil(largest / PACK[species.device.type]))  # so that little is padded
        length = math.ceil(length / _ALIGNED) * _ALIGNED
        n_packs = (counts + length - 1) // length
        element = torch.repeat_interleave(n_packs)
        if n_elements == 1:
            return cls(element, n_packs, length, None)
        order = torch.argsort(species, stable=True)
        first = length * (torch.cumsum(n_packs, 0) - n_packs)
        place = torch.empty_like(order)
        place[order] = ragged_range(first, counts, len(order))[1]
        return cls(element, n_packs, length, place)

    @property
    def n_packs(self) -> int:
        return len(self.element)

    @property
    def n_places(self) -> int:
        return self.n_packs * self.length

    def arrange(self, features: Tensor | FeatureRows, conditioning: Conditioning | None = None) -> Tensor:
        """(n_atoms, F) to (R, F + 1, L), the last row 1; zero where padded.

        Args:
            conditioning: of the inputs, on their device and in their dtype; None: they stay as they are.
        """
        n_atoms, width = features.shape
        if self.place is None:
            order = torch.arange(n_atoms, device=self.element.device)
            packs = order.split(self.length)
        else:
            features = read_features(features)
            order = torch.argsort(self.place)
            packs = order.split(torch.bincount(self.place // self.length, minlength=self.n_packs).tolist())
        size = (self.n_packs, width + 1, self.length)
        arranged = torch.zeros(size, dtype=features.dtype, device=features.device)
        for pack, atoms in zip(arranged, packs, strict=True):  # no second array as large as the result
            pack[:width, : len(atoms)] = read_features(features[atoms]).T
            pack[width, : len(atoms)] = 1.0
        if conditioning is not None:
            means, scales = (by_element.index_select(0, self.element) for by_element in conditioning)
            for pack, atoms, mean, scale in zip(arranged, packs, means, scales, strict=True):
                pack[:width, : len(atoms)].sub_(mean[:, None]).div_(scale[:, None])
        return arranged

    def arrange_values(self, per_atom: Tensor) -> Tensor:
        """(K, n_atoms) to (R, K, L), zero where padded."""
        n_members, n_atoms = per_atom.shape
        arranged = per_atom.new_zeros(n_members, self.n_places)
        if self.place is None:
            arranged[:, :n_atoms] = per_atom
        else:
            arranged.index_copy_(1, self.place, per_atom)
        return arranged.view(n_members, self.n_packs, self.length).transpose(0, 1)

    def restore(self, arranged: Tensor, n_atoms: int) -> Tensor:
        """(R, K, L) to (K, n_atoms)."""
        flat = arranged.transpose(0, 1).flatten(1)
        return flat[:, :n_atoms] if self.place is None else flat.index_select(1, self.place)

    def spread(self, by_element: Tensor) -> Tensor:
        """(S, K, ..) to (R, K, ..): give each pack the values of its element."""
        if len(by_element) == 1:
            return by_element.expand(self.n_packs, *by_element.shape[1:])
        return by_element.index_select(0, self.element)

    def sum(self, by_pack: Tensor) -> Tensor:
        """(R, K, ..) to (S, K, ..): sum over the packs of each element."""
        if len(self.packs_of_element) == 1:
            return by_pack.sum(dim=0, keepdim=True)
        return sum_runs(by_pack, self.packs_of_element)


def forward(networks: ElementNetworks, packed: PackedAtoms, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Evaluate networks, and keep the intermediate results that `vjp` needs.

    Args:
        networks: with activation 0, see `ElementNetworks.without_offset`.
        inputs: (R, n_in + 1, L), from `PackedAtoms.arrange`.

    Returns:
        outputs (R, K n_out, L), and the sigmoids of each hidden layer, (R K, n + 1, L).

    Raises:
        ValueError: networks with another activation.
    """
    if networks.activation != 0:
        raise ValueError(f"activation: expected 0 (`without_offset()` gives such networks), got {networks.activation}")
    first, *others = (packed.spread(layer) for layer in networks.augmented)
    # All members share the first layer's inputs: their parameters are rows of one product.
    hidden = torch.bmm(first.transpose(2, 3).flatten(1, 2), inputs)
    hidden = hidden.view(-1, first.shape[3], packed.length)
    sigmoids: list[Tensor] = []
    for layer in others:
        sigmoids.append(hidden.sigmoid_())
        hidden = torch.bmm(layer.flatten(0, 1).transpose(1, 2), hidden)
    return hidden.view(packed.n_packs, -1, packed.length), sigmoids


def vjp(
    networks: ElementNetworks, packed: PackedAtoms, inputs: Tensor, sigmoids: Sequence[Tensor], grad_outputs: Tensor
) -> Tensor:
    """Vector-Jacobian product of `forward`: (K, n_parameters), in the order of `ElementNetworks.flat`.

    Args:
        networks, inputs: as for `forward`, which gave the sigmoids.
        grad_outputs: (R, K n_out, L), derivatives of a function with respect to the outputs, zero where padded.
    """
    n_packs, n_members = len(grad_outputs), networks.n_members
    layers = list(zip(networks.augmented, networks.layer_sizes[1:], strict=True))
    grad = grad_outputs.reshape(
        n_packs * n_members, networks.layer_sizes[-1], -1
    )  # with respect to the outputs of a layer
    parts: list[Tensor] = []
    for (layer, n_out), sigmoid in zip(layers[:0:-1], reversed(sigmoids), strict=True):
        # Without the row of ones, which has no gradient: 16 rows take little more than half of the time of 17.
        grad_layer = torch.bmm(grad[:, :n_out], sigmoid.transpose(1, 2)).transpose(1, 2)
        parts.append(packed.sum(grad_layer.unflatten(0, (n_packs, n_members))))
        grad = torch.bmm(packed.spread(layer).flatten(0, 1), grad)
        torch.ops.aten.sigmoid_backward.grad_input(grad, sigmoid, grad_input=grad)
    rows = grad if n_members > 1 else grad[:, : networks.layer_sizes[1]]
    together = rows.unflatten(0, (n_packs, n_members)).flatten(1, 2)  # (R, K n_out, L); one row more each if K > 1
    grad_layer = torch.bmm(inputs, together.transpose(1, 2)).unflatten(2, (n_members, -1)).transpose(1, 2)
    parts.append(packed.sum(grad_layer))
    kept = [part[..., :n_out].flatten(2) for part, (_, n_out) in zip(reversed(parts), layers, strict=True)]
    return torch.cat(kept, dim=2).transpose(0, 1).flatten(1)
