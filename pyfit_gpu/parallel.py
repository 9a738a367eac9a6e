"""Tasks side by side on the cores of a CPU, each with one thread, so that bits do not depend on how many there are."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Workers:
    """Pool of as many threads as torch may use. Torch's operations release the interpreter lock while they compute.

    A task that asks for workers itself gets none: within a worker torch may use one thread.
    """

    def __init__(self, device: torch.device) -> None:
        """Start threads for a CPU; on a GPU tasks run one after the other, in the calling thread."""
        self.count = torch.get_num_threads() if device.type == "cpu" else 1
        self._pool: ThreadPoolExecutor | None = None
        if self.count > 1:
            self._pool = ThreadPoolExecutor(self.count, "pyfit", initializer=lambda: torch.set_num_threads(1))

    @classmethod
    def shared(cls, device: torch.device) -> Workers:
        """Workers that stay for the next call: starting threads takes as long as computing a small structure."""
        count = torch.get_num_threads() if device.type == "cpu" else 1
        if count not in _shared:
            _shared[count] = cls(device)
        return _shared[count]

    def each(self, task: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
        """Yield results in the order of the items; at most one item per thread waits beside those being computed."""
        if self._pool is None:
            yield from map(task, items)
            return
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(task, item))
                if len(waiting) > self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def map(self, task: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
        """Compute all results, in the order of the items."""
        return [task(item) for item in items] if self._pool is None else list(self._pool.map(task, items))


_shared: dict[int, Workers] = {}  # by number of threads
os.register_at_fork(after_in_child=_shared.clear)  # threads do not survive a fork


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Restrict torch to one thread here, so that bits do not depend on their number; workers are unaffected."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)
