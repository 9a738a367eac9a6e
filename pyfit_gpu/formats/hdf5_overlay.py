"""HDF5 files that the HDF5 library itself never writes to disk: it does not survive a disk that fills up.

The library writes to an `Overlay` in memory, whose content is then written to the disk as plain bytes, where an error
is an ordinary OSError. Large arrays need not pass through it: `reserve` makes a place in the file for them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import TypeVar

import h5py
import numpy as np

# The newer file version has checksums over HDF5's own structures.
LIBVER = ("v110", "v110")

T = TypeVar("T")


class Overlay:
    """A file object for `h5py.File` that reads an existing file and keeps everything written in memory."""

    def __init__(self, below: int | None = None) -> None:
        """Lay an empty overlay over a file.

        Args:
            below: file descriptor, open for reading; None: an empty file.
        """
        self._below = below
        self._writes: list[tuple[int, bytes]] = []  # (offset, what), in the order of writing
        self._place = 0
        self._length_below = 0 if below is None else os.fstat(below).st_size
        self.size = self._length_below

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int) -> bytes:
        found = bytearray(size)
        return bytes(found[: self.readinto(found)])

    def readinto(self, out: bytearray | memoryview) -> int:
        start, end = self._place, min(self._place + len(out), self.size)
        target = memoryview(out)[: max(0, end - start)]
        target[:] = bytes(len(target))
        if self._below is not None and start < self._length_below:
            found = os.pread(self._below, min(end, self._length_below) - start, start)
            target[: len(found)] = found
        for offset, data in self._writes:
            first, last = max(start, offset), min(end, offset + len(data))
            if first < last:
                target[first - start : last - start] = data[first - offset : last - offset]
        self._place += len(target)
        return len(target)

    def write(self, data: bytes | memoryview) -> int:
        self._writes.append((self._place, bytes(data)))
        self._place += len(data)
        self.size = max(self.size, self._place)
        return len(data)

    def truncate(self, size: int) -> int:
        self._writes = [(offset, data[: size - offset]) for offset, data in self._writes if offset < size]
        self._length_below = min(self._length_below, size)
        self.size = size
        return size

    def flush(self) -> None:
        """Do nothing, as nothing is buffered."""

    def write_to(self, handle: int) -> None:
        """Copy everything written so far to a file that holds the file below and the reserved arrays.

        Raises:
            OSError: the file cannot be written.
        """
        if self._below is not None:
            os.ftruncate(handle, self._length_below)
        for offset, data in self._writes:
            write_at(handle, offset, data)
        os.ftruncate(handle, self.size)


def write_at(handle: int, offset: int, data: bytes | memoryview) -> None:
    """Write all of the data at an offset.

    Raises:
        OSError: the file cannot be written.
    """
    left = memoryview(data)
    while left:
        done = os.pwrite(handle, left, offset)
        left, offset = left[done:], offset + done


def reserve(file: h5py.File, name: str, shape: Sequence[int], dtype: str) -> int | None:
    """Make a contiguous dataset without content; returns the offset of its numbers in the file, None if it has none."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    dataset = file.create_dataset(name, shape=tuple(shape), dtype=np.dtype(dtype), track_times=False, dcpl=properties)
    return dataset.id.get_offset()
