"""Derivatives of energies and forces with respect to the last layer of physically informed networks.

With the local parameters p_i = w_s h_i + b_s (+ baseline) of atom i, of element s, and the slopes s_i = de_i/dp_i,

    dE/dw_s = sum_{i of s} h_i (x) s_i,   dE/db_s = sum_{i of s} s_i

and forces and virials follow from the changes of h and s along the vectors v of the pairs of i,

    dh = dh/dx dx/dv        ds = d2e/dp2 w_s^T dh + d2e/dp dv        d(h (x) s) = dh (x) s + h (x) ds

So a pair needs n_hidden + N changes and not their products, which are made of sums over the pairs of an atom. Energies
are not linear in the last layer: these are the derivatives at its present parameters.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.models.batches import Batch
from pyfit_gpu.models.bond_order import BondOrder
from pyfit_gpu.models.bond_order_changes import chunk_slope_derivatives
from pyfit_gpu.models.last_layer import LastLayerRows, energy_rows
from pyfit_gpu.models.networks import NetworkPass
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.sums import sum_runs

_PLACES = 8  # places for the pairs of an atom come in this multiple
_ROWS_AT_ONCE = 2**16  # pairs whose changes are gathered


def last_layer_rows(potential: Potential, batch: Batch, *, derivatives: bool) -> LastLayerRows:
    """Rows of one batch, to be filled by a walk; arguments as of `LastLayerRows`."""
    kind = InformedRows if potential.is_physically_informed else LastLayerRows
    return kind(potential, batch, derivatives=derivatives)


class InformedRows(LastLayerRows):
    """Rows of derivatives of one batch, of a physically informed network or a bare potential."""

    def __init__(self, potential: Potential, batch: Batch, *, derivatives: bool) -> None:
        self._model = BondOrder(potential)
        self._weights = potential.networks.weights[-1][0].detach()  # (S, n_hidden, N)
        super().__init__(potential, batch, derivatives=derivatives)
        self._slopes = self._hidden.new_empty(len(self._hidden), self._weights.shape[2])

    def _n_changes(self) -> int:
        return sum(self._weights.shape[1:])

    def add(self, atoms: Tensor, found: NetworkPass, slopes: Tensor | None = None) -> None:
        """Take activations and slopes of some atoms."""
        assert slopes is not None
        super().add(atoms, found)
        self._slopes.index_copy_(0, atoms, slopes[0])

    def add_derivatives(self, chunk: Chunk, found: NetworkPass, slope: Tensor | None) -> None:
        """Take the changes of a chunk's activations and slopes."""
        assert self._totals is not None
        species = self._batch.species[chunk.atoms]
        parameters = self._model.parameters(found.outputs, species)[0]
        by_parameters, turned = chunk_slope_derivatives(self._model, chunk, parameters)
        changes = turned.flatten(2)  # (n, N, 3 K)
        if self._n_hidden and slope is not None:
            hidden = self._by_neuron(chunk, found, slope)
            local = torch.bmm(self._weights[species].transpose(1, 2), hidden)
            changes = torch.cat((hidden, torch.baddbmm(changes, by_parameters, local)), dim=1)
        self._totals.add(chunk, changes.unflatten(-1, (3, -1)))

    def of_energies(self) -> Tensor:
        """(B, P) dE/d(last layer), eV of each structure."""
        return energy_rows(self._hidden, self._batch.species, self._batch.sizes, self._n_elements, self._slopes)

    def of_derivatives(self) -> tuple[Tensor, Tensor]:
        """(n_atoms, 3, P) of forces and (B, 6, P) of virials: eV/Å and eV."""
        assert self._totals is not None
        actions, reactions, virials = self._totals.collected
        assert virials is not None
        reactions[-1] = 0  # of the dummy pair, which nobody may have written
        every = torch.arange(len(actions), device=actions.device)[:, None]
        forces = self._products(every, actions[:, None])
        for atoms, pairs, centers in self._reactions():
            forces[atoms] -= self._products(centers, reactions[pairs])
        of_atoms = self._products(every, virials[:, None])
        return forces, sum_runs(of_atoms, self._batch.sizes, longest=max(self._batch.structures.sizes))

    def _reactions(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield atoms (R,), the pairs (R, M) of which they are neighbours and the central atoms of these.

        Of places for padding the atom is `n_atoms`, one past the last.
        """
        neighbors = self._batch.neighbors
        found, counts = neighbors.reactions, neighbors.reactions.counts
        order = torch.nn.functional.pad(found.order.long(), (0, _PLACES), value=len(neighbors.index))
        centers = torch.nn.functional.pad(neighbors.centers, (0, 1), value=len(counts))
        widths = (counts + (_PLACES - 1)) // _PLACES * _PLACES
        for width in torch.unique(widths).tolist():
            step = max(1, _ROWS_AT_ONCE // max(width, 1))
            for atoms in (widths == width).nonzero()[:, 0].split(step):
                numbers = torch.arange(width, device=atoms.device)
                known = numbers < counts[atoms][:, None]
                pairs = torch.where(known, order[found.first[atoms][:, None] + numbers], len(neighbors.index))
                yield atoms, pairs, centers[pairs]

    def _products(self, centers: Tensor, changes: Tensor) -> Tensor:
        """(R, C, P): sums of d(h (x) s) over the entries of each row.

        Args:
            centers: (R, M) int64, the atoms whose h and s change; `n_atoms` where padded.
            changes: (R, M, n_hidden + N, C), of h and s; finite where padded.
        """
        known = centers < len(self._hidden)
        atoms = centers.clamp(max=len(self._hidden) - 1)
        hidden = torch.nn.functional.pad(self._hidden[atoms], (0, 1), value=1.0)
        slopes = self._slopes[atoms]
        species = torch.where(known, self._batch.species[atoms], -1)
        n_rows, _, _, n_components = changes.shape
        result = changes.new_empty(n_rows, n_components, self._n_elements, hidden.shape[2], slopes.shape[2])
        of_hidden = changes[:, :, : self._n_hidden].flatten(2).transpose(1, 2)  # (R, n_hidden C, M)
        of_slopes = changes[:, :, self._n_hidden :].flatten(2)  # (R, M, N C)
        for element in range(self._n_elements):
            own = (species == element)[:, :, None]
            turned = torch.bmm(torch.where(own, hidden, 0.0).transpose(1, 2), of_slopes)
            whole = turned.unflatten(2, (-1, n_components)).permute(0, 3, 1, 2)
            moved = torch.bmm(of_hidden, torch.where(own, slopes, 0.0)).unflatten(1, (self._n_hidden, n_components))
            result[:, :, element] = whole
            result[:, :, element, :-1] += moved.transpose(1, 2)
        return result.flatten(2)
