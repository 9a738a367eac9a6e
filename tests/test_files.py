"""Files appear whole or not at all, and every reason why they cannot is a message that names the file."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forking import run_script

from pyfit_gpu.errors import InputError
from pyfit_gpu.files import (
    allow_open_files,
    atomic_path,
    atomic_text,
    check_distinct,
    check_output,
    check_writable,
    create_anew,
    open_locked,
    unique_path,
)

AS_ROOT = os.name == "posix" and os.geteuid() == 0


def content(folder: Path) -> list[str]:
    """Every name in a folder, hidden ones too."""
    return sorted(os.listdir(folder))


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    path = tmp_path / "out.dat"
    path.write_text("old\n")
    return path


def test_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "out.dat"
    with atomic_text(path) as file:
        file.write("Å\n")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == "Å\n".encode()
    assert content(tmp_path) == ["out.dat"]


def test_the_old_file_is_there_until_the_new_one_is_complete(old_file: Path) -> None:
    with atomic_text(str(old_file)) as file:
        file.write("new\n")
        file.flush()
        assert old_file.read_text() == "old\n"
    assert old_file.read_text() == "new\n"
    assert content(old_file.parent) == ["out.dat"]


def test_atomic_path_for_writers_that_open_themselves(old_file: Path) -> None:
    with atomic_path(old_file) as temporary:
        assert temporary.parent == old_file.parent  # a rename works within one file system only
        assert temporary != old_file
        temporary.write_bytes(b"\0\1")
    assert old_file.read_bytes() == b"\0\1"
    assert content(old_file.parent) == ["out.dat"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, InputError])
def test_an_error_leaves_the_old_file(old_file: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with atomic_text(old_file) as file:
            file.write("half of the new")
            raise error("in the body")

    with pytest.raises(error, match="in the body"):
        fail()
    assert old_file.read_text() == "old\n"
    assert content(old_file.parent) == ["out.dat"]


def test_an_error_leaves_no_new_file(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_path(tmp_path / "out.dat") as temporary:
            temporary.write_text("half")
            raise RuntimeError("in the body")

    with pytest.raises(RuntimeError, match="in the body"):
        fail()
    assert content(tmp_path) == []


def write(path: Path) -> None:
    with atomic_text(path) as file:
        file.write("new\n")


@pytest.mark.parametrize("action", [write, check_writable, lambda path: check_output(path, overwrite=True)])
class TestRefused:
    def test_missing_folder(self, tmp_path: Path, action) -> None:
        path = tmp_path / "missing" / "out.dat"
        with pytest.raises(InputError, match=rf"{re.escape(str(path))}: cannot write: .*folder.*does not exist"):
            action(path)
        assert content(tmp_path) == []

    def test_a_file_in_place_of_the_folder(self, old_file: Path, action) -> None:
        with pytest.raises(InputError, match=r"out\.dat.new: cannot write"):
            action(old_file / "new")

    def test_a_folder(self, tmp_path: Path, action) -> None:
        (tmp_path / "out").mkdir()
        with pytest.raises(InputError, match=r"out: cannot write: .*not a plain file"):
            action(tmp_path / "out")
        assert content(tmp_path) == ["out"]

    @pytest.mark.parametrize("length", [238, 300])
    def test_a_name_without_room_for_the_temporary_one(self, tmp_path: Path, action, length: int) -> None:
        with pytest.raises(InputError, match=rf"cannot write: expected a name of at most 237 bytes, got {length}"):
            action(tmp_path / ("é" + "x" * (length - 2)))
        assert content(tmp_path) == []

    def test_no_plain_file(self, tmp_path: Path, action) -> None:
        """A pipe here; a device would be replaced by a file if the check were broken and the tests run as root."""
        pipe = tmp_path / "out"
        os.mkfifo(pipe)
        with pytest.raises(InputError, match=r"out: cannot write: .*not a plain file"):
            action(pipe)
        assert pipe.is_fifo()

    @pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
    def test_no_permission(self, old_file: Path, action) -> None:
        old_file.chmod(0o444)
        with pytest.raises(InputError, match=r"out\.dat: cannot write: .*read-only"):
            action(old_file)
        old_file.parent.chmod(0o555)
        with pytest.raises(InputError, match=r"new\.dat: cannot write: no permission in the folder"):
            action(old_file.parent / "new.dat")
        old_file.parent.chmod(0o755)
        assert old_file.read_text() == "old\n"


def test_the_longest_name(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 237)
    check_writable(path)
    write(path)
    assert content(tmp_path) == [path.name]


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write: .*too long"):
        check_writable(tmp_path.joinpath(*["x" * 200] * 25))


# A child is killed while it writes, another one still writes; then the parent writes the same file.
LEFTOVERS = """
from pyfit_gpu.files import atomic_text
output = folder / "out.[d]at"
ready, told = os.pipe()

def write():
    with atomic_text(output) as file:
        file.write("old")
        file.flush()
        os.write(told, b"x")
        signal.pause()

pids = [child(write), child(write)]
os.read(ready, 1), os.read(ready, 1)
(folder / ".out.dat.12345678.partial").write_text("of another file")
os.kill(pids[0], signal.SIGKILL)
os.waitpid(pids[0], 0)
count = lambda: len([name for name in os.listdir(folder) if name.startswith(".")])
print(count())
with atomic_text(output) as file:
    print(count())
print(count())
os.kill(pids[1], signal.SIGKILL)
os.waitpid(pids[1], 0)
with atomic_text(output) as file:
    file.write("new")
