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

from pyfit_gpu.errors import InputError
from pyfit_gpu.files import atomic_path, atomic_text, check_output, check_writable, unique_path

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
