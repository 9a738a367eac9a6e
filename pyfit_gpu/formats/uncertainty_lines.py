"""Lines of uncertainty files: a keyword, then words or numbers; blank lines and those with `#` are skipped."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.text_lines import NumberedLines, is_count


class UncertaintyLines(NumberedLines):
    """Lines of an uncertainty file, read one by one."""

    def __init__(self, numbered: Iterable[tuple[int, str]], name: str) -> None:
        super().__init__(self._summed(numbered), name, "an uncertainty file")
        self.checksum_before = 0  # CRC-32 of all lines before the present one

    def _summed(self, numbered: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        """Yield lines that are no comments; all count in the checksum, each with one line feed, whatever its end."""
        checksum = 0
        for number, text in numbered:
            self.checksum_before, checksum = checksum, zlib.crc32(f"{text}\n".encode(), checksum)
            if not text.lstrip().startswith("#"):
                yield number, text

    def next(self, expected: str) -> str:
        """The next line.

        Raises:
            InputError: the file is empty or cut off.
        """
        before = self.number
        if not self.advance():
            fault = f"cut off after line {before}" if before else "empty"
            raise InputError(f"{self.name}: {fault}: expected {expected}, found the end of the file", where=self.name)
        return self.text

    def words(self, keyword: str, expected: str) -> list[str]:
        """Words of the next line, which begins with a keyword.

        Raises:
            InputError: another line, or the end of the file.
        """
        words = self.next(f"'{keyword}' and {expected}").split()
        if words[0] != keyword:
            raise self.error(f"'{keyword}' and {expected}")
        return words[1:]

    def counts(self, words: Sequence[str], count: int, expected: str) -> list[int]:
        """Whole numbers of the present line, so many of them."""
        if len(words) != count or not all(map(is_count, words)):
            raise self.error(expected)
        return [int(word) for word in words]

    def vector(self, keyword: str, count: int, *, positive: bool = False) -> Tensor:
        """(count,) float64: the numbers of the next line, which begins with a keyword."""
        expected = f"{count} number{'s' if count > 1 else ''}{' above 0' if positive else ''}"
        words = self.words(keyword, expected)
        values = self.numbers(words, count)
        if positive and min(values) <= 0:
            raise self.error(f"'{keyword}' and {expected}")
        return torch.tensor(values, dtype=torch.float64)

    def end(self, expected: str) -> None:
        """Pass over the line that ends what is read.

        Raises:
            InputError: another line, or the end of the file.
        """
        if self.next(f"'{expected}'").split() != expected.split():
            raise self.error(f"'{expected}'")


def numbers_line(keyword: str, *values: Tensor | float) -> str:
    """Write a line of a keyword and numbers, with as many digits as give the same float64 back."""
    flat = [number for value in values for number in (value.tolist() if isinstance(value, Tensor) else [value])]
    return " ".join([keyword, *(repr(number) for number in flat)]) + "\n"
