"""Training sets on disk: one HDF5 file, or the shards of a job array joined by a JSON manifest.

The format is specified in docs/formats/training_set.md.
"""

from __future__ import annotations

import contextlib
import json
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
from pyfit_gpu.formats.nn_dat import parse_header
from pyfit_gpu.formats.training_set import splits as stored_splits
from pyfit_gpu.formats.training_set.writer import (
    DATASETS,
    FORMAT_NAME,
    FORMAT_VERSION,
    GROUP_DTYPE,
    GROUP_INDEX,
    hash_content,
    row_shapes,
    writing_set,
)
from pyfit_gpu.models.potential import Potential

FEATURES = "atoms/features"


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
    lists = ("elements", "legendre_orders", "gaussian_centers")
    values: dict[str, Any] = {name: tuple(value) if name in lists else value for name, value in settings.items()}
    return LocalStructureParameters(**values)


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{name}: cannot read the training set, it may be damaged: {reason}") from error


def load_hdf5(name: str, *, lazy: bool = False) -> tuple[TrainingSet, dict[str, Any]]:
    """Read the set and the file's attributes; every byte is checked against the content hash.

    Args:
        lazy: leave the features in the file, see `FeatureRows`.

    Raises:
        InputError: not a training set, damaged, or of another format version.
    """
    # No lock: a file under its final name never changes, and shared file systems often cannot lock.
    with reading(name), h5py.File(name, "r", locking=False) as file:
        attributes = {key: value.decode() if isinstance(value, bytes) else value for key, value in file.attrs.items()}
        found = (attributes.get("format"), attributes.get("version"))
        if not (isinstance(found[0], str) and isinstance(found[1], int | np.integer)):
            raise InputError(
                f"{name}: expected format '{FORMAT_NAME}' and its version, found {found[0]!r}, {found[1]!r}"
            )
        if attributes.get("format") != FORMAT_NAME:
            raise InputError(f"{name}: expected format '{FORMAT_NAME}', found {attributes.get('format')!r}")
        if attributes.get("version") != FORMAT_VERSION:
            raise InputError(
                f"{name}: expected format version {FORMAT_VERSION}, found {attributes.get('version')} "
                f"(written by {attributes.get('created_by')})"
            )
        arrays: dict[str, Any] = {}
        for dataset in (*DATASETS, GROUP_INDEX):
            if not isinstance(file.get(dataset), h5py.Dataset):
                raise InputError(f"{name}: damaged: the dataset {dataset} is missing")
            left = _left_in_file(name, file[dataset]) if lazy and dataset == FEATURES else None
            arrays[dataset] = file[dataset][...] if left is None else left
        with naming(name):
            splits = stored_splits.read_hdf5(file)
    try:
        with naming(name):
            if hash_content(attributes, arrays) != attributes["content_hash"]:
                raise InputError("damaged: its content does not have the hash that was written with it")
            return attach_splits(_from_arrays(arrays, attributes), splits), attributes
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{name}: cannot read the training set, it may be damaged: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        # An attribute is missing, is no JSON or of another type: in any case the file is not as specified.
        raise InputError(f"{name}: damaged: an attribute or dataset is not as specified: {error!r}") from error


def _left_in_file(name: str, dataset: h5py.Dataset) -> FeatureFile | None:
    """Features to be read later; None if they are not contiguous in the file, as the format requires."""
    offset = dataset.id.get_offset()
    plain = dataset.chunks is None and dataset.dtype == np.dtype("<f8") and dataset.ndim == 2
    return FeatureFile(name, offset, dataset.shape) if plain and offset is not None else None


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
    """Check what the specification says about types and shapes, then put the set together."""
    descriptor = _descriptor(json.loads(attributes["settings"]))
    n_structures, n_atoms = len(arrays["structures/n_atoms"]), int(arrays["structures/n_atoms"].sum())
    shapes = row_shapes(descriptor.n_features)
    for dataset, array in arrays.items():
        field, dtype = DATASETS.get(dataset, ("group", GROUP_DTYPE))
        expected = (n_atoms if dataset.startswith("atoms/") else n_structures, *shapes.get(field, ()))
        if array.shape != expected or array.dtype != np.dtype(dtype):
            raise InputError(f"{dataset}: expected {expected} {dtype}, found {array.shape} {array.dtype.str}")
    shift = json.loads(attributes["energy_shift"])
    if shift is not None and len(shift) != descriptor.n_elements:
        raise InputError(f"energy_shift: expected {descriptor.n_elements} numbers, found {shift}")
    names = json.loads(attributes["groups"])
    tensors: dict[str, Any] = {}
    for dataset, (field, _) in DATASETS.items():
        if isinstance(arrays[dataset], FeatureFile):
            tensors[field] = FeatureRows.of([arrays[dataset]])
            continue
        tensor = torch.from_numpy(arrays[dataset])
        tensors[field] = {"species": tensor.long, "pbc": tensor.bool}.get(field, lambda tensor=tensor: tensor)()
    for dataset, count in ((GROUP_INDEX, len(names)), ("atoms/species", descriptor.n_elements)):
        if np.any(arrays[dataset] < 0) or np.any(arrays[dataset] >= count):
            raise InputError(f"{dataset}: expected numbers from 0 to {count - 1}")
    return TrainingSet(
        potential=_made_for(attributes["potential_header"], descriptor),
        energy_shift=None if shift is None else tuple(shift),
        groups=tuple(names[k] for k in arrays[GROUP_INDEX]),
        splits={},
        **tensors,
    )


def _made_for(header: str, descriptor: LocalStructureParameters) -> Potential:
    potential = parse_header(list(enumerate(header.split("\n"), 1)), "potential_header")
    difference = descriptor.difference(potential.descriptor)
    if difference:
        raise InputError(f"damaged: potential_header contradicts settings: {difference}")
    return potential
