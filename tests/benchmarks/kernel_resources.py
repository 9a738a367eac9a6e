"""Registers, spills and shared memory of the fused kernels, compiled for a GPU that need not be there.

    python tests/benchmarks/kernel_resources.py [--settings "mode 6"] [--elements 1 2] [--dtypes float64]

prints the tables of docs/kernels.md: what the compiler says, and for one element an estimate of what bounds each kernel
on an H100. Nothing is run. It needs Triton, whose package brings the assembler.
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

from pyfit_gpu.descriptors.basis import Basis
from pyfit_gpu.descriptors.kernels.expansion import FusedExpansion
from pyfit_gpu.descriptors.kernels.pairs import FlatPairs
from pyfit_gpu.descriptors.kernels.source import compiled
from pyfit_gpu.descriptors.lsp import LocalStructureParameters, basis_of
from pyfit_gpu.structures.neighbors import Neighbors

ELEMENTS = ("Si", "C", "O", "N")
SETTINGS: dict[str, dict[str, Any]] = {
    "mode 6": {
        "gi_mode": 6,
        "legendre_orders": (0, 1, 2, 3, 4),
        "cross_terms": 1,
        "triples": ((1, 1, 2), (1, 2, 3), (2, 2, 2)),
    },
    "mode 5": {"gi_mode": 5, "legendre_orders": (0, 1, 2, 3, 4, 6)},
}
CENTERS = tuple(2.0 + 0.5 * n for n in range(8))
NEIGHBORS = 17  # of an atom, for the estimate: those of the NIST silicon set within 4.5 Å
# Of an H100: the bandwidth that copies reached (docs/performance.md), and 132 x 64 instructions in float64 at 1.7 GHz.
BANDWIDTH = 3.0e12
DOUBLES = 1.44e13


@dataclass(frozen=True)
class Compiled:
    """Resources that one kernel takes."""

    kernel: str
    registers: int  # of each thread
    spilled: int  # bytes of each thread that do not fit into its registers
    shared: int  # bytes of each program
    n_warps: int  # of each program
    instructions: int
    doubles: int  # instructions in float64
    looped: int  # instructions in float64 that are in a loop


class Recorder(FusedExpansion):
    """An expansion that compiles what it should launch."""

    def __init__(self, basis: Basis, capability: int) -> None:
        super().__init__(basis)
        self.capability = capability
        self.found: list[Compiled] = []

    def _launch(
        self, source: str, grid: tuple[int, ...], arguments: Sequence[Any], shape: dict[str, int], n_warps: int
    ) -> None:
        self.found.append(compile_for(self.capability, source, arguments, shape, n_warps))


def compile_for(
    capability: int, source: str, arguments: Sequence[Any], shape: dict[str, int], n_warps: int
) -> Compiled:
    """Compile a kernel as its launch with these arguments would."""
    function = compiled(source)
    signature = {name: type_of(value) for name, value in zip(function.arg_names, arguments, strict=False)}
    aligned = {(n,): [["tt.divisibility", 16]] for n, value in enumerate(arguments) if isinstance(value, Tensor)}
    made = ASTSource(function, signature | dict.fromkeys(shape, "constexpr"), shape, aligned)
    options = {"num_warps": n_warps, "enable_fp_fusion": True}
    kernel = triton.compile(made, target=GPUTarget("cuda", capability, 32), options=options)
    usage, code = disassembled(kernel.asm["cubin"])
    registers, stack = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK"))
    count, doubles, looped = instructions(code)
    name = source.split("(")[0].removeprefix("def ")
    return Compiled(name, registers, stack, kernel.metadata.shared, n_warps, count, doubles, looped)


def type_of(value: Any) -> str:
    if not isinstance(value, Tensor):
        return "i32"
    names = {torch.float64: "fp64", torch.float32: "fp32", torch.int64: "i64", torch.int32: "i32", torch.uint8: "u8"}
    return f"*{names[value.dtype]}"


def disassembled(program: bytes) -> tuple[str, str]:
    """The assembler's remarks about a compiled kernel, and its instructions."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(program)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, file.name]
        texts = [
            subprocess.run([*command, option], check=True, capture_output=True, text=True).stdout
            for option in ("--dump-resource-usage", "-sass")
        ]
    return texts[0], texts[1]


