"""Features of a training set that stay in their files until they are needed.

They are read with `preadv` into our own memory, not mapped: a batch system counts mapped pages as the process's memory,
and where a file system loses a file, a process that has mapped it is killed without a message.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_PIECE_BYTES = 2**22  # bytes of rows read at once
_HASHED_BYTES = 2**17  # of rows whose hashes are computed together: few enough to stay in the cache
_SPAN = 4  # rows of a file are read together with the gaps between them, if they are at least one in this many
_LONGEST_READ = 2**30  # bytes of one system call; Linux reads at most 2 GiB

ROW_DTYPE = np.dtype("<f8")


def reading_bytes(n_rows: int, n_features: int) -> int:
    """Count the temporary bytes that reading takes beside the rows: a piece, and the gaps between its rows."""
    return (1 + _SPAN) * min(_PIECE_BYTES, n_rows * n_features * ROW_DTYPE.itemsize)


@functools.cache
def _factors(width: int) -> NDArray[np.uint64]:
    """(width,) odd numbers, always the same ones."""
    return np.random.RandomState(1).randint(0, 2**64, width, dtype=np.uint64) | np.uint64(1)


def hash_rows(rows: NDArray[np.float64]) -> NDArray[np.uint64]:
    """(n,) one number for each row (n, n_features), which changes with any bit of it; several times as fast as SHA-256.

    It tells apart rows that chance made different, not those that someone made alike.
    """
    hashes = np.empty(len(rows), dtype=np.uint64)
    step = max(1, _HASHED_BYTES // (ROW_DTYPE.itemsize * max(1, rows.shape[1])))
    for first in range(0, len(rows), step):
        words = np.ascontiguousarray(rows[first : first + step]).view(np.uint64)
        # The upper bits, sign and exponent, go into the lower ones too: a factor leaves nothing of the uppermost but a
        # bit.
        mixed = words ^ (words >> np.uint64(32))
        hashes[first : first + step] = np.einsum("ij,j->i", mixed, _factors(rows.shape[1]))
    return hashes


class FeatureFile:
    """Rows of numbers, contiguous in an open file, which stays the same when another takes over its name."""

    def __init__(self, path: str | os.PathLike[str], offset: int, shape: tuple[int, int]) -> None:
        """Open the file.

        Args:
            offset: bytes before the first row.
            shape: rows and numbers in a row, float64.

        Raises:
            OSError: the file cannot be opened.
        """
        self.path = os.fspath(path)
        self.shape = shape
        self.dtype = ROW_DTYPE
        self._hashes: NDArray[np.uint64] | None = None
        self._offset = offset
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, first: int, out: np.ndarray) -> None:
        """Read rows from `first` on into `out` (n, n_features), contiguous.

        Raises:
            OSError: the rows cannot be read, or the file ends before.
        """
        target = out.reshape(-1).view(np.uint8).data
        offset = self._offset + first * self.shape[1] * ROW_DTYPE.itemsize
        done = 0
        while done < len(target):
            count = os.preadv(self._descriptor, [target[done : done + _LONGEST_READ]], offset + done)
            if not count:
                raise OSError(f"{self.path}: expected {len(target)} bytes of features at {offset}, the file ends")
            done += count

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield all rows (n, n_features) in order, a few at a time, in one buffer that the next piece overwrites.

        On the way their hashes are noted: a set is read once as a whole when it is loaded, and need not be again.
        """
        n_rows, width = self.shape
        step = _rows_at_once(width)
        buffer = np.empty((min(step, n_rows), width))
        hashes = np.empty(n_rows, dtype=np.uint64)
        for first in range(0, n_rows, step):
            piece = buffer[: min(step, n_rows - first)]
            self.read(first, piece)
            hashes[first : first + len(piece)] = hash_rows(piece)
            yield piece
        self._hashes = hashes

    def hashes(self) -> NDArray[np.uint64]:
        """(n,) `hash_rows` of all rows; those noted are given away, so that they take no memory in the long run."""
        if self._hashes is None:
            for _ in self.pieces():
                pass
        hashes, self._hashes = self._hashes, None
        assert hashes is not None
        return hashes

    def take(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Read the rows with these numbers (n,), in any order, into `out` (n, n_features), contiguous."""
        if not len(rows):
            return
        low, high = int(rows.min()), int(rows.max()) + 1
        if high - low == len(rows) and bool((np.diff(rows) == 1).all()):
            self.read(low, out)
        elif high - low <= _SPAN * len(rows):
            span = np.empty((high - low, self.shape[1]))
            self.read(low, span)
            np.take(span, rows - low, axis=0, out=out, mode="clip")
        else:
            # Far apart: each run of rows by itself. Structures are runs.
            starts = np.concatenate(([0], np.flatnonzero(np.diff(rows) != 1) + 1, [len(rows)])).tolist()
            for start, end in pairwise(starts):
                self.read(int(rows[start]), out[start:end])


class HeldRows:
    """Rows in memory, where a `FeatureRows` has others in files."""

    def __init__(self, features: Tensor) -> None:
        self._rows = features.to("cpu", torch.float64).numpy()
        self.shape = self._rows.shape

    def hashes(self) -> NDArray[np.uint64]:
        """(n,) `hash_rows` of all rows."""
        return hash_rows(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy the rows with these numbers (n,) into `out` (n, n_features)."""
        np.take(self._rows, rows, axis=0, out=out)


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """Rows of files, in place of a tensor in a `TrainingSet`. They are read when `tensor` is called."""

    files: tuple[FeatureFile | HeldRows, ...]
    rows: Tensor  # (n_atoms,) int64 on the host, rows of all files one after the other
    dtype: torch.dtype = torch.float64  # dtype of the result of `tensor`
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def of(cls, files: Sequence[FeatureFile | HeldRows]) -> FeatureRows:
        return cls(tuple(files), torch.arange(sum(len(file) for file in files)))

    @classmethod
    def concatenate(cls, parts: Sequence[FeatureRows]) -> FeatureRows:
        """Join rows, one part after the other, with the dtype and device of the first."""
        files: list[FeatureFile | HeldRows] = []
        rows, first = [], 0
        for part in parts:
            rows.append(part.rows + first)
            files += part.files
            first += sum(len(file) for file in part.files)
        return replace(parts[0], files=tuple(files), rows=torch.cat(rows))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.files[0].shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor) -> FeatureRows:
        return replace(self, rows=self.rows[rows.cpu()])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> FeatureRows:
        """Keep the rows, to be read to another device or as another dtype."""
        return replace(self, device=torch.device(device), dtype=dtype or self.dtype)

    def tensor(self) -> Tensor:
        """Read all rows now: (n_atoms, n_features), with a few MiB of temporary memory.

        Raises:
            OSError: the files cannot be read.
        """
        n_rows, width = self.shape
        found = torch.empty(n_rows, width, dtype=self.dtype, device=self.device)
        in_place = self.device.type == "cpu" and self.dtype == torch.float64
        step = _rows_at_once(width)
        for first in range(0, n_rows, step):
            which = slice(first, min(n_rows, first + step))
            if in_place:
                self._read(which, found[which].numpy())
            else:
                piece = np.empty((which.stop - first, width))
                self._read(which, piece)
                found[which] = torch.from_numpy(piece)
        return found

    def pieces(self) -> Iterator[Tensor]:
        """Yield all rows (n, n_features) in order, a few at a time.

        Raises:
            OSError: as `tensor`.
        """
        for rows in self.rows.split(_rows_at_once(self.shape[1])):
            yield replace(self, rows=rows).tensor()

    def hashes(self) -> NDArray[np.uint64]:
        """(n_atoms,) `hash_rows` of all rows."""
        return np.concatenate([file.hashes() for file in self.files])[self.rows.numpy()]

    def _read(self, which: slice, out: np.ndarray) -> None:
        wanted = self.rows[which].numpy()
        first = 0
        for file in self.files:
            here = (wanted >= first) & (wanted < first + len(file))
            if here.all():
                file.take(wanted - first, out)
                return
            if here.any():
                own = np.empty((int(here.sum()), out.shape[1]))
                file.take(wanted[here] - first, own)
                out[here] = own
            first += len(file)


def _rows_at_once(width: int) -> int:
    return max(1, _PIECE_BYTES // (ROW_DTYPE.itemsize * max(1, width)))


def read_features(features: Tensor | FeatureRows) -> Tensor:
    """Features (n_atoms, n_features) in memory, read from their files if necessary."""
    return features if isinstance(features, Tensor) else features.tensor()


def hash_features(features: Tensor | FeatureRows) -> NDArray[np.uint64]:
    """(n_atoms,) `hash_rows` of all features, wherever they are."""
    return (HeldRows(features) if isinstance(features, Tensor) else features).hashes()


def join_features(parts: Sequence[Tensor | FeatureRows]) -> Tensor | FeatureRows:
    """Join features, one part after the other; those in files stay there."""
    held = [part for part in parts if isinstance(part, Tensor)]
    if len(held) == len(parts):
        return torch.cat(held)
    rows = [FeatureRows.of([HeldRows(part)]) if isinstance(part, Tensor) else part for part in parts]
    lazy = next(part for part in parts if isinstance(part, FeatureRows))
    return FeatureRows.concatenate(rows).to(lazy.device, lazy.dtype)
