"""Training sets on disk: one HDF5 file, or the shards of a job array joined by a JSON manifest.

The format is specified in docs/formats/training_set.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from pyfit_gpu.datasets.feature_rows import FeatureFile, FeatureRows
from pyfit_gpu.datasets.splits import Split
from pyfit_gpu.datasets.training_set import TrainingSet, interleave
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.errors import InputError
from pyfit_gpu.files import atomic_text
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

MANIFEST_NAME = "pyfit-gpu training set manifest"
FEATURES = "atoms/features"


def save_training_set(training_set: TrainingSet, path: str | os.PathLike[str]) -> str:
    """Write the HDF5 form and return its content hash.

    Raises:
        InputError: the file cannot be written, or one of the set's splits is none of it.
    """
    _attach_splits(training_set, training_set.splits)
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
    """The set and the file's attributes; every byte is checked against the content hash.

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
        if hash_content(attributes, arrays) != attributes["content_hash"]:
            raise InputError(f"{name}: damaged: its content does not have the hash that was written with it")
        return _attach_splits(_from_arrays(arrays, attributes), splits), attributes
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(name) else f"{name}: {error}") from error
    except OSError as error:
        raise InputError(f"{name}: cannot read the training set, it may be damaged: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        # An attribute is missing, is no JSON or of another type: whatever it is, the file is not what it says.
        raise InputError(f"{name}: damaged: an attribute or dataset is not as specified: {error!r}") from error


def _left_in_file(name: str, dataset: h5py.Dataset) -> FeatureFile | None:
    """None: it does not lie in the file as the format says, one number after the other."""
    offset = dataset.id.get_offset()
    plain = dataset.chunks is None and dataset.dtype == np.dtype("<f8") and dataset.ndim == 2
    return FeatureFile(name, offset, dataset.shape) if plain and offset is not None else None


@contextlib.contextmanager
def naming(name: str | os.PathLike[str]) -> Iterator[None]:
    """What is refused is refused with the file's name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{os.fspath(name)}: {error}") from error


def _attach_splits(training_set: TrainingSet, splits: Mapping[str, Split]) -> TrainingSet:
    """The set with these splits, each checked against it."""
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


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` of a set: the structures whose number in the files, mod count, is index."""

    index: int
    count: int
    n_structures: int  # of the whole, all shards together
    inputs: str  # hash of everything that must be the same for all shards: inputs, potential, e_shift

    def __post_init__(self) -> None:
        if not (self.count >= 1 and 0 <= self.index < self.count):
            raise InputError(f"shard: expected I/N with 0 <= I < N, got {self.index}/{self.count}")

    def describe(self) -> dict[str, Any]:
        return {"index": self.index, "count": self.count, "n_structures": self.n_structures, "inputs": self.inputs}


def shard_path(path: str | os.PathLike[str], index: int, count: int) -> Path:
    """`set.h5` as `set.0-of-4.h5`."""
    whole = Path(path)
    return whole.with_name(f"{whole.stem}.{index}-of-{count}{whole.suffix}")


def manifest_path(path: str | os.PathLike[str]) -> Path:
    """`set.h5` as `set.json`."""
    return Path(path).with_suffix(".json")


def known_shard(path: str | os.PathLike[str], shard: Shard, *, overwrite: bool) -> list[int] | None:
    """Look before the work whether this shard is there already, from a task that was killed before it said so.

    Returns:
        The shards that are still missing, if this one is there; it is then in the manifest. None: it is to be made.

    Raises:
        InputError: a manifest of other inputs, or a file that is not this shard, is in the way.
    """
    target, manifest = shard_path(path, shard.index, shard.count), manifest_path(path)
    if overwrite:
        return None
    if manifest.exists():
        earlier = read_manifest(manifest)
        if (earlier["count"], earlier["inputs"]) != (shard.count, shard.inputs):
            raise InputError(
                f"{manifest}: belongs to other inputs or to {earlier['count']} shards: expected another name for the "
                "set, or --overwrite to replace it"
            )
    if not target.exists():
        return None
    in_the_way = (
        f"{target}: exists already and is not shard {shard.index} of these inputs (give --overwrite to replace it)"
    )
    try:
        part, attributes = load_hdf5(str(target), lazy=True)
    except InputError as error:
        raise InputError(in_the_way) from error
    if _shard_of(attributes) != shard.describe():
        raise InputError(in_the_way)
    return register_shard(path, shard, attributes["content_hash"], len(part))


def _shard_of(attributes: Mapping[str, Any]) -> Any:
    """What a file says of itself as a shard; None if nothing, or nothing that can be read."""
    try:
        return json.loads(attributes["shard"])
    except (KeyError, TypeError, ValueError):
        return None


def register_shard(path: str | os.PathLike[str], shard: Shard, content_hash: str, n_structures: int) -> list[int]:
    """Bring the manifest up to date; returns the shards that are still missing."""
    target, manifest = shard_path(path, shard.index, shard.count), manifest_path(path)
    with locked_manifest(manifest):
        known: dict[str, Any] = {}
        kept: dict[str, Any] = {}
        if manifest.exists():
            earlier = read_manifest(manifest)
            # Another job array with the same name replaces the manifest: its shards are other files.
            if (earlier["count"], earlier["inputs"]) == (shard.count, shard.inputs):
                known = earlier["shards"]
                kept = {key: earlier[key] for key in (stored_splits.GROUP,) if key in earlier}
        known[str(shard.index)] = {"file": target.name, "content_hash": content_hash, "n_structures": n_structures}
        content = {
            "format": MANIFEST_NAME,
            "version": FORMAT_VERSION,
            "count": shard.count,
            "n_structures": shard.n_structures,
            "inputs": shard.inputs,
            "shards": dict(sorted(known.items(), key=lambda item: int(item[0]))),
            **kept,
        }
        write_manifest(manifest, content)
    return [index for index in range(shard.count) if str(index) not in known]


def write_manifest(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_text(path) as file:
        json.dump(content, file, indent=1)
        file.write("\n")


@contextlib.contextmanager
def locked_manifest(manifest: Path) -> Iterator[None]:
    """One process at a time. The lock file stays: removing it would let two processes lock two files."""
    name = manifest.with_name(f".{manifest.name}.lock")
    try:
        lock = open(name, "w")  # noqa: SIM115 - closed below
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise InputError(f"{name}: cannot lock the manifest: {error.strerror}") from error
    with lock:
        yield


def read_manifest(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: expected a training set manifest, found no valid JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != MANIFEST_NAME:
        raise InputError(f"{path}: expected a training set manifest ('format': '{MANIFEST_NAME}'), found other JSON")
    if content.get("version") != FORMAT_VERSION:
        raise InputError(f"{path}: expected manifest version {FORMAT_VERSION}, found {content.get('version')}")
    types = {"count": int, "n_structures": int, "inputs": str, "shards": dict}
    for key, kind in types.items():
        if not isinstance(content.get(key), kind):
            raise InputError(f"{path}: damaged: {key}: expected {kind.__name__}, found {content.get(key)!r}")
    for index, entry in content["shards"].items():
        if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
            raise InputError(f"{path}: damaged: shard {index}: expected an object with a file name, found {entry!r}")
    if not isinstance(content.get(stored_splits.GROUP, {}), dict):
        raise InputError(f"{path}: damaged: splits: expected an object, found {content['splits']!s:.60}")
    return content


def load_manifest(path: Path, *, lazy: bool = False) -> TrainingSet:
    """All shards as one set, in file order.

    Raises:
        InputError: a shard is missing (named), damaged, or not the one that the manifest names.
    """
    manifest = read_manifest(path)
    parts = []
    for index in range(manifest["count"]):
        entry = manifest["shards"].get(str(index))
        if entry is None:
            suffix = next((Path(other["file"]).suffix for other in manifest["shards"].values()), ".h5")
            missing = shard_path(path.with_suffix(suffix), index, manifest["count"]).name
            raise InputError(
                f"{path}: shard {index} of {manifest['count']} is missing ({missing}): its job has not finished"
            )
        file = path.with_name(entry["file"])
        if not file.exists():
            raise InputError(f"{path}: shard {index} of {manifest['count']} is missing: {file} does not exist")
        part, attributes = load_hdf5(str(file), lazy=lazy)
        expected = Shard(index, manifest["count"], manifest["n_structures"], manifest["inputs"]).describe()
        if attributes["content_hash"] != entry.get("content_hash") or _shard_of(attributes) != expected:
            raise InputError(f"{path}: shard {index}: {file} is not the file that the manifest names (other content)")
        parts.append(part)
    whole = interleave(parts)
    if len(whole) != manifest["n_structures"]:
        raise InputError(f"{path}: expected {manifest['n_structures']} structures, the shards hold {len(whole)}")
    with naming(path):
        return _attach_splits(whole, stored_splits.from_json(manifest.get(stored_splits.GROUP, {})))
