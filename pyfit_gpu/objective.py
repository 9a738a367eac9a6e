"""What training minimises: the errors of energies, forces and stress, plus a penalty on the weights.

    loss      = sqrt( e^2 + force_weight f^2 + stress_weight v^2 )                 eV/atom
    e^2       = sum_s w_s ((E_nn,s - E_used,s) / n_s)^2 / sum_s w_s
    f^2       = sum_s w_s sum_{i in s} |F_nn,i - F_i|^2 / (3 sum_s w_s n_s)         over structures with forces
    v^2       = sum_s w_s sum_{6} (V_s / n_s (sigma_nn,s - sigma_s))^2 / (6 sum_s w_s)    over those with stress
    optimised = loss + l2 * sum over weight and bias tensors of ||p||_2

w_s is the weight of a structure. The stress enters as virial per atom, so that all terms are energies per atom and a
cell with much vacuum does not vanish. Without forces and stress, and with every weight 1, this is the loss of the
classic program (docs/theory.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.force_map import ForceMap
from pyfit_gpu.networks import ElementLayout, ElementNetworks
from pyfit_gpu.potential import sum_over_atoms
from pyfit_gpu.training_set import TrainingSet


@dataclass(frozen=True)
class LossWeights:
    """Of the terms beside the energies, whose weight is 1."""

    force: float = 0.0  # Å^2
    stress: float = 0.0

    def __post_init__(self) -> None:
        for name in ("force", "stress"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{name}_weight: expected a number >= 0, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Errors:
    """Of K members on one set: the loss and the root-mean-square error of every label that takes part."""

    loss: Tensor  # (K,) eV/atom, differentiable
    energy: Tensor  # (K,) eV/atom
    forces: Tensor | None = None  # (K,) eV/Å, per component
    stress: Tensor | None = None  # (K,) eV/Å^3, per component


class Objective:
    """The loss of networks on one set, full batch. Tensors are arranged once, on the set's device and dtype."""

    def __init__(
        self, training_set: TrainingSet, weights: LossWeights | None = None, *, memory: float = math.inf
    ) -> None:
        """For the structures of a set, all of which must have an energy; other labels count where they are known.

        Args:
            weights: of forces and stress; None: energies only.
            memory: bytes, at most, of derivatives kept for forces and stress.

        Raises:
            InputError: a structure without an energy, no structure, all weights zero, or a weight for forces or
                stress of a set without positions.
        """
        if len(training_set) == 0 or not bool(training_set.has_energy.all()):
            raise InputError("training needs structures that all have an energy (split() leaves out those without)")
        dtype = training_set.features.dtype
        self.weights = weights or LossWeights()
        self.layout = ElementLayout.of(training_set.species, training_set.descriptor.n_elements)
        self.features = self.layout.arrange(training_set.features)
        self.sizes = training_set.sizes
        self.per_atom = 1.0 / training_set.sizes.to(dtype)
        # Added up in float64: total energies of hundreds of eV cost float32 its digits.
        self.target = (training_set.energy_used / training_set.sizes).to(dtype)  # (B,) eV/atom
        total = training_set.weight.sum()
        if not bool(total > 0):
            raise InputError("training needs at least one structure with a weight above 0")
        self.share = (training_set.weight / total).to(dtype)
        self.derivatives = _Derivatives.of(training_set, self.weights, memory)

    @property
    def kept_bytes(self) -> int:
        """Of derivatives kept in memory."""
        return 0 if self.derivatives is None else self.derivatives.map.kept_bytes

    def energies_per_atom(self, networks: ElementNetworks) -> Tensor:
        """(K, B) eV/atom."""
        outputs = self.layout.restore(networks(self.features))[..., 0]
        return sum_over_atoms(outputs, self.sizes) * self.per_atom

    def loss(self, networks: ElementNetworks) -> Tensor:
        """(K,) eV/atom. At an exact fit, value and gradient are zero; what is not a number stays so."""
        return self.errors(networks).loss

    def errors(self, networks: ElementNetworks) -> Errors:
        if self.derivatives is None:
            energies = self.energies_per_atom(networks)
            square = self._energy_square(energies)
            loss = _root(square)
            return Errors(loss, loss.detach())
        outputs, gradient = networks.with_gradient(self.features)
        atomic = self.layout.restore(outputs[..., None])[..., 0]
        square = self._energy_square(sum_over_atoms(atomic, self.sizes) * self.per_atom)
        other, forces, stress = self.derivatives.squares(self.layout.restore(gradient))
        return Errors(
            loss=_root(square + other),
            energy=square.detach().sqrt(),
            forces=None if forces is None else forces.sqrt(),
            stress=None if stress is None else stress.sqrt(),
        )

    def _energy_square(self, energies_per_atom: Tensor) -> Tensor:
        return ((energies_per_atom - self.target).square() * self.share).sum(dim=1)


