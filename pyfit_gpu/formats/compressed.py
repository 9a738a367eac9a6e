"""Files that may be compressed, by the ending of their name."""

from __future__ import annotations

import importlib
import io
import os
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from pyfit_gpu.errors import InputError
from pyfit_gpu.files import file_size
from pyfit_gpu.formats.text_lines import ZeroByte

ENDINGS = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}  # as in ASE


def plain_name(path: str | os.PathLike[str]) -> str:
    """Name of a file without its folder and the ending of its compression."""
    name = os.path.basename(path)
    root, ending = os.path.splitext(name)
    return root if ending in ENDINGS else name


def is_compressed(path: str | os.PathLike[str]) -> bool:
    return os.path.splitext(path)[1] in ENDINGS


def open_bytes(path: str | os.PathLike[str], *, decompress: bool = True) -> IO[bytes]:
    """Open a file to read its bytes, decompressed.

    Raises:
        InputError: there is no file, or a pipe or a device.
    """
    file_size(path)
    module = ENDINGS.get(os.path.splitext(path)[1]) if decompress else None
    return open(path, "rb") if module is None else importlib.import_module(module).open(path, "rb")


def open_text(
    path: str | os.PathLike[str], encoding: str = "utf-8-sig", *, decompress: bool = True
) -> io.TextIOWrapper:
    """Open a file to read its text, decompressed, without a byte order mark."""
    return io.TextIOWrapper(open_bytes(path, decompress=decompress), encoding=encoding)


@contextmanager
def reading(
    path: str | os.PathLike[str], encoding: str = "utf-8-sig", kind: str = "text", *, decompress: bool = True
) -> Iterator[io.TextIOWrapper]:
    """Open a file as `open_text`; its faults become errors that name it.

    Args:
        kind: kind of file, for messages.

    Raises:
        InputError: it cannot be read or decompressed, or is no text (zero bytes are found by `Lines`).
    """
    name = os.fspath(path)
    try:
        with open_text(path, encoding, decompress=decompress) as file:
            yield file
    except (UnicodeDecodeError, ZeroByte) as error:
        is_utf16 = isinstance(error, UnicodeDecodeError) and error.object.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
        found = "UTF-16: save it as UTF-8" if is_utf16 else "binary data"
        raise InputError(f"{name}: expected {kind}, found {found} ({error.reason})", where=name) from error
    except read_faults() as error:
        raise unreadable(name, error) from error


def read_faults() -> tuple[type[Exception], ...]:
    """Exceptions of reading a file, decompression included; what is needed to know them is loaded when one comes."""
    import lzma
    import zlib

    return OSError, EOFError, lzma.LZMAError, zlib.error


def unreadable(name: str, error: Exception) -> InputError:
    """The error for a file that cannot be opened, read or decompressed."""
    reason = getattr(error, "strerror", None) or f"{error} (damaged, or not compressed as its name says)"
    return InputError(f"{name}: cannot read: {reason}", where=name)
