"""The beginning of a file, by which its kind is recognised."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.compressed import open_bytes, read_faults, unreadable

HEAD_BYTES = 65_536

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Head:
    """Name and first bytes of a file, read once for all kinds that it might be; a folder has no bytes."""

    path: str
    raw: bytes  # decompressed
    is_folder: bool = False

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
        return b"\0" not in self.raw and not self.is_folder

    def begins_with(self, *texts: str) -> bool:
        """Whether the file begins with one of these texts, blanks aside."""
        return bool(self.lines) and self.lines[0].startswith(texts)


def read_head(path: str | os.PathLike[str], length: int = HEAD_BYTES) -> Head:
    """Read the first bytes of a file, or see that it is a folder.

    Raises:
        InputError: it cannot be read, is a pipe or a device, or is empty.
    """
    name = os.fspath(path)
    if os.path.isdir(path):
        return Head(name, b"", is_folder=True)
    try:
        with open_bytes(path) as file:
            raw = file.read(length)
    except read_faults() as error:
        raise unreadable(name, error) from error
    if not raw:
        raise InputError(f"{name}: the file is empty")
    return Head(name, raw)


def files_of(path: str) -> list[str]:
    """The files that an input consists of: all in a folder, in the order of their names, or the file itself."""
    if not os.path.isdir(path):
        return [path]
    return [os.path.join(folder, name) for folder, _, names in sorted(os.walk(path)) for name in sorted(names)]
