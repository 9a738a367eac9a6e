"""Progress of a long task: a bar on a terminal, plain lines now and then in a batch job's log."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Shows progress to `total` with rate and time left; off a terminal a line every `line_interval` seconds."""

    BAR_WIDTH = 24

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        line_interval: float = 10.0,
    ) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.quiet = quiet or total <= 0
        self.stream = stream if stream is not None else sys.stderr
        self.line_interval = line_interval
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
        text = self._text(done, now - self.started, note)
        if self.is_terminal:
            filled = self.BAR_WIDTH * min(done, self.total) // self.total
            bar = "#" * filled + "-" * (self.BAR_WIDTH - filled)
            self.stream.write(f"\r\x1b[K{self.label} [{bar}] {text}")
            self._drawn = True
        else:
            self.stream.write(f"{self.label}: {text}\n")
        self.stream.flush()

    def close(self) -> None:
        """End the bar's line."""
        if self._drawn:
            self.stream.write("\n")
            self.stream.flush()
            self._drawn = False

    def _text(self, done: int, elapsed: float, note: str) -> str:
        rate = done / elapsed if elapsed > 0 else 0.0
        left = f", {_duration((self.total - done) / rate)} left" if rate > 0 and done < self.total else ""
        note = f", {note}" if note else ""
        return f"{done}/{self.total} {self.unit}{note}, {rate:.3g} {self.unit}/s, {_duration(elapsed)}{left}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
