"""Memory of tensors: of those that an object holds, and the most at one time while something runs."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def held_bytes(*roots: object) -> int:
    """Bytes of all tensors that can be reached from these objects, each memory once."""
    found: dict[int, int] = {}
    seen: set[int] = set()
    pending: list[object] = list(roots)
    while pending:
        item = pending.pop()
        if id(item) in seen or isinstance(item, str | int | float | type | None):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, dict):
            pending += item.values()
        elif isinstance(item, partial):
            pending += [item.args, item.keywords]
        elif isinstance(item, Iterable) and isinstance(item, list | tuple):
            pending += item
        elif type(item).__module__.startswith("pyfit_gpu"):
            pending += vars(item).values()
    return sum(found.values())


class PeakMemory(TorchDispatchMode):
    """Inside `with`, of tensors made in this thread. What an operation takes for itself is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in inputs and storage._cdata not in self._known:
                    self._known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _gone(self, key: int, count: int) -> None:
        self._known.discard(key)
        self.now -= count
