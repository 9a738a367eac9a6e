"""The smallest kernel: whether Triton, its compiler and the card work together. Imported only where Triton is."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pyfit_gpu.fused import current


@triton.jit
def _double(numbers, count, BLOCK: tl.constexpr):
    places = tl.arange(0, BLOCK)
    inside = places < count
    tl.store(numbers + places, 2 * tl.load(numbers + places, mask=inside), mask=inside)


def run(device: torch.device) -> None:
    """Double a few numbers on a device.

    Raises:
        RuntimeError: the result is wrong. Whatever Triton raises comes out as it is.
    """
    numbers = torch.arange(3, dtype=torch.float64, device=device)
    with current(device):
        _double[(1,)](numbers, 3, BLOCK=4, enable_fp_fusion=True)
    found = numbers.tolist()
    if found != [0.0, 2.0, 4.0]:
        raise RuntimeError(f"a kernel that doubles 0, 1, 2 gave {found}")
