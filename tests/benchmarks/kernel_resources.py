"""Registers, spills and shared memory of the fused kernels, compiled for a GPU that need not be there.

    python tests/benchmarks/kernel_resources.py [--capability 90]

prints a table for docs/kernels.md. It needs Triton, whose package brings the assembler.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pyfit_gpu.descriptors.kernels.expansion import FusedExpansion
from pyfit_gpu.descriptors.kernels.pairs import FlatPairs
from pyfit_gpu.descriptors.kernels.source import compiled
from pyfit_gpu.descriptors.lsp import LocalStructureParameters, basis_of
from pyfit_gpu.structures.neighbors import Neighbors

ELEMENTS = ("Si", "C", "O")
CENTERS = tuple(2.0 + 0.5 * n for n in range(8))
SETTINGS = {
    "mode 6": {"gi_mode": 6, "legendre_orders": (0, 1, 2, 3, 4), "cross_terms": 1,
               "triples": ((1, 1, 2), (1, 2, 3), (2, 2, 2))},
    "mode 5": {"gi_mode": 5, "legendre_orders": (0, 1, 2, 3, 4, 6)},
}  # fmt: skip


@dataclass(frozen=True)
class Resources:
    """What one kernel takes."""

    kernel: str
    registers: int  # of each thread
    spilled: int  # bytes of each thread beyond its registers
    shared: int  # bytes of each program
    instructions: int
    doubles: int  # instructions in float64
    n_warps: int


class Recorder(FusedExpansion):
    """An expansion that compiles what it should launch."""

    def __init__(self, *arguments: Any, capability: int) -> None:
        super().__init__(*arguments)
        self.capability = capability
        self.found: dict[str, Resources] = {}

    def _launch(
        self, source: str, grid: tuple[int, ...], arguments: Sequence[Any], shape: dict[str, int], n_warps: int
    ) -> None:
        found = resources(source, arguments, shape, n_warps, self.capability)
        self.found.setdefault(found.kernel, found)


def resources(source: str, arguments: Sequence[Any], shape: dict[str, int], n_warps: int, capability: int) -> Resources:
    function = compiled(source)
    names = function.arg_names
    signature = {name: type_of(value) for name, value in zip(names, arguments, strict=False)}
    signature |= dict.fromkeys(shape, "constexpr")
    aligned = {(n,): [["tt.divisibility", 16]] for n, value in enumerate(arguments) if isinstance(value, Tensor)}
    made = ASTSource(fn=function, signature=signature, constexprs=shape, attrs=aligned)
    kernel = triton.compile(
        made, target=GPUTarget("cuda", capability, 32), options={"num_warps": n_warps, "enable_fp_fusion": True}
    )
    usage, code = disassembled(kernel.asm["cubin"])
    name = source.split("(")[0].removeprefix("def ")
    numbers = {key: int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "SHARED")}
    words = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d\s+)?([A-Z][A-Z0-9_.]*)", code)
    doubles = sum(word.startswith(("DFMA", "DADD", "DMUL", "DSETP")) for word in words)
    return Resources(name, numbers["REG"], numbers["STACK"], kernel.metadata.shared, len(words), doubles, n_warps)


def type_of(value: Any) -> str:
    if not isinstance(value, Tensor):
        return "i32"
    names = {torch.float64: "fp64", torch.float32: "fp32", torch.int64: "i64", torch.int32: "i32", torch.uint8: "u8"}
    return f"*{names[value.dtype]}"


def disassembled(program: bytes) -> tuple[str, str]:
    """What a compiled kernel takes, and its instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(program)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, file.name]
        texts = [
            subprocess.run([*command, option], check=True, capture_output=True, text=True).stdout
            for option in ("--dump-resource-usage", "-sass")
        ]
    return texts[0], texts[1]


def kernels(settings: LocalStructureParameters, dtype: torch.dtype, capability: int) -> Iterator[Resources]:
    """Every kernel of some settings."""
    recorder = Recorder(basis_of(settings, torch.device("cpu"), dtype), capability=capability)
    counts = torch.tensor([2, 2])
    neighbors = Neighbors(counts, torch.tensor([1, 1, 0, 0]), torch.ones(4, 3, dtype=dtype))
    pairs = FlatPairs.of(neighbors, torch.zeros(2, dtype=torch.int64), settings.n_elements)
    sums = recorder.sums(pairs)
    raw = recorder.raw(pairs, sums)
    recorder.vjp(pairs, raw, sums)
    recorder.jvp(pairs, pairs.vectors, sums)
    recorder.jacobian(pairs, sums)
    yield from recorder.found.values()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, default=90, help="compute capability times ten")
    capability = parser.parse_args().capability
    print(
        "| settings | elements | dtype | kernel | registers | spilled, bytes | shared, bytes | instructions | float64 |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, settings in SETTINGS.items():
        for count in (1, 2):
            own = LocalStructureParameters(
                elements=ELEMENTS[:count], shift=0.0, cutoff=6.0, cutoff_width=1.5, gaussian_width=1.0,
                gaussian_centers=CENTERS, **settings,
            )  # fmt: skip
            for dtype in (torch.float64, torch.float32):
                for found in kernels(own, dtype, capability):
                    print(
                        f"| {name} | {count} | {str(dtype).removeprefix('torch.')} | {found.kernel} | {found.registers} | "
                        f"{found.spilled} | {found.shared} | {found.instructions} | {found.doubles} |", flush=True
                    )  # fmt: skip


if __name__ == "__main__":
    main()
