"""Locks between processes, which the kernel releases when a process ends, however it ends.

They are `flock` locks: on Linux they hold between the machines of a cluster on NFS and most parallel file systems.
Where a file system has none, work goes on with a note.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pyfit_gpu.errors import InputError
from pyfit_gpu.log import log
from pyfit_gpu.signals import undisturbed

_held: dict[Path, int] = {}  # handles of the lock files of this process


def try_lock(handle: int) -> bool | None:
    """Lock an open file until it is closed; False: another process has locked it, None: files here cannot be locked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EAGAIN, errno.EACCES) else None
    return True


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


def hold(path: str | os.PathLike[str]) -> None:
    """Keep other jobs from an output, which need not exist, until `release_held` or the end of this process.

    An output that cannot be written, because its folder is missing, say, cannot be held: `check_writable` refuses it.

    Raises:
        InputError: another job holds it; with its process and machine.
    """
    with contextlib.suppress(OSError):
        if try_hold(path) is False:
            raise InputError(f"{os.fspath(path)}: another job is writing it{_holder(path)}: expected another name")


def try_hold(path: str | os.PathLike[str]) -> bool | None:
    """Hold an output as `hold` does.

    Returns:
        False: another job holds it. None: one may, but files cannot be locked here and the lock file was there already.

    Raises:
        OSError: the lock file cannot be made.
    """
    return undisturbed(lambda: _try_hold(path, _lock_file(path)))


def _try_hold(path: str | os.PathLike[str], lock: Path) -> bool | None:
    while lock not in _held:
        handle, is_new = _open(lock)
        locked = try_lock(handle)
        if locked is None:
            log.info("%s: files cannot be locked here: nothing keeps two jobs from writing it", os.fspath(path))
        if locked is False or (locked is None and not is_new):
            os.close(handle)
            return locked
        if os.fstat(handle).st_nlink:
            _held[lock] = handle
            with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        else:  # whoever held it removed it while we opened it
            os.close(handle)
    return True


def _open(lock: Path) -> tuple[int, bool]:
    """Handle of a lock file, and whether it is new."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_CREAT
    try:
        return os.open(lock, flags | os.O_EXCL, 0o666), True
    except FileExistsError:
        with contextlib.suppress(PermissionError):
            return os.open(lock, flags, 0o666), False
        return os.open(lock, os.O_RDONLY | os.O_CLOEXEC), False  # another user's can be locked all the same


def _lock_file(path: str | os.PathLike[str]) -> Path:
    target = Path(os.path.realpath(path))
    return target.with_name(f".{target.name}.lock.partial")  # the ending of all that a killed process may leave


def _holder(path: str | os.PathLike[str]) -> str:
    try:
        text = _lock_file(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    return f" ({text})" if text else ""


def release(path: str | os.PathLike[str]) -> None:
    """Release an output, if this process holds it."""
    undisturbed(lambda: _release(_lock_file(path)))


def release_held() -> None:
    """Release all outputs that this process holds: they are written, or never will be."""
    for lock in list(_held):
        undisturbed(partial(_release, lock))


def _release(lock: Path) -> None:
    handle = _held.pop(lock, None)
    if handle is not None:
        with contextlib.suppress(OSError):  # gone with its folder, or another user's
            lock.unlink()  # while it is locked: whoever opened it meanwhile sees that it is gone
        os.close(handle)
