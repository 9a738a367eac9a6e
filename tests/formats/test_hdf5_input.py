"""HDF5 files from outside: refused before anything is read, if they point elsewhere or declare more than they hold."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.hdf5_input import open_hdf5

NUMBERS = np.arange(500.0)


def read(path: Path, name: str = "group/numbers") -> np.ndarray:
    with open_hdf5(path, "list of numbers") as source:
        return source.read(name)


def refuse(path: Path, match: str) -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match=match) as raised:
        read(path)
    assert str(raised.value).startswith(str(path))
    assert time.monotonic() - started < 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["group/numbers"] = NUMBERS
        file["more"] = np.random.default_rng(0).normal(size=2000)
    return tmp_path / "file.h5"


@pytest.mark.parametrize(
    "storage", [{}, {"chunks": (100,)}, {"compression": "gzip"}, {"shuffle": True, "fletcher32": True}], ids=str
)
def test_storage_that_is_read(path: Path, storage: dict[str, object]) -> None:
    with h5py.File(path, "r+") as file:
        del file["group/numbers"]
        file.create_dataset("group/numbers", data=NUMBERS, **storage)
    assert read(path).tolist() == NUMBERS.tolist()


def linked(kind: str) -> Callable[[h5py.Group, Path], None]:
    def change(group: h5py.Group, folder: Path) -> None:
        with h5py.File(folder / "other.h5", "w") as other:
            other["numbers"] = NUMBERS
        if kind == "external link":
            group["numbers"] = h5py.ExternalLink("other.h5", "/numbers")
        elif kind == "soft link":
            group["numbers"] = h5py.SoftLink("/more")
        elif kind == "external storage":
            os.mkfifo(folder / "pipe")  # reading would wait for an end
            pipe = os.fspath(folder / "pipe")
            group.create_dataset("numbers", shape=(500,), dtype="<f8", external=[(pipe, 0, 4000)])
        else:
            layout = h5py.VirtualLayout((500,), "<f8")
            layout[:] = h5py.VirtualSource(folder / "other.h5", "numbers", shape=(500,))
            group.create_virtual_dataset("numbers", layout)

    return change


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("external link", "found a link to another place"),
        ("soft link", "found a link to another place"),
        ("external storage", "found them in other files"),
        ("virtual", "found them in other files"),
    ],
)
def test_other_files(path: Path, kind: str, match: str) -> None:
    with h5py.File(path, "r+") as file:
        del file["group/numbers"]
        linked(kind)(file["group"], path.parent)
    refuse(path, f"group/numbers: .*{match}")


def test_groups_are_not_reached_by_links(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.move("group", "elsewhere")
        file["group"] = h5py.SoftLink("/elsewhere")
    refuse(path, "found a link to another place")


@pytest.mark.parametrize(
    ("declared", "match"),
    [
        ({"shape": (10**9,), "dtype": "<f8", "chunks": (100,)}, "does not fit a file of"),
        ({"shape": (10**9,), "dtype": "<f8"}, "does not fit a file of"),
        ({"shape": (2**31, 2**31), "dtype": "|u1", "chunks": (9, 9)}, "does not fit a file of"),
        ({"shape": (9,), "dtype": "<f8", "maxshape": (None,), "chunks": (2**24,)}, "in chunks of"),
        ({"data": np.zeros(30, dtype=[("x", "<f8")])}, "expected numbers"),
        ({"data": ["a", "b"]}, "expected numbers"),
        ({"data": h5py.Empty("f8")}, "expected numbers"),
        ({"data": NUMBERS, "compression": "lzf"}, "no filters but deflate"),
    ],
    ids=["chunks", "contiguous", "bytes", "large chunks", "records", "texts", "nothing", "another filter"],
)
def test_declarations(path: Path, declared: dict[str, object], match: str) -> None:
    with h5py.File(path, "r+") as file:
        del file["group/numbers"]
        file.create_dataset("group/numbers", **declared)
    refuse(path, f"group/numbers: .*{match}")


def test_all_datasets_together(path: Path) -> None:
    """Each fits the file, all of them do not."""
    with h5py.File(path, "r+") as file:
        for number in range(3):
            file.create_dataset(f"empty{number}", shape=(path.stat().st_size,), dtype="|u1", chunks=(100,))
    with open_hdf5(path, "list of numbers") as source:
        assert not source.read("empty0").any()
        source.read("empty1")
        with pytest.raises(InputError, match=r"empty2: .*does not fit"):
            source.read("empty2")


def test_chunks_that_grow_when_they_are_decompressed(path: Path) -> None:
    """HDF5 would take as much memory as the compressed bytes give, whatever the size of the chunk."""
    with h5py.File(path, "r+") as file:
        del file["group/numbers"]
        made = file.create_dataset("group/numbers", shape=(100,), dtype="<f8", chunks=(100,), compression="gzip")
        made.id.write_direct_chunk((0,), zlib.compress(bytes(10**7)))
    refuse(path, "a chunk is larger than 800 bytes")


def test_attributes(path: Path) -> None:
    values = {"text": "Å", "fixed": np.bytes_("Å".encode()), "whole": np.int64(3), "number": 0.5}
    others = {"list": [1, 2], "empty": h5py.Empty("f8"), "flag": True, "texts": ["a"]}
    with h5py.File(path, "r+") as file:
        for name, value in {**values, **others}.items():
            file["group"].attrs[name] = value
    with open_hdf5(path, "list of numbers") as source:
        found = {name: source.scalar(name, "group") for name in [*values, *others, "missing"]}
    assert found == {"text": "Å", "fixed": "Å", "whole": 3, "number": 0.5} | dict.fromkeys([*others, "missing"])


def test_not_there(path: Path) -> None:
    for name in ("numbers", "group/other", "group/numbers/inside", "more/inside"):
        with pytest.raises(InputError, match=f"{name}: expected an object of the file, found nothing"):
            read(path, name)
    with pytest.raises(InputError, match="group: expected a dataset, found a group"):
        read(path, "group")


def test_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refuse(tmp_path / "pipe", "expected a file, found a pipe")
    refuse(tmp_path, "directory")
    refuse(tmp_path / "nowhere", "No such file")
    (tmp_path / "text").write_text("no HDF5\n")
    refuse(tmp_path / "text", "cannot read the list of numbers")
    with pytest.raises(InputError, match="expected a file, found a device"):
        read(Path("/dev/null"))
