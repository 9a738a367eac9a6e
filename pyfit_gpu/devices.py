"""Which device to compute on."""

from __future__ import annotations

import re

import torch

from pyfit_gpu.errors import InputError


def select_device(request: str = "auto") -> torch.device:
    """`auto` (CUDA if there is a GPU), `cpu`, `cuda` or `cuda:N`.

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


def select_dtype(name: str) -> torch.dtype:
    """`float64` or `float32`.

    Raises:
        InputError: any other name.
    """
    dtypes = {"float64": torch.float64, "float32": torch.float32}
    if name not in dtypes:
        raise InputError(f"dtype: expected one of {', '.join(dtypes)}, got {name!r}")
    return dtypes[name]


def set_threads(count: int) -> None:
    """CPU threads of torch; 0 leaves torch's own choice."""
    if count:
        torch.set_num_threads(count)
