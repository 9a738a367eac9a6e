"""What a potential's networks give, and how that becomes energies."""

from __future__ import annotations

from torch import Tensor

from pyfit_gpu.models.networks import ElementLayout
from pyfit_gpu.models.potential import Potential


def network_outputs(potential: Potential, features: Tensor, species: Tensor) -> Tensor:
    """(K, n_atoms, n_out): the networks' bare outputs, each atom by its own element's network."""
    layout = ElementLayout.of(species, potential.descriptor.n_elements)
    return layout.restore(potential.networks(layout.arrange(features)))


def local_parameters(potential: Potential, features: Tensor, species: Tensor) -> Tensor:
    """(K, n_atoms, 8): bond-order parameters of a physically informed network, baseline added where it has one."""
    outputs = network_outputs(potential, features, species)
    if potential.use_baseline:
        outputs = outputs + outputs.new_tensor(potential.bond_order_parameters)
    return outputs
