"""What the verbs of the command line and the classic job have in common: where to compute, reading inputs, features."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch

from pyfit_gpu.devices import describe_device
from pyfit_gpu.energy_shift import EnergyShift
from pyfit_gpu.files import check_distinct, check_output, unique_path
from pyfit_gpu.loading import read_frames
from pyfit_gpu.potential import Potential
from pyfit_gpu.progress import Progress
from pyfit_gpu.structures import Frame, Structures
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
