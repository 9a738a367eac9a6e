"""Tasks side by side on the cores of a CPU, each with one thread, so that bits do not depend on how many there are."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")


class lazy(Generic[T]):
    """`functools.cached_property` without its lock.

    Until Python 3.12 that holds one lock for all objects of a class while it computes: tasks that run side by side
    would wait for one another. An object of which several threads ask the same may compute it twice.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> T:
        value = vars(instance)[self.name] = self.function(instance)
        return value


class Workers:
    """Pool of as many threads as torch may use. Torch's operations release the interpreter lock while they compute.

    A task that asks for workers itself gets none: within a worker torch may use one thread. Tasks see the gradient and
    inference modes of the caller, which torch keeps by thread.
    """

    def __init__(self, device: torch.device, n_threads: int | None = None) -> None:
        """Start threads for a CPU; on a GPU tasks run one after the other, in the calling thread.

        Args:
            n_threads: 1: tasks run in the calling thread on a CPU, too; None: as many as torch may use.
        """
        self.count = _count(device, n_threads)
        self._pool: ThreadPoolExecutor | None = None
        if self.count > 1:
            self._pool = ThreadPoolExecutor(self.count, "pyfit", initializer=_use_one_thread)
            everyone = threading.Barrier(self.count)
            with contextlib.suppress(RuntimeError):  # at the end of the interpreter no thread can be started
                for waiting in [self._pool.submit(everyone.wait) for _ in range(self.count)]:
                    waiting.result()
            # The workers' own setting is also what torch gives to threads that are started later.
            torch.set_num_threads(self.count)

    @classmethod
    def shared(cls, device: torch.device, n_threads: int | None = None) -> Workers:
        """Workers that stay for the next call: starting threads takes as long as computing a small structure."""
        count = _count(device, n_threads)
        if count not in _shared:
            _shared[count] = cls(device, count)
        return _shared[count]

    def each(self, task: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
        """Yield results in the order of the items; at most one item per thread waits beside those being computed."""
        if self._pool is None:
            yield from map(task, items)
            return
        task = _in_this_mode(task)
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                waiting.append(_submit(self._pool, task, item))
                if len(waiting) >= 2 * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def map(self, task: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
        """Compute all results, in the order of the items."""
        if self._pool is None:
            return [task(item) for item in items]
        task = _in_this_mode(task)
        futures = [_submit(self._pool, task, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def run(self, task: Callable[[Any], None], items: Iterable[Any]) -> None:
        """Do all tasks; a single one is done in the calling thread, with one thread of torch."""
        first = list(itertools.islice(items := iter(items), 2 if self._pool else 0))
        if len(first) < 2:
            with one_thread():
                for item in itertools.chain(first, items):
                    task(item)
            return
        for _ in self.each(task, itertools.chain(first, items)):
            pass


def ahead(task: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
    """Yield results in the order of the items, the next one of which a thread computes meanwhile.

    Items are asked for in the calling thread. Tasks see its gradient and inference modes.
    """
    pool = ThreadPoolExecutor(1, "pyfit-ahead")
    task = _in_this_mode(task)
    before: Future[T] | None = None
    try:
        for item in items:
            following = _submit(pool, task, item)
            if before is not None:
                yield before.result()
            before = following
        if before is not None:
            yield before.result()
    finally:
        pool.shutdown(cancel_futures=True)


def pulled_ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield items, the next one of which a thread asks for meanwhile."""
    iterator, end = iter(items), object()
    for item in ahead(lambda _: next(iterator, end), itertools.repeat(None)):
        if item is end:
            return
        yield item  # type: ignore[misc]


def _count(device: torch.device, n_threads: int | None) -> int:
    if device.type != "cpu":
        return 1
    return n_threads or torch.get_num_threads()


def _submit(pool: ThreadPoolExecutor, task: Callable[[Any], T], item: Any) -> Future[T]:
    try:
        return pool.submit(task, item)
    except RuntimeError:  # the interpreter is on its way out; a thread of the user's, or its exit, still computes
        done: Future[T] = Future()
        with one_thread():
            done.set_result(task(item))
        return done


def _use_one_thread() -> None:
    torch.get_num_threads()  # torch looks up its number for this thread now, and not after it was set
    torch.set_num_threads(1)


def _in_this_mode(task: Callable[[Any], T]) -> Callable[[Any], T]:
    inference, gradient = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def in_mode(item: Any) -> T:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradient):
            return task(item)

    return in_mode


_shared: dict[int, Workers] = {}  # by number of threads
# A child has none of the threads. (One whose parent has used several threads of OpenMP may wait for ever all the same.)
os.register_at_fork(after_in_child=_shared.clear)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Restrict torch to one thread here, so that bits do not depend on their number; workers are unaffected."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)
