"""A dispatch mode that refuses what would make the host wait for a GPU, on any device."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operations whose result the host must know: numbers, sizes that depend on values, comparisons of whole tensors.
WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive", "unique_dim", "_unique2", "equal",
    "bincount", "is_nonzero", "item",
}  # fmt: skip


def waits(function: Any, arguments: tuple[Any, ...]) -> bool:
    name = function.overloadpacket.__name__
    if name == "index":  # by a mask
        return any(own is not None and own.dtype in (torch.bool, torch.uint8) for own in arguments[1])
    if name == "index_put_" or name == "_index_put_impl_":
        return any(own is not None and own.dtype in (torch.bool, torch.uint8) for own in arguments[1])
    if name == "repeat_interleave":
        return len(arguments) < 2 and not isinstance(arguments[0], int)
    return name in WAITS


class HostWaits(TorchDispatchMode):
    """Counts operations, and those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.n_operations = 0
        self.n_bytes = 0  # of what operations make

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.n_operations += 1
        sized = "output_size" in kwargs and kwargs["output_size"] is not None
        if waits(function, args) and not sized:
            self.found[function.overloadpacket.__name__] += 1
        result = function(*args, **kwargs)
        if isinstance(result, torch.Tensor) and not result._is_view():
            self.n_bytes += result.nbytes
        return result
