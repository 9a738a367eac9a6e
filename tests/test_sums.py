"""Ranges one after the other, against Python's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyfit_gpu.sums import ragged_range


@pytest.mark.parametrize("counts", [[2, 3], [0, 4, 0, 1], [0, 0], [], [5]], ids=str)
def test_against_python(counts: list[int]) -> None:
    first = np.random.default_rng(0).integers(0, 100, len(counts)).tolist()
    owners, numbers = ragged_range(
        torch.tensor(first, dtype=torch.int64), torch.tensor(counts, dtype=torch.int64), sum(counts)
    )
    pairs = [(row, a + k) for row, (a, n) in enumerate(zip(first, counts, strict=True)) for k in range(n)]
    assert list(zip(owners.tolist(), numbers.tolist(), strict=True)) == pairs
