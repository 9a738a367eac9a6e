"""Compares lists of neighbours, whose pairs may come in any order within an atom."""

from __future__ import annotations

import numpy as np
import torch

from pyfit_gpu.structures.neighbors import Neighbors


def assert_equal_up_to_order(found: Neighbors, expected: Neighbors, tolerance: float = 1e-12) -> None:
    assert torch.equal(found.counts, expected.counts)
    ends = np.cumsum(found.counts.numpy())
    for first, last in zip(ends - found.counts.numpy(), ends, strict=True):
        deviation = (found.vectors[first:last, None] - expected.vectors[None, first:last]).abs().amax(dim=2)
        same = (deviation < tolerance) & (found.index[first:last, None] == expected.index[None, first:last])
        assert (same.sum(dim=0) == 1).all()
        assert (same.sum(dim=1) == 1).all()
