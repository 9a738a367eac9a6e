"""The classic configuration: keys, defaults, and every fault of a file or command line at once."""

from __future__ import annotations

import difflib
import os
import reprlib
from typing import Annotated, Any

import json5
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pyfit_gpu.errors import InputError
from pyfit_gpu.files import file_size
from pyfit_gpu.formats.json_text import json_fault

MAX_CONFIG_BYTES = 2**16  # the parser of JSON with comments takes seconds for a megabyte

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]


def _key(default: Any, description: str) -> Any:
    return Field(default=default, description=description)


class ClassicConfig(BaseModel):
    """Keys of the classic program's JSON file. An empty string is a fault if the task needs the key, else means off."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    generate_training_set: bool = _key(False, "compute a training set from the DFT file")
    training_set_output_file: str = _key("", "training set to write; text unless it ends in .h5 or .hdf5")
    dft_input_file: str = _key("", "structures with energies, any format that prepare reads")
    run_training: bool = _key(False, "train the network")
    training_set_in: str = _key("", "training set to train on, text or HDF5")
    neural_network_in: str = _key("", "potential (.nn.dat) to start from; never changed")
    neural_network_out: str = _key("", "potential to write after training")
    training_iterations: Count = _key(100, "optimiser steps; 0 evaluates and writes the logs only")
    randomize: bool = _key(False, "start from random weights, drawn from the header's interval")
    force_cpu: bool = _key(False, "compute on the CPU even if there is a GPU")
    gpu_affinity: Count = _key(0, "index of the GPU; without any GPU the CPU is used")
    thread_count: Count = _key(0, "CPU threads; 0: as many as torch takes")
    log_path: str = _key("pyfit_log.txt", "log of messages; empty: none")
    e_shift: Number = _key(0.795023, "eV per atom, added to the energies of the DFT file")
    network_backup_dir: str = _key("nn_backup/", "folder for network backups")
    network_backup_interval: Count = _key(25, "iterations between backups; 0: never")
    loss_log_path: str = _key("loss.txt", "training error per iteration; empty: none")
    validation_log_path: str = _key("validation.txt", "validation error; empty: none")
    validation_interval: Count = _key(5, "iterations between validations; 0: never")
    energy_volume_file: str = _key("energy_volume.txt", "predicted energies of the training structures; empty: none")
    energy_volume_interval: Count = _key(0, "iterations between rows of that file; 0: never")
    validation_ratio: Annotated[float, Field(ge=0, le=1)] = _key(
        0.95, "share of each group used for TRAINING, whatever the name says; 1: nothing validates"
    )
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = _key(0.05, "LBFGS step length")
    max_lbfgs_iterations: Positive = _key(10, "LBFGS iterations inside one optimiser step")
    no_warn: bool = _key(False, "go on although a group has no validation structure")
    overwrite: bool = _key(False, "training set, network and backups may be replaced")
    unique: bool = _key(False, "number every output so that nothing is replaced")
    validation_split_seed: Annotated[int, Field(ge=0, lt=2**32)] = _key(2, "seed of the split; 0: a random one")
    error_restart_level: NonNegative = _key(0.0, "a loss above it starts again with new parameters; 0: never")
    l2_regularization_prefactor: NonNegative = _key(0.0, "prefactor of the parameters' norms in the minimised loss")
    nvidia_smi_log: str = _key("", "GPU utilisation and memory every 50 iterations; empty: none")


def load_classic_config(path: str | os.PathLike[str]) -> ClassicConfig:
    """Read a configuration file; keys that it leaves out have their defaults.

    Raises:
        InputError: unreadable, not JSON, or with every unknown key and wrong value.
    """
    return make_classic_config(read_config_file(path), os.fspath(path))


def read_config_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file's keys and values, without checking them."""
    name = os.fspath(path)
    size = file_size(path)
    if size > MAX_CONFIG_BYTES:
        raise InputError(f"{name}: expected a configuration of at most {MAX_CONFIG_BYTES} bytes, found {size}")
    try:
        with open(path, encoding="utf-8") as file:
            content = json5.load(file)
    except OSError as error:
        raise InputError(f"{name}: cannot read the configuration: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one as well
        fault = json_fault(error)
        raise InputError(f"{name}: expected a JSON object (comments with // are allowed): {fault}") from error
    if not isinstance(content, dict):
        raise InputError(f"{name}: expected a JSON object with keys, found {type(content).__name__}")
    return content


def make_classic_config(
    values: dict[str, Any], where: str, command_line: dict[str, Any] | None = None
) -> ClassicConfig:
    """Check all values at once, those of a file and those of the command line, which override them.

    Whole numbers are accepted where a key takes any number.

    Raises:
        InputError: every unknown key and wrong value, a line each, with where it comes from.
    """
    command_line = command_line or {}
    sources = {where: values, "command line": command_line}
    faults = [fault for source, given in sources.items() for fault in _faults(_numbers(given), source)]
    if faults:
        raise InputError("\n".join(faults))
    return ClassicConfig.model_validate(_numbers({**values, **command_line}))


def _faults(values: dict[str, Any], where: str) -> list[str]:
    try:
        ClassicConfig.model_validate(values)
    except ValidationError as error:
        return [f"{where}: {_fault(fault)}" for fault in error.errors()]
    return []


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """Convert whole numbers to float for keys that hold one; numbers too large for it stay, and are refused."""
    return {key: _as_float(value) if _takes_float(key) else value for key, value in values.items()}


def _as_float(value: Any) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    try:
        return float(value)
    except OverflowError:
        return value


def _takes_float(key: str) -> bool:
    field = ClassicConfig.model_fields.get(key)
    return field is not None and field.annotation is float


def _fault(fault: Any) -> str:
    key = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key!r}{did_you_mean(key, ClassicConfig.model_fields)}"
    return f"{key}: {fault['msg'][0].lower()}{fault['msg'][1:]}, got {reprlib.repr(fault['input'])}"


def did_you_mean(word: str, known: Any) -> str:
    """Hint ` (did you mean ...?)` with the nearest known word, or nothing."""
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f" (did you mean {nearest[0]}?)" if nearest else ""
