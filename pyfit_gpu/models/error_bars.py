"""Error bars of energies and forces: the posterior of the networks' parameters, carried over to predictions.

With J the derivatives of all residuals that trained, weighted as in the loss, with respect to the parameters, j those
of a prediction y, a the penalty on the squares of the parameters, and c a factor for each label,

    C = (J^T J + a)^-1 = L L^T        variance of y = c j^T C j = c |j L|^2

The parameters are those of the last layer, in which a straight network is linear, so that this is exact for given
hidden layers, or all of them. In these, and in the last layer of a physically informed network, the model is linearised
(docs/theory.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.models.last_layer import n_last_parameters
from pyfit_gpu.models.potential import Potential

LABELS = ("energy", "forces")  # predictions that have an error bar

Form = Literal["last-layer", "all-parameters"]
FORMS: tuple[Form, ...] = ("last-layer", "all-parameters")

_PANEL = 256  # columns of L that are multiplied at once: what is above the diagonal takes no part


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
    """Covariance of parameters of all elements, and its scale for each label."""

    root: Tensor  # (P, P) lower triangular, L; for all parameters float64, in the order of the .nn.dat file
    calibrations: Mapping[str, Calibration]  # by label
    penalties: tuple[float, ...]  # a: one number, or for all parameters one for each group of them
    noise: float  # of the training residuals: the factor where nothing calibrates, in eV^2/atom^2
    n_effective: float  # parameters that the data decide, of P
    form: Form = "last-layer"

    @property
    def of_all(self) -> bool:
        """Whether all parameters have a covariance."""
        return self.form == "all-parameters"

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> ErrorBars:
        """Move to a device and, error bars of the last layer, to a dtype: others take differences of large numbers."""
        return replace(self, root=self.root.to(device, None if self.of_all else dtype))

    def check(self, potential: Potential, name: str) -> None:
        """Refuse another potential than one with so many parameters, in its last layer or altogether.

        Args:
            name: of the error bars or their file, for messages.

        Raises:
            InputError: with both numbers, or because the potential has several members.
        """
        expected = potential.networks.n_parameters if self.of_all else n_last_parameters(potential)
        if len(self.root) != expected:
            which = "parameters" if self.of_all else "last parameters"
            raise InputError(f"{name}: expected error bars of {expected} {which}, found {len(self.root)}")
        if potential.networks.n_members != 1:
            raise InputError(
                f"{name}: expected a potential of one member for error bars, got {potential.networks.n_members}"
            )

    def deviations(self, label: str, rows: Tensor) -> Tensor:
        """Standard deviations (n, m) of predictions, from their derivatives `rows` (n, m, P)."""
        return self.scaled(label, self.relative_variances(rows))

    def scaled(self, label: str, variances: Tensor) -> Tensor:
        """Standard deviations of predictions, from their j^T C j."""
        return (self.calibrations[label].factor * variances).sqrt()

    def relative_variances(self, rows: Tensor) -> Tensor:
        """(n, m): j^T C j for the derivatives `rows` (n, m, P)."""
        n, m = rows.shape[:2]
        if self.of_all:
            found = rows.new_zeros(n, m)
            for first in range(0, len(self.root), _PANEL):
                panel = self.root[first:, first : first + _PANEL]
                found += (rows[..., first:] @ panel).square().sum(dim=-1)
            return found
        # A matrix for each of the n, its rows padded to fours: then no bits depend on the others, on a CPU.
        padded = torch.nn.functional.pad(rows, (0, 0, 0, -m % 4))
        spread = torch.bmm(padded, self.root.to(rows.dtype).expand(n, -1, -1))[:, :m]
        return spread.square().sum(dim=-1)
