"""Registers and spills of the kernels of the neighbour search and of the pair sums, compiled without a GPU.

    python tests/benchmarks/search_resources.py [--capability 90]

prints a table for docs/performance.md; `kernel_resources.py` has the kernels of the features.
"""

from __future__ import annotations

import argparse
import re
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
import triton
from kernel_resources import disassembled
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pyfit_gpu import fused_trial
from pyfit_gpu.descriptors.kernels import pair_totals
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.kernels import placing, search
from pyfit_gpu.structures.neighbors import Neighbors

TYPES = {
    torch.float64: "fp64", torch.float32: "fp32", torch.int64: "i64", torch.int32: "i32", torch.int8: "i8",
    torch.bool: "i1",
}  # fmt: skip
OPTIONS = ("num_warps", "enable_fp_fusion")


class Compiled:
    """Stands in for a kernel: compiles what it should launch."""

    def __init__(self, function: Any, capability: int, rows: list[str]) -> None:
        self.function, self.capability, self.rows = function, capability, rows

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.compile

    def compile(self, *arguments: Any, **named: Any) -> None:
        options = {name: named.pop(name) for name in OPTIONS if name in named}
        values = dict(zip(self.function.arg_names, arguments, strict=False)) | named
        signature = {name: kind(value, name in named) for name, value in values.items()}
        aligned = {
            (n,): [["tt.divisibility", 16]]
            for n, name in enumerate(self.function.arg_names)
            if isinstance(values[name], Tensor)
        }
        made = ASTSource(fn=self.function, signature=signature, constexprs=named, attrs=aligned)
        kernel = triton.compile(made, target=GPUTarget("cuda", self.capability, 32), options=options)
        usage, _ = disassembled(kernel.asm["cubin"])
        registers, stack = (re.search(rf"{key}:(\d+)", usage)[1] for key in ("REG", "STACK"))
        dtype = next(str(v.dtype) for v in arguments if isinstance(v, Tensor) and v.is_floating_point())
        switch = " ".join(f"{name.lower()}={int(v)}" for name, v in named.items() if isinstance(v, bool))
        name = f"{self.function.__name__.lstrip('_')} {switch}".strip()
        row = f"| {name} | {dtype.removeprefix('torch.')} | {registers} | {stack} | {kernel.metadata.shared} |"
        if row not in self.rows:
            self.rows.append(row)
        if "nearest" in values and not named.get("WRITES"):
            values["counts"].fill_(1)
            values["nearest"].fill_(1.0)


def kind(value: Any, constant: bool) -> str:
    if constant:
        return "constexpr"
    return f"*{TYPES[value.dtype]}" if isinstance(value, Tensor) else "i32"


@contextmanager
def compiling(module: types.ModuleType, names: tuple[str, ...], capability: int, rows: list[str]) -> Iterator[None]:
    kept = {name: getattr(module, name) for name in names}
    for name, function in kept.items():
        setattr(module, name, Compiled(function, capability, rows))
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(module, name, function)


def table(capability: int) -> list[str]:
    rows: list[str] = []
    frame = Frame(np.ones((3, 3)), 5 * np.eye(3), np.ones(3, bool), np.full(3, 14), "made", "made")
    for dtype in (torch.float64, torch.float32):
        with (
            compiling(placing, ("_cells", "_places"), capability, rows),
            compiling(search, ("_pairs",), capability, rows),
        ):
            search.search(Structures.from_frames([frame], dtype=dtype), 4.0)
        counts = torch.tensor([2, 2])
        neighbors = Neighbors(counts, torch.tensor([1, 1, 0, 0]), torch.ones(4, 3, dtype=dtype))
        with compiling(pair_totals, ("_actions", "_reactions"), capability, rows):
            for virials in (True, False):
                totals = pair_totals.FlatTotals(neighbors, counts[:1], 1, largest=2, virials=virials)
                totals.add(range(2), range(4), neighbors.vectors[:, None])
    with compiling(fused_trial, ("_double",), capability, rows), suppress(RuntimeError):  # nothing was doubled
        fused_trial.run(torch.device("cpu"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, default=90, help="compute capability times ten")
    print("| kernel | dtype | registers | spilled, bytes | shared, bytes |")
    print("|---|---|---|---|---|")
    for row in table(parser.parse_args().capability):
        print(row)


if __name__ == "__main__":
    main()
