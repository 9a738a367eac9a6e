"""Opening files, whose kinds are told by their content."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import overload

import torch

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.kinds import potential_kind, structures_kind, training_set_kind
from pyfit_gpu.formats.read_options import ReadOptions, Wanted
from pyfit_gpu.formats.read_report import ReadReport
from pyfit_gpu.formats.uncertainty_file import load_uncertainty, uncertainty_path
from pyfit_gpu.log import log
from pyfit_gpu.models.potential import Potential, join_members
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame, StructureSummary


@overload
def read_frames(
    path: str | os.PathLike[str], wanted: None = None, *, options: ReadOptions | None = None
) -> Iterator[Frame]: ...
@overload
def read_frames(
    path: str | os.PathLike[str], wanted: Wanted | None = None, *, options: ReadOptions | None = None
) -> Iterator[Frame | StructureSummary]: ...
def read_frames(
    path: str | os.PathLike[str], wanted: Wanted | None = None, *, options: ReadOptions | None = None
) -> Iterator[Frame | StructureSummary]:
    """Read structures from one file, of any format that docs/formats/README.md lists, one by one in file order.

    Args:
        wanted: whether the structure with this number in the file (0, 1, ..) must be a frame; the others may come
            as `StructureSummary`, where that is quicker.
        options: names of labels, units, and what else the file leaves open.

    Raises:
        InputError: with file, place, what was expected and what was found.
    """
    return structures_kind(path).read(os.fspath(path), options or ReadOptions(), wanted)


def read_reported(paths: Sequence[str], report: ReadReport, options: ReadOptions | None = None) -> Iterator[Frame]:
    """Read all structures of some files one by one, and add them to a report.

    Raises:
        InputError: as `read_frames`.
    """
    for path in paths:
        for number, frame in enumerate(report.watch(path, read_frames(path, options=options)), start=1):
            report.doubt(path, number, frame)
            yield frame


def load_structures(
    *paths: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    options: ReadOptions | None = None,
) -> Structures:
    """Read structures from one or several files as one batch, padded to the largest.

    Args:
        options: as for `read_frames`.

    Raises:
        InputError: as `read_frames` and `Structures.from_frames`.
    """
    report = ReadReport(options)
    frames = list(read_reported([os.fspath(path) for path in paths], report, options))
    report.log_labels(training=False)
    report.log_doubts()
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
    loaded = training_set_kind(path).read(os.fspath(path), lazy)
    return loaded.to(device, dtype)


def load_potentials(
    paths: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> Potential:
    """Read one or several files of potentials that differ only in their parameters, as members of one potential.

    Raises:
        InputError: as `load_potential`; no file; a file that does not go with the first, with the differing setting.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    members = [potential_kind(path).read(os.fspath(path)) for path in paths]
    return join_members(members, [os.fspath(path) for path in paths]).to(device, dtype)


def load_uncertainty_of(path: str | os.PathLike[str], potential: Potential) -> Uncertainty:
    """Read the uncertainty file of a potential, or of one of its members, which have the same grades.

    Raises:
        InputError: as `load_uncertainty` and `Uncertainty.check`.
    """
    return load_uncertainty(path).of_potential(potential, os.fspath(path))


def find_uncertainty(
    paths: Sequence[str | os.PathLike[str]] | str | os.PathLike[str], potential: Potential
) -> Uncertainty | None:
    """Read the uncertainty file beside the first file of a potential, if there is one.

    One that cannot be used, because it was left there by an earlier potential, is named in a warning.

    Args:
        paths: of the potential.
        potential: in the precision of its files.
    """
    first = paths if isinstance(paths, str | os.PathLike) else paths[0]
    beside = uncertainty_path(first)
    if not beside.exists():
        return None
    try:
        found = load_uncertainty_of(beside, potential)
    except InputError as error:
        log.warning("no uncertainties: %s", error)
        return None
    log.info("uncertainties: %s", beside)
    return found
