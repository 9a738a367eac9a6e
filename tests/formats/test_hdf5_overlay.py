"""Files as HDF5 sees them: what is written over what lies below, and signals that come at the wrong moment."""

from __future__ import annotations

import io
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pyfit_gpu.formats.hdf5_overlay import LIBVER, Overlay, reserve, write_at
from pyfit_gpu.signals import undisturbed


@pytest.mark.parametrize("n_below", [None, 0, 100])
@pytest.mark.parametrize("seed", range(20))
def test_equals_a_plain_file(n_below: int | None, seed: int, tmp_path: Path) -> None:
    """Any calls in any order give what they give on a file, and the file in the end."""
    draw = random.Random(seed)
    below, plain = tmp_path / "below", tmp_path / "plain"
    for path in (below, plain):
        path.write_bytes(bytes(k % 251 + 1 for k in range(n_below or 0)))
    with open(below, "r+b", buffering=0) as lower, open(plain, "r+b", buffering=0) as expected:
        overlay = Overlay(None if n_below is None else lower.fileno())
        for _ in range(60):
            call = draw.choice(["seek", "end", "write", "write", "read", "truncate"])
            if call == "seek":
                place = draw.randrange(150)
                assert overlay.seek(place) == expected.seek(place)
            elif call == "end":
                assert overlay.seek(-0, io.SEEK_END) == expected.seek(0, io.SEEK_END)
            elif call == "write":
                data = draw.randbytes(draw.randrange(1, 30))
                assert overlay.write(memoryview(data)) == expected.write(data)
            elif call == "truncate":
                size = draw.randrange(150)
                assert overlay.truncate(size) == expected.truncate(size)
            else:
                found, wanted = bytearray(b"x" * 40), bytearray(b"x" * 40)
                assert overlay.readinto(found) == expected.readinto(wanted)
                assert found == wanted
            assert overlay.tell() == expected.tell()
        assert below.read_bytes() == bytes(k % 251 + 1 for k in range(n_below or 0))  # until now
        overlay.write_to(lower.fileno())
    assert below.read_bytes() == plain.read_bytes()


def fill(file: h5py.File) -> None:
    file.create_dataset("a/numbers", data=np.arange(1000.0), track_times=False)
    file.attrs["text"] = np.bytes_(b"x" * 5000)


def test_hdf5_writes_the_same_file(tmp_path: Path) -> None:
    image, overlay = io.BytesIO(), Overlay()
    for target in (image, overlay):
        with h5py.File(target, "w", libver=LIBVER) as file:
            fill(file)
    (tmp_path / "set.h5").touch()
    with open(tmp_path / "set.h5", "r+b", buffering=0) as file:
        overlay.write_to(file.fileno())
    assert (tmp_path / "set.h5").read_bytes() == image.getvalue()


def test_hdf5_adds_to_a_file(tmp_path: Path) -> None:
    image, path = io.BytesIO(), tmp_path / "set.h5"
    with h5py.File(image, "w", libver=LIBVER) as file:
        fill(file)
    path.write_bytes(image.getvalue())
    with open(path, "r+b", buffering=0) as handle:
        overlay = Overlay(handle.fileno())
        with h5py.File(overlay, "r+", libver=LIBVER) as file:
            file.create_dataset("b", data=np.arange(7), track_times=False)
        assert path.read_bytes() == image.getvalue()
        overlay.write_to(handle.fileno())
    with h5py.File(image, "r+", libver=LIBVER) as file:
        file.create_dataset("b", data=np.arange(7), track_times=False)
    assert path.read_bytes() == image.getvalue()


def test_reserved_numbers_come_later(tmp_path: Path) -> None:
    """Gigabytes of them take no memory; what lies beside them is not touched."""
    overlay = Overlay()
    with h5py.File(overlay, "w", libver=LIBVER) as file:
        places = [reserve(file, name, (10, 3), "<f8") for name in "abc"]
        reserve(file, "huge", (10**9, 3), "<f8")
        assert reserve(file, "empty", (0, 3), "<f8") is None
    assert sum(len(data) for _, data in overlay._writes) < 10_000
    (tmp_path / "set.h5").touch()
    with open(tmp_path / "set.h5", "r+b", buffering=0) as handle:
        for k, place in enumerate(places):
            assert place is not None
            write_at(handle.fileno(), place, (np.arange(30.0) + 100 * k).tobytes())
        overlay.write_to(handle.fileno())
    with h5py.File(tmp_path / "set.h5") as file:
        for k, name in enumerate("abc"):
            np.testing.assert_array_equal(file[name], (np.arange(30.0) + 100 * k).reshape(10, 3))
        assert file["huge"].shape == (10**9, 3)


class Interrupting(Overlay):
    """A signal comes in the middle of the call with this number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    def write(self, data: bytes | memoryview) -> int:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(100):  # the interpreter looks for signals now and then
                pass
        return super().write(data)


def test_signals_wait_for_hdf5() -> None:
    """Inside of its calls an exception would come out as a SystemError."""

    def work(overlay: Overlay) -> Callable[[], None]:
        def make() -> None:
            with h5py.File(overlay, "w", libver=LIBVER) as file:
                fill(file)

        return make

    undisturbed(work(counted := Interrupting(0)))
    assert counted.left < -5
    for number in range(1, 1 - counted.left):
        with pytest.raises(KeyboardInterrupt):
            undisturbed(work(Interrupting(number)))


def test_errors_come_out() -> None:
    with pytest.raises(ZeroDivisionError):
        undisturbed(lambda: 1 / 0)
