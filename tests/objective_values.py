"""Loss, errors and energies of networks by an objective, as functions that autograd can go through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.training.loss import Errors
from pyfit_gpu.training.objective import Objective


def loss_of(objective: Objective, networks: ElementNetworks) -> Tensor:
    """(A,) eV/atom, differentiable once by the networks' parameters."""
    return errors_of(objective, networks).loss


def errors_of(objective: Objective, networks: ElementNetworks) -> Errors:
    """The loss is differentiable by the networks' parameters, once."""
    flat = networks.flat()
    found = objective.evaluate(flat, networks, gradient=flat.requires_grad)
    if found.gradient is None:
        return found.errors
    loss: Tensor = _Known.apply(flat, found.errors.loss, found.gradient)
    return Errors(loss, found.errors)


def energies_of(objective: Objective, networks: ElementNetworks) -> Tensor:
    """(A, B) eV/atom."""
    return objective.evaluate(networks.flat(), networks, gradient=False).energies


class _Known(torch.autograd.Function):
    """A value whose gradient is known already, for autograd."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient.to(flat.dtype))
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_loss[:, None].to(gradient.dtype), None, None
