"""Opening files by what they are."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import overload

import torch

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.ase_files import looks_like_ase, read_ase_frames
from pyfit_gpu.formats.dft_text import read_dft_text
from pyfit_gpu.formats.nn_dat import load_potential
from pyfit_gpu.formats.run_file import load_run
from pyfit_gpu.formats.text_set import read_text_set
from pyfit_gpu.formats.training_set.reader import load_hdf5
from pyfit_gpu.formats.training_set.shards import load_manifest
from pyfit_gpu.models.potential import Potential, join_members
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame, StructureSummary

_log = logging.getLogger("pyfit_gpu")

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def read_head(path: str | os.PathLike[str], length: int = 4096) -> bytes:
    """The first bytes of a file.

    Raises:
        InputError: it cannot be read, or is empty.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            head = file.read(length)
    except OSError as error:
        raise InputError(f"{name}: cannot read: {error.strerror}") from error
    if not head:
        raise InputError(f"{name}: the file is empty")
    return head


@overload
def read_frames(path: str | os.PathLike[str], wanted: None = None) -> Iterator[Frame]: ...
@overload
def read_frames(
    path: str | os.PathLike[str], wanted: Callable[[int], bool] | None = None
) -> Iterator[Frame | StructureSummary]: ...
def read_frames(
    path: str | os.PathLike[str], wanted: Callable[[int], bool] | None = None
) -> Iterator[Frame | StructureSummary]:
    """Structures of one file, the classic text or anything that ASE reads, one by one in file order.

    Args:
        wanted: whether the structure with this number in the file (0, 1, ..) must be a frame; of the others come
            outlines where that is quicker.

    Raises:
        InputError: with file, place, what was expected and what was found.
    """
    head = read_head(path)
    if looks_like_ase(path):
        return read_ase_frames(path)
    if head.startswith(HDF5_MAGIC):
        raise InputError(f"{os.fspath(path)}: expected structures, found an HDF5 file")
    return read_dft_text(path) if wanted is None else read_dft_text(path, wanted)


def load_structures(
    *paths: str | os.PathLike[str], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
) -> Structures:
    """Structures of one or several files as one batch, padded to the largest.

    Raises:
        InputError: as `read_frames` and `Structures.from_frames`.
    """
    frames = [frame for path in paths for frame in read_frames(path)]
    return Structures.from_frames(frames, device=device, dtype=dtype)


def load_training_set(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    lazy: bool = False,
) -> TrainingSet:
    """Read a training set: HDF5, the manifest of a sharded one, or the classic text.

    Args:
        lazy: leave the features of HDF5 in their files until they are needed; a text set is read in full.

    Raises:
        InputError: not a training set, damaged, of another format version, or a shard missing (named).
    """
    head = read_head(path)
    if head.startswith(HDF5_MAGIC):
        loaded = load_hdf5(os.fspath(path), lazy=lazy)[0]
    elif head.lstrip().startswith(b"{"):
        loaded = load_manifest(Path(path), lazy=lazy)
    elif head.lstrip().startswith(b"#"):
        loaded = read_text_set(path)
    else:
        raise InputError(
            f"{os.fspath(path)}: expected a training set (HDF5, shard manifest or classic text), found another file"
        )
    return loaded.to(device, dtype)


def load_potentials(
    paths: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> Potential:
    """Read one or several files of potentials that differ in their weights alone, as members of one potential.

    Raises:
        InputError: as `load_potential`; no file; a file that does not go with the first, with the differing setting.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    members = [_read_potential(path) for path in paths]
    return join_members(members, [os.fspath(path) for path in paths]).to(device, dtype)


def _read_potential(path: str | os.PathLike[str]) -> Potential:
    """All members that one file holds; the only place that decides what files of potentials there are."""
    return _members_of_run(path) if read_head(path).startswith(HDF5_MAGIC) else load_potential(path)


def _members_of_run(path: str | os.PathLike[str]) -> Potential:
    """Those with a result: members that failed or gave up would spoil a mean."""
    run = load_run(path)
    statuses = [member["history"]["status"] for member in run.state.members]
    good = [k for k, status in enumerate(statuses) if status not in ("failed", "gave up")]
    if not good:
        raise InputError(f"{os.fspath(path)}: expected members with a result, all {len(statuses)} have failed")
    if len(good) < len(statuses):
        failed = len(statuses) - len(good)
        _log.warning("%s: %d of %d members failed and are left out", os.fspath(path), failed, len(statuses))
    return join_members([run.potential.member(k) for k in good])
