"""Penalties on the local parameters of physically informed networks, as squares beside those of the errors.

With means over all n atoms that train, p_i the N local parameters of atom i

    negative  mean of the sum over A, alpha, B, beta, in the plain form over a and lambda too, of (p - |p|)^2
    size      mean over atoms and parameters of p^2
    spread    mean over atoms and parameters of (p - p_mean)^2, p_mean the mean over the atoms of the same element

each times its prefactor. These are neg(p), C_HB and C_HB2 of docs/theory.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.models.potential import Form, n_bond_order_parameters

PENALTY = "local parameters"  # name of its square in `BlockValue`


@dataclass(frozen=True, eq=False)
class LocalPenalty:
    """Prefactors, and the sizes of the set that they are means over."""

    negative: float  # eV^2/atom^2, as the others
    size: float
    spread: float
    form: Form
    counts: Tensor  # (S,) int64, atoms of each element

    @property
    def needs_means(self) -> bool:
        """Whether the means of the parameters over all atoms must be known first."""
        return self.spread > 0

    @property
    def n_sums(self) -> int:
        """How many numbers `sums` gives for each member."""
        n_elements = len(self.counts)
        return n_elements * n_bond_order_parameters(n_elements)

    @property
    def slope_of_residual(self) -> float:
        """Derivative by a negative parameter of the residual whose square is its penalty."""
        return float(2 * (self.negative / int(self.counts.sum())) ** 0.5)

    def is_barred(self) -> Tensor:
        """(N,) bool: parameters that should not be negative."""
        return is_barred(self.form, len(self.counts)).to(self.counts.device)

    def sums(self, parameters: Tensor, species: Tensor) -> Tensor:
        """(K, S N): sums of the parameters (K, n, N) over the atoms of each element."""
        own = [torch.where((species == element)[:, None], parameters, 0.0) for element in range(len(self.counts))]
        return torch.cat([part.sum(dim=1) for part in own], dim=1)

    def means(self, sums: Tensor) -> Tensor:
        """(K, S, N) from the sums over all atoms."""
        return sums.unflatten(1, (len(self.counts), -1)) / self.counts.clamp(min=1)[:, None]

    def value(self, parameters: Tensor, species: Tensor, means: Tensor | None) -> Tensor:
        """(K,): part of the atoms in the squared loss, differentiable; arguments as for `added`."""
        below = torch.where(self.is_barred(), parameters, 0.0).clamp(max=0.0)
        square = 4 * self.negative * below.square()
        for factor, pull in self._pulls(parameters, species, means):
            square = square + factor * pull.square()
        return square.sum(dim=(1, 2)) / int(self.counts.sum())

    def added(self, parameters: Tensor, species: Tensor, means: Tensor | None) -> tuple[Tensor, Tensor]:
        """Part of the atoms (K, n, N) in the squared loss (K,), and its derivatives by their parameters.

        The means do not count in the derivatives: about them the spread is least.

        Args:
            means: (K, S, N); None: without the spread.
        """
        below = torch.where(self.is_barred(), parameters, 0.0).clamp(max=0.0)
        grad = 8 * self.negative * below
        for factor, pull in self._pulls(parameters, species, means):
            grad = grad + 2 * factor * pull
        return self.value(parameters, species, means), grad / int(self.counts.sum())

    def _pulls(self, parameters: Tensor, species: Tensor, means: Tensor | None) -> Iterator[tuple[float, Tensor]]:
        """Yield prefactors and what is squared, (K, n, N), of size and spread."""
        if self.size:
            yield self.size / parameters.shape[2], parameters
        if self.spread and means is not None:
            yield self.spread / parameters.shape[2], parameters - means.to(parameters.dtype).index_select(1, species)


def is_barred(form: Form, n_elements: int) -> Tensor:
    """(N,) bool: bond-order parameters that should not be negative: A, alpha, B, beta, in the plain form a, lambda."""
    n_parameters = n_bond_order_parameters(n_elements)
    barred = torch.zeros(n_parameters, dtype=torch.bool)
    barred[: 4 * n_elements] = True
    if form == "plain":
        barred[-2 * n_elements**2 :] = True
    return barred
