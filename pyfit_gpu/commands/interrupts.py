"""Signals: training finishes its step and saves everything, other work stops and leaves no half-written file."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

_ECHO = 1.0  # s; a scheduler sends a signal to a whole group, and a launcher in it passes it on

STATUS_SIGINT = 130
STATUS_SIGTERM = 143
STATUS_SIGUSR1 = 138  # what a scheduler is often asked to send before a time limit
STATUS_UNFINISHED = 75  # EX_TEMPFAIL: stopped by its own time limit, to be resumed


class Terminated(BaseException):
    """SIGTERM, the counterpart of KeyboardInterrupt."""


@contextlib.contextmanager
def signals_end_the_process() -> Iterator[None]:
    """SIGINT and SIGTERM end the process at once, with the status that says so, until `signals_are_exceptions`.

    An exception in the middle of an import comes out as something else. On leaving, handlers are as before.
    """
    statuses = {signal.SIGINT: STATUS_SIGINT, signal.SIGTERM: STATUS_SIGTERM}
    earlier = {number: signal.getsignal(number) for number in statuses}

    def handler(number: int, frame: FrameType | None) -> None:
        os._exit(statuses[signal.Signals(number)])

    for number in statuses:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, action in earlier.items():
            signal.signal(number, action)


def signals_are_exceptions() -> None:
    """KeyboardInterrupt and Terminated, so that temporary files are removed on the way out."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, handler)


class StopRequest:
    """Remembers the first signal; the second takes effect at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def status(self) -> int:
        """Exit status that says how the process ended."""
        statuses = {None: 0, signal.SIGINT: STATUS_SIGINT, signal.SIGUSR1: STATUS_SIGUSR1}
        return statuses.get(self.signal, STATUS_SIGTERM)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """SIGINT, SIGTERM and SIGUSR1 are noted, not acted on, until the block ends; a second one has its usual effect."""
    request = StopRequest()
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}

    first = -math.inf

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if request.signal is not None and number != signal.SIGINT and now - first < _ECHO:
            return
        if request.signal is None:
            request.signal, first = signal.Signals(number), now
            return
        for name, action in earlier.items():
            signal.signal(name, action)
        os.kill(os.getpid(), number)

    for number in earlier:
        signal.signal(number, handler)
    try:
        yield request
    finally:
        for number, action in earlier.items():
            signal.signal(number, action)
