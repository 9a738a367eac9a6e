"""Folders of DeePMD-kit: `type.raw` and sets of `.npy` files (docs/formats/programs.md)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.groups import name_group
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.programs.assembly import (
    Found,
    make_frame,
    numbers_of_symbols,
    numbers_of_types,
)
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.text_lines import is_count
from pyfit_gpu.structures.frames import Frame

Array = NDArray[np.generic]

_DEPTH = 4  # of systems in a folder: whoever gives a whole disk does not wait


def looks_like_deepmd(head: Head) -> bool:
    """Whether this is a folder that is a system or holds systems."""
    return head.is_folder and bool(_systems(Path(head.path)))


def read_deepmd(path: str, options: ReadOptions) -> Iterator[Frame]:
    """Read all systems of a folder in the order of their names, each with its sets in order (Å, eV, eV/Å).

    Raises:
        InputError: an array that is missing, damaged or of another size, types without elements, or no structures.
    """
    number = 0
    for system in _systems(Path(path)):
        for frame in _System(system, options).frames():
            number += 1
            yield frame
    if number == 0:
        raise InputError(f"{path}: no structures in it: expected folders set.* with coord.npy")


def _systems(folder: Path) -> list[Path]:
    """The folder if it is a system, else those in it, in the order of their names."""
    if (folder / "type.raw").is_file():
        return [folder]
    return sorted(found.parent for depth in range(1, _DEPTH + 1) for found in folder.glob("*/" * depth + "type.raw"))


class _System:
    """A folder of structures with as many atoms each."""

    def __init__(self, folder: Path, options: ReadOptions) -> None:
        self.folder = folder
        self.group = name_group(str(folder))
        self.is_periodic = not (folder / "nopbc").exists()
        self.types = _whole_numbers(folder / "type.raw")
        names = options.elements or tuple(_words(folder / "type_map.raw"))
        self.elements = numbers_of_symbols(names, str(folder / "type_map.raw")) if names else None

    def frames(self) -> Iterator[Frame]:
        for part in sorted(self.folder.glob("set.*")):
            yield from self._frames_of(part)

    def _frames_of(self, part: Path) -> Iterator[Frame]:
        arrays = _Arrays(part, len(self.types))
        if arrays.box is None and self.is_periodic:
            raise InputError(f"{part}: expected box.npy, or a file nopbc beside type.raw, found neither")
        for row in range(arrays.count):
            source = f"{self.folder}, {part.name}, structure {row + 1}"
            types = self.types if arrays.types is None else arrays.types[row]
            kept = types >= 0  # -1: no atom but padding, among mixed types
            force = _row(arrays.force, row)
            yield make_frame(
                Found(
                    source=source,
                    group=self.group,
                    positions=arrays.coord[row][kept],
                    atomic_numbers=numbers_of_types(types[kept], self.elements, source, "type_map.raw is missing"),
                    cell=_row(arrays.box, row) if self.is_periodic else None,
                    energy=_row(arrays.energy, row),
                    forces=None if force is None else force[kept],
                    virial=_row(arrays.virial, row) if self.is_periodic else None,
                    chosen=("elements",),
                )
            )


class _Arrays:
    """The arrays of one set, whose sizes fit one another; None: there is no such file."""

    def __init__(self, part: Path, n_atoms: int) -> None:
        coord = _load(part / "coord.npy")
        if coord is None or coord.ndim == 0 or len(coord) == 0:
            raise InputError(f"{part / 'coord.npy'}: expected coordinates, found none")
        self.count = len(coord)
        self.coord = self._shaped(part / "coord.npy", coord, n_atoms, 3)
        self.box = self._shaped(part / "box.npy", _load(part / "box.npy"), 3, 3)
        self.energy = self._shaped(part / "energy.npy", _load(part / "energy.npy"))
        self.force = self._shaped(part / "force.npy", _load(part / "force.npy"), n_atoms, 3)
        self.virial = self._shaped(part / "virial.npy", _load(part / "virial.npy"), 3, 3)
        self.types = self._shaped(part / "real_atom_types.npy", _load(part / "real_atom_types.npy"), n_atoms)

    def _shaped(self, path: Path, loaded: Array | None, *shape: int) -> Any:
        if loaded is None:
            return None
        if loaded.dtype.kind not in "fiu" or loaded.size != math.prod((self.count, *shape)):
            expected = " x ".join(map(str, (self.count, *shape)))
            raise InputError(f"{path}: expected {expected} numbers, found {loaded.dtype} {loaded.shape}")
        return loaded.reshape(self.count, *shape)


def _row(values: Any, row: int) -> Any:
    return None if values is None else values[row]


def _load(path: Path) -> Array | None:
    """An array that is not read before its size is known; None if there is no such file."""
    if not path.is_file():
        return None
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except MemoryError:
        raise
    except Exception as error:  # a damaged header raises anything, from SyntaxError to TokenError
        raise InputError(f"{path}: expected an array of NumPy: {error}") from error


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split() if path.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read: {error}") from error


def _whole_numbers(path: Path) -> NDArray[np.int64]:
    words = _words(path)
    if not words or not all(map(is_count, words)):
        raise InputError(f"{path}: expected types 0, 1, .. of atoms, found {' '.join(words)[:60]!r}")
    return np.array(words, dtype=np.int64)
