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
from pyfit_gpu.formats.hdf5_input import Hdf5Input, open_hdf5
from pyfit_gpu.formats.hdf5_overlay import LIBVER
from pyfit_gpu.formats.nn_dat_header import header_lines, parse_header
from pyfit_gpu.formats.run_texts import RUN_TEXTS, checked_text
from pyfit_gpu.log import log
from pyfit_gpu.models.conditioning import Conditioning
from pyfit_gpu.models.networks import count_parameters
from pyfit_gpu.models.potential import Potential, join_members

RUN_FORMAT = "pyfit-gpu run"
RUN_VERSION = 3  # 1: the inputs are not conditioned; 2: they are, outputs are not scaled
_CONDITIONING = ("inputs/mean", "inputs/scale")
_OUTPUTS = "outputs/scale"
_CREATED_BY = f"pyfit-gpu {__version__}"


@dataclass(frozen=True, eq=False)
class FitState:
    """State of a fit between two steps, from which it goes on bit for bit."""

    members: list[dict[str, Any]]  # history and `Stopping` of each member
    optimizer: dict[str, Tensor]  # result of `Optimizer.state`
    last_finite: Tensor  # (K, P) float64, parameters of the last step whose loss was a number
    best: Tensor  # (K, P) float64, parameters of the best validation
    conditioning: Conditioning | None = None  # of the inputs; all parameters here are those of conditioned ones
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
    conditioning = run.state.conditioning
    if conditioning is not None:
        own = conditioning.to("cpu", torch.float64)
        arrays |= dict(zip(_CONDITIONING, own, strict=True))
        arrays |= {} if own.outputs is None else {_OUTPUTS: own.outputs}
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
        file.attrs["version"] = 1 if conditioning is None else 2 if conditioning.outputs is None else RUN_VERSION
        for name, array in sorted(tensors.items()):  # so that the same run gives the same bytes
            file.create_dataset(name, data=array, track_times=False)
        texts = file.create_group("text")
        for name, text in attributes.items():
            # A dataset of bytes: attributes hold 64 KiB at most.
            texts.create_dataset(name, data=np.frombuffer(text.encode(), dtype=np.uint8), track_times=False)
    with atomic_path(path) as temporary:
        temporary.write_bytes(image.getbuffer())


def _hash(texts: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(texts):
        if name != "content_hash":
            digest.update(f"{name}\0{texts[name]}\0".encode())
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype.str}{arrays[name].shape}".encode())
        if arrays[name].size:
            digest.update(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read a run file.

    Raises:
        InputError: not a run file, damaged, of another version, or not as specified.
    """
    name = os.fspath(path)
    with open_hdf5(path, "run file") as source:
        if not _says_run(source):
            raise InputError(f"expected a run file ('{RUN_FORMAT}'), found another HDF5 file")
        version = source.scalar("version")
        if type(version) is not int or not 1 <= version <= RUN_VERSION:
            raise InputError(f"expected run file version {RUN_VERSION} or earlier, found {version}")
        texts = {key: _text(source, f"text/{key}") for key in source.names("text")}
        names = [f"{group}/{key}" for group in ("optimizer", "weights") for key in source.names(group)]
        arrays = {
            key: source.read(key)
            for key in (*names, *(_CONDITIONING if version > 1 else ()), *([_OUTPUTS] if version > 2 else []))
        }
    if texts.get("content_hash") != _hash(texts, arrays):
        raise InputError(f"{name}: damaged: its content does not have the hash that was written with it")
    try:
        return _run(texts, {key: torch.from_numpy(value) for key, value in arrays.items()})
    except InputError as error:
        raise InputError(f"{name}: not as specified: {error.fault}") from error


def _text(source: Hdf5Input, path: str) -> str:
    found = source.read(path)
    if found.ndim != 1 or found.dtype != np.uint8:
        raise InputError(f"{path}: expected bytes, found {found.shape} {found.dtype.str}")
    return found.tobytes().decode()


def _says_run(source: Hdf5Input) -> bool:
    if not source.holds("text/format"):
        return False
    found = source.dataset("text/format")
    return found.shape == (len(RUN_FORMAT),) and bytes(found[...]) == RUN_FORMAT.encode()


def _run(texts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Run:
    """Check what the specification says, and put the run together."""
    parts = {name: checked_text(name, texts.get(name)) for name in RUN_TEXTS}
    members = parts["members"]
    for key in ("weights/good", "weights/kept", "weights/potential"):
        found = tensors.get(key)
        if found is None or found.dtype != torch.float64 or found.ndim != 2 or len(found) != len(members):
            raise InputError(f"{key}: expected the parameters of {len(members)} members, float64")
    for key, value in tensors.items():
        if key in (*_CONDITIONING, _OUTPUTS):
            continue
        if value.ndim == 0 or len(value) != len(members):
            raise InputError(f"{key}: expected numbers of {len(members)} members, found {tuple(value.shape)}")
    if not bool(tensors["weights/potential"].isfinite().all()):
        raise InputError("weights/potential: expected finite numbers, found NaN or infinity")
    potential = _potential(parts["potential_header"], tensors["weights/potential"])
    n_parameters = tensors["weights/potential"].shape[1]
    for key in ("weights/good", "weights/kept"):
        if tensors[key].shape[1] != n_parameters:
            raise InputError(f"{key}: expected {n_parameters} parameters, found {tensors[key].shape[1]}")
    optimizer = {key.removeprefix("optimizer/"): tensors[key] for key in tensors if key.startswith("optimizer/")}
    return Run(
        potential=potential,
        state=FitState(
            members, optimizer, tensors["weights/good"], tensors["weights/kept"], _conditioning(tensors, potential)
        ),
        settings=parts["settings"],
        data=parts["data"],
        logs={log: (attempt, position) for log, (attempt, position) in parts["logs"].items()},
        first_member=parts["first_member"],
        done=parts["done"],
        created_by=texts.get("created_by", "an unknown program"),
    )


def _conditioning(tensors: Mapping[str, Tensor], potential: Potential) -> Conditioning | None:
    found = [tensors[key] for key in _CONDITIONING if key in tensors]
    if not found:
        return None
    size = (potential.networks.n_elements, potential.networks.layer_sizes[0])
    for key, value in zip(_CONDITIONING, found, strict=True):
        right = value.dtype == torch.float64 and value.shape == size and bool(value.isfinite().all())
        if not right or (key == _CONDITIONING[1] and not bool((value > 0).all())):
            raise InputError(f"{key}: expected finite numbers {size}, float64, scales above 0")
    outputs = tensors.get(_OUTPUTS)
    size = (potential.networks.n_elements, potential.networks.layer_sizes[-1])
    if outputs is not None:
        right = outputs.dtype == torch.float64 and outputs.shape == size and bool(outputs.isfinite().all())
        if not (right and bool((outputs > 0).all())):
            raise InputError(f"{_OUTPUTS}: expected finite numbers {size}, float64, above 0")
    return Conditioning(found[0], found[1], outputs)


def _potential(header: str, parameters: Tensor) -> Potential:
    draft = parse_header(list(enumerate(header.split("\n"), 1)), "text/potential_header")
    count = draft.descriptor.n_elements * count_parameters(draft.networks.layer_sizes)
    if parameters.shape[1] != count:
        raise InputError(
            f"weights/potential: expected {count} parameters as in the header, found {parameters.shape[1]}"
        )
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
        with open_hdf5(path, "run file") as source:
            return _says_run(source)
    except InputError:
        return False
