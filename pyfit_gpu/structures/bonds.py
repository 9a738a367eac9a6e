"""How long bonds are in some structures, and how many an atom has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.structures.batch import Structures, size_batches
from pyfit_gpu.structures.elements import index_elements
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.neighbors import find_neighbors
from pyfit_gpu.structures.shells import evenly_chosen

_FARTHEST = 6.0  # Å, how far is looked for the nearest atom of an element
_LONGEST = 1.25  # times the usual length, still a bond


@dataclass(frozen=True, eq=False)
class Bonds:
    """Bonds of the median atom of each element."""

    lengths: Tensor  # (S, S) float64 Å, by element of the atom and of its nearest neighbour
    coordination: Tensor  # (S,) float64, bonds of an atom to atoms of any element


def find_bonds(frames: Sequence[Frame], elements: Sequence[str], usual: Bonds) -> Bonds:
    """Find the bonds of some structures; where there are many atoms, of a part of them, evenly over all.

    Args:
        usual: what is taken where nothing else is found: atoms farther apart than 1.25 of its lengths have no bond.

    Raises:
        InputError: a structure that is not as it should be, or an element that is not among `elements`.
    """
    chosen = evenly_chosen(frames)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # species, then of each pair: atom, species and distance
    first = 0
    for rows in size_batches([frame.n_atoms for frame in chosen]) if chosen else []:
        structures = Structures.from_frames([chosen[row] for row in rows])
        neighbors = find_neighbors(structures, _FARTHEST)
        numbers = structures.flatten(structures.atomic_numbers)
        species = index_elements(numbers, elements, structures.describe_atom)
        found.append((species, neighbors.centers + first, species[neighbors.index], neighbors.distances))
        first += len(species)
    if not found:
        return usual
    species, atom, other, distance = (torch.cat(parts) for parts in zip(*found, strict=True))
    return _bonds(species, atom, other, distance.double(), usual)


def _bonds(species: Tensor, atom: Tensor, other: Tensor, distance: Tensor, usual: Bonds) -> Bonds:
    n_elements = len(usual.coordination)
    nearest = distance.new_full((len(species) * n_elements,), torch.inf)
    nearest.scatter_reduce_(0, atom * n_elements + other, distance, "amin")
    nearest = nearest.view(-1, n_elements)
    lengths = usual.lengths.clone()
    for one in range(n_elements):
        own = nearest[species == one]
        if len(own):
            median = own.median(dim=0).values
            lengths[one] = torch.where(median <= _LONGEST * lengths[one], median, lengths[one])
    is_bond = distance <= _LONGEST * lengths[species[atom], other]
    counts = torch.bincount(atom[is_bond], minlength=len(species)).double()
    coordination = [
        counts[species == one].median().clamp(min=1.0) if bool((species == one).any()) else usual.coordination[one]
        for one in range(n_elements)
    ]
    return Bonds(lengths, torch.stack(coordination))
