"""Penalties on the parameters, which keep networks from following the training structures alone.

    norm:     minimised = loss + l2 sum over weight and bias tensors of ||p||_2
    squared:  minimised = sqrt( loss^2 + sum over parameters of l2 p^2 )

The second is itself a sum of squares, so that Gauss-Newton can minimise it and the evidence can choose it; it has the
same minimum as its square. There every parameter has a prefactor of its own, and every member.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.training.loss import l2_penalty

PenaltyForm = Literal["norm", "squared"]


class Penalty(Protocol):
    """Something that is added to the loss of members."""

    def added(self, loss: Tensor, gradient: Tensor, points: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (A,) and gradient (A, P) with the penalty at parameters `points` (A, P) of members (A,) int64."""


class NormPenalty:
    """The norms of all weight and bias tensors, with one prefactor."""

    def __init__(self, l2: float, template: ElementNetworks) -> None:
        self.l2 = l2
        self.template = template

    def added(self, loss: Tensor, gradient: Tensor, points: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
        """Add the penalty, see `Penalty`."""
        del members
        if not self.l2:
            return loss, gradient
        penalty, grad_penalty = self._norms(points)
        return loss + self.l2 * penalty, gradient + self.l2 * grad_penalty

    def _norms(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the norms (A,) and its gradient (A, P)."""
        # On a CPU one after the other: the bits of a norm depend on how many are computed at once.
        parts = points.detach().split(1 if points.device.type == "cpu" else len(points))
        found = []
        for part in parts:
            leaf = part.clone().requires_grad_()
            with torch.enable_grad():
                penalty = l2_penalty(self.template.with_flat(leaf))
                (gradient,) = torch.autograd.grad(penalty.sum(), leaf)
            found.append((penalty.detach(), gradient))
        return torch.cat([penalty for penalty, _ in found]), torch.cat([gradient for _, gradient in found])


class SquaredPenalty:
    """The squares of all parameters, with a prefactor for each parameter of each member."""

    def __init__(self, strengths: Tensor) -> None:
        """Begin with these prefactors, which may be changed in place.

        Args:
            strengths: (K, P) eV^2/atom^2.
        """
        self.strengths = strengths

    def added(self, loss: Tensor, gradient: Tensor, points: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
        """Add the penalty, see `Penalty`. Where both are 0 the gradient is."""
        strengths = self.strengths[members]
        pull = strengths * points
        # Row by row, in copies: the bits of a product can depend on how many rows there are and where each begins.
        squares = torch.stack([own.clone() @ point.clone() for own, point in zip(pull, points, strict=True)])
        total = (loss.square() + squares).sqrt()
        safe = torch.where(total > 0, total, 1.0)[:, None]
        return total, (loss[:, None] * gradient + pull) / safe
