"""Standard output and error that may be closed, full, broken or narrow in their letters: work goes on without them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class TolerantStream:
    """Stream whose failures are remembered and raise nothing; letters that it cannot show are written as escapes."""

    def __init__(self, stream: TextIO) -> None:
        self.fault: OSError | None = None  # the first one
        self._stream = stream

    def write(self, text: str) -> int:
        with self._noting_faults():
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:
                self._stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        return len(text)

    def flush(self) -> None:
        with self._noting_faults():
            self._stream.flush()

    def settle(self) -> None:
        """Flush for the last time. What cannot be written is dropped: Python would try again when it ends, and fail."""
        self.flush()
        if self.fault is not None:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
                self._stream.flush()

    @contextlib.contextmanager
    def _noting_faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.fault = self.fault or error
        except ValueError:  # closed meanwhile
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def tolerant_streams() -> Iterator[None]:
    """Let no fault of standard output or error end the work inside the block."""
    for number in range(3):  # else the next file that is opened would take the place of a closed stream
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    earlier = sys.stdout, sys.stderr
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - closed below
    out, err = (TolerantStream(nowhere if stream is None else stream) for stream in earlier)
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        sys.stdout, sys.stderr = earlier
        out.settle()
        err.settle()
        nowhere.close()


def output_fault() -> OSError | None:
    """Flush standard output; returns why something of it was lost, None if nothing was."""
    sys.stdout.flush()
    return getattr(sys.stdout, "fault", None)
