"""One job per output: the lock goes with its process, however that ends, and another job is told who has it."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from forking import run_script

from pyfit_gpu.errors import InputError
from pyfit_gpu.locks import hold, release_held, try_hold


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    yield
    release_held()


# A child holds the output, says so and waits; then the parent tries, ends the child and tries again.
TWO_PROCESSES = """
from pyfit_gpu.locks import hold, release_held, try_hold
output = folder / "out.nn.dat"
ready, told = os.pipe()

def other():
    hold(output)
    os.write(told, b"x")
    signal.pause()

pid = child(other)
os.read(ready, 1)
try:
    hold(folder / "." / "out.nn.dat")
except InputError as error:
    print(str(error).replace(str(pid), "PID"))
print(try_hold(output))
print(try_hold(folder / "other.nn.dat"))
os.kill(pid, int(sys.argv[2]))
os.waitpid(pid, 0)
print(sorted(os.listdir(folder)))
hold(output)
release_held()
print(sorted(os.listdir(folder)))
"""


def test_two_processes(tmp_path: Path) -> None:
    """The second is refused until the first has been killed, and then clears what that one left."""
    lines = run_script(TWO_PROCESSES.replace("sys.argv[2]", str(int(signal.SIGKILL))), tmp_path).splitlines()
    assert re.fullmatch(
        r".*out\.nn\.dat: another job is writing it \(process PID on .+\): expected another name", lines[0]
    )
    assert lines[1:3] == ["False", "True"]
    assert lines[3:] == ["['.other.nn.dat.lock.partial', '.out.nn.dat.lock.partial']", "[]"]


def test_a_process_may_hold_an_output_twice(tmp_path: Path) -> None:
    hold(tmp_path / "out")
    hold(tmp_path / "out")
    assert len(os.listdir(tmp_path)) == 1
    release_held()
    assert os.listdir(tmp_path) == []


def test_a_link_is_its_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    hold(tmp_path / "link")
    assert os.listdir(tmp_path) != []
    assert (tmp_path / ".target.lock.partial").exists()


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    """The checks of outputs say so, all of them at once."""
    hold(tmp_path / "missing" / "out")
    with pytest.raises(OSError, match="No such file"):
        try_hold(tmp_path / "missing" / "out")


def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A note, and work goes on; a lock file that was there may be anybody's."""

    def flock(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    caplog.set_level("INFO", "pyfit_gpu")
    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / ".left.lock.partial").touch()
    hold(tmp_path / "left")
    assert try_hold(tmp_path / "left") is None
    assert try_hold(tmp_path / "new") is True
    assert "files cannot be locked here" in caplog.text
    release_held()
    assert os.listdir(tmp_path) == [".left.lock.partial"]


def test_a_lock_file_that_is_removed_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock counts for nothing: another one is made."""
    lock = tmp_path / ".out.lock.partial"
    real, times = fcntl.flock, []

    def flock(handle: int, how: int) -> None:
        if not times:
            lock.unlink()
        times.append(handle)
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    hold(tmp_path / "out")
    assert len(times) == 2
    assert lock.exists()


def test_a_message_of_who_it_is_that_cannot_be_read(tmp_path: Path) -> None:
    """Another handle of this process stands for another process."""
    lock = tmp_path / ".out.lock.partial"
    lock.write_bytes(b"\xff")
    with open(lock, "r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"out: another job is writing it: expected another name"):
            hold(tmp_path / "out")


def test_a_lock_file_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may only be read, and locks all the same."""
    lock = tmp_path / ".out.lock.partial"
    lock.touch()
    usual = os.open

    def refuse_writing(path: object, flags: int, *mode: int) -> int:
        if path == lock and flags & os.O_RDWR and not flags & os.O_EXCL:
            raise PermissionError(errno.EACCES, "Permission denied")
        return usual(path, flags, *mode)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse_writing)
    hold(tmp_path / "out")
    with open(lock) as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_folder_that_is_gone_is_no_fault(tmp_path: Path) -> None:
    """The work is done when its locks are released."""
    folder = tmp_path / "folder"
    folder.mkdir()
    hold(folder / "out")
    (folder / ".out.lock.partial").unlink()
    folder.rmdir()
    folder.touch()
    release_held()
