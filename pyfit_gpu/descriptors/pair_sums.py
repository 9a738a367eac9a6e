"""From derivatives by the vectors of pairs to forces on atoms and virials of structures, and back.

With v_p = r_j - r_i the vector of pair p = (i, j) and g_p = dE/dv_p,

    F_i = sum_{p centred on i} g_p - sum_{p whose neighbour is i} g_p            eV/Å
    W   = sum_p v_p (x) g_p, made symmetric; stress = W / V                      eV, eV/Å^3 (ASE's sign and order)

which is exact: energies depend on positions and cell through the vectors alone. Sums go in a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.structures.neighbors import Neighbors
from pyfit_gpu.sums import sum_runs

_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # xx yy zz yz xz xy


class PairSums:
    """Where the pairs of a batch of structures add up. Values may have any axes after the first."""

    def __init__(self, neighbors: Neighbors, sizes: Tensor) -> None:
        """
        Args:
            sizes: (B,) int64, atoms of each structure.
        """
        n_atoms = len(neighbors.counts)
        self.sizes = sizes
        self.structure = torch.repeat_interleave(sizes, output_size=n_atoms)  # (n_atoms,)
        self.index = torch.cat((neighbors.index, neighbors.index.new_zeros(1)))  # the dummy pair may be any atom's
        self._by_neighbor = torch.argsort(neighbors.index, stable=True)
        self._n_reactions = torch.bincount(neighbors.index, minlength=n_atoms)

    def __call__(self, pairs: Iterable[tuple[Chunk, Tensor]], *, virials: bool = True) -> tuple[Tensor, Tensor | None]:
        """Forces (n_atoms, .., 3) and virials (B, .., 6).

        Args:
            pairs: every chunk of the batch with its dE/dv, (n, .., 3, K) eV/Å. A chunk is not kept.
        """
        sums: dict[str, Tensor] = {}
        for chunk, of_vectors in pairs:
            if not sums:
                shape = of_vectors.shape[1:-1]
                sums["actions"] = of_vectors.new_empty(len(self.structure), *shape)
                sums["reactions"] = of_vectors.new_empty(len(self.index), *shape)
                sums["virials"] = of_vectors.new_empty(len(self.structure), *shape[:-1], 6)
            sums["actions"][chunk.atoms] = of_vectors.sum(dim=-1)
            sums["reactions"][chunk.pairs] = of_vectors.movedim(-1, 1)
            if virials:
                sums["virials"][chunk.atoms] = _outer(of_vectors, chunk.vectors)
        by_neighbor = sums["reactions"].index_select(0, self._by_neighbor)
        forces = sums["actions"] - sum_runs(by_neighbor, self._n_reactions)
        return forces, sum_runs(sums["virials"], self.sizes) if virials else None

    def pull_back(self, chunk: Chunk, of_forces: Tensor | None, of_virials: Tensor | None) -> Tensor:
        """(n, .., 3, K): the transposed map, from derivatives by forces and virials to those by dE/dv of a chunk."""
        parts = []
        if of_forces is not None:
            neighbors = of_forces[self.index[chunk.pairs]]  # (n, K, .., 3)
            parts.append(of_forces[chunk.atoms].unsqueeze(-1) - neighbors.movedim(1, -1))
        if of_virials is not None:
            matrix = _symmetric(of_virials[self.structure[chunk.atoms]])  # (n, .., 3, 3)
            vectors = chunk.vectors
            parts.append(matrix @ vectors.reshape(len(vectors), *[1] * (matrix.dim() - 3), *vectors.shape[1:]))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _outer(of_vectors: Tensor, vectors: Tensor) -> Tensor:
    """(n, .., 6): sum over pairs of the symmetric part of v (x) dE/dv."""
    shaped = vectors.reshape(len(vectors), *[1] * (of_vectors.dim() - 3), *vectors.shape[1:])
    matrix = of_vectors @ shaped.transpose(-1, -2)
    symmetric = (matrix + matrix.transpose(-1, -2)) / 2
    return torch.stack([symmetric[..., a, b] for a, b in _VOIGT], dim=-1)


def _symmetric(six: Tensor) -> Tensor:
    """(.., 6) to (.., 3, 3): the transpose of taking six components out of a symmetric part."""
    xx, yy, zz, yz, xz, xy = six.unbind(-1)
    yz, xz, xy = yz / 2, xz / 2, xy / 2
    return torch.stack((xx, xy, xz, xy, yy, yz, xz, yz, zz), dim=-1).unflatten(-1, (3, 3))
