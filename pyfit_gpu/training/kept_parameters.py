"""Parameters of the members beside those that the optimiser moves, and their way back into the potential."""

from __future__ import annotations

import torch
from torch import Tensor

from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential


class KeptParameters:
    """The last finite and the best parameters of all members."""

    def __init__(self, potential: Potential, template: ElementNetworks, *, single: bool) -> None:
        """Start with the potential's own parameters.

        Args:
            potential: receives the parameters that are written back.
            template: the potential's networks, in float64 on the device of the set.
            single: whether the objective computes in float32.
        """
        self.potential = potential
        self.template = template
        self.single = single
        self.last_finite = template.flat().clone()  # (K, P), of the last step whose loss was a number
        self.best = self.last_finite.clone()  # (K, P), of the best validation

    @torch.no_grad()
    def write_back(self, k: int, parameters: Tensor) -> None:
        """Copy the parameters of member k, row k of (K, P), into the potential's own tensors.

        They are rounded to the precision in which the objective saw them: the written network has the loss of its row.
        """
        found = parameters[k : k + 1]
        if self.single:
            found = found.float()
        self.potential.networks.copy_member(k, self.template.with_flat(found.to(parameters.dtype)), 0)
