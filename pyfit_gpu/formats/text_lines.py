"""Tools of the readers of text files: lines in blocks or with their numbers, and numbers exactly as by float()."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from pyfit_gpu.errors import InputError

if TYPE_CHECKING:
    import numpy as np

NO_ENERGY_PREFIX = "NO_DFT"

NO_LINE_END = "a line end after the last number, which may be cut without one (add it if the number is whole)"
WITNESSES = 100  # cells that a reader keeps for `may_be_cut`

_NUMBER = re.compile(r"[-+]?(\d*)(\.?)(\d*)(?:[eE][-+]?(\d+))?", re.ASCII)
_BLOCK = 1 << 17  # characters read at once: few enough to stay in the cache


class ZeroByte(ValueError):
    """Zero byte in a file that should be text."""

    def __init__(self, line: int) -> None:
        super().__init__(f"zero bytes in line {line}")
        self.reason = str(self)  # as in UnicodeDecodeError


class Lines:
    """Lines of a file without their ends, counted as they are given out. One block of them is held."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.block: list[str] = []
        self.place = 0  # in the block
        self.before = 0  # lines of earlier blocks
        self.lacks_end = False  # whether the last line of the block has no line end

    @property
    def number(self) -> int:
        """Number of the last line given out, from 1."""
        return self.before + self.place

    @property
    def at_open_end(self) -> bool:
        """Whether the last line given out is the file's last one, and has no line end."""
        return self.lacks_end and self.place == len(self.block)

    def next(self) -> str | None:
        """The next line; None at the end of the file."""
        if self.place == len(self.block) and not self._read_block():
            return None
        self.place += 1
        return self.block[self.place - 1]

    def take(self, count: int) -> list[str]:
        """The next lines; fewer at the end of the file."""
        taken = self.block[self.place : self.place + count]
        self.place += len(taken)
        while len(taken) < count and self._read_block():
            self.place = min(count - len(taken), len(self.block))
            taken += self.block[: self.place]
        return taken

    def _read_block(self) -> bool:
        text = self.file.read(_BLOCK) + self.file.readline()
        self.before += len(self.block)
        self.place = 0
        if "\0" in text:
            raise ZeroByte(self.before + text.count("\n", 0, text.index("\0")) + 1)
        self.lacks_end = not text.endswith("\n") if text else self.lacks_end
        self.block = text.removesuffix("\n").split("\n") if text else []
        return bool(text)

    def numbered(self) -> Iterator[tuple[int, str]]:
        """Yield each line that is left, with its number."""
        while (text := self.next()) is not None:
            yield self.number, text


class NumberedLines:
    """Lines one by one, blank ones skipped, and errors that say where in the file."""

    def __init__(self, numbered: Iterable[tuple[int, str]], name: str, kind: str) -> None:
        """Take lines from a file.

        Args:
            numbered: lines with their numbers.
            name: name of the file.
            kind: kind of file, for messages.
        """
        self.name = name
        self.kind = kind
        self.number = 0  # number of the present line
        self.text = ""
        self.left = ((number, text) for number, text in numbered if text and not text.isspace())

    def advance(self) -> bool:
        """Go to the next line; False at the end of the file."""
        line = next(self.left, None)
        if line is not None:
            self.number, self.text = line
        return line is not None

    def next(self, expected: str) -> str:
        """The next line.

        Raises:
            InputError: the end of the file, or binary data.
        """
        if not self.advance():
            raise InputError(f"{self.name}: expected {expected}, found the end of the file", where=self.name)
        if "\0" in self.text:
            raise InputError(f"{self.name}: expected {self.kind}, found binary data", where=self.name)
        return self.text

    def numbers(self, words: Sequence[str], count: int) -> list[float]:
        """Numbers of the present line, so many of them.

        Raises:
            InputError: more or fewer words, or one that is no number.
        """
        values = parse_numbers(words)
        if values is None or len(values) != count:
            raise self.error(f"{count} number{'s' if count > 1 else ''}")
        return values

    def error(self, expected: str, found: str | None = None) -> InputError:
        """Make an error that names the present line; `found` is shown in place of its text where given."""
        shown = self.text.strip()[:80] if found is None else found
        where = f"{self.name}, line {self.number}"
        return InputError(f"{where}: expected {expected}, found '{shown}'", where=where)


def is_unlabelled(group: str) -> bool:
    """Whether the classic formats take structures of this group for predictions only."""
    return group.startswith(NO_ENERGY_PREFIX)


def is_count(cell: str) -> bool:
    """Whether a cell is a whole number of at most 18 digits; Python refuses to read numbers of thousands of digits."""
    return len(cell) <= 18 and cell.isascii() and cell.isdigit()


def parse_number(cell: str) -> float | None:
    """Parse a finite decimal number, or None.

    Underscores between digits and the digits of other scripts, which Python takes, are not part of the formats.
    """
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell and cell.isascii() else None


def parse_numbers(cells: Sequence[str]) -> list[float] | None:
    """Parse finite decimal numbers, or None if one of the cells is none, as `parse_number` does."""
    try:
        values = list(map(float, cells))
    except ValueError:
        return None
    text = "".join(cells)
    return values if all(map(math.isfinite, values)) and "_" not in text and text.isascii() else None


def parse_columns(lines: Sequence[str], columns: np.dtype) -> np.ndarray | None:
    """Parse lines to records (n,), with as many cells on each line as there are columns; None if a line has others.

    The numbers are those of float() to the bit, but may be infinite or NaN. Fewer forms are accepted than by float()
    (no underscores, no digits of other scripts), and the faulty line is not named: both are left to the caller.
    """
    import numpy as np  # here: the help of the classic job reads settings with this module, and does without

    if not lines or not lines[0].strip():  # no line with cells would be a warning
        return None
    if "\0" in "".join(lines):  # at the end of a word it would get lost
        return None
    try:
        table = np.loadtxt(lines, columns, comments=None, ndmin=1)
    except ValueError:
        return None
    return table if len(table) == len(lines) else None  # empty lines are passed over


def may_be_cut(last: str, others: Iterable[str]) -> bool:
    """Whether the last number of a text without a final line end may have lost digits.

    It is whole where the others show it: one of them has as many digits after the decimal point and in the exponent,
    and none has more. Whole numbers are compared by their length, and what is no number must be one of the others.

    Args:
        last: the last cell.
        others: cells that are written like it: of the same column, or of the same line.
    """
    form = _form(last)
    if form is None:
        return last not in others
    known = {found for found in map(_form, others) if found is not None}
    longer = (found for found in known if any(a > b for a, b in zip(found, form, strict=True)))
    return form not in known or any(found[0] >= form[0] for found in longer)  # a point says more than the lack of one


def _form(cell: str) -> tuple[int, int, int, int] | None:
    """Numbers of points, decimals, digits of the exponent, and digits where there is no point; None: no number."""
    match = _NUMBER.fullmatch(cell)
    if match is None:
        return None
    digits, point, decimals, exponent = match.groups(default="")
    return len(point), len(decimals), len(exponent), 0 if point else len(digits)
