"""Run files: everything that a fit needs to go on, and its members as potentials (docs/formats/run_file.md)."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from pyfit_gpu._version import __version__
from pyfit_gpu.errors import InputError
from pyfit_gpu.files import atomic_path
from pyfit_gpu.formats.hdf5_overlay import LIBVER
from pyfit_gpu.formats.nn_dat import header_lines, parse_header
from pyfit_gpu.log import log
from pyfit_gpu.models.potential import Potential, join_members

RUN_FORMAT = "pyfit-gpu run"
RUN_VERSION = 1
_CREATED_BY = f"pyfit-gpu {__version__}"


@dataclass(frozen=True, eq=False)
class FitState:
    """State of a fit between two steps, from which it goes on bit for bit."""

    members: list[dict[str, Any]]  # history and `Stopping` of each member
    optimizer: dict[str, Tensor]  # result of `Optimizer.state`
    last_finite: Tensor  # (K, P) float64, parameters of the last step whose loss was a number
    best: Tensor  # (K, P) float64, parameters of the best validation
    known: bool = True  # False: the loss has changed since, so that what the optimiser knows of it no longer holds


@dataclass(frozen=True, eq=False)
class Run:
    """Content of a run file: a fit between two steps."""

    potential: Potential  # all members, with the parameters that are kept so far
    state: FitState
    settings: dict[str, Any]  # what the fit was asked to do, by option; JSON
    data: dict[str, Any]  # what it was given: set, split, potential; JSON
    logs: dict[str, tuple[int, int]]  # by file name of the log: restarts so far, and bytes written since
    first_member: int
    done: bool  # whether the fit ended by itself
    created_by: str = _CREATED_BY  # program and version that wrote it


def save_run(run: Run, path: str | os.PathLike[str]) -> None:
    """Write a run file, under its name only when it is complete.

    Raises:
        InputError: the file cannot be written.
    """
    arrays = {f"optimizer/{name}": value for name, value in run.state.optimizer.items()}
    arrays |= {"weights/good": run.state.last_finite, "weights/kept": run.state.best}
    arrays["weights/potential"] = run.potential.networks.to("cpu", torch.float64).flat()
    tensors = {name: np.ascontiguousarray(value.numpy()) for name, value in arrays.items()}
    attributes = {
        "format": RUN_FORMAT,
        "created_by": _CREATED_BY,
        "potential_header": "\n".join(header_lines(run.potential)),
        "members": json.dumps(run.state.members),
        "settings": json.dumps(run.settings, sort_keys=True),
        "data": json.dumps(run.data, sort_keys=True),
        "logs": json.dumps(run.logs),
        "first_member": json.dumps(run.first_member),
        "done": json.dumps(run.done),
    }
    attributes["content_hash"] = _hash(attributes, tensors)
    image = io.BytesIO()  # HDF5 does not survive a disk that fills up while it writes
    with h5py.File(image, "w", libver=LIBVER) as file:
        file.attrs["version"] = RUN_VERSION
        for name, array in sorted(tensors.items()):  # so that the same run gives the same bytes
            file.create_dataset(name, data=array, track_times=False)
        texts = file.create_group("text")
        for name, text in attributes.items():
            # A dataset of bytes: attributes hold 64 KiB at most.
            texts.create_dataset(name, data=np.frombuffer(text.encode(), dtype=np.uint8), track_times=False)
    with atomic_path(path) as temporary:
        temporary.write_bytes(image.getbuffer())


def _hash(attributes: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(attributes):
        if name != "content_hash":
            digest.update(f"{name}\0{attributes[name]}\0".encode())
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype.str}{arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read a run file.

    Raises:
        InputError: not a run file, damaged, or of another version.
    """
    name = os.fspath(path)
    try:
        with h5py.File(name, "r", locking=False) as file:
            if "text/format" not in file or bytes(file["text/format"][...]).decode() != RUN_FORMAT:
                raise InputError(f"{name}: expected a run file ('{RUN_FORMAT}'), found another HDF5 file")
            version = file.attrs.get("version")
            if not isinstance(version, np.integer) or version != RUN_VERSION:
                raise InputError(f"{name}: expected run file version {RUN_VERSION}, found {version}")
            texts = {key: bytes(value[...]).decode() for key, value in file["text"].items()}
            arrays = {
                f"{group}/{key}": value[...] for group in ("optimizer", "weights") for key, value in file[group].items()
            }
            if not all(isinstance(value, np.ndarray) for value in arrays.values()):
                raise TypeError("expected numbers in optimizer and weights")
    except InputError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, AttributeError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{name}: cannot read the run file, it may be damaged: {reason}") from error
    if texts.get("content_hash") != _hash(texts, arrays):
        raise InputError(f"{name}: damaged: its content does not have the hash that was written with it")
    tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
    optimizer = {
        key.removeprefix("optimizer/"): value for key, value in tensors.items() if key.startswith("optimizer/")
    }
    members = json.loads(texts["members"])
    state = FitState(members, optimizer, tensors["weights/good"], tensors["weights/kept"])
    return Run(
        potential=_potential(texts["potential_header"], tensors["weights/potential"], name),
        state=state,
        settings=json.loads(texts["settings"]),
        data=json.loads(texts["data"]),
        logs={path: (attempt, position) for path, (attempt, position) in json.loads(texts["logs"]).items()},
        first_member=json.loads(texts["first_member"]),
        done=json.loads(texts["done"]),
        created_by=texts.get("created_by", "an unknown program"),
    )


def _potential(header: str, parameters: Tensor, name: str) -> Potential:
    draft = parse_header(list(enumerate(header.split("\n"), 1)), f"{name}, header of the potential")
    return replace(draft, networks=draft.networks.with_flat(parameters))


def load_run_members(path: str | os.PathLike[str]) -> Potential:
    """Read the members of a run that have a result: those that failed or gave up would spoil a mean.

    Raises:
        InputError: as `load_run`, or no member has a result.
    """
    run = load_run(path)
    statuses = [member["history"]["status"] for member in run.state.members]
    good = [k for k, status in enumerate(statuses) if status not in ("failed", "gave up")]
    if not good:
        raise InputError(f"{os.fspath(path)}: expected members with a result, all {len(statuses)} have failed")
    if len(good) < len(statuses):
        failed = len(statuses) - len(good)
        log.warning("%s: %d of %d members failed and are left out", os.fspath(path), failed, len(statuses))
    return join_members([run.potential.member(k) for k in good])


def is_run_file(path: str | os.PathLike[str]) -> bool:
    """Whether an HDF5 file says of itself that it is a run file."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return "text/format" in file and bytes(file["text/format"][...]).decode() == RUN_FORMAT
    except (OSError, KeyError, RuntimeError, ValueError, AttributeError, TypeError):
        return False
