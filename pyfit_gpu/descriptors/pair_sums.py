"""Forces on atoms and virials of structures from derivatives with respect to the vectors of pairs, and back.

With v_p = r_j - r_i the vector of pair p = (i, j) and g_p = dE/dv_p,

    F_i = sum_{p centred on i} g_p - sum_{p whose neighbour is i} g_p            eV/Å
    W   = sum_p v_p (x) g_p, made symmetric; stress = W / V                      eV, eV/Å^3 (ASE's sign and order)

which is exact: energies depend on positions and cell only through the vectors. Sums go in a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.structures.neighbors import Neighbors
from pyfit_gpu.sums import sum_runs, take_columns

_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # xx yy zz yz xz xy


class PairSums:
    """Sums over the pairs of a batch of structures. Values may have any axes after the first."""

    def __init__(self, neighbors: Neighbors, sizes: Tensor, *, largest: int = 0) -> None:
        """Sort the pairs by their neighbours.

        Args:
            sizes: (B,) int64, atoms of each structure.
            largest: of the sizes; see `sum_runs`.
        """
        n_atoms = len(neighbors.counts)
        self.sizes = sizes
        self.largest = largest
        self.structure = torch.repeat_interleave(sizes, output_size=n_atoms)  # (n_atoms,)
        self.index = torch.cat((neighbors.index, neighbors.index.new_zeros(1)))  # the dummy pair may be any atom's
        reactions = neighbors.reactions
        self._by_neighbor, self._n_reactions = reactions.order, reactions.counts

    def __call__(self, pairs: Iterable[tuple[Chunk, Tensor]], *, virials: bool = True) -> tuple[Tensor, Tensor | None]:
        """Forces (n_atoms, .., 3) and virials (B, .., 6).

        Args:
            pairs: every chunk of the batch with its dE/dv, (n, .., 3, K) eV/Å. A chunk is not kept.
        """
        totals: PairTotals | None = None
        for chunk, grad_vectors in pairs:
            if totals is None:
                totals = PairTotals(self, grad_vectors.shape[1:-2], grad_vectors, virials=virials)
            totals.add(chunk, grad_vectors)
        assert totals is not None, "a batch has at least one chunk"
        return totals.finish()

    def to_neighbors(self, by_pair: Tensor) -> Tensor:
        """(n_pairs + 1, ..) to (n_atoms, ..): sums over the pairs of which an atom is the neighbour."""
        return sum_runs(by_pair.index_select(0, self._by_neighbor), self._n_reactions)

    def vjp(self, chunk: Chunk, grad_forces: Tensor | None, grad_virials: Tensor | None) -> Tensor:
        """Vector-Jacobian product of the sums, from derivatives with respect to forces and virials, for one chunk.

        Returns:
            (n, .., 3, K), derivatives with respect to dE/dv of the chunk.
        """
        parts = []
        if grad_forces is not None:
            neighbors = grad_forces[self.index[chunk.pairs]]  # (n, K, .., 3)
            parts.append(grad_forces[chunk.atoms].unsqueeze(-1) - neighbors.movedim(1, -1))
        if grad_virials is not None:
            matrix = _symmetric(grad_virials[self.structure[chunk.atoms]])  # (n, .., 3, 3)
            vectors = chunk.vectors
            parts.append(matrix @ vectors.reshape(len(vectors), *[1] * (matrix.dim() - 3), *vectors.shape[1:]))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def of_rows(self, grad: Tensor, vectors: Tensor, counts: Tensor, *, virials: bool) -> tuple[Tensor, Tensor | None]:
        """Forces (n_atoms, M, 3) and virials (B, M, 6) from dE/dv of all pairs in rows, (M, 3, n_pairs + 1) eV/Å.

        Args:
            vectors: (n_pairs, 3) Å, v.
            counts: (n_atoms,) int64, pairs of each atom.
        """
        by_pair = grad.permute(2, 0, 1).contiguous()  # (n_pairs + 1, M, 3)
        forces = sum_runs(by_pair[:-1], counts) - self.to_neighbors(by_pair)
        if not virials:
            return forces, None
        # One component after the other: all at once would take several times the memory of the pairs.
        six = []
        for a, b in _VOIGT:
            outer = by_pair[:-1, :, a] * vectors[:, b, None]
            if a != b:
                outer = outer.addcmul_(by_pair[:-1, :, b], vectors[:, a, None]).div_(2)
            six.append(sum_runs(outer, counts))
        return forces, sum_runs(torch.stack(six, dim=-1), self.sizes, longest=self.largest)

    def rows_vjp(self, grad_forces: Tensor, grad_virials: Tensor | None, vectors: Tensor, counts: Tensor) -> Tensor:
        """Vector-Jacobian product (M, 3, n_pairs + 1) of `of_rows`; zero for the pair after the last one."""
        rows = grad_forces.permute(1, 2, 0).flatten(0, 1).contiguous()
        centers = torch.repeat_interleave(counts, output_size=len(self.index) - 1)
        moves = rows.new_zeros(len(rows), len(self.index))
        torch.sub(take_columns(rows, centers), take_columns(rows, self.index[:-1]), out=moves[:, :-1])
        moves = moves.unflatten(0, (-1, 3))
        if grad_virials is not None:
            structure = self.structure.index_select(0, centers)
            for row, columns in zip(moves.unbind(1), _symmetric(grad_virials).permute(2, 3, 1, 0), strict=True):
                for own, component in zip(columns, vectors.unbind(1), strict=True):
                    row[:, :-1].addcmul_(own.index_select(1, structure), component)
        return moves


class PairTotals:
    """Contributions of the chunks of a batch, collected and summed. Chunks may come from several threads at once."""

    def __init__(self, sums: PairSums, members: Sequence[int], like: Tensor, *, virials: bool) -> None:
        """Allocate memory for all chunks.

        Args:
            members: axes of the values between atoms and components.
            like: gives dtype and device.
        """
        n_atoms = len(sums.structure)
        self._sums = sums
        self._actions = like.new_empty(n_atoms, *members, 3)
        self._reactions = like.new_empty(len(sums.index), *members, 3)
        self._virials = like.new_empty(n_atoms, *members, 6) if virials else None

    def add(self, chunk: Chunk, grad_vectors: Tensor) -> None:
        """Take dE/dv of a chunk, (n, .., 3, K) eV/Å."""
        self._actions[chunk.atoms] = grad_vectors.sum(dim=-1)
        self._reactions[chunk.pairs] = grad_vectors.movedim(-1, 1)
        if self._virials is not None:
            self._virials[chunk.atoms] = _outer(grad_vectors, chunk.vectors)

    @property
    def collected(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Sums over the pairs of each atom (n_atoms, .., 3), pairs (n_pairs + 1, .., 3), the last a dummy, and virials.

        The virials (n_atoms, .., 6) are those of each atom's pairs.
        """
        return self._actions, self._reactions, self._virials

    def finish(self) -> tuple[Tensor, Tensor | None]:
        """Forces (n_atoms, .., 3) and virials (B, .., 6), once all chunks are there."""
        forces = self._actions - self._sums.to_neighbors(self._reactions)
        if self._virials is None:
            return forces, None
        return forces, sum_runs(self._virials, self._sums.sizes, longest=self._sums.largest)


