"""Parts shared by the verbs of the command line and the classic job: where to compute, reading inputs, features."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.commands.progress import Progress
from pyfit_gpu.datasets.build import assemble
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.devices import describe_device, rows_that_fit
from pyfit_gpu.errors import InputError
from pyfit_gpu.files import check_distinct, check_output, unique_path
from pyfit_gpu.formats.dft_inputs import DftInputs, in_windows, survey
from pyfit_gpu.formats.opening import read_reported
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.read_report import ReadReport
from pyfit_gpu.locks import hold
from pyfit_gpu.log import log
from pyfit_gpu.models.energy_shift import EnergyShift
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.parallel import pulled_ahead
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.frames import Frame, StructureSummary

_WINDOW_SHARE = 1 / 16  # of the memory, for the features of a window


@dataclass(frozen=True)
class Setup:
    """Options of all verbs: where and how to compute, and which outputs may be replaced."""

    device: torch.device
    dtype: torch.dtype = torch.float64
    overwrite: bool = False
    unique: bool = False
    quiet: bool = False

    def output(self, path: str, inputs: Sequence[str] = ()) -> str:
        """Check an output before any work, and return the name to write to.

        Raises:
            InputError: the file exists and must not be replaced, is an input, or could not be written.
        """
        if self.unique:
            path = str(unique_path(path))
        hold(path)  # first: what another job has just written is in the way
        check_output(path, overwrite=self.overwrite)
        check_distinct({"output": path}, {f"input {name}": name for name in inputs})
        return path


@dataclass(frozen=True)
class Sources:
    """Files of structures, and how to read them."""

    paths: tuple[str, ...]
    options: ReadOptions

    @classmethod
    def of(cls, paths: Sequence[str], options: ReadOptions | None = None) -> Sources:
        return cls(tuple(paths), options or ReadOptions())


def survey_files(
    sources: Sources,
    shard: tuple[int, int] = (0, 1),
    *,
    atoms: bool = False,
    keeps: Callable[[Frame], bool] | None = None,
    training: bool = True,
) -> DftInputs:
    """Survey files (`survey`), and log what was read; structures for training should have energies."""
    started = time.monotonic()
    inputs = survey(sources.paths, shard=shard, atoms=atoms, options=sources.options, keeps=keeps)
    _say_what_was_read(inputs.structures, started)
    inputs.report.log_labels(training=training)
    return inputs


def read_all_frames(sources: Sources, *, training: bool) -> list[Frame]:
    """Read all structures, and log what was read; those for training should have energies."""
    return list(_read_frames(sources, training=training))


def read_windows(sources: Sources, device: torch.device) -> Iterator[list[Frame]]:
    """Read all structures as `read_all_frames`: for a GPU in parts, the next of which is read while it computes one."""
    frames = _read_frames(sources, training=False)
    return iter([list(frames)]) if device.type == "cpu" else pulled_ahead(in_windows(frames))


def _read_frames(sources: Sources, *, training: bool) -> Iterator[Frame]:
    started = time.monotonic()
    report = ReadReport(sources.options)
    every = []
    for frame in read_reported(sources.paths, report, sources.options):
        every.append(frame)
        yield frame
    _say_what_was_read(every, started)
    report.log_labels(training=training)
    report.log_doubts()


def _say_what_was_read(structures: Sequence[Frame | StructureSummary], started: float) -> None:
    log.info(
        "read %d structures, %d atoms, %d with an energy (%.2f s)",
        len(structures),
        sum(structure.n_atoms for structure in structures),
        sum(structure.energy is not None for structure in structures),
        time.monotonic() - started,
    )


def frames_of_set(training_set: TrainingSet, rows: Sequence[int], path: str) -> list[Frame]:
    """Structures of a training set, with their labels.

    Raises:
        InputError: it holds no positions.
    """
    chosen = training_set.select(list(rows))
    if bool(chosen.positions.isnan().any()):
        raise InputError(f"{path}: expected a training set with positions, found one without (the classic text)")
    sizes = chosen.sizes.tolist()
    parts = zip(
        rows, chosen.groups, chosen.positions.split(sizes), chosen.atomic_numbers.split(sizes), chosen.cell, chosen.pbc,
        chosen.energy.tolist(), chosen.forces.split(sizes), chosen.stress,
        strict=True,
    )  # fmt: skip

    def known(label: Tensor) -> FloatArray | None:
        return None if bool(label.isnan().any()) else label.double().numpy()

    return [
        Frame(
            positions=positions.double().numpy(),
            cell=cell.double().numpy(),
            pbc=pbc.numpy(),
            atomic_numbers=numbers.numpy(),
            group=group,
            source=f"{path}, structure {row + 1}",
            energy=None if math.isnan(energy) else energy,
            forces=known(forces),
            stress=known(stress),
        )
        for row, group, positions, numbers, cell, pbc, energy, forces, stress in parts
    ]


def frame_batches(frames: Sequence[Frame], setup: Setup) -> Callable[[list[int]], Structures]:
    """Function that makes a batch of some rows of frames, on the device."""

    def take(rows: list[int]) -> Structures:
        return Structures.from_frames([frames[row] for row in rows], device=setup.device)

    return take


def featurize_frames(
    frames: Sequence[Frame], potential: Potential, setup: Setup, *, e_shift: EnergyShift | None
) -> TrainingSet:
    """Build a training set on the CPU, with progress and a closing line."""
    with _Featurizer(sum(frame.n_atoms for frame in frames), potential, setup, e_shift) as featurizer:
        return featurizer(frames)


def featurize_windows(
    inputs: DftInputs, potential: Potential, setup: Setup, *, e_shift: EnergyShift | None
) -> Iterator[TrainingSet]:
    """Build training sets as `featurize_frames` does from the structures that are taken, window by window."""
    with _Featurizer(inputs.n_atoms, potential, setup, e_shift) as featurizer:
        n_bytes = 8 * potential.descriptor.n_features
        windows = inputs.windows(rows_that_fit(n_bytes, torch.device("cpu"), share=_WINDOW_SHARE))
        # While a GPU computes, the next window is read.
        for frames in windows if setup.device.type == "cpu" else pulled_ahead(windows):
            yield featurizer(frames)
    inputs.report.log_doubts()


class _Featurizer:
    """Computes features of several parts, with one progress display and a closing line."""

    def __init__(self, n_atoms: int, potential: Potential, setup: Setup, e_shift: EnergyShift | None) -> None:
        self._n_atoms = n_atoms
        self._potential = potential
        self._setup = setup
        self._e_shift = e_shift
        self._progress = Progress("features", n_atoms, "atoms", quiet=setup.quiet)
        self._done = 0
        self._seconds = 0.0

    def __enter__(self) -> _Featurizer:
        return self

    def __call__(self, frames: Sequence[Frame]) -> TrainingSet:
        started = time.monotonic()
        training_set = assemble(
            [frame.n_atoms for frame in frames],
            frame_batches(frames, self._setup),
            self._potential,
            device=self._setup.device,
            e_shift=self._e_shift,
            dtype=self._setup.dtype,
            progress=lambda n_atoms: self._progress.update(self._done + n_atoms),
        ).to("cpu", torch.float64)
        self._done += training_set.n_atoms
        self._seconds += time.monotonic() - started
        return training_set

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        self._progress.close()
        if kind is None:
            log.info(
                "computed %d features of %d atoms on %s in %.2f s (%.0f atoms/s)",
                self._potential.descriptor.n_features,
                self._n_atoms,
                describe_device(self._setup.device),
                self._seconds,
                self._n_atoms / max(self._seconds, 1e-9),
            )
