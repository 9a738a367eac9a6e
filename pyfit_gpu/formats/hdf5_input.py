"""HDF5 files from outside: links, storage, types and sizes are checked before anything is read.

HDF5 can point into other files and devices, and can declare arrays of any size in a few bytes. Here only numbers count
that lie in the file itself, and all that is read takes at most `ROOM` times as much memory as the file is large.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator

import h5py
import numpy as np

from pyfit_gpu.errors import InputError
from pyfit_gpu.files import file_size

ROOM = 2

_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_CHECKSUM_BYTES = 4  # which a filter adds to a chunk


class Hdf5Input:
    """An open HDF5 file; made by `open_hdf5`, which puts the file's name before the messages."""

    def __init__(self, file: h5py.File, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._file = file
        self._left = ROOM * n_bytes  # bytes that may still be read

    def names(self, group: str) -> list[str]:
        """Names in a group.

        Raises:
            InputError: there is no such group.
        """
        found = self._find(group)
        if not isinstance(found, h5py.Group):
            raise InputError(f"{group}: expected a group, found {_described(found)}")
        return list(found)

    def holds(self, path: str) -> bool:
        """Whether there is an object of this name, whatever it is."""
        return path in self._file

    def scalar(self, name: str, group: str = "/") -> str | int | float | None:
        """A group's attribute, a text or a number; None if there is none of this name, or it is something else."""
        attributes = self._find(group).attrs
        if name not in attributes:
            return None
        found = attributes.get_id(name)
        if found.shape != () or found.dtype.itemsize > self.n_bytes:
            return None
        value = attributes[name]
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, np.integer | np.floating):
            return value.item()
        return value if isinstance(value, str) else None

    def dataset(self, path: str) -> h5py.Dataset:
        """A dataset of numbers that may be read: it lies in the file, and there is room for it.

        Raises:
            InputError: it is missing or something else, or declares more than the file can hold.
        """
        found = self._find(path)
        if not isinstance(found, h5py.Dataset):
            raise InputError(f"{path}: expected a dataset, found {_described(found)}")
        self._check_storage(path, found)  # first: the shape of a virtual dataset may be asked of other files
        if found.dtype.kind not in "biuf" or found.shape is None:
            raise InputError(f"{path}: expected numbers, found {found.dtype}")
        self._left -= found.nbytes
        if self._left < 0:
            raise InputError(f"{path}: {found.shape} {found.dtype.str} does not fit a file of {self.n_bytes} "
                             f"bytes, of whose content at most {ROOM} times as many are read")  # fmt: skip
        if found.chunks is not None:
            _check_chunks(path, found)
        return found

    def read(self, path: str) -> np.ndarray:
        """Read a dataset, see `dataset`."""
        return np.asarray(self.dataset(path)[...])

    def _find(self, path: str) -> h5py.Group | h5py.Dataset | h5py.Datatype:
        """The object of this name, reached by hard links alone: others lead out of the file."""
        place = self._file
        for name in filter(None, path.split("/")):
            link = place.get(name, getlink=True) if isinstance(place, h5py.Group) else None
            if link is None:
                raise InputError(f"{path}: expected an object of the file, found nothing")
            if not isinstance(link, h5py.HardLink):
                raise InputError(f"{path}: expected an object of the file, found a link to another place")
            place = place[name]
        return place

    def _check_storage(self, path: str, dataset: h5py.Dataset) -> None:
        stored = dataset.id.get_create_plist()
        if stored.get_layout() == h5py.h5d.VIRTUAL or stored.get_external_count():
            raise InputError(f"{path}: expected numbers in the file itself, found them in other files")
        filters = {stored.get_filter(k)[0] for k in range(stored.get_nfilters())}
        if not filters <= _FILTERS:
            raise InputError(f"{path}: expected no filters but deflate, shuffle and fletcher32 (h5repack -f NONE)")


def _described(found: object) -> str:
    return "a group" if isinstance(found, h5py.Group) else "a dataset" if isinstance(found, h5py.Dataset) else "a type"


def _check_chunks(path: str, dataset: h5py.Dataset) -> None:
    """Refuse chunks that become larger than they say when they are decompressed, or are larger than the dataset."""
    n_bytes = int(np.prod(dataset.chunks, dtype=object)) * dataset.dtype.itemsize
    if any(chunk > size for chunk, size in zip(dataset.chunks, dataset.shape, strict=True)) and n_bytes > 2**20:
        raise InputError(f"{path}: {dataset.shape} in chunks of {dataset.chunks}")
    if dataset.compression != "gzip":
        return
    for number in range(dataset.id.get_num_chunks()):
        _, raw = dataset.id.read_direct_chunk(dataset.id.get_chunk_info(number).chunk_offset)
        with contextlib.suppress(zlib.error):  # HDF5 will find the fault
            if len(zlib.decompressobj().decompress(raw, n_bytes + 64)) > n_bytes + _CHECKSUM_BYTES:
                raise InputError(f"{path}: a chunk is larger than {n_bytes} bytes")


@contextlib.contextmanager
def open_hdf5(path: str | os.PathLike[str], kind: str) -> Iterator[Hdf5Input]:
    """Open a file for reading. Every error inside the block that comes of its content becomes an `InputError`.

    Args:
        kind: kind of file, for messages.

    Raises:
        InputError: no file, no HDF5, or damaged.
    """
    name = os.fspath(path)
    n_bytes = file_size(path)
    try:
        # No lock: a file under its final name never changes, and shared file systems often cannot lock.
        with h5py.File(name, "r", locking=False) as file:
            yield Hdf5Input(file, n_bytes)
    except InputError as error:
        raise error.at(name) from error
    except (OSError, LookupError, RuntimeError, TypeError, ValueError, AttributeError, OverflowError) as error:
        # Whatever HDF5 and NumPy say to a file that is not as specified.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{name}: cannot read the {kind}, it may be damaged: {reason}") from error
