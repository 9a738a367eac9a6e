"""Writing training sets as HDF5 while their structures come in, in memory that does not grow with the set.

The format is specified in docs/formats/training_set.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from pyfit_gpu._version import __version__
from pyfit_gpu.datasets.feature_rows import FeatureRows
from pyfit_gpu.datasets.splits import Split
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.files import atomic_path
from pyfit_gpu.formats.hdf5_overlay import LIBVER, Overlay, reserve, write_at
from pyfit_gpu.formats.nn_dat_header import header_lines
from pyfit_gpu.formats.training_set import splits as stored_splits
from pyfit_gpu.signals import undisturbed

FORMAT_NAME = "pyfit-gpu training set"
FORMAT_VERSION = 1

# dataset: (field of TrainingSet, dtype on disk)
DATASETS = {
    "atoms/features": ("features", "<f8"),
    "atoms/species": ("species", "<i4"),
    "atoms/positions": ("positions", "<f8"),
    "atoms/forces": ("forces", "<f8"),
    "structures/n_atoms": ("sizes", "<i8"),
    "structures/energy": ("energy", "<f8"),
    "structures/volume": ("volume", "<f8"),
    "structures/weight": ("weight", "<f8"),
    "structures/cell": ("cell", "<f8"),
    "structures/pbc": ("pbc", "|u1"),
    "structures/stress": ("stress", "<f8"),
}
GROUP_INDEX = "structures/group"
GROUP_DTYPE = "<i4"
HASHED_ATTRIBUTES = ("settings", "energy_shift", "groups", "potential_header")

_PIECE_BYTES = 2**22  # read at once for the hash


class Stored(Protocol):
    """An array that stays in its file."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def pieces(self) -> Iterator[np.ndarray]: ...


def row_shapes(n_features: int) -> dict[str, tuple[int, ...]]:
    """Shape of the numbers of one atom or structure, by field; fields of one number are left out."""
    vectors = {"positions": (3,), "forces": (3,), "cell": (3, 3), "pbc": (3,), "stress": (6,)}
    return {"features": (n_features,), **vectors}


def hash_content(attributes: Mapping[str, str], arrays: Mapping[str, np.ndarray | Stored]) -> str:
    """SHA-256 over the attributes that change numbers, then name, shape and bytes of every dataset by name."""
    digest = hashlib.sha256()
    for name in HASHED_ATTRIBUTES:
        digest.update(attributes[name].encode())
        digest.update(b"\0")
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}{array.shape}".encode())
        for piece in ([array] if array.size else []) if isinstance(array, np.ndarray) else array.pieces():
            digest.update(piece.view(np.uint8).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Region:
    """Place of a dataset's numbers in the file that is being written."""

    handle: int
    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:])) * np.dtype(self.dtype).itemsize

    def write(self, first: int, rows: np.ndarray) -> None:
        """Write rows from `first` on."""
        if len(rows):
            found = np.ascontiguousarray(rows, dtype=self.dtype)
            write_at(self.handle, self.offset + first * self.row_bytes, found.reshape(-1).view(np.uint8).data)

    def pieces(self) -> Iterator[NDArray[np.uint8]]:
        """Yield all bytes in order, in one buffer that the next piece overwrites."""
        buffer = np.empty(_PIECE_BYTES, dtype=np.uint8)
        done, size = 0, self.shape[0] * self.row_bytes
        while done < size:
            count = os.preadv(self.handle, [buffer[: size - done].data], self.offset + done)
            if not count:
                raise OSError(f"expected {size} bytes at {self.offset}, the file ends after {done}")
            yield buffer[:count]
            done += count


