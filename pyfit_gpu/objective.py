"""What training minimises: the error of the energies per atom, plus a penalty on the weights.

    loss      = sqrt( sum_s w_s ((E_nn,s - E_used,s) / n_s)^2 / sum_s w_s )      eV/atom
    optimised = loss + l2 * sum over weight and bias tensors of ||p||_2

With every weight 1 this is the loss of the classic program (docs/theory.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.networks import ElementLayout, ElementNetworks
from pyfit_gpu.potential import sum_over_atoms
from pyfit_gpu.training_set import TrainingSet


class EnergyObjective:
    """The loss of networks on one set, full batch. Tensors are arranged once, on the set's device and dtype."""

    def __init__(self, training_set: TrainingSet) -> None:
        """For the structures of a set, all of which must have an energy.

        Raises:
            InputError: a structure without an energy, no structure, or all weights zero.
        """
        if len(training_set) == 0 or not bool(training_set.has_energy.all()):
            raise InputError("training needs structures that all have an energy (split() leaves out those without)")
        dtype = training_set.features.dtype
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

    def energies_per_atom(self, networks: ElementNetworks) -> Tensor:
        """(K, B) eV/atom."""
        outputs = self.layout.restore(networks(self.features))[..., 0]
        return sum_over_atoms(outputs, self.sizes) * self.per_atom

    def loss(self, networks: ElementNetworks) -> Tensor:
        """(K,) eV/atom. At an exact fit, value and gradient are zero; what is not a number stays so."""
        square = ((self.energies_per_atom(networks) - self.target).square() * self.share).sum(dim=1)
        exact = square == 0
        return torch.where(exact, 0.0, torch.where(exact, 1.0, square).sqrt())


def l2_penalty(networks: ElementNetworks) -> Tensor:
    """(K,) sum over the weight and bias tensors of all elements of their Euclidean norms, not squared."""
    norms = [torch.linalg.vector_norm(weight, dim=(2, 3)) for weight in networks.weights]
    norms += [torch.linalg.vector_norm(bias, dim=2) for bias in networks.biases]
    return torch.stack(norms).sum(dim=(0, 2))
