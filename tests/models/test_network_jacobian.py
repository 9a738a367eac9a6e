"""Rows of J of networks with one output and several, whose slopes change along a move, against autograd."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from pyfit_gpu.models.network_jacobian import Members, NetworkJacobian, atoms_by_element
from pyfit_gpu.models.networks import ElementNetworks

N_ATOMS, N_MOVES = 7, 3


def energy(outputs: Tensor) -> Tensor:
    """(n,): a curved function of outputs (n, n_out)."""
    return (0.7 * outputs).sin().sum(dim=1) + outputs.square().sum(dim=1) * outputs[:, 0] + outputs.sum(dim=1)


@pytest.mark.parametrize("sizes", [(4, 3), (4, 5, 3), (4, 5, 3, 2), (0, 3), (4, 5, 1)], ids=str)
@pytest.mark.parametrize("n_elements", [1, 2])
def test_rows_are_those_of_autograd(sizes: Sequence[int], n_elements: int) -> None:
    """The change of the energy along a move of the inputs, beside one of the slopes that comes from elsewhere."""
    rng = np.random.default_rng(5)
    networks = ElementNetworks.random(sizes, 0.7, 3, n_elements=n_elements, activation=0)
    inputs = torch.from_numpy(rng.normal(size=(N_ATOMS, sizes[0])))
    moves = torch.from_numpy(rng.normal(size=(N_ATOMS, N_MOVES, sizes[0])))
    own_turns = torch.from_numpy(rng.normal(size=(N_ATOMS, N_MOVES, sizes[-1])))
    species = torch.arange(N_ATOMS) % n_elements
    leaf = networks.flat().requires_grad_()

    def outputs(x: Tensor, flat: Tensor = leaf) -> Tensor:
        hidden, own = x, networks.with_flat(flat)
        for layer, (weight, bias) in enumerate(zip(own.weights, own.biases, strict=True)):
            hidden = torch.einsum("nf,nfo->no", hidden, weight[0, species]) + bias[0, species]
            hidden = torch.sigmoid(hidden) if layer < len(own.weights) - 1 else hidden
        return hidden

    def changed(number: int) -> Tensor:
        """(n,): change of each atom's energy along a move, differentiable by the parameters."""
        out, moved = torch.func.jvp(outputs, (inputs,), (moves[:, number],))
        slopes = torch.autograd.functional.jacobian(lambda x: energy(x).sum(), out, create_graph=True)
        # Slopes that change by `own_turns` at fixed outputs are those of an energy with a further term.
        return (slopes * moved).sum(dim=1) + (own_turns[:, number] * out).sum(dim=1)

    tables = [torch.tensor([[0, 2, 4], [6, 2, N_ATOMS]]), torch.tensor([[1, 3], [5, N_ATOMS]])][:n_elements]
    expected = torch.zeros(2, N_MOVES, leaf.shape[1], dtype=torch.float64)
    for number in range(N_MOVES):
        by_atom = torch.cat([changed(number), torch.zeros(1, dtype=torch.float64)])
        for row in range(2):
            total = sum(by_atom[table[row]].sum() for table in tables)
            expected[row, number] = torch.autograd.grad(total, leaf, retain_graph=True)[0][0]

    with torch.no_grad():
        out = outputs(inputs)
        slopes = torch.autograd.functional.jacobian(lambda x: energy(x).sum(), out)
        hessian = torch.autograd.functional.hessian(lambda x: energy(x).sum(), out)  # (n, n_out, n, n_out)
        turned = own_turns.clone()
        for number in range(N_MOVES):
            moved = torch.func.jvp(outputs, (inputs,), (moves[:, number],))[1]
            turned[:, number] += torch.einsum("nomp,mp->no", hessian, moved)
        jacobian = NetworkJacobian(networks, inputs, atoms_by_element(species, n_elements), slopes)
        members = [Members(element, table) for element, table in enumerate(tables)]
        padded = [torch.cat([own, torch.zeros_like(own[:1])]) for own in (moves, turned)]
        by_table = [[own[table] for table in tables] for own in padded]
        found = jacobian.moved_rows(members, *by_table)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