def instructions(code: str) -> tuple[int, int, int]:
    """Count instructions, those in float64, and those of the latter between a jump back and its target."""
    lines = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\d\s+)?([A-Z][A-Z0-9_.]*)([^;]*);", code)
    doubles = [int(place, 16) for place, word, _ in lines if word.startswith(("DFMA", "DADD", "DMUL", "DSETP"))]
    jumps = [(int(place, 16), re.search(r"0x([0-9a-f]+)", rest)) for place, word, rest in lines if word == "BRA"]
    back = [(int(target[1], 16), place) for place, target in jumps if target and int(target[1], 16) < place]
    looped = [place for place in doubles if any(first <= place <= last for first, last in back)]
    return len(lines), len(doubles), len(looped)


def kernels(settings: LocalStructureParameters, dtype: torch.dtype, capability: int) -> Iterator[Compiled]:
    """Compile every kernel of some settings."""
    recorder = Recorder(basis_of(settings, torch.device("cpu"), dtype), capability)
    neighbors = Neighbors(torch.tensor([2, 2]), torch.tensor([1, 1, 0, 0]), torch.ones(4, 3, dtype=dtype))
    pairs = FlatPairs.of(neighbors, torch.zeros(2, dtype=torch.int64), settings.n_elements)
    sums = recorder.sums(pairs)
    raw = recorder.raw(pairs, sums)
    recorder.vjp(pairs, raw, sums)
    recorder.jvp(pairs, pairs.vectors, sums)
    recorder.jacobian(pairs, sums)
    yield from recorder.found


def work(basis: Basis, found: Compiled) -> tuple[float, float]:
    """Bytes and float64 instructions of an atom of one element, in float64: each number is read and written once."""
    size, n, k, sums, features = 8, basis.n_centers, NEIGHBORS, basis.n_sums, basis.n_features
    slopes = 8 * n * sum(basis.triples != () and 2 * order + 1 for triple in basis.triples for order in set(triple))
    once = found.doubles - found.looped
    pair = 3 * size  # bytes of a vector
    return {
        "sums": (k * pair + size * sums, n * (once + k * found.looped)),
        "moved_sums": (2 * k * pair + size * sums, n * (once + k * found.looped)),
        "features": (size * (sums + features), n * found.doubles),
        "features_tangent": (size * (2 * sums + features), n * found.doubles),
        "sums_gradient": (size * (2 * sums + features), n * found.doubles),
        "gradient": (k * (2 * pair + 8) + size * sums, k * (once + n * found.looped)),
        "slopes": (size * sums + slopes, n * found.doubles),
        "jacobian": (k * (pair + 8 + features * pair) + size * sums + slopes, k * n * found.doubles),
    }[found.kernel]


def settings_of(name: str, n_elements: int) -> LocalStructureParameters:
    lengths = {"cutoff": 6.0, "cutoff_width": 1.5, "gaussian_width": 1.0, "gaussian_centers": CENTERS}
    return LocalStructureParameters(elements=ELEMENTS[:n_elements], shift=0.0, **lengths, **SETTINGS[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--elements", nargs="+", type=int, default=[1, 2], help="numbers of elements")
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32"], choices=["float64", "float32"])
    parser.add_argument("--capability", type=int, default=90, help="compute capability, times ten")
    options = parser.parse_args()
    print(f"Triton {triton.__version__}, sm_{options.capability}\n")
    print("| settings | elements | dtype | kernel | registers | spilled | shared | warps | instructions | float64 |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    estimates = []
    for name in options.settings:
        for count in options.elements:
            for dtype in options.dtypes:
                settings = settings_of(name, count)
                for found in kernels(settings, getattr(torch, dtype), options.capability):
                    numbers = (found.registers, found.spilled, found.shared, found.n_warps, found.instructions)
                    doubles = f"{found.doubles}" + (f", {found.looped} in a loop" if found.looped else "")
                    cells = (name, count, dtype, found.kernel, *numbers, doubles)
                    print(f"| {' | '.join(map(str, cells))} |", flush=True)
                    if count == 1 and dtype == "float64":
                        basis = basis_of(settings, torch.device("cpu"), torch.float64)
                        estimates.append((name, found.kernel, *work(basis, found)))
    print(f"\nOne element, float64, {NEIGHBORS} neighbours, of each atom:\n")
    print("| settings | kernel | bytes | float64 instructions | ns by bytes | ns by instructions |")
    print("|---|---|---|---|---|---|")
    for name, kernel, n_bytes, doubles in estimates:
        times = f"{1e9 * n_bytes / BANDWIDTH:.2f} | {1e9 * doubles / DOUBLES:.2f}"
        print(f"| {name} | {kernel} | {n_bytes:,} | {doubles:,} | {times} |")


if __name__ == "__main__":
    main()
