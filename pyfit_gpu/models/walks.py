"""Energies and derivatives of the atoms of a batch: by fused kernels where a device has them, else chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from pyfit_gpu.fused import by_kernels, has_fused_kernels
from pyfit_gpu.models.batches import Batch
from pyfit_gpu.models.chunk_walk import ChunkWalk
from pyfit_gpu.models.energy import energy_model
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.walk_base import Wanted

if TYPE_CHECKING:
    from pyfit_gpu.models.fused_walk import FusedWalk


@dataclass(frozen=True, eq=False)
class Walked:
    """Results for the atoms and structures of a batch, of every member."""

    energies: Tensor  # (K, n_atoms) eV
    forces: Tensor | None  # (n_atoms, K, 3) eV/Å; None: not asked for
    virials: Tensor | None  # (B, K, 6) eV
    inputs: Tensor | None  # (n_atoms, n_features) of the networks; None: not kept
    grades: Tensor | None  # (n_atoms,); None: there is no grade


def walk_over(potential: Potential, batch: Batch, wanted: Wanted) -> Walked:
    """Compute what is wanted of all atoms."""

    def by_chunks() -> Walked:
        walk = ChunkWalk(potential, batch, wanted)
        return _finished(walk, walk.run())

    def by_pieces() -> Walked:
        from pyfit_gpu.models.fused_walk import FusedWalk  # imports Triton

        walk = FusedWalk(potential, batch, wanted)
        return _finished(walk, walk.run())

    rows = wanted.rows
    needs_chunks = energy_model(potential, "predict").uses_vectors or (rows is not None and rows.wants_derivatives)
    if needs_chunks or not (has_fused_kernels(potential.device) and potential.descriptor.suits_kernels):
        return by_chunks()
    return by_kernels(potential.device, by_pieces, by_chunks)


def _finished(walk: ChunkWalk | FusedWalk, energies: Tensor) -> Walked:
    forces, virials = (None, None) if walk.totals is None else walk.totals.finish()
    return Walked(energies, forces, virials, walk.inputs, walk.grades)
