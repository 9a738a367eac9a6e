"""How derivatives of bond-order energies depend on the parameters, for training on forces and stress.

A loss of forces depends on dE/dp and dE/dv, v the vectors of pairs. With its derivatives P and V by these,

    d(loss)/dp = d/dp (dE/dp . P + dE/dv . V) = d/dp (dE/dp . P + dE/dg . G)

where g are the lengths of `Lengths` and G their changes along V: v enters through them alone, and they depend on no
parameter. So two passes of autograd through the energy give it, for a few atoms at once.

Where every dE/dp_k must be known by itself, for rows of the Jacobian, it is written out (`BondEnergies`), and one pass
of autograd through each gives its derivatives by p and g.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyfit_gpu.models.bond_order import BondEnergies
from pyfit_gpu.models.kept_surroundings import Lengths, changes_of, changes_vjp, with_leaves
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


def slope_derivatives(around: Surroundings, parameters: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """Derivatives of the slopes dE/dp: (n, N, N) by the parameters, and (n, N, 3, K) by the neighbours' vectors.

    Args:
        parameters: (n, N), p.
    """
    n, n_parameters = parameters.shape
    by_parameters = parameters.new_empty(n, n_parameters, n_parameters)
    by_vectors = parameters.new_empty(n, n_parameters, 3, around.distances.shape[1])
    with torch.enable_grad():
        leaf = parameters.detach().requires_grad_()
        free, lengths = with_leaves(around)
        kinds = BondEnergies(free, leaf, form).grad_by_kind()
        slopes = [slope for kind in kinds for slope in kind.sum(dim=0).unbind()]
        for number, slope in enumerate(slopes):
            of_leaf, *of_lengths = torch.autograd.grad(
                slope, (leaf, *lengths), retain_graph=True, materialize_grads=True
            )
            by_parameters[:, number] = of_leaf
            by_vectors[:, number] = changes_vjp(around, Lengths(*of_lengths)).transpose(0, 1)
    return by_parameters, by_vectors
