"""Rows of different lengths that lie one after the other."""

from __future__ import annotations

import torch
from torch import Tensor


def ragged_range(first: Tensor, counts: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """For first (7, 3) and counts (2, 3): owners 0 0 1 1 1 and numbers 7 8 3 4 5. With the total, nothing waits."""
    owners = torch.repeat_interleave(counts, output_size=total)
    offset = first - torch.cumsum(counts, 0) + counts
    return owners, torch.arange(total, device=counts.device) + offset.index_select(0, owners)
