"""Splits stored in a training set under names: in HDF5 or in the JSON of a manifest, and the rules for valid ones.

The format is specified in docs/formats/training_set.md.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pyfit_gpu.datasets.splits import Split, groups_without_validation
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.hdf5_input import Hdf5Input
from pyfit_gpu.formats.json_text import parse_json

GROUP = "splits"  # in HDF5; the key of a manifest has the same name
PARTS = ("train", "validation", "test")


def check_name(name: str) -> None:
    """Check that a name is safe in files, shells and HDF5 links.

    Raises:
        InputError: another name.
    """
    if not re.fullmatch(r"(?!\.)[A-Za-z0-9_.+-]{1,100}", name):
        raise InputError(
            "split: expected a name of at most 100 letters, digits and _ . + - that does not begin with a dot, "
            f"got {name!r}"
        )


def check_split(split: Split) -> None:
    """Check the rules that a split must obey for any set.

    Raises:
        InputError: rows that are out of range, doubled or in two parts, nothing that trains, numbers out of range.
    """
    if not 1 <= split.n_structures < 2**63:
        raise InputError(f"n_structures: expected 1 or more, found {split.n_structures}")
    if not 0 <= split.seed < 2**32:
        raise InputError(f"seed: expected a whole number from 0 to {2**32 - 1}, found {split.seed}")
    if not 0.0 <= split.train_fraction <= 1.0:
        raise InputError(f"train_fraction: expected a number from 0 to 1, found {split.train_fraction}")
    for pattern in split.test_groups:
        if re.search("[\0\ud800-\udfff]", pattern):
            raise InputError(f"test_groups: expected text without zero bytes, found {pattern!r}")
    owner: dict[int, str] = {}
    for part in PARTS:
        for row in getattr(split, part):
            if not 0 <= row < split.n_structures:
                raise InputError(f"{part}: expected rows from 0 to {split.n_structures - 1}, found {row}")
            if row in owner:
                where = "twice" if owner[row] == part else f"in {owner[row]}, too"
                raise InputError(f"{part}: expected every row once, found row {row} {where}")
            owner[row] = part
    if not split.train:
        raise InputError("train: expected rows, found none")


def fitted(split: Split, groups: Sequence[str], has_energy: NDArray[np.bool_]) -> Split:
    """Complete a stored split with facts about its set, which may have grown since.

    Args:
        groups: (B,) names.
        has_energy: (B,)

    Raises:
        InputError: a split of more structures than there are, or rows of structures without an energy.
    """
    if split.n_structures > len(groups):
        raise InputError(f"n_structures: expected at most the {len(groups)} of the set, found {split.n_structures}")
    for part in PARTS:
        unknown = [row for row in getattr(split, part) if not has_energy[row]]
        if unknown:
            raise InputError(f"{part}: expected structures with an energy, row {unknown[0]} has none")
    lacking = groups_without_validation(groups, split.train, split.validation) if split.train_fraction < 1.0 else ()
    return replace(split, groups_without_validation=lacking)


def split_hash(name: str, split: Split) -> str:
    """SHA-256 over name, numbers, patterns and rows, which also shows damage that leaves the rows valid."""
    digest = hashlib.sha256(name.encode() + b"\0")
    digest.update(struct.pack("<qqdq", split.n_structures, split.seed, split.train_fraction, len(split.test_groups)))
    for pattern in split.test_groups:
        digest.update(pattern.encode() + b"\0")
    for part in PARTS:
        rows = np.array(getattr(split, part), dtype="<i8")
        digest.update(struct.pack("<q", len(rows)) + rows.tobytes())
    return digest.hexdigest()


def write_hdf5(file: h5py.File, name: str, split: Split) -> None:
    """Add a split to an open file."""
    for part in PARTS:
        rows = np.array(getattr(split, part), dtype="<i8")
        file.create_dataset(f"{GROUP}/{name}/{part}", data=rows, track_times=False)
    attributes = file[f"{GROUP}/{name}"].attrs
    attributes["n_structures"] = np.int64(split.n_structures)
    attributes["seed"] = np.int64(split.seed)
    attributes["train_fraction"] = np.float64(split.train_fraction)
    # Fixed-length strings, as everywhere in the file.
    attributes["test_groups"] = np.bytes_(json.dumps(list(split.test_groups)).encode())
    attributes["hash"] = np.bytes_(split_hash(name, split).encode())


def read_hdf5(source: Hdf5Input, n_structures: int) -> dict[str, Split]:
    """Read the splits of an open file by name, each checked by itself.

    Args:
        n_structures: of the set.

    Raises:
        InputError: naming split and fault.
    """
    if not source.holds(GROUP):
        return {}
    try:
        names = sorted(source.names(GROUP))
    except InputError as error:
        raise InputError(f"damaged: {error.fault}") from error
    return {name: _decode(name, partial(_values_of_group, source, name, n_structures)) for name in names}


def _values_of_group(source: Hdf5Input, name: str, n_structures: int) -> dict[str, Any]:
    group = f"{GROUP}/{name}"
    values: dict[str, Any] = {}
    try:
        source.names(group)
        datasets = {part: source.dataset(f"{group}/{part}") for part in PARTS}
    except InputError as error:
        raise InputError(error.fault.removeprefix(group).lstrip("/: ")) from error
    for part, dataset in datasets.items():
        if dataset.ndim != 1 or dataset.dtype != np.dtype("<i8"):
            raise InputError(f"{part}: expected (n,) <i8, found {dataset.shape} {dataset.dtype.str}")
        if len(dataset) > n_structures:
            raise InputError(f"{part}: expected rows of the {n_structures} structures, found {len(dataset)}")
        values[part] = dataset[...].tolist()
    for key in ("n_structures", "seed", "train_fraction", "test_groups", "hash"):
        values[key] = source.scalar(key, group)
    values["test_groups"] = parse_json(values["test_groups"])
    return values


def _values_of_entry(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise InputError(f"expected an object, found {entry!r:.60}")
    return entry


def to_json(name: str, split: Split) -> dict[str, Any]:
    """The entry of a manifest."""
    return {
        "n_structures": split.n_structures,
        "seed": split.seed,
        "train_fraction": split.train_fraction,
        "test_groups": list(split.test_groups),
        "hash": split_hash(name, split),
        **{part: list(getattr(split, part)) for part in PARTS},
    }


def from_json(entries: Mapping[str, Any]) -> dict[str, Split]:
    """Read the splits of a manifest by name, each checked by itself.

    Raises:
        InputError: naming split and fault.
    """
    return {name: _decode(name, partial(_values_of_entry, entries[name])) for name in sorted(entries)}


def _decode(name: str, read: Callable[[], dict[str, Any]]) -> Split:
    """Decode a stored split; every fault becomes an `InputError` that names it.

    Args:
        read: gives the values by key: lists of rows, numbers, patterns, hash.
    """
    try:
        check_name(name)
        values = read()
        _check_types(values)
        split = Split(
            train=values["train"],
            validation=values["validation"],
            seed=values["seed"],
            groups_without_validation=(),
            test=values["test"],
            train_fraction=float(values["train_fraction"]),
            test_groups=tuple(values["test_groups"]),
            n_structures=values["n_structures"],
        )
        check_split(split)
        if values["hash"] != split_hash(name, split):
            raise InputError("its content does not have the hash that was written with it")
    except InputError as error:
        raise InputError(f"split {name!r}: damaged: {error}") from error
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, AttributeError, OverflowError) as error:
        # HDF5 cannot read it, or an attribute is missing or of another type: it is not what it says.
        raise InputError(f"split {name!r}: damaged: not as specified: {error!r}") from error
    return split


def _check_types(values: Mapping[str, Any]) -> None:
    """Check types of JSON and HDF5 attributes alike: true is not a number, 2.0 not a whole one."""
    for key in (*PARTS, "test_groups"):
        kind, what = (str, "texts") if key == "test_groups" else (int, "whole numbers")
        if type(values[key]) is not list or any(type(item) is not kind for item in values[key]):
            raise InputError(f"{key}: expected a list of {what}, found {values[key]!s:.60}")
    for key, kinds, what in (
        ("n_structures", (int,), "a whole number"),
        ("seed", (int,), "a whole number"),
        ("train_fraction", (int, float), "a number"),
        ("hash", (str,), "a text"),
    ):
        if type(values[key]) not in kinds:
            raise InputError(f"{key}: expected {what}, found {values[key]!r:.60}")
