"""Networks for the atoms of a batch, chunk by chunk: in tiles on a CPU, stacked on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pyfit_gpu.descriptors.lsp import padded_widths
from pyfit_gpu.models.batches import Batch
from pyfit_gpu.models.networks import ElementLayout, NetworkPass
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.tiles import AtomTiles, TiledNetworks

# Up to so many elements a GPU gives all atoms to all networks, which are small beside the features (not measured).
_FEW_ELEMENTS = 4
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


@dataclass(frozen=True, eq=False)
class EveryElement(ElementLayout):
    """All atoms for the networks of every element, of which each atom keeps what its own says.

    To sort atoms by element the host must know how many there are of each, and would wait for the device.
    """

    species: Tensor  # (n,) int64
    n_elements: int

    def arrange(self, per_atom: Tensor) -> Tensor:
        """(n, F) to (S, n, F)."""
        return per_atom.expand(self.n_elements, *per_atom.shape)

    def arrange_members(self, per_atom: Tensor) -> Tensor:
        """(K, n, F) to (K, S, n, F), zero for the networks of other elements."""
        elements = torch.arange(self.n_elements, device=self.species.device)
        return per_atom[:, None] * (elements[:, None] == self.species)[:, :, None]

    def restore(self, arranged: Tensor) -> Tensor:
        """(K, S, n, n_out) to (K, n, n_out)."""
        own = self.species[:, None].expand(arranged.shape[0], 1, -1, arranged.shape[3])
        return arranged.gather(1, own)[:, 0]


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
        species, n_elements = self._species[atoms], self._networks.n_elements
        if 1 < n_elements <= _FEW_ELEMENTS:
            layout: ElementLayout = EveryElement(None, None, species, n_elements)
        else:
            layout = ElementLayout.of(species, n_elements)
        return layout.restored(self._networks.with_vjp(layout.arrange(features)))
