"""What a potential says about structures: energies, and their exact derivatives, forces and stress.

Of several members it says the mean, and how far they spread: for member k of K,

    mean = 1/K sum_k x_k        spread = sqrt( 1/(K-1) sum_k (x_k - mean)^2 )
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.descriptors.pair_sums import PairSums
from pyfit_gpu.models.batches import Batch, batch_atoms, batches
from pyfit_gpu.models.energy import network_outputs
from pyfit_gpu.models.networks import ElementLayout, ElementNetworks
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.sums import sum_over_atoms

# From so many members on, writing dG/dv out costs less than a pull back each (measured with 42 and 48 features).
_JACOBIAN_MEMBERS = 7
# Of dG/dv of a chunk: on a CPU it stays in cache; on a GPU launches dominate small chunks (estimated, not measured).
_JACOBIAN_BYTES_CPU = 2**22
_JACOBIAN_BYTES_GPU = 2**29


@dataclass(frozen=True, eq=False)
class Spread:
    """Sample standard deviations over members: where they disagree, which is no calibrated error."""

    energy: Tensor  # (B,) eV
    forces: Tensor | None  # (n_atoms, 3) eV/Å, of each component; None: not asked for
    stress: Tensor | None  # (B, 6) eV/Å^3; NaN for a structure without a full cell

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Spread:
        forces = None if self.forces is None else self.forces.to(device, dtype)
        stress = None if self.stress is None else self.stress.to(device, dtype)
        return Spread(self.energy.to(device, dtype), forces, stress)


@dataclass(frozen=True, eq=False)
class Prediction:
    """On the networks' own energy scale, from which the energy shift is not taken off. Of several members the mean."""

    energy: Tensor  # (B,) eV
    atomic_energies: Tensor  # (n_atoms,) eV
    forces: Tensor | None  # (n_atoms, 3) eV/Å; None: not asked for
    stress: Tensor | None  # (B, 6) eV/Å^3, ASE's sign and order; NaN for a structure without a full cell
    spread: Spread | None = None  # None: of one member there is none

    @classmethod
    def empty(
        cls, n_structures: int, n_atoms: int, like: Tensor, *, derivatives: bool, spread: bool = False
    ) -> Prediction:
        """To be filled by `put`."""

        def derived() -> tuple[Tensor | None, Tensor | None]:
            return (like.new_empty(n_atoms, 3), like.new_empty(n_structures, 6)) if derivatives else (None, None)

        of_members = Spread(like.new_empty(n_structures), *derived()) if spread else None
        return cls(like.new_empty(n_structures), like.new_empty(n_atoms), *derived(), of_members)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Prediction:
        forces = None if self.forces is None else self.forces.to(device, dtype)
        stress = None if self.stress is None else self.stress.to(device, dtype)
        spread = None if self.spread is None else self.spread.to(device, dtype)
        energy, atomic_energies = self.energy.to(device, dtype), self.atomic_energies.to(device, dtype)
        return Prediction(energy, atomic_energies, forces, stress, spread)

    def put(self, part: Prediction, rows: Tensor, atoms: Tensor) -> None:
        """Fill in what was found for some structures and their atoms."""
        self.atomic_energies[atoms] = part.atomic_energies
        both: list[tuple[Prediction | Spread, Prediction | Spread]] = [(self, part)]
        if self.spread is not None and part.spread is not None:
            both.append((self.spread, part.spread))
        for whole, found in both:
            whole.energy[rows] = found.energy
            if whole.forces is not None and found.forces is not None:
                whole.forces[atoms] = found.forces
            if whole.stress is not None and found.stress is not None:
                whole.stress[rows] = found.stress


def predict(
    potential: Potential, structures: Structures, *, derivatives: bool = True, backend: str = "auto"
) -> Prediction:
    """Energies, forces and stress of structures, of several members mean and spread; atoms in file order.

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
    spread = potential.networks.n_members > 1
    whole = Prediction.empty(len(structures), structures.n_atoms, like, derivatives=derivatives, spread=spread)
    for batch in prediction_batches(structures.sizes, structures.select, potential, backend=backend):
        whole.put(predict_batch(potential, batch, derivatives=derivatives), batch.rows, batch.atoms)
    return whole


def prediction_batches(
    sizes: Sequence[int], take: Callable[[list[int]], Structures], potential: Potential, *, backend: str = "auto"
) -> Iterator[Batch]:
    """Batches for `predict_batch`; see `batches`. Pairs have a row for each member, so that many members get fewer."""
    max_atoms = max(1, batch_atoms(potential.device) // potential.networks.n_members)
    return batches(sizes, take, potential, backend=backend, dtype=potential.dtype, max_atoms=max_atoms)


def evaluate(potential: Potential, structures: Structures, *, backend: str = "auto") -> Tensor:
    """(B,) eV: energies of structures on the networks' own scale, of several members the mean; see `predict`."""
    return predict(potential, structures, derivatives=False, backend=backend).energy


