"""Networks on tiles of atoms, for a CPU: an atom's outputs have the same bits whichever structures are in the batch.

How libraries round a row of a matrix product depends on the shape of the matrix and on the place of the row in it. So
atoms go through the networks in tiles of a fixed number of rows, and an atom's row depends only on its own structure:
atoms of one structure and element with equally many places for neighbours stand one after the other and begin a tile
of their own. Every matrix begins at a multiple of 64 bytes. Tiles come in pairs, so that no array ends in the middle of
the widest vectors: the sigmoid of the last numbers of an array would be computed by other instructions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.descriptors.basis import LINE
from pyfit_gpu.models.networks import ElementNetworks, NetworkPass
from pyfit_gpu.sums import ragged_range

_COLUMNS = 4  # least number of columns of a result: libraries multiply a single column by another routine


@dataclass(frozen=True, eq=False)
class AtomTiles:
    """Tile and row of every atom of a batch."""

    rows: int  # rows of a tile
    place: Tensor  # (n_atoms,) int64, rows * tile + row; tiles ascend with (species, width, structure)
    species: Tensor  # (n_atoms,) int64
    n_elements: int

    @classmethod
    def of(cls, species: Tensor, structure: Tensor, widths: Tensor, n_elements: int, itemsize: int) -> AtomTiles:
        """Assign the atoms of a batch to tiles.

        Args:
            species: (n_atoms,) int64.
            structure: (n_atoms,) int64, ascending: which structure an atom belongs to.
            widths: (n_atoms,) int64, places for the neighbours of each atom.
            itemsize: bytes of a number in the networks.
        """
        rows = LINE // itemsize
        key = species
        if len(structure):
            key = (species * (widths.max() + 1) + widths) * (structure[-1] + 1) + structure
        ordered, order = torch.sort(key, stable=True)
        _, counts = torch.unique_consecutive(ordered, return_counts=True)
        n_tiles = (counts + rows - 1) // rows
        first = rows * (torch.cumsum(n_tiles, 0) - n_tiles)
        place = torch.empty_like(order)
        place[order] = ragged_range(first, counts, len(order))[1]
        return cls(rows, place, species, n_elements)

    @property
    def in_order(self) -> Tensor:
        """(n_atoms,) int64, all atoms in the order of their places."""
        return torch.argsort(self.place)

    def by_element(self, atoms: Tensor) -> Iterator[tuple[int, slice, Tensor, int]]:
        """Places of the atoms of a chunk in the tiles of each element that occurs.

        Args:
            atoms: (n,) int64, in the order of their places: as a chunk has them, or some that `in_order` gives.

        Yields:
            element, which of the atoms are its own, their places in its tiles (one after the other), and how many
            tiles there are.
        """
        place = self.place.index_select(0, atoms)
        counts = [len(atoms)]
        if self.n_elements > 1:
            counts = torch.bincount(self.species.index_select(0, atoms), minlength=self.n_elements).tolist()
        end = 0
        for element, count in enumerate(counts):
            if not count:
                continue
            own, end = slice(end, end + count), end + count
            first_tile, last_tile = int(place[own.start]) // self.rows, int(place[end - 1]) // self.rows
            n_tiles = last_tile - first_tile + 1
            yield element, own, place[own] - first_tile * self.rows, n_tiles + n_tiles % 2


class TiledNetworks:
    """Networks of all members and elements, evaluated for tiles."""

    def __init__(self, networks: ElementNetworks) -> None:
        self.sigmoid = networks.sigmoid
        self.n_hidden, self.n_outputs = networks.layer_sizes[-2:]
        self._layers = [
            [_copied_layers(networks, member, element) for element in range(networks.n_elements)]
            for member in range(networks.n_members)
        ]

    def __call__(self, member: int, element: int, inputs: Tensor) -> NetworkPass:
        """Evaluate one network.

        Args:
            inputs: (n_tiles, rows, n_in).

        Returns:
            outputs (n_tiles, rows, n_out) and the rest likewise; the products give derivatives (n_tiles, rows, n_in).
        """
        layers = self._layers[member][element]
        hidden, sigmoids = inputs, []
        for weight, bias in layers[:-1]:
            sigmoid = torch.bmm(hidden, weight.expand(len(inputs), -1, -1)).add_(bias).sigmoid_()
            sigmoids.append(sigmoid)
            hidden = self.sigmoid.activated(sigmoid)
        last, bias = layers[-1]
        outputs = torch.bmm(hidden, last.expand(len(inputs), -1, -1)).add_(bias)[..., : self.n_outputs]

        def from_hidden(grad: Tensor) -> Tensor:
            for (weight, _), sigmoid in zip(reversed(layers[:-1]), reversed(sigmoids), strict=True):
                if self.sigmoid.height != 1:
                    grad = self.sigmoid.height * grad
                grad = torch.ops.aten.sigmoid_backward(grad, sigmoid)
                grad = torch.bmm(grad, weight.T.expand(len(grad), -1, -1))
            return grad

        def vjp(grad: Tensor) -> Tensor:
            grad = torch.nn.functional.pad(grad, (0, last.shape[1] - self.n_outputs))
            return from_hidden(torch.bmm(grad, last.T.expand(len(grad), -1, -1)))

        def hidden_vjp(grad: Tensor) -> Tensor:
            return from_hidden(torch.nn.functional.pad(grad, (0, last.shape[0] - self.n_hidden)))

        return NetworkPass(outputs, hidden[..., : self.n_hidden], vjp, hidden_vjp)


def _copied_layers(networks: ElementNetworks, member: int, element: int) -> list[tuple[Tensor, Tensor]]:
    """Layers of one network, weights (n_in, n_out) and biases (n_out,), with zeros up to `_COLUMNS` neurons in each.

    Those of hidden layers are multiplied by the steepness of the activation.
    """
    layers = []
    n_in, last = networks.layer_sizes[0], len(networks.weights) - 1
    for layer, (weights, biases) in enumerate(zip(networks.weights, networks.biases, strict=True)):
        weight, bias = weights[member, element].detach(), biases[member, element].detach()
        if layer < last and networks.sigmoid.steepness != 1:
            weight, bias = networks.sigmoid.steepness * weight, networks.sigmoid.steepness * bias
        n_out = max(weight.shape[1], _COLUMNS)
        if (n_in, n_out) == tuple(weight.shape):  # copies: products can depend on where their factors begin
            layers.append((weight.clone(memory_format=torch.contiguous_format), bias.clone()))
        else:
            padding = n_out - weight.shape[1]
            whole = torch.nn.functional.pad(weight, (0, padding, 0, n_in - weight.shape[0]))
            layers.append((whole, torch.nn.functional.pad(bias, (0, padding))))
        n_in = n_out
    return layers
