"""Writing files so that a killed process leaves the old file or none, and names that do not clash."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from pyfit_gpu.errors import InputError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside `path` to write to; synced and renamed at the end, removed on any error.

    Raises:
        InputError: the file cannot be written (folder missing, no permission, disk full, not a plain file).
    """
    target = Path(path)
    temporary = None
    try:
        check_writable(target)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _sync(temporary)
        # mkstemp makes files private; an output has the permissions that open() would give it.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, target)
        temporary = None
        _sync(target.parent)
    except OSError as error:
        raise InputError(f"{target}: cannot write: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_text(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """A text file that appears under its name only when it is complete."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yield file


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse an output that could not be written, before any work is done."""
    target = Path(path)
    folder = target.parent
    if not folder.is_dir():
        raise InputError(f"{target}: cannot write: the folder {folder} does not exist")
    if target.exists() and not target.is_file():
        raise InputError(f"{target}: cannot write: it is not a plain file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{target}: cannot write: no permission in the folder {folder}")
    if target.exists() and not os.access(target, os.W_OK):
        raise InputError(f"{target}: cannot write: the file is read-only")


def check_output(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """`check_writable`, and an existing file must not be in the way unless it may be replaced."""
    check_writable(path)
    if Path(path).exists() and not overwrite:
        raise InputError(f"{os.fspath(path)}: exists already (give --overwrite to replace it, --unique to number it)")


def unique_path(path: str | os.PathLike[str]) -> Path:
    """`loss.txt` as `loss.00000.txt`: a number before the first dot's ending, the first that is free."""
    given = Path(path)
    stem, dot, ending = given.name.partition(".")
    for number in range(100_000):
        candidate = given.with_name(f"{stem}.{number:05d}{dot}{ending}")
        if not candidate.exists():
            return candidate
    raise InputError(f"{given}: all numbers from 00000 to 99999 are taken")