print(sorted(os.listdir(folder)))
"""


def test_what_killed_writers_left_is_cleared(tmp_path: Path) -> None:
    """Not what another process is writing, nor what belongs to another file."""
    lines = run_script(LEFTOVERS, tmp_path).splitlines()
    assert lines == ["3", "3", "2", "['.out.dat.12345678.partial', 'out.[d]at']"]
    assert (tmp_path / "out.[d]at").read_text() == "new"


def test_distinct_by_any_name(old_file: Path) -> None:
    """Links of both kinds are names of one file."""
    hard, soft, missing = (old_file.with_name(name) for name in ("hard", "soft", "missing"))
    os.link(old_file, hard)
    soft.symlink_to(old_file)
    for name in (old_file, hard, soft):
        with pytest.raises(InputError, match=r"log: .* is the potential as well: expected another name"):
            check_distinct({"log": str(name)}, {"potential": str(old_file)})
    check_distinct({"log": str(missing), "none": ""}, {"potential": str(old_file), "other": str(hard)})
    with pytest.raises(InputError, match="is the loss log as well"):
        check_distinct({"loss log": str(missing), "log": f"{missing.parent}/./missing"}, {})


def test_anew_leaves_other_names_alone(old_file: Path) -> None:
    hard, soft = old_file.with_name("hard"), old_file.with_name("soft")
    os.link(old_file, hard)
    soft.symlink_to(old_file)
    with create_anew(soft) as file:
        file.write("new\n")
    assert soft.is_symlink()
    assert old_file.read_text() == "new\n"
    assert hard.read_text() == "old\n"


def test_a_log_that_another_job_writes(old_file: Path) -> None:
    """Another handle of this process stands for it."""
    with create_anew(old_file) as file:
        file.write("new\n")
        for again in (create_anew, open_locked):
            with pytest.raises(InputError, match=r"out\.dat: another job is writing it"):
                again(old_file)
    assert old_file.read_text() == "new\n"
    open_locked(old_file).close()


def test_limit_of_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised as far as the hard limit allows."""
    limits = [(256, 1024)]
    monkeypatch.setattr("resource.getrlimit", lambda which: limits[-1])
    monkeypatch.setattr("resource.setrlimit", lambda which, new: limits.append(new))
    monkeypatch.setattr("os.listdir", lambda folder: ["open"] * 50)
    allow_open_files(156)
    assert len(limits) == 1
    allow_open_files(800)
    assert limits[-1] == (900, 1024)
    with pytest.raises(
        InputError, match=r"open files: expected a limit .* of at least 1300 for 1200 outputs .* got 1024"
    ):
        allow_open_files(1200)


def test_checks_leave_nothing_behind(old_file: Path) -> None:
    check_writable(old_file)
    check_writable(old_file.parent / "new.dat")
    assert content(old_file.parent) == ["out.dat"]
    assert old_file.read_text() == "old\n"


def test_an_existing_output_is_in_the_way(old_file: Path) -> None:
    with pytest.raises(InputError, match=r"out\.dat: exists already \(overwrite=True"):
        check_output(old_file, overwrite=False)
    check_output(old_file, overwrite=True)
    check_output(old_file.parent / "new.dat", overwrite=False)


@pytest.fixture
def umask() -> Iterator[int]:
    """Not the usual 022, so that a mode that does not follow it shows."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def test_permissions_are_those_of_open(tmp_path: Path, umask: int) -> None:
    write(tmp_path / "atomic")
    (tmp_path / "plain").write_text("new\n")
    atomic, plain = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("atomic", "plain"))
    assert atomic == plain == 0o666 & ~umask
    assert os.umask(umask) == umask  # and the process's mask is as it was


FULL_DISK = """
import resource, sys
from pyfit_gpu.errors import InputError
from pyfit_gpu.files import atomic_text
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with atomic_text(sys.argv[1]) as file:
        for _ in range(int(sys.argv[2])):
            file.write("0123456789abcde\\n")
except InputError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("n_lines", [300, 100_000], ids=["at the end", "on the way"])
def test_full_disk(old_file: Path, n_lines: int) -> None:
    """A limit on file sizes stands for it: the first case fails in closing the file, the second in writing it."""
    pytest.importorskip("resource")
    command = [sys.executable, "-c", FULL_DISK, str(old_file), str(n_lines)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.returncode == 2, done.stderr
    assert re.search(r"out\.dat: cannot write: .*large", done.stdout)
    assert old_file.read_text() == "old\n"
    assert content(old_file.parent) == ["out.dat"]


def test_below_the_limit_the_file_is_written(old_file: Path) -> None:
    """So that the failures above are those of the limit."""
    pytest.importorskip("resource")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", FULL_DISK, str(old_file), "200"], timeout=60, env=environment, check=True)
    assert old_file.read_text() == "0123456789abcde\n" * 200


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss.txt", "loss.00000.txt"),
        ("set.train.h5", "set.00000.train.h5"),
        ("si.nn.dat", "si.00000.nn.dat"),
        ("backups", "backups.00000"),
    ],
)
def test_unique_path(tmp_path: Path, name: str, expected: str) -> None:
    folder = tmp_path / "with.dots"
    folder.mkdir()
    assert unique_path(folder / name) == folder / expected
    (folder / expected).write_text("")
    assert unique_path(folder / name) == folder / expected.replace("00000", "00001")
    (folder / expected.replace("00000", "00001")).mkdir()
    (folder / expected.replace("00000", "00003")).write_text("")
    assert unique_path(str(folder / name)) == folder / expected.replace("00000", "00002")


@pytest.mark.slow
def test_unique_path_has_a_last_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: True)
    with pytest.raises(InputError, match=r"loss\.txt: all numbers"):
        unique_path(tmp_path / "loss.txt")
