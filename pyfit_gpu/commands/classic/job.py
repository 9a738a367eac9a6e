"""The classic program's job: the same keys, the same files, all checks before any work."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from pyfit_gpu.commands.classic.config import ClassicConfig
from pyfit_gpu.commands.jobs import Setup, Sources, featurize_frames, read_all_frames
from pyfit_gpu.commands.messages import OptionsFormatter, in_options
from pyfit_gpu.commands.streams import TolerantStream
from pyfit_gpu.commands.train.energy_scale import warn_of_scale
from pyfit_gpu.commands.train.job import run_fit
from pyfit_gpu.commands.train.outputs import TrainingOutputs
from pyfit_gpu.commands.train.row_file import check_replaceable
from pyfit_gpu.commands.warnings import warn_of_copies
from pyfit_gpu.datasets.splits import CLASSIC_RULE, Split, classic_split
from pyfit_gpu.datasets.summary import describe_set
from pyfit_gpu.datasets.training_set import TrainingSet, require_same_inputs
from pyfit_gpu.devices import select_device
from pyfit_gpu.errors import InputError, shortened
from pyfit_gpu.files import check_distinct, check_output, check_writable, create_anew, free_number, numbered_path
from pyfit_gpu.formats.kinds import HDF5_SET
from pyfit_gpu.formats.nn_dat import check_form, load_potential
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.text_set import write_text_set
from pyfit_gpu.formats.training_set.reader import save_training_set
from pyfit_gpu.locks import hold
from pyfit_gpu.log import log
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.optimizers.lbfgs_settings import LBFGSSettings
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.settings import FitSettings


def run_classic(
    config: ClassicConfig, *, gpu_given: bool = False, dtype: torch.dtype = torch.float64, quiet: bool = False
) -> int:
    """Generate a training set, train, or both; returns the exit status.

    Args:
        config: all keys, see docs/formats/classic_config.md.
        gpu_given: whether the user gave gpu_affinity: then falling back to the CPU is worth a warning.

    Raises:
        InputError: all faults of keys and files, before any work is done.
    """
    outputs = _outputs(config)
    set_out = config.training_set_output_file if config.generate_training_set else ""
    log_path = config.log_path
    if not config.unique:  # first: what another job has just written is in the way
        for path in filter(None, (set_out, log_path)):
            hold(path)
        if config.run_training:
            outputs.hold()
    _refuse_faults(config, outputs)
    early = _hold_messages()
    try:
        setup = Setup(_device(config, gpu_given), dtype, config.overwrite, config.unique, quiet)
        inputs = _read_inputs(config)
    finally:
        log.removeHandler(early)
    if config.unique:
        # One number for all outputs of a run.
        names = [*(outputs.paths() if config.run_training else ()), log_path, set_out]
        number = free_number([name for name in names if name])
        outputs = outputs.numbered(number)
        set_out = str(numbered_path(set_out, number)) if set_out else ""
        log_path = str(numbered_path(log_path, number)) if log_path else ""
    with closing(_LogFile(log_path, early)):
        return _work(config, inputs, setup, outputs, set_out)


def _hold_messages() -> MemoryHandler:
    """Keep messages until the log file may be written, when all inputs are known to be good."""
    handler = MemoryHandler(capacity=1_000_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    log.addHandler(handler)
    return handler


class _LogFile:
    """Log file of messages with the time, beginning with those kept so far; written anew, flushed line by line."""

    FIRST_LINE = re.compile(r"\W?\d{4}-\d\d-\d\d|.*\b(DEBUG|INFO|WARNING|ERROR)\b")  # other programs' too

    def __init__(self, path: str, early: MemoryHandler) -> None:
        self.handler: logging.StreamHandler[TextIO] | None = None
        if path:
            try:
                self.handler = logging.StreamHandler(TolerantStream(create_anew(path)))  # type: ignore[arg-type]
            except OSError as error:
                raise InputError(f"{path}: cannot write the log: {error.strerror}") from error
            self.handler.setFormatter(OptionsFormatter("%(asctime)s %(levelname)s %(message)s"))
            early.setTarget(self.handler)
            early.flush()
            log.addHandler(self.handler)

    def close(self) -> None:
        if self.handler is not None:
            log.removeHandler(self.handler)
            self.handler.stream.close()


def _outputs(config: ClassicConfig) -> TrainingOutputs:
    return TrainingOutputs(
        network=config.neural_network_out,
        loss_log=config.loss_log_path,
        validation_log=config.validation_log_path if config.validation_interval else "",
        energy_volume_log=config.energy_volume_file if config.energy_volume_interval else "",
        energy_volume_interval=config.energy_volume_interval,
        backup_dir=config.network_backup_dir,
        backup_interval=config.network_backup_interval,
        gpu_log=config.nvidia_smi_log,
    )


def _settings(config: ClassicConfig) -> FitSettings:
    return FitSettings(
        steps=config.training_iterations,
        optimizer=LBFGSSettings(
            line_search="none",
            learning_rate=config.learning_rate,
            max_iterations=config.max_lbfgs_iterations,
        ),
        conditioning="none",
        keep="last",
        l2=config.l2_regularization_prefactor,
        error_restart_level=config.error_restart_level,
        validation_interval=config.validation_interval,
    )


def _refuse_faults(config: ClassicConfig, outputs: TrainingOutputs) -> None:
    """Refuse, in one message, all faults that names and files show without being read."""
    faults = []
    may_replace = config.overwrite or config.unique  # numbered outputs replace nothing

    def require(key: str, purpose: str) -> None:
        if not getattr(config, key):
            faults.append(f"{key}: required to {purpose}, it is empty")

    def collect(check: Callable[[], object]) -> None:
        try:
            check()
        except InputError as error:
            faults.append(in_options(error))

    inputs = {key: getattr(config, key) for key in ("dft_input_file", "training_set_in", "neural_network_in")}
    if not (config.generate_training_set or config.run_training):
        faults.append("nothing to do: neither generate_training_set nor run_training is set")
    if config.generate_training_set:
        for key in ("dft_input_file", "neural_network_in", "training_set_output_file"):
            require(key, "generate a training set")
        if config.training_set_output_file:
            collect(lambda: check_output(config.training_set_output_file, overwrite=may_replace))
        _require_file(config.dft_input_file, "dft_input_file", faults)
    if config.run_training:
        for key in ("neural_network_in", "neural_network_out"):
            require(key, "train")
        if config.generate_training_set:
            if config.training_set_in not in ("", config.training_set_output_file):
                faults.append(
                    "training_set_in: expected nothing or the training_set_output_file of the same run "
                    f"({config.training_set_output_file}), got {config.training_set_in}"
                )
        else:
            require("training_set_in", "train")
            _require_file(config.training_set_in, "training_set_in", faults)
        if outputs.network:
            faults += outputs.faults(inputs, overwrite=may_replace, logs_anew=True)
    _require_file(config.neural_network_in, "neural_network_in", faults)
    if config.log_path:
        collect(lambda: check_writable(config.log_path))
        if not may_replace:
            collect(lambda: check_replaceable(config.log_path, _LogFile.FIRST_LINE, "log of messages"))
    generated = {"training set to write": config.training_set_output_file if config.generate_training_set else ""}
    if config.generate_training_set:
        # The set that both tasks share is written and read; no other file may be both.
        inputs["training_set_in"] = ""
    collect(lambda: check_distinct(generated, inputs))
    trained = outputs.files() if config.run_training else {}
    collect(lambda: check_distinct({**generated, "log": config.log_path, **trained}, {}))
    collect(lambda: check_distinct({"log": config.log_path}, inputs))
    if faults:
        raise InputError("\n".join(faults))


def _require_file(path: str, key: str, faults: list[str]) -> None:
    if path and not Path(path).is_file():
        faults.append(f"{key}: {path} does not exist or is not a file")


def _device(config: ClassicConfig, gpu_given: bool) -> torch.device:
    """Choose as the classic program does: the GPU of that index, or the CPU on a machine without any."""
    if config.force_cpu:
        return select_device("cpu")
    if torch.cuda.is_available():
        return select_device(f"cuda:{config.gpu_affinity}")
    if gpu_given:
        log.warning(
            "gpu_affinity %d: this machine has no GPU that torch can use: computing on the CPU", config.gpu_affinity
        )
    return select_device("cpu")


@dataclass(frozen=True)
class _Inputs:
    """Inputs of a run, known to fit together."""

    potential: Potential
    weight_seed: int
    frames: list[Frame] | None  # to make a training set from
    training_set: TrainingSet | None  # given


def _read_inputs(config: ClassicConfig) -> _Inputs:
    """Read everything before any work.

    Raises:
        InputError: a file that is not what its key says, inputs that do not fit, a group too small to validate.
    """
    weight_seed = int(np.random.SeedSequence().generate_state(1)[0])
    potential = load_potential(config.neural_network_in, seed=weight_seed)
    if config.run_training:
        check_form(potential, config.neural_network_out, trained=True)
    if config.generate_training_set:
        frames = read_all_frames(Sources.of([config.dft_input_file]), training=True)
        if config.run_training:
            _check_groups(_split_frames(frames, config), config)
        return _Inputs(potential, weight_seed, frames, None)
    training_set = load_training_set(config.training_set_in)
    log.info("%s: %s", config.training_set_in, describe_set(training_set))
    where = f"{config.training_set_in} was not made for {config.neural_network_in}"
    require_same_inputs(potential.descriptor, training_set.descriptor, where)
    if potential.is_physically_informed and bool(training_set.positions.isnan().any()):
        raise InputError(
            f"{config.training_set_in}: expected positions, from which {potential.kind} has its energies; text sets "
            "have none: give generate_training_set in the same run, or a training_set_output_file that ends in .h5"
        )
    _check_groups(_plan_split(training_set, config), config)
    return _Inputs(potential, weight_seed, None, training_set)


def _work(config: ClassicConfig, inputs: _Inputs, setup: Setup, outputs: TrainingOutputs, set_out: str) -> int:
    training_set = inputs.training_set
    if inputs.frames is not None:
        training_set = featurize_frames(inputs.frames, inputs.potential, setup, e_shift=config.e_shift)
        _write_set(training_set, set_out)
    if not config.run_training or training_set is None:
        return 0
    return _train(config, inputs.potential, training_set, inputs.weight_seed, outputs, setup)


def _train(
    config: ClassicConfig,
    potential: Potential,
    training_set: TrainingSet,
    weight_seed: int,
    outputs: TrainingOutputs,
    setup: Setup,
) -> int:
    split = _plan_split(training_set, config)
    warn_of_copies(training_set, split)
    warn_of_scale(potential, training_set.select(split.train))
    if config.validation_split_seed == 0:
        log.info("validation_split_seed 0: drew %d", split.seed)
    if config.randomize:
        potential = potential.randomized(weight_seed)
    log.info("random weights, where they are asked for, are drawn from +-%g with seed %d",
             potential.max_random, weight_seed)  # fmt: skip
    if config.validation_ratio == 1.0:
        log.info("validation_ratio 1.0: every structure trains, there is no validation set and no validation log")
    settings = replace(_settings(config), seed=weight_seed)
    return run_fit(potential, training_set, split, settings, outputs, setup)


def _plan_split(training_set: TrainingSet, config: ClassicConfig) -> Split:
    """Split by the classic rule: numbers are the classic program's."""
    return training_set.plan_split(config.validation_ratio, config.validation_split_seed, rule=CLASSIC_RULE)


def _split_frames(frames: list[Frame], config: ClassicConfig) -> Split:
    """Split frames before their features are computed, as far as the sizes of groups decide it."""
    volumes = np.array([frame.volume / frame.n_atoms for frame in frames])
    eligible = np.array([frame.energy is not None for frame in frames])
    groups = [frame.group for frame in frames]
    return classic_split(groups, volumes, eligible, config.validation_ratio, config.validation_split_seed)


def _check_groups(split: Split, config: ClassicConfig) -> None:
    lacking = split.groups_without_validation
    if not lacking or config.validation_ratio == 1.0:
        return
    message = (
        f"groups without a validation structure at validation_ratio {config.validation_ratio}: {shortened(lacking)}"
    )
    if not config.no_warn:
        raise InputError(f"{message} (give no_warn to train all the same)")
    log.warning("%s", message)


def _write_set(training_set: TrainingSet, path: str) -> None:
    if path.endswith(HDF5_SET.endings):
        save_training_set(training_set, path)
    else:
        write_text_set(training_set, path)
    log.info("wrote %s: %s", path, describe_set(training_set))