class SetWriter:
    """Fills a file of known size with structures, one after the other; made by `writing_set`."""

    def __init__(self, handle: int, n_structures: int, n_atoms: int, n_features: int) -> None:
        self._handle = handle
        self._total = (n_structures, n_atoms)
        self._done = (0, 0)
        self._groups: list[str] = []
        self._attributes: dict[str, str] = {}
        self._regions: dict[str, _Region] = {}
        self._overlay = Overlay()
        self._file = undisturbed(lambda: self._create(n_features))
        os.ftruncate(handle, self._overlay.size)  # a limit on the size of files shows before any work

    @property
    def content_hash(self) -> str:
        """Content hash of the complete file."""
        return self._attributes["content_hash"]

    def append(self, part: TrainingSet) -> None:
        """Write the next structures. Settings and energy shift of the file are those of the first part.

        Raises:
            OSError: the file cannot be written.
        """
        total = self._done[0] + len(part), self._done[1] + part.n_atoms
        if total[0] > self._total[0] or total[1] > self._total[1]:
            raise ValueError(f"expected at most (structures, atoms) {self._total}, got {total}")
        self._attributes = self._attributes or _attributes(part)
        self._groups += part.groups
        for dataset, (field, _) in DATASETS.items():
            first = self._done[dataset.startswith("atoms/")]
            values = getattr(part, field)
            for piece in values.pieces() if isinstance(values, FeatureRows) else [values]:
                self._regions[dataset].write(first, piece.cpu().numpy())
                first += len(piece)
        self._done = total

    def finish(self, splits: Mapping[str, Split], shard: Mapping[str, Any] | None) -> None:
        """Write everything that is known only at the end: names of groups, splits, the hash.

        Raises:
            OSError: the file cannot be written or read.
        """
        if self._done != self._total:
            raise ValueError(f"expected (structures, atoms) {self._total}, got {self._done}")
        names = sorted(set(self._groups))
        number = {name: k for k, name in enumerate(names)}
        self._regions[GROUP_INDEX].write(0, np.array([number[group] for group in self._groups]))
        self._attributes["groups"] = json.dumps(names)
        self._attributes["content_hash"] = hash_content(self._attributes, self._regions)
        undisturbed(lambda: self._complete(splits, shard))
        self._overlay.write_to(self._handle)

    def close(self) -> None:
        undisturbed(self._file.close)

    def _create(self, n_features: int) -> h5py.File:
        file = h5py.File(self._overlay, "w", libver=LIBVER)
        shapes = row_shapes(n_features)
        for dataset, (field, dtype) in {**DATASETS, GROUP_INDEX: ("group", GROUP_DTYPE)}.items():
            shape = (self._total[dataset.startswith("atoms/")], *shapes.get(field, ()))
            offset = reserve(file, dataset, shape, dtype)
            self._regions[dataset] = _Region(self._handle, offset or 0, shape, dtype)
        file.flush()
        return file

    def _complete(self, splits: Mapping[str, Split], shard: Mapping[str, Any] | None) -> None:
        for name, text in self._attributes.items():
            # Fixed-length strings stay out of HDF5's heap, which has no checksums.
            self._file.attrs[name] = np.bytes_(text.encode())
        self._file.attrs["version"] = FORMAT_VERSION
        if shard is not None:
            self._file.attrs["shard"] = np.bytes_(json.dumps(shard).encode())
        for name, split in sorted(splits.items()):
            stored_splits.write_hdf5(self._file, name, split)
        self._file.close()


def _attributes(part: TrainingSet) -> dict[str, str]:
    """Attributes that do not depend on the parts that follow."""
    return {
        "format": FORMAT_NAME,
        "settings": json.dumps({**part.descriptor.identity(), "shift": part.descriptor.shift}, sort_keys=True),
        "energy_shift": json.dumps(part.energy_shift),
        "potential_header": "\n".join(header_lines(part.potential)),
        "created_by": f"pyfit-gpu {__version__}",
    }


@contextlib.contextmanager
def writing_set(
    path: str | os.PathLike[str],
    n_structures: int,
    n_atoms: int,
    n_features: int,
    *,
    splits: Mapping[str, Split] | None = None,
    shard: Mapping[str, Any] | None = None,
) -> Iterator[SetWriter]:
    """Open a training set's file to be filled inside the block, after which it has its name and a hash.

    It is written under a temporary name, synced and renamed: a killed process leaves the old file or none.

    Args:
        splits: checked already.
        shard: description of the shard that the file is.

    Raises:
        InputError: the file cannot be written.
        ValueError: other numbers of structures or atoms than announced.
    """
    with atomic_path(path) as temporary, open(temporary, "r+b", buffering=0) as file:
        writer = SetWriter(file.fileno(), n_structures, n_atoms, n_features)
        try:
            yield writer
            writer.finish(splits or {}, shard)
        finally:
            writer.close()
