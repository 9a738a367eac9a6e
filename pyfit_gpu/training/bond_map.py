"""Bond-order energies, forces and virials of a training set as functions of the atoms' local parameters.

Bonds and the atoms that screen them never change while parameters train. Where the memory allows they are kept;
otherwise they are found anew each time from the neighbours, with the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.models.bond_order import BondEnergies, BondOrder
from pyfit_gpu.models.bond_order_changes import change_of_slopes
from pyfit_gpu.models.kept_surroundings import for_parameters, joined, kept_bytes
from pyfit_gpu.models.map_parts import MapPart
from pyfit_gpu.models.pair_bonds import PairBonds, joined_pieces
from pyfit_gpu.models.surroundings import Surroundings
from pyfit_gpu.structures.batch import size_batches
from pyfit_gpu.structures.neighbors import Neighbors, find_neighbors
from pyfit_gpu.sums import sum_first_axis
from pyfit_gpu.training.force_map import ForceMap, require_positions

# Screening atoms and places for bonds of a piece. On a CPU arrays of them stay in cache; with forces there are more.
_PIECE_CPU, _FORCES_CPU = 2**18, 2**17
_PIECE_GPU = 2**24


def piece_places(*, on_cpu: bool, with_vectors: bool) -> int:
    """Screening atoms and places for bonds of a piece, about.

    Args:
        with_vectors: for forces and stress.
    """
    if not on_cpu:
        return _PIECE_GPU
    return _FORCES_CPU if with_vectors else _PIECE_CPU


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
        self._on_cpu = chosen.features.device.type == "cpu"
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
        found = (
            ((atoms[chunk.atoms[rows]], for_parameters(around)), around)
            for atoms, species, neighbors in self._found
            for chunk in self._descriptor.chunks(neighbors, species)
            for rows, around in self._model.surroundings(chunk)
        )
        yield from joined_pieces(found, _joined, piece_places(on_cpu=self._on_cpu, with_vectors=False))

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
        found += neighbors.vectors.numel() * neighbors.vectors.itemsize if with_vectors else 0
        for chunk in part.descriptor.chunks(neighbors, part.species):
            for own, around in model.surroundings(chunk):
                if with_vectors:
                    found += PairBonds.of(chunk.atoms[own], chunk.pairs[own], around).n_bytes
                else:
                    found += kept_bytes(for_parameters(around))
    return found


def _joined(pieces: Sequence[_Piece]) -> _Piece:
    return torch.cat([atoms for atoms, _ in pieces]), joined([around for _, around in pieces])


@dataclass(frozen=True, eq=False)
class BondPredictions:
    """Results for the atoms and structures of a `ForceMap`, in its order, all differentiable."""

    energies: Tensor  # (A, n) eV
    slopes: Tensor  # (A, n, N), their derivatives by the parameters
    forces: Tensor  # (n, A, 3) eV/Å at constant parameters
    virials: Tensor | None  # (B, A, 6) eV, likewise


@dataclass(frozen=True, eq=False)
class _Place:
    """A part of a force map, and where its atoms and structures stand."""

    part: MapPart
    atoms: slice
    structures: slice
    counts: Tensor  # (n_atoms,) int64, pairs of each atom

    @property
    def vectors(self) -> Tensor:
        """(n_pairs, 3) Å, of all pairs."""
        return self.part.blocks[0].chunk.all_vectors

    def unit(self) -> Tensor:
        """(3, n_pairs + 1): unit vectors along those of the pairs; the last is no pair."""
        rows = torch.nn.functional.pad(self.vectors.T, (0, 1), value=1.0)
        return rows / sum_first_axis(rows.square()).sqrt()


def _places(parts: Sequence[MapPart]) -> Iterator[_Place]:
    atoms = structures = 0
    for part in parts:
        counts = part.sums.sizes.new_zeros(part.n_atoms)
        for chunk in (block.chunk for block in part.blocks):
            counts[chunk.atoms] = chunk.is_pair.sum(dim=1)
        own = slice(atoms, atoms + part.n_atoms), slice(structures, structures + part.n_structures)
        yield _Place(part, *own, counts)
        atoms, structures = own[0].stop, own[1].stop


class BondForces:
    """Energies of a force map's atoms, and forces and virials of bonds at constant local parameters."""

    def __init__(self, force_map: ForceMap, model: BondOrder, *, memory: float) -> None:
        """Keep bonds of as many parts of the map as there is memory for.

        Args:
            force_map: made with neighbours as far as bonds are screened.
            memory: most bytes to keep.
        """
        self.map = force_map
        self.model = model
        self.kept_bytes = 0
        self._kept: dict[int, tuple[Tensor, list[PairBonds]]] = {}  # by number of a part; see `_Place.unit`
        self._places = list(_places(force_map.parts))
        for number, place in enumerate(self._places):
            unit, pieces = place.unit(), []
            n_bytes = self.kept_bytes + unit.numel() * unit.itemsize
            for piece in self._pieces(number):
                n_bytes += piece.n_bytes
                if n_bytes > memory:
                    break
                pieces.append(piece)
            else:
                self._kept[number], self.kept_bytes = (unit, pieces), n_bytes

    def _pieces(self, number: int) -> Iterator[PairBonds]:
        """Yield all atoms of a part in pieces, kept or found anew."""
        if number in self._kept:
            return iter(self._kept[number][1])
        place = self._places[number]
        found = (
            (PairBonds.of(place.atoms.start + chunk.atoms[rows], chunk.pairs[rows], around), around)
            for chunk in (block.chunk.fresh() for block in place.part.blocks)
            for rows, around in self.model.surroundings(chunk)
        )
        on_cpu = self.map.atoms.device.type == "cpu"
        return joined_pieces(found, PairBonds.joined, piece_places(on_cpu=on_cpu, with_vectors=True))

    def _unit(self, number: int) -> Tensor:
        return self._kept[number][0] if number in self._kept else self._places[number].unit()

    def __call__(self, parameters: Tensor) -> BondPredictions:
        """Predict from local parameters (A, n, N) of the map's atoms."""
        return BondPredictions(*_Apply.apply(parameters, self))

    def _energies(self, number: int, parameters: Tensor) -> Iterator[tuple[int, PairBonds, BondEnergies]]:
        """Yield every piece of a part with its energies by the parameters of each member."""
        for piece in self._pieces(number):
            for member, own in enumerate(parameters):
                yield member, piece, BondEnergies(piece.around, own.index_select(0, piece.atoms), self.model.form)

    def apply(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Results in the order of `BondPredictions`."""
        energies, slopes = parameters.new_empty(parameters.shape[:2]), torch.empty_like(parameters)
        forces, virials = [], []
        for number, place in enumerate(self._places):
            unit = self._unit(number)
            table = parameters.new_zeros(len(parameters), 4, *unit.shape[1:])
            for member, piece, found in self._energies(number, parameters):
                slope, of_detours, of_bonds = found.grad_lengths()
                energies[member].index_copy_(0, piece.atoms, found.energies)
                slopes[member].index_copy_(0, piece.atoms, slope)
                piece.add_vjp(of_detours, of_bonds, table[member])
            grad = torch.addcmul(table[:, :3], table[:, 3:], unit)
            own, own_virials = place.part.sums.of_rows(grad, place.vectors, place.counts, virials=self.map.virials)
            forces.append(own)
            if own_virials is not None:
                virials.append(own_virials)
        return energies, slopes, torch.cat(forces), torch.cat(virials) if self.map.virials else None

    def slopes(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (A, n) eV and their derivatives by the parameters (A, n, N), without forces."""
        energies, slopes = parameters.new_empty(parameters.shape[:2]), torch.empty_like(parameters)
        for number in range(len(self._places)):
            for member, piece, found in self._energies(number, parameters):
                energies[member].index_copy_(0, piece.atoms, found.energies)
                slopes[member].index_copy_(0, piece.atoms, found.grad_parameters())
        return energies, slopes

    def vjp(self, parameters: Tensor, direction: Tensor, grad_forces: Tensor, grad_virials: Tensor | None) -> Tensor:
        """(A, n, N): derivative by the parameters of a function with these derivatives by slopes, forces, virials."""
        result = torch.empty_like(parameters)
        for number, place in enumerate(self._places):
            unit = self._unit(number)
            own_virials = None if grad_virials is None else grad_virials[place.structures]
            moves = place.part.sums.rows_vjp(grad_forces[place.atoms], own_virials, place.vectors, place.counts)
            outward = sum_first_axis((moves * unit).transpose(0, 1))
            for member, piece, found in self._energies(number, parameters):
                of_parameters = direction[member].index_select(0, piece.atoms)
                changes = piece.changes(moves[member], outward[member])
                result[member].index_copy_(0, piece.atoms, change_of_slopes(found, of_parameters, changes))
        return result


class _Apply(torch.autograd.Function):
    """`BondForces` for autograd. Nothing but the slopes is saved: energies of a piece are found twice."""

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
