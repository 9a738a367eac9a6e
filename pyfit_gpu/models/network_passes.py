"""Networks for the atoms of a batch, chunk by chunk: in tiles on a CPU, stacked on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from pyfit_gpu.descriptors.lsp import padded_widths
from pyfit_gpu.models.batches import Batch
from pyfit_gpu.models.networks import ElementLayout, NetworkPass
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.tiles import AtomTiles, TiledNetworks

_NETWORK_ATOMS = 4096  # of a piece that goes through the networks without a chunk, on a CPU


class TiledPass:
    """Networks for a CPU: members and elements one by one, atoms in tiles."""

    def __init__(self, potential: Potential, batch: Batch) -> None:
        self._networks = TiledNetworks(potential.networks)
        self._n_members = potential.networks.n_members
        structure = torch.repeat_interleave(batch.sizes, output_size=len(batch.species))
        widths = padded_widths(batch.neighbors.counts, on_gpu=False)
        self._tiles = AtomTiles.of(
            batch.species, structure, widths, potential.descriptor.n_elements, potential.dtype.itemsize
        )

    def pieces(self) -> Iterator[Tensor]:
        """All atoms, in pieces that can be evaluated at once."""
        yield from self._tiles.in_order.split(_NETWORK_ATOMS)

    def __call__(self, atoms: Tensor, features: Tensor) -> NetworkPass:
        """Outputs (K, n, n_out) and the rest likewise, for features (n, n_features) of atoms (n,)."""
        outputs = features.new_empty(self._n_members, len(features), self._networks.n_outputs)
        hidden = features.new_empty(self._n_members, len(features), self._networks.n_hidden)
        parts: list[tuple[int, slice, Tensor, int, NetworkPass]] = []
        for element, own, place, n_tiles in self._tiles.by_element(atoms):
            inputs = self._arranged(features[own], place, n_tiles)
            for member in range(self._n_members):
                found = self._networks(member, element, inputs)
                outputs[member, own] = found.outputs.flatten(0, 1).index_select(0, place)
                hidden[member, own] = found.hidden.flatten(0, 1).index_select(0, place)
                parts.append((member, own, place, n_tiles, found))

        def all_vjps(grad: Tensor, *, of_hidden: bool = False) -> Tensor:
            result = features.new_empty(self._n_members, *features.shape)
            for member, own, place, n_tiles, found in parts:
                arranged = self._arranged(grad[member, own], place, n_tiles)
                vjp = found.hidden_vjp if of_hidden else found.vjp
                result[member, own] = vjp(arranged).flatten(0, 1).index_select(0, place)
            return result

        return NetworkPass(outputs, hidden, all_vjps, partial(all_vjps, of_hidden=True))

    def _arranged(self, values: Tensor, place: Tensor, n_tiles: int) -> Tensor:
        """(n, m) to (n_tiles, rows, m), zero where there is no atom."""
        whole = values.new_zeros(n_tiles * self._tiles.rows, values.shape[1])
        return whole.index_copy_(0, place, values).view(n_tiles, self._tiles.rows, -1)


class StackedPass:
    """Networks for a GPU: all members and elements in one batched product."""

    def __init__(self, potential: Potential, batch: Batch) -> None:
        self._networks = potential.networks
        self._species = batch.species

    def pieces(self) -> Iterator[Tensor]:
        """All atoms at once."""
        yield torch.arange(len(self._species), device=self._species.device)

    def __call__(self, atoms: Tensor | slice, features: Tensor) -> NetworkPass:
        """Outputs (K, n, n_out) and the rest likewise, for features (n, n_features) of atoms (n,), or of a slice."""
        layout = ElementLayout.of(self._species[atoms], self._networks.n_elements)
        return layout.restored(self._networks.with_vjp(layout.arrange(features)))
