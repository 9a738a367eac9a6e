"""Writing files: a killed process leaves the old one or none, faults show before the work, names do not clash."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import resource
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.locks import release, try_hold, try_lock


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary file beside `path` to write to; it is synced and renamed at the end, removed on any error.

    Raises:
        InputError: the file cannot be written (folder missing, no permission, disk full, not a plain file).
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    temporary, handle = None, -1
    try:
        check_writable(target)
        _clear_leftovers(target)
        handle, temporary = _new_temporary(target)
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
        if handle >= 0:
            os.close(handle)


def _new_temporary(target: Path) -> tuple[int, Path]:
    """Make a temporary file and lock it, which says that its writer lives."""
    import tempfile  # here: the command line's help writes nothing, and does without the compressors it loads

    while True:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
        if try_lock(handle) is not False and os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # another process took it for a leftover before it was locked


def _clear_leftovers(target: Path) -> None:
    """Remove the temporary files of writers of this file that were killed: those that no process has locked."""
    leftover = re.compile(rf"\.{re.escape(target.name)}\.\w{{8}}\.partial")
    for name in filter(leftover.fullmatch, os.listdir(target.parent)):
        with contextlib.suppress(OSError):
            handle = os.open(target.with_name(name), os.O_RDWR | os.O_CLOEXEC)
            try:
                if try_lock(handle):
                    target.with_name(name).unlink()
            finally:
                os.close(handle)


@contextlib.contextmanager
def atomic_text(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Open a text file that appears under its name only when it is complete."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yield file


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
        raise InputError(f"{name}: cannot read: {getattr(error, 'strerror', error)}", where=name) from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{name}: cannot read: Is a directory", where=name)
    if not stat.S_ISREG(found.st_mode):
        kind = _NO_FILES.get(stat.S_IFMT(found.st_mode), "something else")
        raise InputError(
            f"{name}: cannot read: expected a file, found {kind} (copy what it gives to a file)", where=name
        )
    return found.st_size


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: cannot read: {error.strerror}") from error


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
    try:
        _check_folder(target)
        _check_name(target)
        if target.exists() and not target.is_file():
            raise InputError(f"{target}: cannot write: it is not a plain file")
        if target.exists() and not os.access(target, os.W_OK):
            raise InputError(f"{target}: cannot write: the file is read-only")
    except OSError as error:
        raise InputError(f"{target}: cannot write: {error.strerror}") from error


def _check_folder(target: Path) -> None:
    folder = target.parent
    if not folder.is_dir():
        raise InputError(f"{target}: cannot write: the folder {folder} does not exist")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{target}: cannot write: no permission in the folder {folder}")


_HIDDEN = len("..xxxxxxxx.partial")  # what hidden files beside an output add to its name


def _check_name(target: Path) -> None:
    room = os.pathconf(target.parent, "PC_NAME_MAX") - _HIDDEN
    length = len(os.fsencode(target.name))
    if length > room:
        raise InputError(f"{target}: cannot write: expected a name of at most {room} bytes, got {length}")


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
    taken = {_identity(path): purpose for purpose, path in inputs.items() if path}
    for purpose, path in outputs.items():
        if not path:
            continue
        other = taken.setdefault(_identity(path), purpose)
        if other != purpose:
            raise InputError(f"{purpose}: {path} is the {other} as well: expected another name")


def _identity(path: str) -> object:
    """Value that all names of a file share, links of both kinds among them."""
    try:
        found = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


def create_anew(path: str | os.PathLike[str]) -> TextIO:
    """Open a new text file in place of an earlier one, locked while it is open; it grows under its own name.

    The earlier file is not written to: where it has another name, a hard link, it stays there as it is.

    Raises:
        InputError: another job is writing it.
        OSError: it cannot be written.
    """
    target = os.path.realpath(path)  # a link stays a link
    if os.path.isfile(target):
        open_locked(path).close()
        os.unlink(target)
    elif os.path.exists(target):  # a device is no file that could be replaced
        return open(target, "w", encoding="utf-8")
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try_lock(handle)
    return os.fdopen(handle, "w", encoding="utf-8")


def open_locked(path: str | os.PathLike[str]) -> TextIO:
    """Open a text file to go on with it, locked while it is open.

    Raises:
        InputError: another job is writing it.
        OSError: it cannot be opened.
    """
    file = open(path, "r+", encoding="utf-8")  # noqa: SIM115 - the caller closes it
    if try_lock(file.fileno()) is False:
        file.close()
        raise InputError(f"{os.fspath(path)}: another job is writing it: expected another name")
    return file


def check_unlocked(path: str | os.PathLike[str]) -> None:
    """Refuse a text file that another job is writing; whether it can be written at all is for `check_writable`."""
    with contextlib.suppress(OSError):
        open_locked(path).close()


_SPARE_FILES = 50  # that are opened beside the outputs: inputs, modules, connections of processes


def allow_open_files(count: int) -> None:
    """Let this process open so many files beside those that are open, as far as its hard limit allows.

    Raises:
        InputError: with the number that is allowed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/dev/fd")) + count + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise InputError(
                f"open files: expected a limit (ulimit -n) of at least {needed} for {count} outputs at once, got {hard}"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def numbered_path(path: str | os.PathLike[str], number: int) -> Path:
    """Put a number before the first dot of a name: `loss.txt` becomes `loss.00000.txt`."""
    given = Path(path)
    stem, dot, ending = given.name.partition(".")
    return given.with_name(f"{stem}.{number:05d}{dot}{ending}")


def free_number(paths: Sequence[str | os.PathLike[str]]) -> int:
    """Find the first number under which none of the paths exists, and hold these against tasks that start meanwhile.

    Raises:
        InputError: the folder cannot be written, or all numbers are taken.
    """
    for path in paths:
        _check_folder(Path(path))
        _check_name(numbered_path(path, 0))
    allow_open_files(len(paths))
    for number in range(100_000):
        numbered = [numbered_path(path, number) for path in paths]
        # Hold first, then look: another task that held it may just have finished.
        if all(map(_hold_number, numbered)) and not any(path.exists() for path in numbered):
            return number
        for path in numbered:
            release(path)
    raise InputError(f"{os.fspath(paths[0])}: all numbers from 00000 to 99999 are taken")


def _hold_number(path: Path) -> bool:
    try:
        return bool(try_hold(path))
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror}") from error


def unique_path(path: str | os.PathLike[str]) -> Path:
    """The path under its first free number."""
    return numbered_path(path, free_number([path]))
