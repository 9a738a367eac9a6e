"""How derivatives of bond-order energies depend on the parameters, for training on forces and stress.

A loss of forces depends on dE/dp and dE/dv, v the vectors of pairs. With its derivatives P and V by these,

    d(loss)/dp = d/dp (dE/dp . P + dE/dv . V) = d/dp (dE/dp . P + dE/dg . G)

where g are the lengths of `Lengths` and G their changes along V: v enters through them alone, and they depend on no
parameter. So two passes of autograd through the energy give it, for a few atoms at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyfit_gpu.models.bond_order import BondEnergies
from pyfit_gpu.models.kept_surroundings import changes_of, with_leaves
from pyfit_gpu.models.potential import Form
from pyfit_gpu.models.surroundings import Surroundings


def derivative_of_change(
    around: Surroundings, parameters: Tensor, form: Form, direction: Tensor, moves: Tensor
) -> Tensor:
    """(n, N): derivative of dE/dp . P + dE/dv . V by the parameters.

    Args:
        parameters: (n, N), p.
        direction: (n, N), P.
        moves: (3, n, K), V, of the neighbours' vectors.
    """
    changes = changes_of(around, moves)
    with torch.enable_grad():
        leaf = parameters.detach().requires_grad_()
        free, lengths = with_leaves(around)
        energy = BondEnergies(free, leaf, form).energies.sum()
        slopes = torch.autograd.grad(energy, (leaf, *lengths), create_graph=True)
        change = sum(((slope * by).sum() for slope, by in zip(slopes, (direction, *changes), strict=True)), energy * 0)
        return torch.autograd.grad(change, leaf)[0]