@torch.no_grad()
def predict_batch(potential: Potential, batch: Batch, *, derivatives: bool = True) -> Prediction:
    """The same for one batch, whose neighbours have the potential's dtype and device."""
    if not derivatives:
        features = batch.features(potential.descriptor)
        parts = [replace(potential, networks=part) for part in _parts(potential.networks)]
        atomic = _joined([network_outputs(part, features, batch.species) for part in parts])[..., 0]
        return _of_members(sum_over_atoms(atomic, batch.sizes), atomic, None, None)
    walk = _ChunkWalk(potential, batch)
    forces, virials = PairSums(batch.neighbors, batch.sizes)(walk.derivatives())
    assert virials is not None
    volume = batch.structures.volume.to(virials.dtype)[:, None, None]
    stress = torch.where(volume > 0, virials / volume.where(volume > 0, 1.0), torch.nan)
    return _of_members(sum_over_atoms(walk.atomic_energies, batch.sizes), walk.atomic_energies, forces, stress)


def _of_members(energy: Tensor, atomic_energies: Tensor, forces: Tensor | None, stress: Tensor | None) -> Prediction:
    """Of one member what it says, of several mean and spread.

    Args:
        energy, atomic_energies: (K, B) and (K, n_atoms) eV.
        forces, stress: (n_atoms, K, 3) eV/Å and (B, K, 6) eV/Å^3.
    """
    if len(energy) == 1:
        forces = None if forces is None else forces[:, 0]
        return Prediction(energy[0], atomic_energies[0], forces, None if stress is None else stress[:, 0])
    of_energy = _mean_and_spread(energy, 0)
    of_forces = (None, None) if forces is None else _mean_and_spread(forces, 1)
    of_stress = (None, None) if stress is None else _mean_and_spread(stress, 1)
    spread = Spread(of_energy[1], of_forces[1], of_stress[1])
    return Prediction(of_energy[0], _mean_and_spread(atomic_energies, 0)[0], of_forces[0], of_stress[0], spread)


def _mean_and_spread(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Over the members along `dim`, both without it.

    Everything is relative to the first member: large values cost no digits, and of equal members the mean is exactly
    what each says, the spread exactly zero.
    """
    first = values.narrow(dim, 0, 1)
    differences = values - first
    mean = differences.mean(dim, keepdim=True)
    spread = torch.linalg.vector_norm(differences - mean, dim=dim) / math.sqrt(values.shape[dim] - 1)
    return (first + mean).squeeze(dim), spread


def _parts(networks: ElementNetworks) -> list[ElementNetworks]:
    """What is evaluated in one go: all members on a GPU, one on a CPU.

    On a CPU the last bits of a sigmoid depend on where in the array a number stands: evaluated alone, a member gives
    the same bits whatever stands beside it, and equal members give equal ones.
    """
    if networks.n_members == 1 or networks.weights[0].device.type != "cpu":
        return [networks]
    return [networks.member(number) for number in range(networks.n_members)]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class _ChunkWalk:
    """Networks and derivatives chunk after chunk: what a chunk computed for its features is then still at hand."""

    def __init__(self, potential: Potential, batch: Batch) -> None:
        self.descriptor = potential.descriptor
        self.parts = _parts(potential.networks)
        self.batch = batch
        n_members = potential.networks.n_members
        self.atomic_energies = potential.networks.weights[0].new_empty(n_members, len(batch.species))  # eV

    def derivatives(self) -> Iterator[tuple[Chunk, Tensor]]:
        """Every chunk with dE/dv of its pairs for M members, (n, M, 3, K); its atoms' energies are filled in."""
        neighbors, species = self.batch.neighbors, self.batch.species
        for chunk in self.descriptor.chunks(neighbors, species, max_pairs=self._max_pairs()):
            raw = chunk.raw()
            features = self.descriptor.transform(raw, self._where(chunk))
            layout = ElementLayout.of(self.batch.species[chunk.atoms], self.descriptor.n_elements)
            inputs = layout.arrange(features)
            outputs, gradient = map(_joined, zip(*(part.with_gradient(inputs) for part in self.parts), strict=True))
            self.atomic_energies[:, chunk.atoms] = layout.restore(outputs[..., None])[..., 0]
            yield chunk, self._of_vectors(chunk, layout.restore(gradient) * self.descriptor.transform_slope(raw))

    def _by_jacobian(self) -> bool:
        return len(self.atomic_energies) >= _JACOBIAN_MEMBERS

    def _max_pairs(self) -> int | None:
        """Of a chunk; None: as many as usual."""
        if not self._by_jacobian():
            return None
        on_cpu = self.atomic_energies.device.type == "cpu"
        bytes_per_pair = 3 * self.descriptor.n_features * self.atomic_energies.element_size()
        return max(1, (_JACOBIAN_BYTES_CPU if on_cpu else _JACOBIAN_BYTES_GPU) // bytes_per_pair)

    def _of_vectors(self, chunk: Chunk, of_invariants: Tensor) -> Tensor:
        """(M, n, n_features), dE/dG, to (n, M, 3, K)."""
        if not self._by_jacobian():
            parts = [chunk.pull_back(member) for member in of_invariants]
            return torch.stack(parts, dim=1) if len(parts) > 1 else parts[0][:, None]
        return torch.bmm(of_invariants.transpose(0, 1), chunk.jacobian().flatten(2)).unflatten(-1, (3, -1))

    def _where(self, chunk: Chunk) -> Callable[[int], str]:
        return lambda number: self.batch.structures.describe_atom(int(chunk.atoms[number]))
