"""Clock, table and roofline of gpu.py, for a GPU or, to try the script itself, a CPU."""

from __future__ import annotations

import contextlib
import json
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5}  # of the largest number of a result


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    value: float
    unit: str
    goal: str  # with the unit's scale; empty: none
    before: str  # what the H100 gave before there were kernels
    note: str


class Table:
    """Rows as they come, and all of them at the end. A section that fails does not take the others along."""

    def __init__(self, names: Sequence[str] | None) -> None:
        """Begin.

        Args:
            names: sections to run; None: all.
        """
        self.names = names
        self.rows: list[Row] = []
        self.failures: list[str] = []

    def add(self, name: str, value: float, unit: str, *, goal: str = "", before: str = "", note: str = "") -> None:
        row = Row(name, value, unit, goal, before, note)
        self.rows.append(row)
        aims = ", ".join(text for text in (goal and f"goal {goal}", before and f"before {before}") if text)
        print(f"{name:<64} {value:11.4g} {unit:<18} {aims:<28} {note}", flush=True)

    def section(self, name: str, task: Callable[[], None]) -> None:
        if self.names is not None and name not in self.names:
            return
        started = time.perf_counter()
        try:
            task()
        except Exception as error:  # device time is short: the other sections are still measured
            self.failures.append(f"{name}: {type(error).__name__}: {error}")
            traceback.print_exc()
        print(f"# {name}: {time.perf_counter() - started:.1f} s", flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def finish(self, path: Path | None) -> None:
        """Print everything as Markdown, and write it as JSON."""
        print("\n| | measured | goal | before |\n|---|---|---|---|")
        for row in self.rows:
            print(f"| {row.name} | {row.value:.4g} {row.unit} | {row.goal} | {row.before} |")
        for failure in self.failures:
            print(f"FAILED: {failure}")
        if path is not None:
            rows = [asdict(row) for row in self.rows]
            path.write_text(json.dumps({"rows": rows, "failures": self.failures}, indent=1), encoding="utf-8")

    def check(self, name: str, found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
        """Note how far a result is from the CPU's; too far is a failure."""
        scale = float(expected.double().abs().max()) or 1.0
        difference = float((found.detach().cpu().double() - expected.double()).abs().max()) / scale
        kind = str(dtype).removeprefix("torch.")
        goal = f"{TOLERANCE[dtype]:g}"
        self.add(f"difference from the CPU: {name}, {kind}", difference, "of the largest", goal=goal)
        if not difference <= TOLERANCE[dtype]:
            self.failures.append(f"{name}, {kind}: differs by {difference:.2g} of the largest number")


class Clock:
    """Times on one device."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats
        self.on_gpu = device.type == "cuda"

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def milliseconds(self, task: Callable[[], object], repeats: int | None = None) -> float:
        """Time of one call, the least of three rounds, after two calls that are not timed."""
        repeats = min(repeats or self.repeats, self.repeats)
        for _ in range(2 if self.on_gpu else 0):
            task()
        times = []
        for _ in range(3 if self.on_gpu else 1):
            self.wait()
            started = time.perf_counter()
            for _ in range(repeats):
                task()
            self.wait()
            times.append((time.perf_counter() - started) / repeats)
        return 1000 * min(times)

    def waits(self, task: Callable[[], object]) -> int:
        """How often the host waits for the GPU in one call."""
        if not self.on_gpu:
            return 0
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                task()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(one.message) for one in found)

    @contextlib.contextmanager
    def memory(self, found: list[int]) -> Iterator[None]:
        """Append the bytes that are taken at most, beside those that were taken before."""
        if self.on_gpu:
            self.wait()
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
        yield
        if self.on_gpu:
            self.wait()
            found.append(torch.cuda.max_memory_allocated(self.device) - before)


class Roofline:
    """Limits of a device, measured."""

    def __init__(self, clock: Clock, table: Table, n_numbers: int, width: int) -> None:
        """Measure copies, and products of matrices, which on a GPU take other units than kernels do.

        Args:
            n_numbers: copied, float32.
            width: of the matrices.
        """
        device = clock.device
        numbers = torch.empty(n_numbers, device=device)
        copy = torch.empty_like(numbers)
        self.bandwidth = 2 * numbers.nbytes / clock.milliseconds(lambda: copy.copy_(numbers)) * 1e3  # bytes/s
        table.add("copies", self.bandwidth / 1e12, "TB/s", before="3.01")
        self.products: dict[torch.dtype, float] = {}  # operations/s
        self.fused: dict[torch.dtype, float] = {}  # operations/s of multiplications with additions in threads
        for dtype, before in ((torch.float64, "57"), (torch.float32, "52")):
            matrix = torch.randn(width, width, device=device, dtype=dtype)
            ms = clock.milliseconds(lambda matrix=matrix: matrix @ matrix, 5)
            self.products[dtype] = 2 * width**3 / ms * 1e3
            name = str(dtype).removeprefix("torch.")
            table.add(f"matrix products, {name}", self.products[dtype] / 1e12, "T operations/s", before=before)
            rate = fused_rate(clock, dtype)
            self.fused[dtype] = rate or self.products[dtype]
            if rate:
                table.add(f"multiplications with additions, {name}", rate / 1e12, "T operations/s")

    def milliseconds(self, n_bytes: float, n_operations: float, dtype: torch.dtype) -> tuple[float, str]:
        """The least time of a kernel that must move and do so much, and what bounds it."""
        moving, doing = n_bytes / self.bandwidth, n_operations / self.fused[dtype]
        return 1000 * max(moving, doing), "memory" if moving > doing else "operations"


def fused_rate(clock: Clock, dtype: torch.dtype) -> float:
    """Multiplications with additions per second, two operations each, of threads; 0 where there is no Triton."""
    if not clock.on_gpu:
        return 0.0
    try:
        from gpu_rate import run_multiplications
    except ModuleNotFoundError:
        return 0.0
    n_operations = run_multiplications(clock.device, dtype)
    return n_operations / clock.milliseconds(lambda: run_multiplications(clock.device, dtype)) * 1e3
