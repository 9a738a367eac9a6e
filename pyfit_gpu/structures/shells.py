"""How far apart the atoms of some structures are: what a new descriptor should reach, and where it should begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pyfit_gpu.structures.batch import Structures, size_batches
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.neighbors import find_neighbors

# Neighbours in the first three shells of bcc and of rock salt; diamond has 28. fcc has 18 in two and 42 in three.
_IN_SHELLS = 26
_FARTHEST = 9.0  # Å, how far is looked for them
_MOST_ATOMS = 5_000  # that are looked at
_SHORT = 0.01  # share of the atoms whose nearest neighbour is nearer than `Shells.nearest`


@dataclass(frozen=True)
class Shells:
    """Distances in some structures."""

    nearest: float  # Å, below which next to no atom has a neighbour; infinity: no atom has one
    third: float  # Å, within which the median atom has three shells of neighbours; infinity: it has fewer


def evenly_chosen(frames: Sequence[Frame]) -> Sequence[Frame]:
    """The structures themselves, or where they have many atoms, a part of them, evenly over all."""
    every = max(1, -(-sum(frame.n_atoms for frame in frames) // _MOST_ATOMS))
    return frames[::every]


def find_shells(frames: Sequence[Frame]) -> Shells:
    """Find the distances; where there are many atoms, in part of the structures, evenly over all.

    Raises:
        InputError: no structure, or one that is not as it should be.
    """
    chosen = evenly_chosen(frames)
    nearest, third = [], []
    for rows in size_batches([frame.n_atoms for frame in chosen]) if chosen else [[]]:
        structures = Structures.from_frames([chosen[row] for row in rows])
        neighbors = find_neighbors(structures, _FARTHEST)
        for own in neighbors.distances.split(neighbors.counts.tolist()):
            nearest.append(float(own.min()) if len(own) else torch.inf)
            third.append(float(own.kthvalue(_IN_SHELLS).values) if len(own) >= _IN_SHELLS else torch.inf)
    return Shells(sorted(nearest)[int(_SHORT * len(nearest))], sorted(third)[len(third) // 2])
