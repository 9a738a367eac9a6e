"""Shards of a training set, which a job array makes, joined by a JSON manifest (docs/formats/training_set.md)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pyfit_gpu.datasets.training_set import TrainingSet, interleave
from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.files import atomic_text
from pyfit_gpu.formats.json_text import brief, parse_json, read_json_file
from pyfit_gpu.formats.training_set import splits as stored_splits
from pyfit_gpu.formats.training_set.reader import attach_splits, load_hdf5, naming
from pyfit_gpu.formats.training_set.writer import FORMAT_VERSION
from pyfit_gpu.locks import exclusive

MANIFEST_NAME = "pyfit-gpu training set manifest"

_LONGEST_NAME = 255  # bytes, on all file systems that we know of


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` of a set: the structures whose number in the files, modulo count, is index."""

    index: int
    count: int
    n_structures: int  # structures of all shards together
    inputs: str  # hash of everything that must be the same for all shards: inputs, potential, e_shift

    def __post_init__(self) -> None:
        if not (self.count >= 1 and 0 <= self.index < self.count):
            raise InputError(f"shard: expected I/N with 0 <= I < N, got {self.index}/{self.count}")

    def describe(self) -> dict[str, Any]:
        return {"index": self.index, "count": self.count, "n_structures": self.n_structures, "inputs": self.inputs}


def shard_path(path: str | os.PathLike[str], index: int, count: int) -> Path:
    """Name of a shard: `set.0-of-4.h5` for `set.h5`."""
    whole = Path(path)
    return whole.with_name(f"{whole.stem}.{index}-of-{count}{whole.suffix}")


def manifest_path(path: str | os.PathLike[str]) -> Path:
    """Name of the manifest: `set.json` for `set.h5`."""
    return Path(path).with_suffix(".json")


def known_shard(path: str | os.PathLike[str], shard: Shard, *, overwrite: bool) -> list[int] | None:
    """Check before the work whether this shard exists already, from a task that was killed before it registered it.

    Returns:
        The shards that are still missing, if this one exists; it is then in the manifest. None: it must be made.

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
                "set",
                remedy=Remedy.OVERWRITE,
            )
    if not target.exists():
        return None
    in_the_way = InputError(
        f"{target}: exists already and is not shard {shard.index} of these inputs", remedy=Remedy.OVERWRITE
    )
    try:
        part, attributes = load_hdf5(str(target), lazy=True)
    except InputError as error:
        raise in_the_way from error
    if _shard_of(attributes) != shard.describe():
        raise in_the_way
    return register_shard(path, shard, attributes["content_hash"], len(part))


def _shard_of(attributes: Mapping[str, Any]) -> Any:
    """Description of a shard in a file's attributes; None if there is none that can be read."""
    try:
        return parse_json(attributes["shard"])
    except (KeyError, TypeError, InputError):
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
    """Let one process at a time change a manifest, which need not exist.

    The lock file stays: removing it would let two processes lock two files.

    Raises:
        InputError: the lock file cannot be made or locked.
    """
    lock = manifest.with_name(f".{manifest.name}.lock")
    try:
        lock.touch()
    except OSError as error:
        raise InputError(f"{lock}: cannot lock the manifest: {error.strerror}") from error
    with exclusive(lock):
        yield


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the JSON of a manifest, and check it but for its splits.

    Raises:
        InputError: no manifest, another version, or not as specified.
    """
    content = read_json_file(path, "a training set manifest", partial(parse_json, finite=False))
    if not isinstance(content, dict) or content.get("format") != MANIFEST_NAME:
        raise InputError(f"{path}: expected a training set manifest ('format': '{MANIFEST_NAME}'), found other JSON")
    if content.get("version") != FORMAT_VERSION:
        found = content.get("version")
        raise InputError(f"{path}: expected manifest version {FORMAT_VERSION}, found {brief(found)}")
    rules: dict[str, tuple[type, str, Callable[[Any], bool]]] = {
        "count": (int, "a whole number above 0", lambda value: value > 0),
        "n_structures": (int, "as many structures as shards or more", lambda value: value >= content["count"]),
        "inputs": (str, "a text", lambda value: True),
        "shards": (dict, "an object", lambda value: True),
        stored_splits.GROUP: (dict, "an object", lambda value: True),
    }
    for key, (kind, expected, holds) in rules.items():
        value = content.get(key, {} if key == stored_splits.GROUP else None)
        if type(value) is not kind or not holds(value):
            raise InputError(f"{path}: damaged: {key}: expected {expected}, found {reprlib.repr(value)}")
    for index, entry in content["shards"].items():
        _check_entry(path, index, entry)
    return content


def _check_entry(path: Path, index: str, entry: Any) -> None:
    """Check an entry of a manifest: its file is one beside the manifest, wherever the name might lead."""
    name = entry.get("file") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise InputError(f"{path}: damaged: shard {brief(index)}: expected an object with a file name, "
                         f"found {reprlib.repr(entry)}")  # fmt: skip
    is_plain = name not in ("", ".", "..") and not re.search("[/\0\ud800-\udfff]", name)
    if not is_plain or len(name.encode()) > _LONGEST_NAME:
        raise InputError(f"{path}: damaged: shard {brief(index)}: expected the name of a file in the manifest's "
                         f"folder, found {reprlib.repr(name)}")  # fmt: skip


def load_manifest(path: Path, *, lazy: bool = False) -> TrainingSet:
    """Read all shards as one set, in file order.

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
        return attach_splits(whole, stored_splits.from_json(manifest.get(stored_splits.GROUP, {})))
