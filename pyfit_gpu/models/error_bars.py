"""Error bars of energies and forces: the posterior of the last layer's parameters, carried over to predictions.

With J the derivatives of all residuals that trained, weighted as in the loss, with respect to the parameters of the
last layer, j those of a prediction y, a the penalty on the squares of the parameters, and c a factor for each label,

    C = (J^T J + a I)^-1 = L L^T        variance of y = c j^T C j = c |j L|^2

The model is linear in these parameters, so this is exact for a given hidden layer (docs/theory.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.models.last_layer import n_last_parameters
from pyfit_gpu.models.potential import Potential

LABELS = ("energy", "forces")  # predictions that have an error bar


@dataclass(frozen=True)
class Calibration:
    """Factor of the variances of one label."""

    factor: float  # c, eV^2/atom^2 as the squared loss
    n_values: int  # validation values that it was fitted on; 0: the noise of the training residuals, not calibrated

    @property
    def is_calibrated(self) -> bool:
        return self.n_values > 0


@dataclass(frozen=True, eq=False)
class ErrorBars:
    """Covariance of the last layer's parameters of all elements, and its scale for each label."""

    root: Tensor  # (P, P) lower triangular, L
    calibrations: Mapping[str, Calibration]  # by label
    penalty: float  # a
    noise: float  # of the training residuals: the factor where nothing calibrates, in eV^2/atom^2
    n_effective: float  # parameters that the data decide, of P

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> ErrorBars:
        return replace(self, root=self.root.to(device, dtype))

    def check(self, potential: Potential, name: str) -> None:
        """Refuse another potential than one with so many parameters in its last layer.

        Args:
            name: of the error bars or their file, for messages.

        Raises:
            InputError: with both numbers, or because the potential has several members.
        """
        expected = n_last_parameters(potential)
        if len(self.root) != expected:
            raise InputError(f"{name}: expected error bars of {expected} last parameters, found {len(self.root)}")
        if potential.networks.n_members != 1:
            raise InputError(
                f"{name}: expected a potential of one member for error bars, got {potential.networks.n_members}"
            )

    def deviations(self, label: str, rows: Tensor) -> Tensor:
        """Standard deviations (n, m) of predictions, from their derivatives `rows` (n, m, P)."""
        return (self.calibrations[label].factor * self.relative_variances(rows)).sqrt()

    def relative_variances(self, rows: Tensor) -> Tensor:
        """(n, m): j^T C j for the derivatives `rows` (n, m, P)."""
        n, m = rows.shape[:2]
        # A matrix for each of the n, its rows padded to fours: then no bits depend on the others, on a CPU.
        padded = torch.nn.functional.pad(rows, (0, 0, 0, -m % 4))
        spread = torch.bmm(padded, self.root.to(rows.dtype).expand(n, -1, -1))[:, :m]
        return spread.square().sum(dim=-1)
