"""What the verbs of the command line and the classic job have in common: reading inputs, running a fit, outputs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from ase.units import GPa

from pyfit_gpu.devices import describe_device
from pyfit_gpu.energy_shift import EnergyShift
from pyfit_gpu.errors import InputError
from pyfit_gpu.files import check_distinct, check_output, check_writable, numbered_path, unique_path
from pyfit_gpu.fit_settings import FitSettings
from pyfit_gpu.formats.nn_dat import save_potential
from pyfit_gpu.history import History, LabelErrors, Observer
from pyfit_gpu.interrupts import stop_on_signals
from pyfit_gpu.loading import read_frames
from pyfit_gpu.logs import Backups, EnergyVolumeLog, GpuLog, LossLog, ProgressRows, ValidationLog
from pyfit_gpu.potential import Potential
from pyfit_gpu.progress import Progress
from pyfit_gpu.splits import Split
from pyfit_gpu.structures import Frame, Structures
from pyfit_gpu.training import TrainingFailure, fit
from pyfit_gpu.training_set import TrainingSet, assemble

log = logging.getLogger("pyfit_gpu")


@dataclass(frozen=True)
class Setup:
    """Where and how to compute, common to all verbs."""

    device: torch.device
    dtype: torch.dtype = torch.float64
    overwrite: bool = False
    unique: bool = False
    quiet: bool = False

    def output(self, path: str, inputs: Sequence[str] = ()) -> str:
        """The name to write to, after the checks that come before any work.

        Raises:
            InputError: the file exists and must not be replaced, is an input, or could not be written.
        """
        if self.unique:
            path = str(unique_path(path))
        check_output(path, overwrite=self.overwrite)
        check_distinct({"output": path}, {f"input {name}": name for name in inputs})
        return path


def read_all_frames(paths: Sequence[str]) -> list[Frame]:
    started = time.monotonic()
    frames = [frame for path in paths for frame in read_frames(path)]
    n_atoms = sum(frame.n_atoms for frame in frames)
    n_known = sum(frame.energy is not None for frame in frames)
    log.info(
        "read %d structures, %d atoms, %d with an energy (%.2f s)",
        len(frames),
        n_atoms,
        n_known,
        time.monotonic() - started,
    )
    return frames


def frame_batches(frames: Sequence[Frame], setup: Setup) -> Callable[[list[int]], Structures]:
    """Takes rows of frames to a batch on the device."""

    def take(rows: list[int]) -> Structures:
        return Structures.from_frames([frames[row] for row in rows], device=setup.device)

    return take


def featurize_frames(
    frames: Sequence[Frame], potential: Potential, setup: Setup, *, e_shift: EnergyShift | None
) -> TrainingSet:
    """A training set on the CPU, with progress and a closing line."""
    started = time.monotonic()
    n_atoms = sum(frame.n_atoms for frame in frames)
    with closing(Progress("features", n_atoms, "atoms", quiet=setup.quiet)) as progress:
        training_set = assemble(
            [frame.n_atoms for frame in frames],
            frame_batches(frames, setup),
            potential,
            e_shift=e_shift,
            dtype=setup.dtype,
            progress=progress.update,
        ).to("cpu", torch.float64)
    seconds = time.monotonic() - started
    log.info(
        "computed %d features of %d atoms on %s in %.2f s (%.0f atoms/s)",
        potential.descriptor.n_features,
        n_atoms,
        describe_device(setup.device),
        seconds,
        n_atoms / max(seconds, 1e-9),
    )
    return training_set


@dataclass(frozen=True)
class TrainingOutputs:
    """Files that a fit writes; an empty name or an interval of 0 switches one off."""

    network: str
    loss_log: str = ""
    validation_log: str = ""
    energy_volume_log: str = ""
    energy_volume_interval: int = 0
    backup_dir: str = ""
    backup_interval: int = 0
    gpu_log: str = ""

    def __post_init__(self) -> None:
        for name in ("energy_volume_interval", "backup_interval"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: expected a whole number >= 0, got {getattr(self, name)}")

    def files(self) -> dict[str, str]:
        """Names of the files by what they are; empty where switched off."""
        return {
            "network to write": self.network,
            "loss log": self.loss_log,
            "validation log": self.validation_log,
            "energy-volume log": self.energy_volume_log,
            "GPU log": self.gpu_log,
        }

    def paths(self) -> list[str]:
        """Every output that is written."""
        backups = self.backup_dir if self.backup_interval else ""
        return [path for path in (*self.files().values(), backups) if path]

    def numbered(self, number: int) -> TrainingOutputs:
        """Every output under the same number."""

        def with_number(path: str) -> str:
            return str(numbered_path(path, number)) if path else ""

        return replace(
            self,
            network=with_number(self.network),
            loss_log=with_number(self.loss_log),
            validation_log=with_number(self.validation_log),
            energy_volume_log=with_number(self.energy_volume_log),
            backup_dir=with_number(self.backup_dir),
            gpu_log=with_number(self.gpu_log),
        )

    def faults(self, inputs: Mapping[str, str], *, overwrite: bool) -> list[str]:
        """Everything that would keep these outputs from being written.

        Logs are always written anew, so they must not be an input; the network may be, where it may be replaced.

        Args:
            inputs: files that the run reads, by what they are.
        """
        found = []
        logs = self.files()
        del logs["network to write"]
        checks: list[Callable[[], None]] = [partial(check_output, self.network, overwrite=overwrite)]
        checks += [partial(check_writable, path) for path in logs.values() if path]
        checks.append(partial(check_distinct, logs, {"network to write": self.network, **inputs}))
        if self.backup_dir and self.backup_interval:
            checks.append(partial(self._check_backups, inputs, overwrite))
        for check in checks:
            try:
                check()
            except InputError as error:
                found.append(str(error))
        return found

    def _check_backups(self, inputs: Mapping[str, str], overwrite: bool) -> None:
        folder = Path(self.backup_dir)
        if not folder.exists():
            check_writable(folder)
        elif not folder.is_dir():
            raise InputError(f"{folder}: expected a folder for network backups, found a file")
        elif any(folder.iterdir()) and not overwrite:
            raise InputError(
                f"{folder}: the backup folder is not empty (give --overwrite to replace what it holds, --unique to "
                "number it)"
            )
        for purpose, path in inputs.items():
            if path and os.path.realpath(os.path.dirname(path) or ".") == os.path.realpath(folder):
                raise InputError(
                    f"{path}: the {purpose} lies in the backup folder {folder}, whose backups would be replaced: "
                    "expected a copy of it elsewhere, or another backup folder"
                )

    def observers(self, train: TrainingSet) -> list[Observer]:
        chosen: list[Observer] = []
        if self.loss_log:
            chosen.append(LossLog(self.loss_log))
        if self.validation_log:
            chosen.append(ValidationLog(self.validation_log))
        if self.energy_volume_log and self.energy_volume_interval:
            chosen.append(EnergyVolumeLog(self.energy_volume_log, train.volume_per_atom, self.energy_volume_interval))
        if self.backup_dir and self.backup_interval:
            chosen.append(Backups(self.backup_dir, self.backup_interval))
        if self.gpu_log:
            chosen.append(GpuLog(self.gpu_log))
        return chosen


def run_fit(
    potential: Potential,
    training_set: TrainingSet,
    split: Split,
    settings: FitSettings,
    outputs: TrainingOutputs,
    setup: Setup,
) -> int:
    """Train and write every output, also when a signal ends it early or the loss is lost.

    Returns:
        Exit status: 0, or what a signal asks for.

    Raises:
        TrainingFailure: the loss is no longer a number; outputs hold the last good weights.
    """
    train = training_set.select(split.train).to(setup.device, setup.dtype)
    validation = training_set.select(split.validation).to(setup.device, setup.dtype)
    _announce(potential, train, validation, settings, split, setup)
    if outputs.validation_log and not (split.validation and settings.validation_interval):
        log.info("nothing validates: no validation log is written")
        outputs = replace(outputs, validation_log="")
    observers = outputs.observers(train)
    with ExitStack() as stack:
        for observer in observers:
            if hasattr(observer, "close"):
                stack.callback(observer.close)
        progress = stack.enter_context(closing(Progress("training", settings.steps, "steps", quiet=setup.quiet)))
        rows = ProgressRows(progress)
        with stop_on_signals() as stop:
            started = time.monotonic()
            try:
                history = fit(
                    potential,
                    train,
                    validation,
                    settings=settings,
                    observers=[rows, *observers],
                    should_stop=lambda: bool(stop),
                )
            except BaseException as error:
                # Whatever ends it (a log without room, a second signal) does not lose what was trained so far.
                if rows.trained or isinstance(error, TrainingFailure):
                    save_potential(potential, outputs.network)
                raise
            save_potential(potential, outputs.network)
    _summarize(history, outputs, time.monotonic() - started)
    return stop.status


def _announce(
    potential: Potential,
    train: TrainingSet,
    validation: TrainingSet,
    settings: FitSettings,
    split: Split,
    setup: Setup,
) -> None:
    sizes = "-".join(str(size) for size in potential.networks.layer_sizes)
    log.info("network %s (%d parameters), %s, %s", sizes, potential.networks.n_parameters, setup.dtype, setup.device)
    log.info(
        "%d structures train (%d atoms), %d validate (%d atoms), split seed %d",
        len(train),
        train.n_atoms,
        len(validation),
        validation.n_atoms,
        split.seed,
    )
    log.info("labels: %s train, %s validate", _count_labels(train), _count_labels(validation))
    if settings.force_weight or settings.stress_weight:
        log.info("weights: energy 1, force %g Å^2, stress %g", settings.force_weight, settings.stress_weight)
    elif bool(train.has_forces.any()):
        log.info("energies alone train; forces are known, and take part with a force weight (--force-weight 0.1)")
    log.info("LBFGS, line search %s, %d steps of up to %d iterations",
             settings.line_search, settings.steps, settings.max_iterations)  # fmt: skip


def _count_labels(part: TrainingSet) -> str:
    counts = ((known & (part.weight > 0)).sum() for known in (part.has_energy, part.has_forces, part.has_stress))
    return "{} energies, {} structures with forces, {} with stress".format(*map(int, counts))


def _summarize(history: History, outputs: TrainingOutputs, seconds: float) -> None:
    steps = len(history.loss) - 1
    end = "interrupted" if history.interrupted else "gave up" if history.gave_up else "done"
    validation = ""
    if history.validation:
        step, value = max(history.validation.items())
        best = min(history.validation, key=history.validation.__getitem__)
        least = f"; least {history.validation[best]:.6e} at step {best}" if best != step else ""
        validation = f", validation {value:.6e} (step {step}{least})"
    log.info(
        "%s after %d steps: loss %.6e eV/atom (start %.6e)%s, %d evaluations in %.2f s",
        end,
        steps,
        history.loss[-1],
        history.loss[0],
        validation,
        history.n_evaluations,
        seconds,
    )
    for name, errors in (("training", history.errors[-1]), ("validation", _last(history.validation_errors))):
        if errors is not None and (errors.forces is not None or errors.stress is not None):
            log.info("%s RMSE: %s", name, describe_errors(errors))
    if history.loss[-1] > history.loss[0]:
        log.warning("the loss is larger than at the start: training diverged (try a smaller learning rate)")
    if history.gave_up:
        log.warning("the loss was above error_restart_level after every restart: the last network is written")
    log.info("wrote %s", outputs.network)


def _last(by_step: Mapping[int, LabelErrors]) -> LabelErrors | None:
    return by_step[max(by_step)] if by_step else None


def describe_errors(errors: LabelErrors) -> str:
    parts = [f"energy {1000 * errors.energy:.3f} meV/atom"]
    if errors.forces is not None:
        parts.append(f"forces {errors.forces:.4f} eV/Å")
    if errors.stress is not None:
        parts.append(f"stress {errors.stress / GPa:.3f} GPa")
    return ", ".join(parts)


def beside(path: str, ending: str) -> str:
    """`out/si.trained.nn.dat` with `.loss.txt` as `out/si.trained.loss.txt`."""
    target = Path(path)
    name = target.name.removesuffix(".nn.dat")
    stem = name if name != target.name else target.stem
    return str(target.with_name(stem + ending))
