"""Signals that wait while something must not be interrupted."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def undisturbed(task: Callable[[], T]) -> T:
    """Run a task with signals deferred until afterwards.

    An exception raised inside HDF5's callbacks is reported as a different error, and one between the making of a lock
    file and the note of it would leave the file. A worker thread, in which Python raises none, is no alternative: it
    once deadlocked on h5py's lock.
    """
    arrived: list[int] = []
    with contextlib.ExitStack() as after:
        after.callback(_raise_signals, arrived)
        if threading.current_thread() is threading.main_thread():
            for number in signal.valid_signals():
                handler = signal.getsignal(number)
                if callable(handler):
                    after.callback(signal.signal, number, handler)
                    signal.signal(number, lambda found, _: arrived.append(found))
        return task()


def _raise_signals(numbers: Sequence[int]) -> None:
    for number in numbers:
        signal.raise_signal(number)
