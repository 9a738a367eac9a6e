"""Files that may be compressed, by the ending of their name."""

from __future__ import annotations

import importlib
import io
import os
from typing import IO

ENDINGS = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}  # as in ASE


def plain_name(path: str | os.PathLike[str]) -> str:
    """Name of a file without its folder and the ending of its compression."""
    name = os.path.basename(path)
    root, ending = os.path.splitext(name)
    return root if ending in ENDINGS else name


def is_compressed(path: str | os.PathLike[str]) -> bool:
    return os.path.splitext(path)[1] in ENDINGS


def open_bytes(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file to read its bytes, decompressed."""
    module = ENDINGS.get(os.path.splitext(path)[1])
    return open(path, "rb") if module is None else importlib.import_module(module).open(path, "rb")


def open_text(path: str | os.PathLike[str], encoding: str = "utf-8-sig") -> io.TextIOWrapper:
    """Open a file to read its text, decompressed, without a byte order mark."""
    return io.TextIOWrapper(open_bytes(path), encoding=encoding)
