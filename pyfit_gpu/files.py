"""Writing files so that a killed process leaves the old file or none, and names that do not clash."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from pyfit_gpu.errors import InputError, Remedy


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary file beside `path` to write to; it is synced and renamed at the end, removed on any error.

    Raises:
        InputError: the file cannot be written (folder missing, no permission, disk full, not a plain file).
    """
    import tempfile  # here: the command line's help writes nothing, and does without the compressors it loads

    target = Path(os.path.realpath(path))  # a link stays a link
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
    """Open a text file that appears under its name only when it is complete."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yield file


@contextlib.contextmanager
def exclusive(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let one process at a time change a file, which exists, by renaming a new one over it.

    Raises:
        InputError: the file cannot be opened or locked.
    """
    try:
        while True:
            file = open(path, "r+b")  # noqa: SIM115 - closed below, whatever happens
            fcntl.flock(file, fcntl.LOCK_EX)
            # While we waited, the file may have been replaced: then the lock is on the old file.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
            file.close()
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: cannot lock: {error.strerror}") from error
    try:
        yield
    finally:
        file.close()


_NO_FILES = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def file_size(path: str | os.PathLike[str]) -> int:
    """Size of an input in bytes, before it is opened: a pipe could be waited for without an end.

    Raises:
        InputError: there is nothing, or something else than a file.
    """
    name = os.fspath(path)
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise InputError(f"{name}: cannot read: {getattr(error, 'strerror', error)}") from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{name}: cannot read: Is a directory")
    if not stat.S_ISREG(found.st_mode):
        kind = _NO_FILES.get(stat.S_IFMT(found.st_mode), "something else")
        raise InputError(f"{name}: cannot read: expected a file, found {kind} (copy what it gives to a file)")
    return found.st_size


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
    _check_folder(target)
    if target.exists() and not target.is_file():
        raise InputError(f"{target}: cannot write: it is not a plain file")
    if target.exists() and not os.access(target, os.W_OK):
        raise InputError(f"{target}: cannot write: the file is read-only")


def _check_folder(target: Path) -> None:
    folder = target.parent
    if not folder.is_dir():
        raise InputError(f"{target}: cannot write: the folder {folder} does not exist")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{target}: cannot write: no permission in the folder {folder}")


def check_output(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Apply `check_writable`, and refuse an existing file that must not be replaced."""
    check_writable(path)
    if Path(path).exists() and not overwrite:
        raise InputError(f"{os.fspath(path)}: exists already", remedy=Remedy.OVERWRITE_OR_NUMBER)


def check_distinct(outputs: Mapping[str, str], inputs: Mapping[str, str]) -> None:
    """Refuse outputs that would be written over one another or over an input; both are given by purpose.

    Raises:
        InputError: with both purposes and the file.
    """
    taken = {os.path.realpath(path): purpose for purpose, path in inputs.items() if path}
    for purpose, path in outputs.items():
        if not path:
            continue
        other = taken.setdefault(os.path.realpath(path), purpose)
        if other != purpose:
            raise InputError(f"{purpose}: {path} is the {other} as well: expected another name")


def numbered_path(path: str | os.PathLike[str], number: int) -> Path:
    """Put a number before the first dot of a name: `loss.txt` becomes `loss.00000.txt`."""
    given = Path(path)
    stem, dot, ending = given.name.partition(".")
    return given.with_name(f"{stem}.{number:05d}{dot}{ending}")


_claims: list[Path] = []


def free_number(paths: Sequence[str | os.PathLike[str]]) -> int:
    """Find the first number under which none of the paths exists, and claim it against tasks that start meanwhile.

    Claims are hidden files beside the paths; `release_claims` removes them when the outputs are written.

    Raises:
        InputError: the folder cannot be written, or all numbers are taken.
    """
    for path in paths:
        _check_folder(Path(path))
    for number in range(100_000):
        numbered = [numbered_path(path, number) for path in paths]
        # Claim first, then look: another task with a claim may just have finished.
        if all(_claim(path) for path in numbered) and not any(path.exists() for path in numbered):
            return number
    raise InputError(f"{os.fspath(paths[0])}: all numbers from 00000 to 99999 are taken")


def _claim(path: Path) -> bool:
    claim = path.with_name(f".{path.name}.claim")
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        return claim in _claims
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror}") from error
    _claims.append(claim)
    return True


def release_claims() -> None:
    """Release the numbers that `free_number` claimed: their files are written, or never will be."""
    while _claims:
        _claims.pop().unlink(missing_ok=True)


def unique_path(path: str | os.PathLike[str]) -> Path:
    """The path under its first free number."""
    return numbered_path(path, free_number([path]))
