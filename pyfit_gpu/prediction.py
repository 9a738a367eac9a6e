"""What a potential says about structures: energies, and their exact derivatives, forces and stress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.expansion import Chunk
from pyfit_gpu.forces import PairSums
from pyfit_gpu.networks import ElementLayout
from pyfit_gpu.potential import Batch, Potential, batches, network_outputs, sum_over_atoms
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

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Prediction:
        tensors = (self.energy, self.atomic_energies, self.forces, self.stress)
        return Prediction(*(None if tensor is None else tensor.to(device, dtype) for tensor in tensors))  # type: ignore[arg-type]

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
    if not derivatives:
        features = batch.features(potential.descriptor)
        atomic = network_outputs(potential, features, batch.species)[0, :, 0]
        return Prediction(sum_over_atoms(atomic[None], batch.sizes)[0], atomic, None, None)
    walk = _ChunkWalk(potential, batch)
    forces, virials = PairSums(batch.neighbors, batch.sizes)(walk.derivatives())
    assert virials is not None
    volume = batch.structures.volume.to(virials.dtype)[:, None]
    stress = torch.where(volume > 0, virials / volume.where(volume > 0, 1.0), torch.nan)
    energy = sum_over_atoms(walk.atomic_energies[None], batch.sizes)[0]
    return Prediction(energy, walk.atomic_energies, forces, stress)


class _ChunkWalk:
    """Networks and derivatives chunk after chunk: what a chunk computed for its features is then still at hand."""

    def __init__(self, potential: Potential, batch: Batch) -> None:
        self.descriptor = potential.descriptor
        self.networks = potential.networks
        self.batch = batch
        self.atomic_energies = potential.networks.weights[0].new_empty(len(batch.species))

    def derivatives(self) -> Iterator[tuple[Chunk, Tensor]]:
        """Every chunk with dE/dv of its pairs (n, 3, K); its atoms' energies are filled in."""
        for chunk in self.descriptor.chunks(self.batch.neighbors, self.batch.species):
            raw = chunk.raw()
            features = self.descriptor.transform(raw, self._where(chunk))
            layout = ElementLayout.of(self.batch.species[chunk.atoms], self.descriptor.n_elements)
            outputs, gradient = self.networks.with_gradient(layout.arrange(features))
            self.atomic_energies[chunk.atoms] = layout.restore(outputs[..., None])[0, :, 0]
            yield chunk, chunk.pull_back(layout.restore(gradient)[0] * self.descriptor.transform_slope(raw))

    def _where(self, chunk: Chunk) -> Callable[[int], str]:
        return lambda number: self.batch.structures.describe_atom(int(chunk.atoms[number]))
