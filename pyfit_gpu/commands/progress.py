"""Progress of a long task: a bar on a terminal, plain lines now and then in a batch job's log."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO


class Progress:
    """Shows progress to `total` with rate and time left; off a terminal a line every `line_interval` seconds.

    Work that ends after `limit` seconds (0: it does not) may be done before its total is. Neither
    rate nor time left is shown of `uneven` work, whose parts take very different times.
    """

    BAR_WIDTHS = (24, 12)  # the longest for which there is room

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        line_interval: float = 10.0,
        limit: float = 0.0,
        uneven: bool = False,
    ) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.quiet = quiet or total <= 0
        self.stream = stream if stream is not None else sys.stderr
        self.line_interval = line_interval
        self.limit = limit
        self.uneven = uneven
        self.is_terminal = self.stream.isatty()
        self._drawn = False
        self.restart()

    def restart(self) -> None:
        self.started = time.monotonic()
        # Off a terminal the first line comes after the first interval: short tasks print only their end.
        self.shown = self.started

    def update(self, done: int, note: str = "") -> None:
        if self.quiet:
            return
        now = time.monotonic()
        finished = done >= self.total
        wait = 0.1 if self.is_terminal else self.line_interval
        if now - self.shown < wait and not finished:
            return
        self.shown = now
        elapsed = now - self.started
        if self.is_terminal:
            self.stream.write(f"\r\x1b[K{self._line(done, elapsed, note)}")
            self._drawn = True
        else:
            self.stream.write(f"{self.label}: {self._text(done, elapsed, note)}\n")
        self.stream.flush()

    def close(self) -> None:
        """End the bar's line."""
        if self._drawn:
            self.stream.write("\n")
            self.stream.flush()
            self._drawn = False

    def _line(self, done: int, elapsed: float, note: str) -> str:
        """Line that fits the terminal: from a longer one, the next would not go back to its start."""
        text = self._text(done, elapsed, note)
        share = max(done / self.total, elapsed / self.limit if self.limit else 0.0)
        lines = [f"{self.label} {self._bar(width, share)} {text}" for width in self.BAR_WIDTHS]
        lines += [f"{self.label} {text}", self._text(done, elapsed, note, rate=False)]
        room = _columns(self.stream) - 1
        return next((line for line in lines if len(line) <= room), lines[-1][:room])

    def _bar(self, width: int, share: float) -> str:
        filled = int(width * min(share, 1.0))
        return f"[{'#' * filled}{'-' * (width - filled)}]"

    def _text(self, done: int, elapsed: float, note: str, *, rate: bool = True) -> str:
        speed = done / elapsed if elapsed > 0 and not self.uneven else 0.0
        left = f", {self._left(done, elapsed)} left" if speed > 0 and done < self.total else ""
        note = f", {note}" if note else ""
        shown = f", {speed:.3g} {self.unit}/s" if rate and not self.uneven else ""
        return f"{done}/{self.total} {self.unit}{note}{shown}, {_duration(elapsed)}{left}"

    def _left(self, done: int, elapsed: float) -> str:
        seconds = (self.total - done) * elapsed / done
        return _duration(min(seconds, max(self.limit - elapsed, 0.0)) if self.limit else seconds)


def _columns(stream: TextIO) -> int:
    """Width of the terminal that a stream goes to, now: windows are resized. Unlimited where nothing says it."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns or sys.maxsize
    except (OSError, ValueError):
        return sys.maxsize


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
