"""All rows of J of a loss, one by one: networks written out, residuals differentiated by autograd.

Shares nothing with the rows that a fit makes but the linear map from the networks' gradients to forces and virials,
whose predictions are compared with those of `predict` here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.models.conditioning import Conditioning
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.training.force_map import ForceMap


class DenseJacobian:
    """J of a few structures."""

    def __init__(
        self,
        potential: Potential,
        training_set: TrainingSet,
        weights: Mapping[str, float],
        conditioning: Conditioning | None = None,
    ) -> None:
        """Evaluate the networks.

        Args:
            potential: its networks are those of the conditioned inputs, if there is a conditioning.
        """
        self.set = training_set
        self.weights = weights
        n_features = training_set.features.shape[1]
        self.conditioning = conditioning or Conditioning.none(potential.networks.n_elements, n_features)
        self.networks = potential.networks
        self.flat = self.networks.flat().detach().clone().requires_grad_()
        mean, scale = (own[training_set.species] for own in self.conditioning)
        inputs = ((training_set.features - mean) / scale).requires_grad_()
        own = self.networks.with_flat(self.flat)
        self.atomic = torch.stack(
            [_energy(own, x, e) for x, e in zip(inputs, training_set.species.tolist(), strict=True)]
        )
        (grad,) = torch.autograd.grad(self.atomic.sum(), inputs, create_graph=True)
        self._map(grad / scale)
        self._check(potential)

    def _map(self, grad: Tensor) -> None:
        """Forces (n, 3) and virials (B, 6) from the networks' gradients, by the map as one dense matrix."""
        n, n_features = grad.shape
        one = ForceMap(self.set, range(len(self.set)), virials=True, memory=math.inf)
        every = torch.eye(n * n_features, dtype=torch.float64).view(n, n_features, -1).transpose(1, 2)
        forces, virials = one(every[one.atoms])
        assert virials is not None
        ordered, by_structure = torch.empty_like(forces), torch.empty_like(virials)
        ordered[one.atoms], by_structure[one.rows] = forces, virials
        self.forces = torch.einsum("nmc,m->nc", ordered, grad.flatten())
        self.virials = torch.einsum("bmc,m->bc", by_structure, grad.flatten())

    def _check(self, potential: Potential) -> None:
        networks = self.conditioning.fold(self.networks)
        found = predict(replace(potential, networks=networks), self.set.structures())
        torch.testing.assert_close(self.energies.detach(), found.energy, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(self.forces.detach(), found.forces, rtol=1e-8, atol=1e-10)

    @property
    def energies(self) -> Tensor:
        return torch.stack([own.sum() for own in self.atomic.split(self.set.sizes.tolist())])

    @functools.cached_property
    def rows(self) -> dict[str, Tensor]:
        """(n, P) for each label, of all residuals, zero where the label is not known."""
        weight, sizes = self.set.weight, self.set.sizes
        of_forces, of_stress = weight * self.set.has_forces, weight * self.set.has_stress
        by_atom = torch.repeat_interleave(of_forces / (3 * (of_forces * sizes).sum()), sizes)
        found = {
            "energy": self.energies * (weight / weight.sum()).sqrt() / sizes,
            "forces": self.forces * (self.weights["forces"] * by_atom).sqrt()[:, None],
            "stress": self.virials
            * ((self.weights["stress"] * of_stress / (6 * of_stress.sum())).sqrt() / sizes)[:, None],
        }
        return {name: torch.cat([self._gradient(one) for one in own.flatten()]) for name, own in found.items()}

    def _gradient(self, residual: Tensor) -> Tensor:
        return torch.autograd.grad(residual, self.flat, retain_graph=True)[0]

    def matrix(self, terms: Iterable[str] = ("forces", "stress"), energy_factor: Tensor | None = None) -> Tensor:
        """(P, P) J^T J.

        Args:
            terms: labels that take part beside the energy.
            energy_factor: (B,) of the squares of energies; None: 1.
        """
        energy = self.rows["energy"]
        if energy_factor is not None:
            energy = energy * energy_factor.sqrt()[:, None]
        rows = torch.cat([energy, *(self.rows[name] for name in terms)])
        return rows.T @ rows


def _energy(networks: ElementNetworks, inputs: Tensor, element: int) -> Tensor:
    """Energy of one atom."""
    last = len(networks.weights) - 1
    for layer, (weight, bias) in enumerate(zip(networks.weights, networks.biases, strict=True)):
        inputs = inputs @ weight[0, element] + bias[0, element]
        if layer < last:
            inputs = {
                0: lambda x: 1 / (1 + torch.exp(-x)), 1: lambda x: 1 / (1 + torch.exp(-x)) - 0.5, 2: torch.tanh
            }[networks.activation](inputs)  # fmt: skip
    return inputs[0]
