"""Files of rows: written as the rows come, and read back."""

from __future__ import annotations

import csv
import glob
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, TextIO

from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.files import create_anew, open_locked


class RowFile:
    """A file that is written anew at the start, flushed after every row, and locked while it is open.

    It is begun again when training restarts with new parameters. If there is a run file, the earlier attempt stays
    under a hidden name until the next run file is written: a run that is killed in between goes on from that attempt.
    """

    FIRST_LINE: ClassVar[re.Pattern[str]] = re.compile("")  # what the first line of such a file looks like

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.keeps_earlier = False  # whether earlier attempts are kept until `saved`
        self._attempt = 0
        self._kept: list[Path] = []
        self._file: TextIO | None = None

    def on_start(self) -> None:
        again = self._file is not None
        self.close()
        try:
            if not again:  # what an earlier run left
                self._forget_attempts()
            if again and self.keeps_earlier:
                self._kept.append(self._earlier(self._attempt))
                os.replace(self.path, self._kept[-1])
            self._attempt += again
            self._file = create_anew(self.path)
        except OSError as error:
            raise InputError(f"{self.path}: cannot write: {error.strerror}") from error

    def check(self, attempt: int, position: int) -> None:
        """Check that `resume` would find what it needs; changes nothing.

        Raises:
            InputError: the file does not exist, or is shorter.
        """
        earlier = self._earlier(attempt)
        try:
            with open(earlier if earlier.exists() else self.path, "r+b") as file:
                length = file.seek(0, os.SEEK_END)
        except OSError as error:
            raise InputError(f"{self.path}: cannot resume: {error.strerror}") from error
        if length < position:
            raise InputError(f"{self.path}: cannot resume: expected at least {position} bytes, found {length}")

    def resume(self, attempt: int, position: int) -> None:
        """Go on after the first `position` bytes of an attempt; what an interrupted run wrote after them is cut off."""
        self.close()
        self.check(attempt, position)
        try:
            if self._earlier(attempt).exists():
                os.replace(self._earlier(attempt), self.path)
            self._attempt = attempt
            self._forget_attempts()
            self._file = open_locked(self.path)
            self._file.truncate(position)
            self._file.seek(position)
        except OSError as error:
            raise InputError(f"{self.path}: cannot resume: {error.strerror}") from error

    def position(self) -> tuple[int, int]:
        """Number of restarts so far, and bytes written since."""
        return self._attempt, 0 if self._file is None else self._file.tell()

    def saved(self) -> None:
        """Remove earlier attempts: a run file has been written with the present position."""
        while self._kept:
            self._kept.pop().unlink(missing_ok=True)

    def _forget_attempts(self) -> None:
        for attempt in self.path.parent.glob(f".{glob.escape(self.path.name)}.attempt*"):
            attempt.unlink()

    def _earlier(self, attempt: int) -> Path:
        return self.path.with_name(f".{self.path.name}.attempt{attempt}")

    def write(self, text: str) -> None:
        assert self._file is not None, "on_start() comes first"
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise InputError(f"{self.path}: cannot write: {error.strerror}") from error

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                raise InputError(f"{self.path}: cannot write: {error.strerror}") from error


def check_replaceable(path: str | os.PathLike[str], first_line: re.Pattern[str], what: str) -> None:
    """Refuse to write a file anew over something else than an earlier one, or an empty file.

    Raises:
        InputError: the first line of what is there does not look like one of such a file.
    """
    try:
        with open(path, "rb") as file:
            found = file.readline(10_000)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: cannot read: {error.strerror}") from error
    if found and not first_line.match(found.decode("utf-8", errors="replace")):
        raise InputError(
            f"{os.fspath(path)}: expected nothing or an earlier {what} here, found another file",
            remedy=Remedy.OVERWRITE,
        )


def table_row(cells: Sequence[object]) -> str:
    """A row of a table with commas, which `read_table` gives back whatever the cells hold."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)  # cells with either character are quoted
    return text.getvalue().removesuffix("\r\n") + "\n"


def read_text(path: Path) -> str:
    """Read a log or table as a whole.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(f"{path}: expected text, found binary data")
    return text


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read column names and rows of a table with commas.

    Raises:
        InputError: a row that does not have a cell for every column.
    """
    text = read_text(path)
    limit = csv.field_size_limit(len(text) + 1)
    try:
        names, *rows = csv.reader(io.StringIO(text, newline=""))
    except (csv.Error, ValueError) as error:
        raise InputError(f"{path}: expected a table with commas: {error}") from error
    finally:
        csv.field_size_limit(limit)
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise InputError(f"{path}: row {number}: expected {len(names)} cells, found {len(row)}")
    return names, rows


def read_number(cell: str, path: Path) -> float:
    """Read a number from a cell of a table.

    Raises:
        InputError: the cell holds no number.
    """
    try:
        if cell.isascii():
            return float(cell)
    except ValueError:
        pass
    raise InputError(f"{path}: expected a number, found {cell[:60]!r}")
