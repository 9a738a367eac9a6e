"""Whether a device can run the fused kernels, which are written in Triton; where it cannot, one line says why.

Triton is part of every CUDA build of torch. It compiles a kernel when that is first needed, with a C compiler for the
few lines that start it, and keeps it in a folder. Everything has a second way, in torch's own operations: the only one
on a CPU, where it is quicker and keeps its bits.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from pyfit_gpu.log import log

_LEAST_CAPABILITY = (8, 0)  # of a card, for Triton
_SWITCH = "PYFIT_FUSED"  # 0: torch's operations only
_FIRST_WAY = "fused kernels: %s; torch's operations are used, which are slower"

_Result = TypeVar("_Result")

_known: dict[torch.device, bool] = {}


def has_fused_kernels(device: torch.device) -> bool:
    """Whether a device runs fused kernels. Asked the first time, it tries one and logs the reason if there are none."""
    if device.type != "cuda":
        return False
    if device not in _known:
        obstacle = _obstacle(device)
        if obstacle:
            log.warning(_FIRST_WAY, obstacle)
        _known[device] = not obstacle
    return _known[device]


def give_up(device: torch.device, error: Exception) -> None:
    """Use no fused kernels on a device from now on, because one of them could not be compiled or started."""
    if _known.get(device, True):
        log.warning(_FIRST_WAY, _first_line(error))
    _known[device] = False


def is_fault_of_kernels(error: Exception) -> bool:
    """Whether an error comes from Triton, the compiler that it calls or a full disk, not from what was computed."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in ("triton", "subprocess")


def refuse_memory(error: Exception) -> None:
    """Raise torch's error where Triton says that a GPU's memory has ended, which it does in words only."""
    if str(error).startswith("Triton Error") and "out of memory" in str(error):
        raise torch.OutOfMemoryError(str(error)) from error


def by_kernels(device: torch.device, fused: Callable[[], _Result], plain: Callable[[], _Result]) -> _Result:
    """Compute by fused kernels, or by torch's operations where a kernel cannot be compiled or started."""
    if not has_fused_kernels(device):
        return plain()
    try:
        return fused()
    except Exception as error:
        refuse_memory(error)
        if not is_fault_of_kernels(error):
            raise
        give_up(device, error)
        return plain()


def current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make a device the current one: Triton starts kernels there, wherever their tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _obstacle(device: torch.device) -> str:
    """Reason why a device cannot run the kernels; empty: it can."""
    if os.environ.get(_SWITCH) == "0":
        return f"switched off by {_SWITCH}=0"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    capability = torch.cuda.get_device_capability(device)
    if capability < _LEAST_CAPABILITY:
        least, found = (".".join(map(str, version)) for version in (_LEAST_CAPABILITY, capability))
        return f"expected a card of compute capability {least} or more, found {found}"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "no C compiler was found (gcc, clang or $CC)"
    _provide_cache()
    try:
        importlib.import_module("pyfit_gpu.fused_trial").run(device)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever is wrong with an installation, there is the other way
        refuse_memory(error)
        return _first_line(error)
    return ""


def _provide_cache() -> None:
    """Give Triton a temporary folder for compiled kernels if it cannot write to its own."""
    base = Path(os.environ.get("TRITON_HOME") or Path.home())
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or base / ".triton" / "cache")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        fault = error.strerror
    own = tempfile.mkdtemp(prefix="pyfit-gpu-kernels-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    os.environ["TRITON_CACHE_DIR"] = own
    log.warning(
        "fused kernels: %s cannot be written (%s); they are compiled anew into a temporary folder", folder, fault
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
