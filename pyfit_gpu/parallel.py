"""Tasks side by side on the cores of a CPU, each with one thread, so that bits do not depend on how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Workers:
    """As many threads as torch may use. Torch's operations let go of the interpreter while they compute."""

    def __init__(self, device: torch.device) -> None:
        """For a device; on a GPU tasks run one after the other, in the calling thread."""
        count = torch.get_num_threads() if device.type == "cpu" else 1
        self._pool: ThreadPoolExecutor | None = None
        if count > 1:
            self._pool = ThreadPoolExecutor(count, "pyfit", initializer=lambda: torch.set_num_threads(1))

    def map(self, task: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
        """Results in the order of the items."""
        return [task(item) for item in items] if self._pool is None else list(self._pool.map(task, items))
