"""Training sets on disk: one HDF5 file, or the shards of a job array joined by a JSON manifest.

The format is specified in docs/formats/training_set.md.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import h5py
import numpy as np
import torch

from pyfit_gpu.datasets.feature_rows import FeatureFile, FeatureRows
from pyfit_gpu.datasets.splits import Split
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.hdf5_input import Hdf5Input, open_hdf5
from pyfit_gpu.formats.nn_dat_header import parse_header
from pyfit_gpu.formats.training_set import splits as stored_splits
from pyfit_gpu.formats.training_set.checks import (
    Finite,
    check_values,
    checked_groups,
    checked_settings,
    checked_shift,
)
from pyfit_gpu.formats.training_set.writer import (
    DATASETS,
    FORMAT_NAME,
    FORMAT_VERSION,
    GROUP_DTYPE,
    GROUP_INDEX,
    HASHED_ATTRIBUTES,
    hash_content,
    row_shapes,
    writing_set,
)
from pyfit_gpu.models.potential import Potential

FEATURES = "atoms/features"
ATTRIBUTES = ("format", "version", *HASHED_ATTRIBUTES, "content_hash", "created_by", "shard")


def save_training_set(training_set: TrainingSet, path: str | os.PathLike[str]) -> str:
    """Write the HDF5 form and return its content hash.

    Raises:
        InputError: the file cannot be written, or a stored split does not belong to this set.
    """
    attach_splits(training_set, training_set.splits)
    n_features = training_set.features.shape[1]
    with writing_set(path, len(training_set), training_set.n_atoms, n_features, splits=training_set.splits) as writer:
        writer.append(training_set)
    return writer.content_hash


def _descriptor(settings: dict[str, Any]) -> LocalStructureParameters:
    return LocalStructureParameters(**{name: _as_tuples(value) for name, value in settings.items()})


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def load_hdf5(name: str, *, lazy: bool = False) -> tuple[TrainingSet, dict[str, Any]]:
    """Read the set and the file's attributes; every byte is checked against the content hash.

    Args:
        lazy: leave the features in the file, see `FeatureRows`.

    Raises:
        InputError: not a training set, damaged, of another format version, or not as specified.
    """
    with open_hdf5(name, "training set") as source:
        attributes: dict[str, Any] = {key: source.scalar(key) for key in ATTRIBUTES}
        _check_version(attributes)
        arrays = _read_arrays(source, name, lazy=lazy)
        splits = stored_splits.read_hdf5(source, len(arrays["structures/n_atoms"]))
    with naming(name):
        for key in (*HASHED_ATTRIBUTES, "content_hash"):
            if not isinstance(attributes.get(key), str):
                raise InputError(f"damaged: the attribute {key} is missing, or no text")
        features = Finite(arrays[FEATURES])
        try:
            found = hash_content(attributes, {**arrays, FEATURES: features})
        except OSError as error:
            raise InputError(f"cannot read the training set, it may be damaged: {error}") from error
        if found != attributes["content_hash"]:
            raise InputError("damaged: its content does not have the hash that was written with it")
        try:
            whole = _from_arrays(arrays, attributes)
            features.check()
            return attach_splits(whole, splits), attributes
        except InputError as error:
            raise InputError(f"not as specified: {error.fault}") from error


def _check_version(attributes: Mapping[str, Any]) -> None:
    name, version = attributes.get("format"), attributes.get("version")
    if not (isinstance(name, str) and isinstance(version, int)):
        raise InputError(f"expected format '{FORMAT_NAME}' and its version, found {name!r}, {version!r}")
    if name != FORMAT_NAME:
        raise InputError(f"expected format '{FORMAT_NAME}', found {name!r}")
    if version != FORMAT_VERSION:
        writer = attributes.get("created_by")
        raise InputError(f"expected format version {FORMAT_VERSION}, found {version} (written by {writer})")


def _read_arrays(source: Hdf5Input, name: str, *, lazy: bool) -> dict[str, Any]:
    """Read all datasets, once their types and shapes are known to be right, that of the features but for its width."""
    found = {dataset: source.dataset(dataset) for dataset in (*DATASETS, GROUP_INDEX)}
    shapes = row_shapes(found[FEATURES].shape[1] if found[FEATURES].ndim == 2 else 1)
    for path, dataset in found.items():
        field, dtype = DATASETS.get(path, ("group", GROUP_DTYPE))
        rows = found["atoms/species" if path.startswith("atoms/") else "structures/n_atoms"].shape[:1]
        expected = (*rows, *shapes.get(field, ()))
        if dataset.shape != expected or dataset.dtype != np.dtype(dtype):
            raise InputError(f"damaged: {path}: expected {expected} {dtype}, found {dataset.shape} {dataset.dtype.str}")
    left = _left_in_file(name, found[FEATURES]) if lazy else None
    return {path: left if left and path == FEATURES else dataset[...] for path, dataset in found.items()}


def _left_in_file(name: str, dataset: h5py.Dataset) -> FeatureFile | None:
    """Features to be read later; None if they are not contiguous in the file, as the format requires."""
    offset = dataset.id.get_offset()
    return FeatureFile(name, offset, dataset.shape) if dataset.chunks is None and offset is not None else None


@contextlib.contextmanager
def naming(name: str | os.PathLike[str]) -> Iterator[None]:
    """Put the file's name before the message of an `InputError`."""
    try:
        yield
    except InputError as error:
        raise error.at(os.fspath(name)) from error


