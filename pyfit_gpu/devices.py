"""Devices to compute on, their memory, and precision."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError

MEMORY_SHARE = 0.8  # share of a device's memory to use, where no limit is given


def select_device(request: str = "auto") -> torch.device:
    """Choose a device: `auto` (CUDA if there is a GPU), `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: another word, or a GPU that does not exist, with those that do.
    """
    if request == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if request == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d+))?", request)
    if not match:
        raise InputError(f"device: expected auto, cpu, cuda or cuda:N, got {request!r}")
    index = int(match[1] or 0)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        existing = ", ".join(f"cuda:{k} ({torch.cuda.get_device_name(k)})" for k in range(count))
        there_are = f"there are: {existing}" if existing else "this machine has no GPU that torch can use"
        raise InputError(f"device: cuda:{index} does not exist; {there_are}")
    return torch.device("cuda", index)


def describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"


def world_size() -> int:
    """Number of processes that torchrun started together; 1 without it, even if something else sets WORLD_SIZE."""
    started = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    return int(os.environ["WORLD_SIZE"]) if started else 1


def share_device() -> str:
    """Name of the device for this one of several processes on a machine, each of which takes the next GPU."""
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    return f"cuda:{rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"


def select_dtype(name: str) -> torch.dtype:
    """Choose a dtype by its name, `float64` or `float32`.

    Raises:
        InputError: any other name.
    """
    dtypes = {"float64": torch.float64, "float32": torch.float32}
    if name not in dtypes:
        raise InputError(f"dtype: expected one of {', '.join(dtypes)}, got {name!r}")
    return dtypes[name]


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device. To a GPU it is copied beside what runs there, and nobody waits."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def set_threads(count: int) -> None:
    """Set the number of torch's CPU threads; 0 leaves torch's own choice."""
    if count:
        torch.set_num_threads(count)


def total_memory(device: torch.device) -> int:
    """Bytes that this process may use on a device, or a job's memory limit where the system sets one.

    This is the total, not the memory that is free now, so that the same command does the same every time.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_cgroup_limits()])


@cache
def known_memory(device: torch.device) -> int:
    """`total_memory`, asked for once: that takes long beside an atom's features."""
    return total_memory(device)


def rows_that_fit(bytes_of_row: int, device: torch.device, *, share: float) -> int:
    """Number of rows of a table that fit into a share of a device's memory, at least one."""
    return max(1, int(share * known_memory(device)) // bytes_of_row)


def require_memory(n_bytes: int, device: torch.device, purpose: str) -> None:
    """Refuse what takes more memory than a device has, which would end the process.

    Raises:
        InputError: with both numbers.
    """
    total = known_memory(device)
    if n_bytes > total:
        raise InputError(
            f"memory: expected at least {format_bytes(n_bytes)} for {purpose}, found {format_bytes(total)}"
        )


def _cgroup_limits() -> Iterator[int]:
    """Memory limits of the control groups that the process is in (version 2), from the innermost outwards."""
    root = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError, StopIteration):
        own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        folder = root / own.removeprefix("0::").strip("/")
        for group in (folder, *folder.parents):
            if not group.is_relative_to(root):
                return
            with contextlib.suppress(OSError, ValueError):  # no limit: the file is missing, or says "max"
                yield int((group / "memory.max").read_text())


def format_bytes(count: float) -> str:
    """Format a number of bytes as in `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