def _root(square: Tensor) -> Tensor:
    """The square root, with a gradient of zero at zero."""
    exact = square == 0
    return torch.where(exact, 0.0, torch.where(exact, 1.0, square).sqrt())


class _Derivatives:
    """Forces and stress of the structures that have them: labels, shares, and the map from the networks."""

    def __init__(self, training_set: TrainingSet, weights: LossWeights, rows: Tensor, memory: float) -> None:
        self.weights = weights
        virials = weights.stress > 0 and bool(training_set.has_stress[rows].any())
        self.map = ForceMap(training_set, rows.tolist(), virials=virials, memory=memory)
        dtype = training_set.features.dtype
        # In the map's order. What is not known gets a share of zero, and a target that is not NaN.
        chosen = self.map.rows
        weight, sizes = training_set.weight[chosen], training_set.sizes[chosen]
        has_forces = training_set.has_forces[chosen]
        has_stress = training_set.has_stress[chosen]
        self.has_forces = weights.force > 0 and bool(has_forces.any())
        of_atoms = torch.repeat_interleave(weight * has_forces, sizes)
        self.force_share = _share(of_atoms, 3).to(dtype)[:, None, None]
        self.forces = training_set.forces[self.map.atoms].nan_to_num().to(dtype)[:, None]
        self.stress_share = _share(weight * has_stress, 6).to(dtype)[:, None, None]
        self.stress = training_set.stress[chosen].nan_to_num().to(dtype)[:, None]
        volume = training_set.volume[chosen]
        self.per_volume = torch.where(has_stress, 1 / volume, 0.0).to(dtype)[:, None, None]
        self.volume_per_atom = (volume / sizes).to(dtype)[:, None, None]

    @classmethod
    def of(cls, training_set: TrainingSet, weights: LossWeights, memory: float) -> _Derivatives | None:
        """None: no weight, or no label of what has one."""
        wanted = torch.zeros(len(training_set), dtype=torch.bool, device=training_set.sizes.device)
        if weights.force > 0:
            wanted |= training_set.has_forces
        if weights.stress > 0:
            wanted |= training_set.has_stress
        wanted &= training_set.weight > 0
        rows = wanted.nonzero()[:, 0]
        return cls(training_set, weights, rows, memory) if len(rows) else None

    def squares(self, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Their part of the squared loss (K,), and the mean square errors of forces and stress (K,), detached.

        Args:
            gradient: (K, n_atoms, n_features), dE/d(features) of all atoms of the set.
        """
        forces, virials = self.map(gradient.index_select(1, self.map.atoms).transpose(0, 1))
        total = gradient.new_zeros(gradient.shape[0])
        force_square, stress_square = None, None
        if self.has_forces:
            square = ((forces - self.forces).square() * self.force_share).sum(dim=(0, 2))
            total = total + self.weights.force * square
            force_square = square.detach()
        if virials is not None:
            error = virials * self.per_volume - self.stress
            square = ((error * self.volume_per_atom).square() * self.stress_share).sum(dim=(0, 2))
            total = total + self.weights.stress * square
            stress_square = (error.detach().square() * self.stress_share).sum(dim=(0, 2))
        return total, force_square, stress_square


def _share(weight: Tensor, n_components: int) -> Tensor:
    """Of each row in a mean over rows and components; zero for all where no row counts."""
    total = weight.sum() * n_components
    return torch.where(total > 0, weight / total, 0.0)


def l2_penalty(networks: ElementNetworks) -> Tensor:
    """(K,) sum over the weight and bias tensors of all elements of their Euclidean norms, not squared."""
    norms = [torch.linalg.vector_norm(weight, dim=(2, 3)) for weight in networks.weights]
    norms += [torch.linalg.vector_norm(bias, dim=2) for bias in networks.biases]
    return torch.stack(norms).sum(dim=(0, 2))