def attach_splits(training_set: TrainingSet, splits: Mapping[str, Split]) -> TrainingSet:
    """Add splits to a set, each checked against it."""
    checked = {}
    has_energy = training_set.has_energy.cpu().numpy()
    for name, split in splits.items():
        try:
            stored_splits.check_name(name)
            stored_splits.check_split(split)
            checked[name] = stored_splits.fitted(split, training_set.groups, has_energy)
        except InputError as error:
            raise InputError(f"split {name!r}: {error}") from error
    return replace(training_set, splits=checked)


def _from_arrays(arrays: Mapping[str, Any], attributes: Mapping[str, str]) -> TrainingSet:
    """Check what the specification says about values, then put the set together."""
    with _attribute("settings"):
        descriptor = _descriptor(checked_settings(attributes["settings"]))
    with _attribute("energy_shift"):
        shift = checked_shift(attributes["energy_shift"], descriptor.n_elements)
    with _attribute("groups"):
        names = checked_groups(attributes["groups"])
    with _attribute("potential_header"):
        potential = _made_for(attributes["potential_header"], descriptor)
    width = arrays[FEATURES].shape[1]
    if width != descriptor.n_features:
        raise InputError(f"{FEATURES}: expected {descriptor.n_features} numbers in a row, found {width}")
    check_values(arrays, n_elements=descriptor.n_elements, n_groups=len(names))
    tensors: dict[str, Any] = {}
    for dataset, (field, _) in DATASETS.items():
        if isinstance(arrays[dataset], FeatureFile):
            tensors[field] = FeatureRows.of([arrays[dataset]])
            continue
        tensor = torch.from_numpy(arrays[dataset])
        tensors[field] = {"species": tensor.long, "pbc": tensor.bool}.get(field, lambda tensor=tensor: tensor)()
    return TrainingSet(
        potential=potential,
        energy_shift=shift,
        groups=tuple(names[k] for k in arrays[GROUP_INDEX]),
        splits={},
        **tensors,
    )


@contextlib.contextmanager
def _attribute(name: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"the attribute {name}: {error.fault}") from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"the attribute {name}: {error!r:.200}") from error


def _made_for(header: str, descriptor: LocalStructureParameters) -> Potential:
    potential = parse_header(list(enumerate(header.split("\n"), 1)), "potential_header")
    difference = descriptor.difference(potential.descriptor)
    if difference:
        raise InputError(f"it contradicts settings: {difference}")
    return potential
