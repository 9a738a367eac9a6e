"""The same potential with its elements, and the same structure with its atoms, in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np

from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.frames import Frame


def block_order(order: Sequence[int]) -> list[int]:
    """For each pair of elements in the new order the number of its block in the old one."""
    pairs = list(combinations_with_replacement(range(len(order)), 2))
    return [pairs.index((min(order[a], order[b]), max(order[a], order[b]))) for a, b in pairs]


def reorder_elements(potential: Potential, order: Sequence[int]) -> Potential:
    """Element k of the new potential is element order[k] of the old one, with its mass, shift and network.

    The blocks of the inputs are in another order, so the first layer's rows are too.
    """
    order, descriptor, networks = list(order), potential.descriptor, potential.networks
    weights = [weight[:, order] for weight in networks.weights]
    blocks = weights[0].unflatten(2, (len(block_order(order)), -1))  # (K, S, n_blocks, n_l n_r0, n_out)
    weights[0] = blocks[:, :, block_order(order)].flatten(2, 3)
    return replace(
        potential,
        descriptor=replace(descriptor, elements=tuple(descriptor.elements[k] for k in order)),
        networks=ElementNetworks(tuple(weights), tuple(b[:, order] for b in networks.biases), networks.activation),
        masses=tuple(potential.masses[k] for k in order),
        energy_shift=potential.energy_shift[order],
    )


def reorder_atoms(frame: Frame, order: Sequence[int]) -> Frame:
    """Atom k of the new structure is atom order[k] of the old one, with its label."""
    index = np.array(order)
    return replace(
        frame,
        positions=frame.positions[index],
        atomic_numbers=frame.atomic_numbers[index],
        forces=None if frame.forces is None else frame.forces[index],
    )
