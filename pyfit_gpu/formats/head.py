"""The beginning of a file, by which its kind is recognised."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

from pyfit_gpu.errors import InputError
from pyfit_gpu.files import file_size

HEAD_BYTES = 65_536

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Head:
    """Name and first bytes of a file, read once for all kinds that it might be."""

    path: str
    raw: bytes

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not blank, stripped."""
        text = self.raw.decode("utf-8", errors="replace").removeprefix("\ufeff")
        return [line.strip() for line in text.splitlines() if line.strip()]

    @property
    def is_hdf5(self) -> bool:
        return self.raw.startswith(_HDF5_MAGIC)

    @property
    def is_text(self) -> bool:
        return b"\0" not in self.raw

    def begins_with(self, *texts: str) -> bool:
        """Whether the file begins with one of these texts, blanks aside."""
        return bool(self.lines) and self.lines[0].startswith(texts)


def read_head(path: str | os.PathLike[str], length: int = HEAD_BYTES) -> Head:
    """Read the first bytes of a file.

    Raises:
        InputError: it cannot be read, is no file but a pipe or a device, or is empty.
    """
    name = os.fspath(path)
    file_size(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(length)
    except OSError as error:
        raise InputError(f"{name}: cannot read: {error.strerror}") from error
    if not raw:
        raise InputError(f"{name}: the file is empty")
    return Head(name, raw)