def _outer(grad_vectors: Tensor, vectors: Tensor) -> Tensor:
    """(n, .., 6): sum over pairs of the symmetric part of v (x) dE/dv."""
    shaped = vectors.reshape(len(vectors), *[1] * (grad_vectors.dim() - 3), *vectors.shape[1:])
    if grad_vectors.device.type == "cpu":  # bits of a product could depend on where its 3 x 3 results begin
        matrix = (grad_vectors.unsqueeze(-2) * shaped.unsqueeze(-3)).sum(dim=-1)
    else:
        matrix = grad_vectors @ shaped.transpose(-1, -2)
    return symmetric_six(matrix)


def symmetric_six(matrix: Tensor) -> Tensor:
    """(.., 3, 3) to (.., 6): the components of the symmetric part."""
    symmetric = (matrix + matrix.transpose(-1, -2)) / 2
    return torch.stack([symmetric[..., a, b] for a, b in _VOIGT], dim=-1)


def _symmetric(six: Tensor) -> Tensor:
    """(.., 6) to (.., 3, 3): the transpose of taking six components out of a symmetric part."""
    xx, yy, zz, yz, xz, xy = six.unbind(-1)
    yz, xz, xy = yz / 2, xz / 2, xy / 2
    return torch.stack((xx, xy, xz, xy, yy, yz, xz, yz, zz), dim=-1).unflatten(-1, (3, 3))
