"""Derivatives of energies and forces with respect to the parameters of the last layer, in which both are linear.

With h_i the activations of the last hidden layer of atom i, of element s, and (w_s, b_s) the last layer of its network,

    E = sum_i (w_s . h_i + b_s)        dE/dw_s = sum_{i of s} h_i, dE/db_s = n_s        F_j = -sum_i w_s . dh_i/dr_j

so a row of derivatives has for each element n_hidden numbers and one for the bias, which forces do not have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.descriptors.pair_sums import PairSums, PairTotals
from pyfit_gpu.models.batches import Batch
from pyfit_gpu.models.networks import NetworkPass
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.sums import sum_runs


def n_last_parameters(potential: Potential) -> int:
    """P, parameters of the last layers of all elements; of one after the other, as in files, weights, then biases."""
    n_hidden, n_outputs = potential.networks.layer_sizes[-2:]
    return potential.descriptor.n_elements * (n_hidden + 1) * n_outputs


def energy_rows(
    hidden: Tensor, species: Tensor, sizes: Tensor, n_elements: int, slopes: Tensor | None = None
) -> Tensor:
    """(B, P) dE/d(last layer) of structures.

    Args:
        hidden: (n_atoms, n_hidden), activations, one structure after the other.
        species: (n_atoms,) int64.
        sizes: (B,) int64, atoms of each structure.
        slopes: (n_atoms, N), derivatives of the atoms' energies by the outputs; None: the output is the energy.
    """
    by_element = hidden.new_zeros(len(hidden), n_elements, hidden.shape[1] + 1)
    own = torch.arange(len(hidden), device=hidden.device), species
    by_element[*own, :-1] = hidden
    by_element[*own, -1] = 1.0
    rows = by_element.flatten(1)
    if slopes is None:
        return sum_runs(rows, sizes)
    return torch.stack([sum_runs(rows * own[:, None], sizes) for own in slopes.unbind(1)], dim=2).flatten(1)


class LastLayerRows:
    """Rows of derivatives of one batch, collected from its chunks, several at once. For a single member."""

    def __init__(self, potential: Potential, batch: Batch, *, derivatives: bool) -> None:
        """Allocate memory for all chunks.

        Args:
            derivatives: whether rows of forces and virials are wanted.
        """
        self._batch = batch
        self._n_elements = potential.descriptor.n_elements
        self._n_hidden = potential.networks.layer_sizes[-2]
        like = potential.networks.weights[0]
        self._hidden = like.new_empty(len(batch.species), self._n_hidden)
        self._totals: PairTotals | None = None
        if derivatives:
            sums = PairSums(batch.neighbors, batch.sizes, largest=max(batch.structures.sizes))
            self._totals = PairTotals(sums, (self._n_changes(),), like, virials=True)

    @property
    def wants_derivatives(self) -> bool:
        return self._totals is not None

    def _n_changes(self) -> int:
        """Numbers of each pair whose derivatives by its vector are collected."""
        return self._n_elements * self._n_hidden

    def add(self, atoms: Tensor, found: NetworkPass, slopes: Tensor | None = None) -> None:
        """Take the activations of some atoms.

        Args:
            slopes: (1, n, n_out), derivatives of the atoms' energies by the outputs; None: these are the energies.
        """
        self._hidden.index_copy_(0, atoms, found.hidden[0])

    def add_derivatives(self, chunk: Chunk, found: NetworkPass, slope: Tensor | None) -> None:
        """Take the derivatives of a chunk's activations.

        Args:
            slope: (n, n_features), derivatives of the networks' inputs with respect to G; None: there are no inputs.
        """
        assert self._totals is not None
        assert slope is not None
        by_neuron = self._by_neuron(chunk, found, slope)
        if self._n_elements > 1:
            by_element = by_neuron.new_zeros(len(by_neuron), self._n_elements, *by_neuron.shape[1:])
            own = torch.arange(len(by_neuron), device=slope.device), self._batch.species[chunk.atoms]
            by_element[own] = by_neuron
            by_neuron = by_element.flatten(1, 2)
        self._totals.add(chunk, by_neuron.unflatten(-1, (3, -1)))

    def _by_neuron(self, chunk: Chunk, found: NetworkPass, slope: Tensor) -> Tensor:
        """(n, n_hidden, 3 K): derivatives of a chunk's activations by the vectors of pairs."""
        one_hot = torch.eye(self._n_hidden, dtype=slope.dtype, device=slope.device)
        grads = [found.hidden_vjp(row.expand(1, len(chunk.atoms), -1))[0] * slope for row in one_hot]
        # As many rows of a product as parameters, padded to fours on a CPU: those beyond would round differently.
        jacobian = chunk.jacobian(pad=True).flatten(2)
        n_rows = len(grads) + (-len(grads) % 4 if slope.device.type == "cpu" else 0)
        rows = slope.new_zeros(len(chunk.atoms), n_rows, jacobian.shape[1])
        rows[:, : len(grads), : slope.shape[1]] = torch.stack(grads, dim=1)
        return torch.bmm(rows, jacobian)[:, : len(grads)]

    def of_energies(self) -> Tensor:
        """(B, P) dE/d(last layer), eV of each structure."""
        return energy_rows(self._hidden, self._batch.species, self._batch.sizes, self._n_elements)

    def of_derivatives(self) -> tuple[Tensor, Tensor]:
        """(n_atoms, 3, P) of forces and (B, 6, P) of virials: eV/Å and eV."""
        assert self._totals is not None
        forces, virials = self._totals.finish()
        assert virials is not None
        return self._with_biases(forces), self._with_biases(virials)

    def _with_biases(self, rows: Tensor) -> Tensor:
        """(n, S n_hidden, m) to (n, m, P)."""
        by_element = rows.transpose(1, 2).unflatten(2, (self._n_elements, self._n_hidden))
        return torch.nn.functional.pad(by_element, (0, 1)).flatten(2)
