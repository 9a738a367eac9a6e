"""Bond-order energies, forces and virials of a training set as functions of the atoms' local parameters.

Bonds and the atoms that screen them never change while parameters train. Where the memory allows they are kept;
otherwise they are found anew each time from the neighbours, with the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.models.bond_order import BondEnergies, BondOrder
from pyfit_gpu.models.bond_order_changes import derivative_of_change
from pyfit_gpu.models.kept_surroundings import for_parameters, kept_bytes
from pyfit_gpu.models.map_parts import MapPart
from pyfit_gpu.models.surroundings import Surroundings
from pyfit_gpu.structures.batch import size_batches
from pyfit_gpu.structures.neighbors import Neighbors, find_neighbors
from pyfit_gpu.training.force_map import ForceMap, require_positions

_PIECE_CPU = 2**18  # screened bonds of a piece: an array of them stays in cache
_PIECE_GPU = 2**24

_Piece = tuple[Tensor, Surroundings]  # atoms (n,) int64, and what they see


class BondMap:
    """Energies of all atoms of some structures, in the order of the set."""

    def __init__(self, chosen: TrainingSet, model: BondOrder, reach: float, *, memory: float) -> None:
        """Find neighbours, and keep bonds if there is memory for them.

        Args:
            reach: Å, within which neighbours matter.
            memory: most bytes to keep.

        Raises:
            InputError: a structure whose positions the set does not hold.
        """
        require_positions(chosen)
        self._model = model
        self._descriptor = chosen.descriptor
        self._found: list[tuple[Tensor, Tensor, Neighbors]] = []  # atoms of the set, elements, neighbours
        first = torch.cumsum(chosen.sizes, 0) - chosen.sizes
        for rows in size_batches(chosen.sizes.tolist()):
            part = chosen.select(rows)
            neighbors = find_neighbors(part.structures(), reach).to(chosen.features.dtype)
            begins = first[rows] - (torch.cumsum(part.sizes, 0) - part.sizes)
            atoms = torch.arange(part.n_atoms, device=first.device) + torch.repeat_interleave(begins, part.sizes)
            self._found.append((atoms, part.species, neighbors))
        self._kept: list[_Piece] | None = []
        self.kept_bytes = 0
        for piece in self._pieces():
            self.kept_bytes += kept_bytes(piece[1])
            if self.kept_bytes > memory:
                self._kept, self.kept_bytes = None, 0
                break
            self._kept.append(piece)
        else:
            self._found = []

    def _pieces(self) -> Iterator[_Piece]:
        """Yield pieces of atoms with equally many places for bonds, all atoms once."""
        waiting: dict[int, list[_Piece]] = {}  # by places for bonds
        sizes: dict[int, int] = {}
        for atoms, species, neighbors in self._found:
            most = _PIECE_CPU if atoms.device.type == "cpu" else _PIECE_GPU
            for chunk in self._descriptor.chunks(neighbors, species):
                for rows, around in self._model.surroundings(chunk):
                    n_bonds = around.bonds.distance.shape[1]
                    waiting.setdefault(n_bonds, []).append((atoms[chunk.atoms[rows]], for_parameters([around])))
                    sizes[n_bonds] = sizes.get(n_bonds, 0) + len(around.triples.bond) + around.bonds.smooth.numel()
                    if sizes[n_bonds] >= most:
                        yield _joined(waiting.pop(n_bonds))
                        del sizes[n_bonds]
        for pieces in waiting.values():
            yield _joined(pieces)

    def __call__(self, parameters: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor]:
        """Energies (K, n) eV and, if wanted, their derivatives (K, n, N).

        Args:
            parameters: (K, n, N), local parameters of all atoms.
        """
        energies = parameters.new_empty(parameters.shape[:2])
        slopes = torch.empty_like(parameters) if gradient else parameters.new_empty(0)
        for atoms, around in self._pieces() if self._kept is None else self._kept:
            for member, own in enumerate(parameters):
                found = BondEnergies(around, own.index_select(0, atoms), self._model.form)
                energies[member].index_copy_(0, atoms, found.energies)
                if gradient:
                    slopes[member].index_copy_(0, atoms, found.grad_parameters())
        return energies, slopes


def sample_bytes(chosen: TrainingSet, model: BondOrder, reach: float, *, with_vectors: bool) -> int:
    """Count the bytes that keeping the bonds of some structures takes, without keeping them.

    Args:
        with_vectors: for forces and stress, too.
    """
    found = 0
    for rows in size_batches(chosen.sizes.tolist()):
        part = chosen.select(rows)
        neighbors = find_neighbors(part.structures(), reach)
        for chunk in part.descriptor.chunks(neighbors, part.species):
            for _, around in model.surroundings(chunk):
                found += kept_bytes(around if with_vectors else for_parameters([around]))
    return found


def _joined(pieces: list[_Piece]) -> _Piece:
    return torch.cat([atoms for atoms, _ in pieces]), for_parameters([around for _, around in pieces])


@dataclass(frozen=True, eq=False)
class BondPredictions:
    """Results for the atoms and structures of a `ForceMap`, in its order, all differentiable."""

    energies: Tensor  # (A, n) eV
    slopes: Tensor  # (A, n, N), their derivatives by the parameters
    forces: Tensor  # (n, A, 3) eV/Å at constant parameters
    virials: Tensor | None  # (B, A, 6) eV, likewise


class BondForces:
    """Energies of a force map's atoms, and forces and virials of bonds at constant local parameters."""

    def __init__(self, force_map: ForceMap, model: BondOrder, *, memory: float) -> None:
        """Keep bonds of as many chunks as there is memory for.

        Args:
            force_map: made with neighbours as far as bonds are screened.
            memory: most bytes to keep.
        """
        self.map = force_map
        self.model = model
        self.kept_bytes = 0
        self._kept: dict[int, list[_Piece]] = {}  # by number of a block of the map
        for number, (_, chunk, _) in enumerate(self._blocks()):
            found = list(model.surroundings(chunk.fresh()))
            n_bytes = sum(kept_bytes(around) for _, around in found)
            if self.kept_bytes + n_bytes <= memory:
                self._kept[number] = found
                self.kept_bytes += n_bytes

    def _blocks(self) -> Iterator[tuple[MapPart, Chunk, int]]:
        """Yield every chunk of the map with its part, and the number of the part's first atom."""
        first = 0
        for part in self.map.parts:
            for block in part.blocks:
                yield part, block.chunk, first
            first += part.n_atoms

    def _pieces(self, number: int, chunk: Chunk) -> Iterator[_Piece]:
        """Yield the pieces of a chunk, kept or found anew."""
        if number in self._kept:
            yield from self._kept[number]
        else:
            yield from self.model.surroundings(chunk.fresh())

    def __call__(self, parameters: Tensor) -> BondPredictions:
        """Predict from local parameters (A, n, N) of the map's atoms."""
        return BondPredictions(*_Apply.apply(parameters, self))

    def apply(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Results in the order of `BondPredictions`."""
        energies = parameters.new_empty(parameters.shape[:2])
        slopes = torch.empty_like(parameters)
        by_part: dict[int, list[tuple[Chunk, Tensor]]] = {}
        forces, virials = [], []
        for number, (part, chunk, first) in enumerate(self._blocks()):
            grad_vectors = parameters.new_empty(len(parameters), 3, *chunk.pairs.shape)
            for rows, around in self._pieces(number, chunk):
                atoms = first + chunk.atoms[rows]
                for member, own in enumerate(parameters):
                    found = BondEnergies(around, own.index_select(0, atoms), self.model.form)
                    energies[member].index_copy_(0, atoms, found.energies)
                    slope, of_vectors = found.vjp()
                    slopes[member].index_copy_(0, atoms, slope)
                    grad_vectors[member].index_copy_(1, rows, of_vectors)
            by_part.setdefault(id(part), []).append((chunk, grad_vectors.permute(2, 0, 1, 3)))
        for part in self.map.parts:
            own_forces, own_virials = part.sums(by_part[id(part)], virials=self.map.virials)
            forces.append(own_forces)
            if own_virials is not None:
                virials.append(own_virials)
        return energies, slopes, torch.cat(forces), torch.cat(virials) if self.map.virials else None

    def slopes(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (A, n) eV and their derivatives by the parameters (A, n, N), without forces."""
        energies, slopes = parameters.new_empty(parameters.shape[:2]), torch.empty_like(parameters)
        for number, (_, chunk, first) in enumerate(self._blocks()):
            for rows, around in self._pieces(number, chunk):
                atoms = first + chunk.atoms[rows]
                for member, own in enumerate(parameters):
                    found = BondEnergies(around, own.index_select(0, atoms), self.model.form)
                    energies[member].index_copy_(0, atoms, found.energies)
                    slopes[member].index_copy_(0, atoms, found.grad_parameters())
        return energies, slopes

    def vjp(self, parameters: Tensor, direction: Tensor, grad_forces: Tensor, grad_virials: Tensor | None) -> Tensor:
        """(A, n, N): derivative by the parameters of a function with these derivatives by slopes, forces, virials."""
        result = torch.empty_like(parameters)
        starts = _starts([part.n_structures for part in self.map.parts])
        parts = {
            id(part): (start, start + part.n_structures) for part, start in zip(self.map.parts, starts, strict=True)
        }
        for number, (part, chunk, first) in enumerate(self._blocks()):
            own_forces = grad_forces[first : first + part.n_atoms]
            own_virials = None if grad_virials is None else grad_virials[slice(*parts[id(part)])]
            tangent = part.sums.vjp(chunk, own_forces, own_virials).permute(1, 2, 0, 3)  # (A, 3, n, K)
            for rows, around in self._pieces(number, chunk):
                atoms = first + chunk.atoms[rows]
                for member, own in enumerate(parameters):
                    found = derivative_of_change(
                        around,
                        own.index_select(0, atoms),
                        self.model.form,
                        direction[member].index_select(0, atoms),
                        tangent[member].index_select(1, rows),
                    )
                    result[member].index_copy_(0, atoms, found)
        return result


def _starts(sizes: list[int]) -> list[int]:
    return [sum(sizes[:number]) for number in range(len(sizes))]


class _Apply(torch.autograd.Function):
    """`BondForces` for autograd: two passes through the energies of a few atoms at once, nothing of which is saved."""

    @staticmethod
    def forward(ctx: Any, parameters: Tensor, bonds: BondForces) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        ctx.bonds = bonds
        energies, slopes, forces, virials = bonds.apply(parameters)
        ctx.save_for_backward(parameters, slopes)
        return energies, slopes, forces, virials

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_energies: Tensor, grad_slopes: Tensor, grad_forces: Tensor, grad_virials: Tensor | None
    ) -> tuple[Tensor, None]:
        parameters, slopes = ctx.saved_tensors
        grad = ctx.bonds.vjp(parameters, grad_slopes, grad_forces.contiguous(), grad_virials)
        return grad + slopes * grad_energies[..., None], None
