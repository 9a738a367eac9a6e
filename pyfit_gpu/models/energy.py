"""Energy models: how the outputs of a potential's networks become energies of atoms, and derivatives.

An energy model is chosen by the number of outputs (`energy_model`). It is asked chunk by chunk, while distances and
features are at hand.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.networks import ElementLayout
from pyfit_gpu.models.potential import Potential


class EnergyModel(Protocol):
    """One way from network outputs to energies.

    Whoever adds one writes a class with these names, puts it into `ENERGY_MODELS`, and tests it as
    tests/models/test_energy.py does.
    """

    name: str  # for messages: "straight"
    n_outputs: int  # outputs of the networks
    uses_vectors: bool  # whether energies depend on more than the outputs: else no chunk need be given for them
    forces_are_linear: bool  # whether forces are the networks' gradient times a matrix that training does not change

    def energies(self, outputs: Tensor, chunk: Chunk | None) -> Tensor:
        """(K, n) eV: energies of the atoms of a chunk, from outputs (K, n, n_out) of K members."""

    def vjp(self, outputs: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor | None]:
        """Derivatives of the sum of the energies.

        Returns:
            derivatives with respect to the outputs (K, n, n_out), and with respect to the pairs' vectors at fixed
            outputs, (n, K, 3, places) eV/Å; None: the vectors do not enter.
        """


class Straight:
    """The single output is the energy of the atom."""

    name = "straight"
    n_outputs = 1
    uses_vectors = False
    forces_are_linear = True

    def energies(self, outputs: Tensor, chunk: Chunk | None) -> Tensor:
        return outputs[..., 0]

    def vjp(self, outputs: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor | None]:
        return torch.ones_like(outputs), None


# Keys are numbers of outputs. Bond-order potentials (8 outputs) are read and featurised, but have no energies yet.
ENERGY_MODELS: dict[int, EnergyModel] = {model.n_outputs: model for model in (Straight(),)}


def energy_model(potential: Potential, purpose: str) -> EnergyModel:
    """The energy model of a potential's networks.

    Args:
        purpose: what the potential is wanted for, for the message.

    Raises:
        InputError: the networks have none yet (physically informed ones).
    """
    n_outputs = potential.networks.layer_sizes[-1]
    if n_outputs not in ENERGY_MODELS:
        raise InputError(
            f"{purpose}: expected a straight network with 1 output, got a physically informed one with {n_outputs} "
            "outputs (bond-order parameters), whose energies are not supported yet"
        )
    return ENERGY_MODELS[n_outputs]


def network_outputs(potential: Potential, features: Tensor, species: Tensor) -> Tensor:
    """(K, n_atoms, n_out): the networks' outputs without a baseline, each atom by its own element's network."""
    layout = ElementLayout.of(species, potential.descriptor.n_elements)
    return layout.restore(potential.networks(layout.arrange(features)))


def local_parameters(potential: Potential, features: Tensor, species: Tensor) -> Tensor:
    """(K, n_atoms, N): bond-order parameters of a physically informed network, baseline added where it has one."""
    outputs = network_outputs(potential, features, species)
    if potential.use_baseline:
        outputs = outputs + potential.baseline.to(outputs)[species]
    return outputs
