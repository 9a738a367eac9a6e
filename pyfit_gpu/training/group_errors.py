"""Energy errors by group, and the part of them beyond a target.

Where groups have a target RMSE t_g, the e^2 of the loss (loss.py) is

    e^2       = sum_g W_g max(0, e_g - t_g)^2,      e_g the RMSE of group g, W_g its share of the weights

which is the usual e^2 for t_g = 0, and smooth where e_g passes t_g.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError, shortened
from pyfit_gpu.sums import sum_runs


class GroupErrors:
    """Energy errors by group."""

    def __init__(self, groups: Sequence[str], weight: Tensor, targets: Mapping[str, float]) -> None:
        """Sort the structures by group.

        Args:
            groups: group of each structure.
            weight: (B,) of each structure in the mean squared error of the energies, see `LabelWeights`.
            targets: eV/atom, by group.

        Raises:
            InputError: a target of a group that no structure has.
        """
        self.names = sorted(set(groups))
        unknown = sorted(set(targets) - set(self.names))
        if unknown:
            raise InputError(f"group targets: expected groups of the training structures, got {shortened(unknown)}")
        number = {name: k for k, name in enumerate(self.names)}
        order = sorted(range(len(groups)), key=lambda row: number[groups[row]])
        numbers = [number[group] for group in groups]
        device = weight.device
        self._order = torch.tensor(order, device=device)
        self._number = torch.tensor(numbers, device=device)
        self._counts = torch.bincount(self._number, minlength=len(self.names))
        self._weight = weight
        self._group_weight = self._sums(weight[None])[0]  # (G,)
        limits = [targets.get(name, 0.0) for name in self.names]
        self._target = torch.tensor(limits, dtype=torch.float64, device=device)
        self.has_targets = any(limits)

    def mean_squares(self, squared: Tensor) -> Tensor:
        """(A, B) squared errors to (A, G) means; NaN for a group without weight."""
        return self._sums(squared * self._weight) / self._group_weight

    def square(self, squared: Tensor) -> Tensor:
        """(A,): e^2 with targets."""
        beyond = (self.mean_squares(squared).sqrt() - self._target).clamp(min=0)
        # NaN stays NaN; a group without weight has no error.
        return torch.where(self._group_weight > 0, self._group_weight * beyond.square(), 0.0).sum(dim=1)

    def factor(self, squared: Tensor) -> Tensor:
        """(A, B): factor of each structure in the gradient of e^2, max(0, 1 - t_g / e_g)."""
        errors = self.mean_squares(squared).sqrt()
        factors = torch.where(errors > self._target, 1 - self._target / errors, 0.0)
        return factors.index_select(1, self._number)

    def _sums(self, values: Tensor) -> Tensor:
        """(A, B) to (A, G): sum over the structures of each group."""
        ordered = values.index_select(1, self._order).T.contiguous()
        return sum_runs(ordered, self._counts).T
