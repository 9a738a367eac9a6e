"""Signals: training finishes its step and saves everything, other work stops and leaves no half-written file."""

from __future__ import annotations

import _thread
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

_SOON = 0.01  # s
_ECHO = 1.0  # s; the same signal may arrive twice: from the scheduler, and from a launcher that passes it on

STATUS_SIGINT = 130
STATUS_SIGTERM = 143
STATUS_SIGUSR1 = 138  # the signal that a scheduler is often asked to send before a time limit
STATUS_UNFINISHED = 75  # EX_TEMPFAIL: stopped by its own time limit, to be resumed


class Terminated(BaseException):
    """Exception for SIGTERM, the counterpart of KeyboardInterrupt."""


@contextlib.contextmanager
def signals_end_the_process() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the process at once, with their exit status, until `signals_are_exceptions`.

    An exception in the middle of an import would be reported as a different error. On leaving, handlers are restored.
    """
    statuses = {signal.SIGINT: STATUS_SIGINT, signal.SIGTERM: STATUS_SIGTERM}
    earlier = {number: signal.getsignal(number) for number in statuses}
    earlier_hook = sys.unraisablehook

    def handler(number: int, frame: FrameType | None) -> None:
        os._exit(statuses[signal.Signals(number)])

    for number in statuses:
        signal.signal(number, handler)
    try:
        yield
    finally:
        sys.unraisablehook = earlier_hook
        for number, action in earlier.items():
            signal.signal(number, action)


def signals_are_exceptions() -> None:
    """Let signals raise KeyboardInterrupt and Terminated, so that temporary files are removed on the way out."""

    def handler(number: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code is not again.__code__:
            frame = frame.f_back
        if frame is not None:  # on a busy machine it comes again before `again` has ended
            _send_soon(number)
        else:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    report = sys.unraisablehook

    def again(found: sys.UnraisableHookArgs) -> None:
        # Raised where Python can only report it, as in a weak reference's callback: there it would be lost.
        numbers = {KeyboardInterrupt: signal.SIGINT, Terminated: signal.SIGTERM}
        if found.exc_type in numbers:
            _send_soon(numbers[found.exc_type])
        else:
            report(found)

    sys.unraisablehook = again
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)


def _send_soon(number: int) -> None:
    """Send this process a signal from a thread, which is started without a lock: signals interrupt this too."""

    def send() -> None:
        time.sleep(_SOON)
        os.kill(os.getpid(), number)

    _thread.start_new_thread(send, ())


class StopRequest:
    """Remembers the first signal; the second takes effect at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def status(self) -> int:
        """Exit status of the process after this signal; 0 without one."""
        statuses = {None: 0, signal.SIGINT: STATUS_SIGINT, signal.SIGUSR1: STATUS_SIGUSR1}
        return statuses.get(self.signal, STATUS_SIGTERM)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Note SIGINT, SIGTERM and SIGUSR1 without acting on them inside the block; a second one has its usual effect."""
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
