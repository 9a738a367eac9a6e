"""Splits under names: drawn once, stored in the training set, used by every member and job."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py

from pyfit_gpu.datasets.splits import Split
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError, Remedy, shortened
from pyfit_gpu.files import atomic_path
from pyfit_gpu.formats.hdf5_input import open_hdf5
from pyfit_gpu.formats.hdf5_overlay import LIBVER, Overlay
from pyfit_gpu.formats.kinds import HDF5_SET, MANIFEST, TrainingSetKind, training_set_kind
from pyfit_gpu.formats.training_set import splits as stored_splits
from pyfit_gpu.formats.training_set.reader import naming
from pyfit_gpu.formats.training_set.shards import locked_manifest, read_manifest, write_manifest
from pyfit_gpu.locks import exclusive
from pyfit_gpu.signals import undisturbed


def _holder(path: str | os.PathLike[str]) -> TrainingSetKind:
    kind = training_set_kind(path)
    if not kind.holds_splits:
        name = os.fspath(path)
        raise InputError(
            f"{name}: a text training set cannot hold splits: expected the manifest of shards, or HDF5",
            where=name,
            remedy=Remedy.CONVERT,
        )
    return kind


def save_split(path: str | os.PathLike[str], name: str, split: Split) -> None:
    """Store a split in a training set; the file is replaced by a complete one, under a lock.

    Args:
        path: HDF5 or manifest of shards.
        name: letters, digits and _ . + -
        split: of the whole set, as `TrainingSet.plan_split` gives it.

    Raises:
        InputError: a text set, another split under this name, a split that does not fit this set, a fault in writing.
    """
    stored_splits.check_name(name)
    kind = _holder(path)
    with _locked(path, kind):
        whole = kind.read(os.fspath(path), False)
        split = _checked(split, whole, path, name)
        if name in whole.splits:
            if whole.splits[name] != split:
                raise InputError(f"{os.fspath(path)}: split {name!r}: exists already: expected another name")
            return
        _write(path, kind, name, split)


def named_split(
    training_set: TrainingSet,
    path: str | os.PathLike[str],
    name: str,
    *,
    train_fraction: float | None = None,
    seed: int | None = None,
    test_groups: Sequence[str] | None = None,
) -> Split:
    """Load the split of this name, or draw one and store it.

    If several processes ask at the same time, one draws, and all use the split that it stored.

    Args:
        training_set: the content of `path`.
        path: HDF5 or manifest of shards.
        name: letters, digits and _ . + -
        train_fraction, seed, test_groups: as in `TrainingSet.plan_split`; None: the stored split's, or the default of
            a new one. A seed of 0 (any) fits every stored split.

    Raises:
        InputError: a text set; a stored split that was drawn with another argument than is given, for fewer
            structures than the set has, or is damaged; as `plan_split`; the file cannot be locked or written.
    """
    stored_splits.check_name(name)
    arguments: dict[str, Any] = {"train_fraction": train_fraction, "seed": seed, "test_groups": test_groups}
    given = {key: value for key, value in arguments.items() if value is not None}
    kind = _holder(path)
    # Look without the lock first: a read-only set may hold the split already.
    found = _read(path, kind).get(name)
    if found is None:
        with _locked(path, kind):
            found = _read(path, kind).get(name)
            if found is None:
                return _draw(training_set, path, kind, name, given)
    _require_same(found, given, path, name)
    return _checked(found, training_set, path, name)


def _draw(
    training_set: TrainingSet, path: str | os.PathLike[str], kind: TrainingSetKind, name: str, given: Mapping[str, Any]
) -> Split:
    split = training_set.plan_split(**given)
    held = _count(path, kind)
    if held != len(training_set):
        raise InputError(
            f"{os.fspath(path)}: split {name!r}: expected the {len(training_set)} structures that were read, found "
            f"{held}: the set was changed meanwhile, start again"
        )
    _write(path, kind, name, split)
    return split


def _require_same(found: Split, given: Mapping[str, Any], path: str | os.PathLike[str], name: str) -> None:
    stored = {"train_fraction": found.train_fraction, "seed": found.seed, "test_groups": found.test_groups}
    for key, value in given.items():
        if key == "test_groups":
            same = set(value) == set(found.test_groups)
        else:
            same = value == stored[key] or (key, value) == ("seed", 0)
        if not same:
            shown = [shortened(v) or "none" if isinstance(v, list | tuple) else v for v in (stored[key], value)]
            raise InputError(
                f"{os.fspath(path)}: split {name!r}: {key}: expected {shown[0]} (the stored split's), got {shown[1]}: "
                "leave it out, or choose another name for a new split"
            )


def _checked(split: Split, training_set: TrainingSet, path: str | os.PathLike[str], name: str) -> Split:
    """Check that a split fits this set as it is now, and return it."""
    with naming(f"{os.fspath(path)}: split {name!r}"):
        stored_splits.check_split(split)
        if split.n_structures != len(training_set):
            raise InputError(
                f"made for {split.n_structures} structures, the set has {len(training_set)}: expected another name"
            )
        return stored_splits.fitted(split, training_set.groups, training_set.has_energy.cpu().numpy())


@contextlib.contextmanager
def _locked(path: str | os.PathLike[str], kind: TrainingSetKind) -> Iterator[None]:
    with exclusive(path) if kind is HDF5_SET else locked_manifest(Path(path)):
        yield


def _read(path: str | os.PathLike[str], kind: TrainingSetKind) -> dict[str, Split]:
    """Read only the stored splits; the rest of the set is in memory already."""
    name = os.fspath(path)
    if kind is MANIFEST:
        with naming(name):
            return stored_splits.from_json(read_manifest(Path(path)).get(stored_splits.GROUP, {}))
    with open_hdf5(name, "training set") as source:
        return stored_splits.read_hdf5(source, len(source.dataset("structures/n_atoms")))


def _count(path: str | os.PathLike[str], kind: TrainingSetKind) -> int:
    name = os.fspath(path)
    if kind is MANIFEST:
        return int(read_manifest(Path(path))["n_structures"])
    with open_hdf5(name, "training set") as source:
        return len(source.dataset("structures/n_atoms"))


def _write(path: str | os.PathLike[str], kind: TrainingSetKind, name: str, split: Split) -> None:
    """Add a split and replace the file by the complete new one. The caller holds the lock."""
    if kind is MANIFEST:
        content = read_manifest(Path(path))
        content[stored_splits.GROUP] = {
            **content.get(stored_splits.GROUP, {}),
            name: stored_splits.to_json(name, split),
        }
        write_manifest(Path(path), content)
        return
    # Onto a copy, which keeps what others added.
    with atomic_path(path) as temporary:
        shutil.copyfile(path, temporary)
        with open(temporary, "r+b", buffering=0) as copy:
            overlay = Overlay(copy.fileno())

            def add() -> None:
                with h5py.File(overlay, "r+", libver=LIBVER) as file:
                    stored_splits.write_hdf5(file, name, split)

            try:
                undisturbed(add)
            except (OSError, KeyError, RuntimeError) as error:
                raise InputError(
                    f"{os.fspath(path)}: cannot store the split, the set may be damaged: {error}"
                ) from error
            overlay.write_to(copy.fileno())
