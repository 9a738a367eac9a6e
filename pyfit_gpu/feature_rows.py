"""Features of a training set that stay in their files until they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """Rows of arrays mapped from files; stands where a `TrainingSet` has a tensor. Reading happens in `tensor`."""

    files: tuple[np.ndarray, ...]  # (n, n_features) float64 each, mapped
    rows: Tensor  # (n_atoms,) int64, rows of all files one after the other
    dtype: torch.dtype = torch.float64  # of what `tensor` gives
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def of(cls, files: Sequence[np.ndarray]) -> FeatureRows:
        return cls(tuple(files), torch.arange(sum(len(file) for file in files)))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.files[0].shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor) -> FeatureRows:
        return replace(self, rows=self.rows[rows.cpu()])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> FeatureRows:
        """The same rows, to be read to another device or as another dtype."""
        return replace(self, device=torch.device(device), dtype=dtype or self.dtype)

    def tensor(self) -> Tensor:
        """(n_atoms, n_features), read now."""
        found = np.empty(self.shape)
        wanted = self.rows.numpy()
        first = 0
        for file in self.files:
            here = (wanted >= first) & (wanted < first + len(file))
            if here.all():
                np.take(file, wanted - first, axis=0, out=found, mode="clip")
            elif here.any():
                found[here] = file[wanted[here] - first]
            first += len(file)
        return torch.from_numpy(found).to(self.device, self.dtype)


def read_features(features: Tensor | FeatureRows) -> Tensor:
    """(n_atoms, n_features), in memory."""
    return features if isinstance(features, Tensor) else features.tensor()
