"""A kernel that does nothing but multiply and add in registers: the rate that other kernels are compared with."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_PROGRAMS, _BLOCK, _CHAINS = 4096, 256, 8


@triton.jit
def _multiply(out, factor, REPEATS: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(out + place)
    f = tl.load(factor)
    a, b, c, d = x, x + 1, x + 2, x + 3
    e, g, h, i = x + 4, x + 5, x + 6, x + 7
    for _ in range(REPEATS):
        a = a * f + x
        b = b * f + x
        c = c * f + x
        d = d * f + x
        e = e * f + x
        g = g * f + x
        h = h * f + x
        i = i * f + x
    tl.store(out + place, a + b + c + d + e + g + h + i)


def run_multiplications(device: torch.device, dtype: torch.dtype, repeats: int = 512, programs: int = _PROGRAMS) -> int:
    """Start the kernel; returns its number of operations."""
    out = torch.zeros(programs * _BLOCK, dtype=dtype, device=device)
    _multiply[(programs,)](out, torch.full((1,), 0.5, dtype=dtype, device=device), REPEATS=repeats, BLOCK=_BLOCK)
    return 2 * _CHAINS * repeats * out.numel()
