"""What a potential says about structures: energies, and their exact derivatives, forces and stress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.expansion import Chunk
from pyfit_gpu.forces import PairSums
from pyfit_gpu.networks import ElementLayout
from pyfit_gpu.potential import Batch, Potential, batches, sum_over_atoms
from pyfit_gpu.structures import Structures


@dataclass(frozen=True, eq=False)
class Prediction:
    """On the networks' own energy scale, from which the energy shift is not taken off."""

    energy: Tensor  # (B,) eV
    atomic_energies: Tensor  # (n_atoms,) eV
    forces: Tensor | None  # (n_atoms, 3) eV/Å; None: not asked for
    stress: Tensor | None  # (B, 6) eV/Å^3, ASE's sign and order; NaN for a structure without a full cell

    @classmethod
    def empty(cls, n_structures: int, n_atoms: int, like: Tensor, *, derivatives: bool) -> Prediction:
        """To be filled by `put`."""
        return cls(
            like.new_empty(n_structures),
            like.new_empty(n_atoms),
            like.new_empty(n_atoms, 3) if derivatives else None,
            like.new_empty(n_structures, 6) if derivatives else None,
        )

    def put(self, part: Prediction, rows: Tensor, atoms: Tensor) -> None:
        """Fill in what was found for some structures and their atoms."""
        self.energy[rows], self.atomic_energies[atoms] = part.energy, part.atomic_energies
        for mine, found, index in ((self.forces, part.forces, atoms), (self.stress, part.stress, rows)):
            if mine is not None and found is not None:
                mine[index] = found


def predict(
    potential: Potential, structures: Structures, *, derivatives: bool = True, backend: str = "auto"
) -> Prediction:
    """Energies, forces and stress of structures by the potential's first member, atoms in file order.

    Computed in the potential's dtype, in batches of similar size; neighbours are found in the positions' precision.

    Args:
        derivatives: whether forces and stress are wanted.

    Raises:
        InputError: an element that the potential lacks, two atoms at one place, a logarithm of zero, or a physically
            informed potential.
        ValueError: structures and potential on different devices.
    """
    potential.require_straight("predict")
    if structures.positions.device != potential.device:
        raise ValueError(
            f"predict: structures are on {structures.positions.device}, the potential is on {potential.device}"
        )
    like = potential.networks.weights[0]
    whole = Prediction.empty(len(structures), structures.n_atoms, like, derivatives=derivatives)
    for batch in batches(structures.sizes, structures.select, potential, backend=backend, dtype=potential.dtype):
        whole.put(predict_batch(potential, batch, derivatives=derivatives), batch.rows, batch.atoms)
    return whole


def evaluate(potential: Potential, structures: Structures, *, backend: str = "auto") -> Tensor:
    """(B,) eV: energies of structures on the networks' own scale; see `predict`."""
    return predict(potential, structures, derivatives=False, backend=backend).energy


@torch.no_grad()
def predict_batch(potential: Potential, batch: Batch, *, derivatives: bool = True) -> Prediction:
    """The same for one batch, whose neighbours have the potential's dtype and device."""
    networks = _ChunkNetworks(potential, batch)
    chunks = potential.descriptor.chunks(batch.neighbors, batch.species)
    forces, stress = None, None
    if derivatives:
        forces, virials = PairSums(batch.neighbors, batch.sizes)(networks.with_derivatives(chunks))
        assert virials is not None
        volume = batch.structures.volume.to(virials.dtype)[:, None]
        stress = torch.where(volume > 0, virials / volume.where(volume > 0, 1.0), torch.nan)
    else:
        networks.energies(chunks)
    energy = sum_over_atoms(networks.atomic_energies[None], batch.sizes)[0]
    return Prediction(energy, networks.atomic_energies, forces, stress)


class _ChunkNetworks:
    """Networks on chunk after chunk: the rows of a chunk are still in cache when its derivatives are due."""

    def __init__(self, potential: Potential, batch: Batch) -> None:
        self.descriptor = potential.descriptor
        self.networks = potential.networks
        self.batch = batch
        self.atomic_energies = potential.networks.weights[0].new_empty(len(batch.species))

    def energies(self, chunks: Iterator[Chunk]) -> None:
        for chunk in chunks:
            features = self.descriptor.transform(chunk.raw(), self._where(chunk))
            layout = self._layout(chunk)
            outputs = self.networks(layout.arrange(features))
            self.atomic_energies[chunk.atoms] = layout.restore(outputs)[0, :, 0]

    def with_derivatives(self, chunks: Iterator[Chunk]) -> Iterator[tuple[Chunk, Tensor]]:
        """Every chunk with dE/dv of its pairs."""
        for chunk in chunks:
            raw = chunk.raw()
            features = self.descriptor.transform(raw, self._where(chunk))
            layout = self._layout(chunk)
            outputs, gradient = self.networks.with_gradient(layout.arrange(features))
            self.atomic_energies[chunk.atoms] = layout.restore(outputs[..., None])[0, :, 0]
            of_features = layout.restore(gradient)[0]
            yield chunk, chunk.pull_back(of_features * self.descriptor.transform_slope(raw))

    def _layout(self, chunk: Chunk) -> ElementLayout:
        return ElementLayout.of(self.batch.species[chunk.atoms], self.descriptor.n_elements)

    def _where(self, chunk: Chunk) -> Callable[[int], str]:
        return lambda number: self.batch.structures.describe_atom(int(chunk.atoms[number]))
