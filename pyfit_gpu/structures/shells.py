"""A cutoff for the structures of some files: beyond the first shells of neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyfit_gpu.structures.batch import Structures, size_batches
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.neighbors import find_neighbors

# Neighbours in the first three shells of bcc and of rock salt; diamond has 28. fcc has 18 in two and 42 in three.
SHELLS = 26

_FARTHEST = 8.0  # Å, how far is looked for them
_FEW_NEIGHBORS = 6.0  # Å, cutoff where most atoms have fewer: molecules, clusters, layers
_MOST_ATOMS = 5_000  # that are looked at


def cutoff_of_shells(frames: Sequence[Frame], cutoff_width: float) -> float:
    """Find the cutoff (Å, a multiple of 0.1) that takes in the first three shells of an atom of these structures.

    It is half of the cutoff width, where the cutoff function is 1/17, beyond the distance within which the median atom
    has `SHELLS` neighbours.

    Args:
        frames: the structures; where they have many atoms, part of them, evenly over all, are looked at.
        cutoff_width: d, Å.

    Raises:
        InputError: no structure, or one that is not as it should be.
    """
    every = max(1, -(-sum(frame.n_atoms for frame in frames) // _MOST_ATOMS))
    chosen = frames[::every]
    distances = []
    for rows in size_batches([frame.n_atoms for frame in chosen]) if chosen else [[]]:
        structures = Structures.from_frames([chosen[row] for row in rows])
        neighbors = find_neighbors(structures, _FARTHEST)
        for own in neighbors.distances.split(neighbors.counts.tolist()):
            distances.append(own.kthvalue(SHELLS).values if len(own) >= SHELLS else own.new_tensor(torch.inf))
    median = float(torch.stack(distances).median())
    return _FEW_NEIGHBORS if median == torch.inf else round(median + cutoff_width / 2, 1)
