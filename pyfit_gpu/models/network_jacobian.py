"""Derivatives of energies, forces and virials with respect to the parameters of networks: rows of the Jacobian J.

For a network with inputs h_0 = x, layers u_l = W_l^T h_l-1 + b_l, h_l = sigmoid(u_l) and energy e = u_L let
q_l = de/du_l. The energy of a structure is a sum over atoms i, and so is its derivative

    dE/dW_l = sum_i h_l-1,i q_l,i^T                                                 (biases: h = 1)

A force or a virial is the change of E along a move of the inputs, T_i = dx_i/dr (sign aside). With s_l and r_l the
changes of h_l and q_l along it,

    d(sum_i g_i T_i)/dW_l = sum_i (s_l-1,i q_l,i^T + h_l-1,i r_l,i^T)

    t_l = W_l^T s_l-1,   s_0 = T,   s_l = sigmoid'(u_l) t_l
    r_l = sigmoid''(u_l) t_l (W_l+1 q_l+1) + sigmoid'(u_l) (W_l+1 r_l+1),   q_L = 1,   r_L = 0

Where the outputs u_L are no energies, but what energies follow from, q_L are the slopes de/du_L and r_L their changes
along the move. So a row is a few products whose inner index is the atom i that a row sums over, a few dozen neighbours
for a force; nothing is differentiated residual by residual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from pyfit_gpu.models.networks import ElementNetworks, count_parameters


@dataclass(frozen=True, eq=False)
class Members:
    """Atoms of one element that rows of J sum over: a table with a row of places for each row of J."""

    element: int
    atoms: Tensor  # (R, M) int64, atoms; `n_atoms`, one past the last, where padded


def atoms_by_element(species: Tensor, n_elements: int) -> list[slice | Tensor]:
    """Atoms of each element among those of `species` (n,) int64. Waits for a GPU where there are several."""
    if n_elements == 1:
        return [slice(0, len(species))]
    return [(species == element).nonzero()[:, 0] for element in range(n_elements)]


class NetworkJacobian:
    """Rows of J of one member, for some atoms whose activations are computed once."""

    def __init__(
        self,
        networks: ElementNetworks,
        inputs: Tensor,
        by_element: Sequence[slice | Tensor],
        slopes: Tensor | None = None,
    ) -> None:
        """Evaluate the networks.

        Args:
            networks: one member, with activation 0.
            inputs: (n, F), network inputs of the atoms.
            by_element: atoms of each element, see `atoms_by_element`.
            slopes: (n, n_out), derivatives of the atoms' energies by the outputs; None: the single output is the
                energy.
        """
        self._slopes = slopes
        self.sizes = networks.layer_sizes
        self.n_parameters = networks.n_parameters
        self._weights = [weight[0] for weight in networks.weights]  # (S, n_in, n_out) each
        shape = (len(inputs) + 1,)  # with a last row of zeros, which padding in tables takes
        self._hidden = [inputs.new_zeros(*shape, n) for n in self.sizes[:-1]]  # h_0 .. h_L-1
        self._grad = [inputs.new_zeros(*shape, n) for n in self.sizes[1:]]  # q_1 .. q_L
        self._slope = [inputs.new_zeros(*shape, n) for n in self.sizes[1:-1]]  # sigmoid'
        self._bend = [inputs.new_zeros(*shape, n) for n in self.sizes[1:-1]]  # sigmoid'' (W q)
        for element, own in enumerate(by_element):
            self._evaluate(inputs[own], own, element, [bias[0, element] for bias in networks.biases])

    def _evaluate(self, hidden: Tensor, own: slice | Tensor, element: int, biases: Sequence[Tensor]) -> None:
        """Fill in the activations of the atoms `own` of one element, whose inputs are `hidden`."""
        weights = [weight[element] for weight in self._weights]
        self._hidden[0][own] = hidden
        for layer, slope in enumerate(self._slope):
            hidden = torch.sigmoid(torch.addmm(biases[layer], hidden, weights[layer]))
            self._hidden[layer + 1][own] = hidden
            slope[own] = hidden * (1 - hidden)
        grad = hidden.new_ones(len(hidden), self.sizes[-1]) if self._slopes is None else self._slopes[own]
        self._grad[-1][own] = grad
        for layer in reversed(range(len(self._slope))):
            behind = grad @ weights[layer + 1].T
            slope = self._slope[layer][own]
            self._bend[layer][own] = slope * (1 - 2 * self._hidden[layer + 1][own]) * behind
            grad = slope * behind
            self._grad[layer][own] = grad

    def energy_rows(self, members: Sequence[Members]) -> Tensor:
        """(R, P): derivatives of sums of atomic energies, for tables with R rows."""
        rows = self._zeros(len(members[0].atoms), 1)
        for own in members:
            for layer, (weight, bias) in enumerate(self._places(rows, own.element)):
                grad = self._grad[layer][own.atoms]  # (R, M, n_out)
                hidden = self._hidden[layer][own.atoms]
                weight[:, 0] = torch.bmm(hidden.transpose(1, 2), grad)
                bias[:, 0] = grad.sum(dim=1)
        return rows[:, 0]

    def moved_rows(
        self, members: Sequence[Members], moves: Sequence[Tensor], turns: Sequence[Tensor] | None = None
    ) -> Tensor:
        """(R, C, P): derivatives of the change of the energy along C moves of the inputs of each row's atoms.

        Args:
            moves: for each table (R, M, C, F), dx/dr; zero where padded.
            turns: for each table (R, M, C, n_out), changes of the slopes along the same moves; None: they do not
                change.
        """
        rows = self._zeros(*moves[0].shape[:3:2])
        for table, (own, move) in enumerate(zip(members, moves, strict=True)):
            changes, turned = self._changes(own, move, None if turns is None else turns[table])
            for layer, (weight, bias) in enumerate(self._places(rows, own.element)):
                grad = self._grad[layer][own.atoms]
                change = changes[layer].flatten(2).transpose(1, 2)  # (R, C n_in, M)
                weight.copy_(torch.bmm(change, grad).unflatten(1, (move.shape[2], self.sizes[layer])))
                if layer < len(turned):
                    hidden = self._hidden[layer][own.atoms].transpose(1, 2)
                    moved = torch.bmm(hidden, turned[layer].flatten(2)).unflatten(2, (-1, self.sizes[layer + 1]))
                    weight.add_(moved.transpose(1, 2))
                    bias.copy_(turned[layer].sum(dim=1))
        return rows

    def pull(self, element: int, atoms: Tensor, grad: Tensor) -> Tensor:
        """(m, D, F): derivatives by the inputs of atoms (m,) of one element, from `grad` (m, D, n_out) by outputs."""
        weights = [weight[element] for weight in self._weights]
        for layer in reversed(range(len(self._slope))):
            grad = (grad @ weights[layer + 1].T).mul_(self._slope[layer][atoms][:, None])
        return grad @ weights[0].T

    def _changes(self, own: Members, move: Tensor, turn: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """Changes of activations and gradients, (R, M, C, n) each: s_0 .. s_L-1, and r_1 .. r_L-1 or, if known, r_L."""
        weights = [weight[own.element] for weight in self._weights]
        changes, before = [move], []
        for layer, slope in enumerate(self._slope):
            before.append(changes[-1] @ weights[layer])
            changes.append(before[-1] * slope[own.atoms][:, :, None])
        turned = [] if turn is None else [turn]
        for layer in reversed(range(len(self._slope))):
            change = before[layer].mul_(self._bend[layer][own.atoms][:, :, None])
            if turned:
                change.addcmul_(turned[-1] @ weights[layer + 1].T, self._slope[layer][own.atoms][:, :, None])
            turned.append(change)
        return changes, turned[::-1]

    def _zeros(self, n_rows: int, n_moves: int) -> Tensor:
        return self._hidden[0].new_zeros(n_rows, n_moves, self.n_parameters)

    def _places(self, rows: Tensor, element: int) -> list[tuple[Tensor, Tensor]]:
        """Views (R, C, n_in, n_out) and (R, C, n_out) of rows (R, C, P), for weights and biases of each layer."""
        places, start = [], element * count_parameters(self.sizes)
        for n_in, n_out in pairwise(self.sizes):
            weight = rows[..., start : start + n_in * n_out].unflatten(-1, (n_in, n_out))
            start += n_in * n_out
            places.append((weight, rows[..., start : start + n_out]))
            start += n_out
        return places
