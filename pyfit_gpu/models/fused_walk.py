"""The walk of a prediction on a GPU with fused kernels: atoms in their own order, in pieces that bound the memory.

A piece goes from vectors to features, through the networks and back to dE/dv, which is added up at once and not kept:
what stays is energies, forces and the virials of atoms. Nothing is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pyfit_gpu.descriptors.kernels.expansion import expansion_of
from pyfit_gpu.descriptors.kernels.pair_totals import FlatTotals
from pyfit_gpu.descriptors.kernels.pairs import FlatPairs
from pyfit_gpu.descriptors.lsp import basis_of
from pyfit_gpu.fused import current
from pyfit_gpu.models.batches import Batch
from pyfit_gpu.models.network_passes import StackedPass
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.walk_base import Walk, Wanted

# A piece may take as many bytes as this, or so many for each atom of the batch, whichever is more (not measured: below
# some ten thousand atoms launches dominate a piece).
_BYTES = 400_000_000
_BYTES_PER_ATOM = 384


class FusedWalk(Walk):
    """Energies and derivatives piece by piece. For energies that depend on nothing but the networks' outputs."""

    def __init__(self, potential: Potential, batch: Batch, wanted: Wanted) -> None:
        super().__init__(potential, batch, wanted)
        self.networks = StackedPass(potential, batch)
        self.layer_sizes = potential.networks.layer_sizes
        basis = basis_of(self.descriptor, self.like.device, self.like.dtype)
        self.expansion = expansion_of(basis)
        self.pairs = FlatPairs.of(batch.neighbors, batch.species, self.descriptor.n_elements)
        self.totals: FlatTotals | None = None
        if wanted.derivatives:
            largest = max(batch.structures.sizes)
            self.totals = FlatTotals(batch.neighbors, batch.sizes, self.n_members, largest=largest, virials=True)

    def run(self) -> Tensor:
        """(K, n_atoms) eV, atomic energies; `totals`, `inputs` and `grades` then have what was asked for."""
        n_atoms = len(self.batch.species)
        energies = self.like.new_empty(self.n_members, n_atoms)
        inputs = self.like.new_empty(n_atoms, self.descriptor.n_features) if self.keeps_inputs else None
        with current(self.like.device):
            for piece in self._pieces():
                self._evaluate(piece, energies, inputs)
        if inputs is not None:
            self._keep(inputs)
        return energies

    def _evaluate(self, piece: FlatPairs, energies: Tensor, inputs: Tensor | None) -> None:
        own = slice(piece.atoms.start, piece.atoms.stop)
        sums = self.expansion.sums(piece)
        raw = self.expansion.raw(piece, sums)
        features = self.descriptor.transform(raw, self._where(piece.atoms.start))
        found = self.networks(own, features)
        energies[:, own] = self.model.energies(found.outputs, self.batch.species[own], None)
        if inputs is not None:
            inputs[own] = features
        if self.rows is not None:
            self.rows.add(torch.arange(own.start, own.stop, device=features.device), found)
        if self.totals is not None:
            grad_features = found.vjp(torch.ones_like(found.outputs)) * self.descriptor.transform_slope(raw)
            parts = [self.expansion.vjp(piece, member, sums) for member in grad_features]
            grad = torch.stack(parts, dim=1) if len(parts) > 1 else parts[0][:, None]
            self.totals.add(piece.atoms, piece.pairs, grad)

    def _pieces(self) -> Iterator[FlatPairs]:
        """All atoms in pieces of equal length. The host asks where their pairs begin only if there are several."""
        n_atoms, n_pairs = len(self.batch.species), len(self.batch.neighbors.index)
        length = self._piece_atoms(n_atoms, n_pairs)
        borders = [*range(0, n_atoms, length), n_atoms]
        if len(borders) == 2:
            yield self.pairs
            return
        firsts = [*self.pairs.starts[::length].tolist(), n_pairs]
        for k in range(len(borders) - 1):
            yield self.pairs.piece(range(borders[k], borders[k + 1]), range(firsts[k], firsts[k + 1]))

    def _piece_atoms(self, n_atoms: int, n_pairs: int) -> int:
        basis, members = self.expansion.basis, self.n_members
        sums = basis.n_elements * basis.n_angular * basis.n_centers
        numbers = 2 * sums + (4 + 2 * members) * basis.n_features + 3 * members * sum(self.layer_sizes[1:])
        if self.totals is not None:
            numbers += 6 * members * -(-n_pairs // max(n_atoms, 1))
        budget = max(_BYTES, _BYTES_PER_ATOM * n_atoms)
        return max(1, budget // (numbers * self.like.itemsize))

    def _where(self, first: int) -> Callable[[int], str]:
        return lambda number: self.batch.structures.describe_atom(first + number)
