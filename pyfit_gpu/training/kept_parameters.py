"""Parameters of the members beside those that the optimiser moves, and their way back into the potential."""

from __future__ import annotations

import torch
from torch import Tensor

from pyfit_gpu.models.conditioning import Conditioning
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential


class KeptParameters:
    """The last finite and the best parameters of all members."""

    def __init__(
        self, potential: Potential, template: ElementNetworks, conditioning: Conditioning, *, single: bool
    ) -> None:
        """Start with the parameters of the template.

        Args:
            potential: receives the parameters that are written back, those of the inputs as they are.
            template: networks of the conditioned inputs, in float64 on the device of the set.
            single: whether the objective computes in float32.
        """
        self.potential = potential
        self.template = template
        self.conditioning = conditioning
        self.single = single
        self.last_finite = template.flat().clone()  # (K, P), of the last step whose loss was a number
        self.best = self.last_finite.clone()  # (K, P), of the best validation

    @torch.no_grad()
    def write_back(self, k: int, parameters: Tensor) -> None:
        """Copy the parameters of member k, row k of (K, P), into the potential's own tensors.

        They are rounded to the precision in which the objective saw them: the written network has the loss of its row.
        """
        found = parameters[k : k + 1]
        self._write(k, found.float().to(found.dtype) if self.single else found)

    @torch.no_grad()
    def write_start(self, k: int) -> None:
        """Copy the parameters from which member k starts into the potential, where they were drawn: not rounded."""
        self._write(k, self.last_finite[k : k + 1])

    def _write(self, k: int, parameters: Tensor) -> None:
        """Copy parameters (1, P) of the conditioned inputs into member k of the potential."""
        self.potential.networks.copy_member(k, self.conditioning.fold(self.template.with_flat(parameters)), 0)
