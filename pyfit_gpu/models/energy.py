"""Energy models: how the outputs of a potential's networks become energies of atoms, and derivatives.

An energy model is made for a potential, chosen by its number of outputs (`energy_model`). It is asked chunk by chunk,
while distances and features are at hand.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.bond_order import BondOrder
from pyfit_gpu.models.networks import ElementLayout
from pyfit_gpu.models.potential import Potential, n_bond_order_parameters


class EnergyModel(Protocol):
    """One way from network outputs to energies, made for a potential.

    Whoever adds one writes a class with these names, puts it into `ENERGY_MODELS`, and tests it as
    tests/models/test_energy.py does.
    """

    name: str  # for messages: "straight"
    uses_vectors: bool  # whether energies depend on more than the outputs: else no chunk need be given for them
    forces_are_linear: bool  # whether forces are the networks' gradient times a matrix that training does not change

    def __init__(self, potential: Potential) -> None:
        """Keep what energies need of a potential beside its networks."""

    @staticmethod
    def n_outputs(n_elements: int) -> int:
        """Outputs of the networks of a potential of so many elements."""

    def energies(self, outputs: Tensor, species: Tensor, chunk: Chunk | None) -> Tensor:
        """(K, n) eV: energies of the atoms of a chunk; not finite where the outputs make no sense.

        Args:
            outputs: (K, n, n_out), of K members.
            species: (n,) int64, elements of the atoms.
        """

    def vjp(self, outputs: Tensor, species: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor | None]:
        """Energies (K, n), and derivatives of their sum; arguments as for `energies`.

        Returns:
            energies, and derivatives with respect to the outputs (K, n, n_out), and with respect to the pairs' vectors
            at fixed outputs, (n, K, 3, places) eV/Å; None: the vectors do not enter.
        """

    def describe(self, outputs: Tensor, species: int) -> str:
        """Say what the outputs (n_out,) of one atom of an element mean, for messages."""


class Straight:
    """The single output is the energy of the atom."""

    name = "straight"
    uses_vectors = False
    forces_are_linear = True

    def __init__(self, potential: Potential) -> None:
        pass

    @staticmethod
    def n_outputs(n_elements: int) -> int:
        return 1

    def energies(self, outputs: Tensor, species: Tensor, chunk: Chunk | None) -> Tensor:
        return outputs[..., 0]

    def vjp(self, outputs: Tensor, species: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor | None]:
        return outputs[..., 0], torch.ones_like(outputs), None

    def describe(self, outputs: Tensor, species: int) -> str:
        return f"energy {float(outputs[0]):g} eV"


ENERGY_MODELS: list[type[EnergyModel]] = [Straight, BondOrder]


def energy_model(potential: Potential, purpose: str) -> EnergyModel:
    """Make the energy model of a potential, on its device and in its precision.

    Args:
        purpose: what the potential is wanted for, for the message.

    Raises:
        InputError: its networks have a number of outputs that none takes.
    """
    n_outputs, n_elements = potential.networks.layer_sizes[-1], potential.descriptor.n_elements
    for model in ENERGY_MODELS:
        if model.n_outputs(n_elements) == n_outputs:
            return model(potential)
    raise InputError(
        f"{purpose}: expected networks with 1 output (energy) or {n_bond_order_parameters(n_elements)} (bond-order "
        f"parameters), got {n_outputs} outputs"
    )


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
