"""The walk of a prediction over chunks of atoms: energies, derivatives, grades and rows of error bars at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.descriptors.lsp import chunk_workers
from pyfit_gpu.descriptors.pair_sums import PairSums, PairTotals
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.batches import Batch
from pyfit_gpu.models.network_passes import StackedPass, TiledPass
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.walk_base import Walk, Wanted

# With this many members or more, computing the Jacobian dG/dv costs less than a VJP for each (measured with 42 and 48
# features).
_JACOBIAN_MEMBERS = 7
# Bytes of a chunk's dG/dv: on a CPU they stay in cache, on a GPU launches dominate small chunks (estimated, not
# measured).
_JACOBIAN_BYTES_CPU = 2**22
_JACOBIAN_BYTES_GPU = 2**29


class ChunkWalk(Walk):
    """Energies and derivatives chunk by chunk, several at once on a CPU, while a chunk's results are still cached."""

    def __init__(self, potential: Potential, batch: Batch, wanted: Wanted) -> None:
        super().__init__(potential, batch, wanted)
        self.is_bare = potential.is_bare
        self.networks: TiledPass | StackedPass
        if potential.device.type == "cpu":
            self.networks = TiledPass(potential, batch)
        else:
            self.networks = StackedPass(potential, batch)
        self.totals: PairTotals | None = None
        if wanted.derivatives:
            sums = PairSums(batch.neighbors, batch.sizes, largest=max(batch.structures.sizes))
            self.totals = PairTotals(sums, (self.n_members,), self.like, virials=True)

    def run(self) -> Tensor:
        """(K, n_atoms) eV, atomic energies; `totals` and `grades` then have what was asked for of all chunks."""
        energies = self.like.new_empty(self.n_members, len(self.batch.species))
        neighbors, species = self.batch.neighbors, self.batch.species
        workers = chunk_workers(neighbors)
        row_derivatives = self.rows is not None and self.rows.wants_derivatives
        if self.totals is None and not (row_derivatives or self.model.uses_vectors):
            # Larger pieces than chunks cost less.
            features = self.batch.features(self.descriptor)
            workers.run(lambda atoms: self._add_piece(atoms, features, energies), self.networks.pieces())
            self._keep(features)
            return energies

        # Grades cost less for many atoms than for those of a chunk, so the inputs are kept that long.
        n_kept = len(species) if self.keeps_inputs else 0
        inputs = self.like.new_empty(n_kept, self.descriptor.n_features)
        chunks = self.descriptor.chunks(neighbors, species, max_pairs=self._max_pairs(), n_threads=workers.count)
        workers.run(lambda chunk: self._add_chunk(chunk, inputs, energies), chunks)
        self._keep(inputs)
        return energies

    def _add_piece(self, atoms: Tensor, features: Tensor, energies: Tensor) -> None:
        """Find the energies of some atoms from the features of all."""
        found = self.networks(atoms, features[atoms])
        energies.index_copy_(1, atoms, self.model.energies(found.outputs, self.batch.species[atoms], None))
        if self.rows is not None:
            self.rows.add(atoms, found)

    def _add_chunk(self, chunk: Chunk, inputs: Tensor, energies: Tensor) -> None:
        """Find energies and derivatives of a chunk of atoms, and keep their inputs where they are wanted."""
        raw, features = self._inputs(chunk)
        found = self.networks(chunk.atoms, features[:, :0] if self.is_bare else features)
        if len(inputs):
            inputs.index_copy_(0, chunk.atoms, features)
        species = self.batch.species[chunk.atoms]
        if self.totals is None and self.rows is None:
            own = self.model.energies(found.outputs, species, chunk)
        else:
            own, grad_outputs, grad_vectors = self.model.vjp(found.outputs, species, chunk)
        if self.rows is not None:
            self.rows.add(chunk.atoms, found, grad_outputs)
            if self.rows.wants_derivatives:
                slope = None if raw is None else self.descriptor.transform_slope(raw)
                self.rows.add_derivatives(chunk, found, slope)
        if self.model.uses_vectors:
            self._check(chunk, own, found.outputs)
        energies.index_copy_(1, chunk.atoms, own)
        if self.totals is not None:
            if raw is not None and not self.is_bare:
                grad_features = found.vjp(grad_outputs) * self.descriptor.transform_slope(raw)
                through_features = self._grad_vectors(chunk, grad_features)
                grad_vectors = through_features if grad_vectors is None else through_features + grad_vectors
            assert grad_vectors is not None
            self.totals.add(chunk, grad_vectors)

    def _inputs(self, chunk: Chunk) -> tuple[Tensor | None, Tensor]:
        """G and the inputs (n, n_features); None and no columns where neither networks nor grades want them."""
        if self.is_bare and not self.keeps_inputs:
            return None, self.like.new_empty(len(chunk.atoms), 0)
        raw = chunk.raw()
        return raw, self.descriptor.transform(raw, self._where(chunk))

    def _check(self, chunk: Chunk, energies: Tensor, outputs: Tensor) -> None:
        """Refuse energies (K, n) that are no numbers, with the outputs (K, n, n_out) they come from."""
        wrong = ~energies.isfinite()
        if bool(wrong.any()):
            member, number = wrong.nonzero()[0].tolist()
            atom = int(chunk.atoms[number])
            species = int(self.batch.species[atom])
            meaning = self.model.describe(outputs[member, number], species)
            of_member = f"member {member + 1} has" if len(outputs) > 1 else "there is"
            raise InputError(
                f"{self.batch.structures.describe_atom(atom)}: expected outputs of the network that make sense, but "
                f"{of_member} no energy with {meaning}"
            )

    def _by_jacobian(self) -> bool:
        return self.totals is not None and self.n_members >= _JACOBIAN_MEMBERS

    def _max_pairs(self) -> int | None:
        """Places for pairs of a chunk; None: as many as usual."""
        if not self._by_jacobian():
            return None
        on_cpu = self.like.device.type == "cpu"
        bytes_per_pair = 3 * self.descriptor.n_features * self.like.element_size()
        return max(1, (_JACOBIAN_BYTES_CPU if on_cpu else _JACOBIAN_BYTES_GPU) // bytes_per_pair)

    def _grad_vectors(self, chunk: Chunk, grad: Tensor) -> Tensor:
        """Map dE/dG (K, n, n_features) to dE/dv (n, K, 3, places)."""
        if not self._by_jacobian():
            parts = [chunk.vjp(member) for member in grad]
            return torch.stack(parts, dim=1) if len(parts) > 1 else parts[0][:, None]
        # Members are rows of one product, padded to fours on a CPU: rows beyond a multiple of four round differently.
        jacobian = chunk.jacobian(pad=True).flatten(2)
        n_members, _, n_features = grad.shape
        padding = (0, jacobian.shape[1] - n_features, 0, -n_members % 4 if grad.device.type == "cpu" else 0)
        rows = torch.nn.functional.pad(grad.transpose(0, 1), padding).contiguous()
        return torch.bmm(rows, jacobian)[:, :n_members].unflatten(-1, (3, -1))

    def _where(self, chunk: Chunk) -> Callable[[int], str]:
        return lambda number: self.batch.structures.describe_atom(int(chunk.atoms[number]))
