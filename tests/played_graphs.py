"""CUDA graphs played on a CPU: operations noted when they are recorded, and done again with the same tensors.

As on a GPU nothing of Python runs in a playback, numbers that are no tensors stay those of the recording, and what
waits for a device, or brings numbers from the host, cannot be recorded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from host_waits import WAITS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Waits(AssertionError):
    """An operation cannot be recorded."""


def refuse_waiting(name: str, arguments: tuple[Any, ...]) -> None:
    if name in WAITS:
        raise Waits(name)
    if name == "lift_fresh" and arguments[0].dim():  # single numbers, which indexing makes, go with an operation
        raise Waits("a tensor made of numbers of the host")
    if name == "repeat_interleave":
        raise Waits("repeat_interleave, whose result has no given size")
    chosen = arguments[1] if name.startswith("index") and len(arguments) > 1 else None
    if isinstance(chosen, list | tuple) and any(torch.is_tensor(one) and one.dtype == torch.bool for one in chosen):
        raise Waits(f"{name} with a mask")


class Noting(TorchDispatchMode):
    """Notes all operations and their results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        refuse_waiting(func.overloadpacket.__name__, args)
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @property
    def names(self) -> list[str]:
        """Operations with the shapes of their results."""
        return [
            f"{func} {[tuple(leaf.shape) for leaf in tree_leaves(result) if torch.is_tensor(leaf)]}"
            for func, _, _, result in self.calls
        ]


class Graph:
    """The stand-in of torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.noted = Noting()
        self.n_replays = 0

    def pool(self) -> str:
        return "pool"

    @torch.no_grad()
    def replay(self) -> None:
        self.n_replays += 1
        for func, args, kwargs, before in self.noted.calls:
            for old, new in zip(tree_leaves(before), tree_leaves(func(*args, **kwargs)), strict=True):
                if torch.is_tensor(old) and not _same_memory(old, new):
                    old.detach().copy_(new)


def _same_memory(first: Tensor, second: Tensor) -> bool:
    return first.data_ptr() == second.data_ptr() and first.shape == second.shape


class _Stream:
    def __init__(self, device: object = None) -> None:
        self.device = device

    def wait_stream(self, other: object) -> None:
        pass


def play_graphs(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Put the stand-in into the place of CUDA's graphs; returns the list of those that will be made."""
    made: list[Graph] = []

    def make() -> Graph:
        made.append(Graph())
        return made[-1]

    @contextlib.contextmanager
    def record(graph: Graph, pool: object, stream: _Stream) -> Iterator[None]:
        assert pool in (None, "pool")
        assert stream.device == torch.device("cpu")  # that of the argument, whichever is the current one
        with graph.noted:
            yield
        graph.replay()  # on a GPU nothing is computed while it is recorded
        graph.n_replays = 0

    monkeypatch.setattr(torch.cuda, "CUDAGraph", make)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", _Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    return made
