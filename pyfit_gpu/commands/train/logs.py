"""Observers of a fit that write the classic program's files, each row as soon as it is known."""

from __future__ import annotations

import csv
import glob
import io
import math
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from torch import Tensor

from pyfit_gpu.commands.progress import Progress
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import save_potential
from pyfit_gpu.training.history import LabelErrors, Row


class RowFile:
    """A file that is written anew at the start and flushed after every row.

    Training that restarts with new weights begins it again. Where there is a run file, what was there before stays
    under a hidden name until the next one is written: a run that is killed in between goes on from the one before.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.keeps_earlier = False  # attempts, until `saved`
        self._attempt = 0
        self._kept: list[Path] = []
        self._file: TextIO | None = None

    def begin(self) -> None:
        again = self._file is not None
        self.close()
        try:
            if not again:  # what an earlier run left
                self._forget_attempts()
            if again and self.keeps_earlier:
                self._kept.append(self._earlier(self._attempt))
                os.replace(self.path, self._kept[-1])
            self._attempt += again
            self._file = open(self.path, "w", encoding="utf-8")  # noqa: SIM115 - stays open while the fit runs
        except OSError as error:
            raise InputError(f"{self.path}: cannot write: {error.strerror}") from error

    def check(self, attempt: int, position: int) -> None:
        """Whether `resume` would find what it needs; changes nothing.

        Raises:
            InputError: the file is not there, or shorter.
        """
        earlier = self._earlier(attempt)
        try:
            with open(earlier if earlier.exists() else self.path, "r+b") as file:
                length = file.seek(0, os.SEEK_END)
        except OSError as error:
            raise InputError(f"{self.path}: cannot resume: {error.strerror}") from error
        if length < position:
            raise InputError(f"{self.path}: cannot resume: expected at least {position} bytes, found {length}")

    def resume(self, attempt: int, position: int) -> None:
        """Go on after the first bytes of an attempt; what an interrupted run wrote beyond them is cut off."""
        self.close()
        self.check(attempt, position)
        try:
            if self._earlier(attempt).exists():
                os.replace(self._earlier(attempt), self.path)
            self._attempt = attempt
            self._forget_attempts()
            self._file = open(self.path, "r+", encoding="utf-8")  # noqa: SIM115 - stays open while the fit runs
            self._file.truncate(position)
            self._file.seek(position)
        except OSError as error:
            raise InputError(f"{self.path}: cannot resume: {error.strerror}") from error

    def position(self) -> tuple[int, int]:
        """How often training had restarted, and bytes written since."""
        return self._attempt, 0 if self._file is None else self._file.tell()

    def saved(self) -> None:
        """A run file knows the position."""
        while self._kept:
            self._kept.pop().unlink(missing_ok=True)

    def _forget_attempts(self) -> None:
        for attempt in self.path.parent.glob(f".{glob.escape(self.path.name)}.attempt*"):
            attempt.unlink()

    def _earlier(self, attempt: int) -> Path:
        return self.path.with_name(f".{self.path.name}.attempt{attempt}")

    def write(self, text: str) -> None:
        assert self._file is not None, "begin() comes first"
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise InputError(f"{self.path}: cannot write: {error.strerror}") from error

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                raise InputError(f"{self.path}: cannot write: {error.strerror}") from error


class LossLog(RowFile):
    """`%06i %.10E`: step and loss in eV/atom, for every row; then the errors of the labels, see `_label_columns`."""

    def see(self, row: Row) -> None:
        self.write(f"{row.step:06d} {row.loss:.10E}{_label_columns(row.errors)}\n")


class ValidationLog(RowFile):
    """The same of the validation structures, for the rows that compute it."""

    def see(self, row: Row) -> None:
        if row.validation is not None:
            self.write(f"{row.step:06d} {row.validation:.10E}{_label_columns(row.validation_errors)}\n")


def _label_columns(errors: LabelErrors | None) -> str:
    """RMSE of energy (eV/atom), forces (eV/Å) and stress (eV/Å^3), nan for what takes no part.

    Nothing where only energies train: their error is the loss, and the classic program's log has two columns.
    """
    if errors is None or (errors.forces is None and errors.stress is None):
        return ""
    values = (errors.energy, errors.forces, errors.stress)
    return "".join(" nan" if value is None else f" {value:.10E}" for value in values)


class GroupLog(RowFile):
    """Energy RMSE of every group in eV/atom, `step,part,group,group,..`: of training, and of validation where known."""

    def __init__(self, path: str | Path, groups: Sequence[str]) -> None:
        super().__init__(path)
        self.groups = groups

    def begin(self) -> None:
        super().begin()
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(("step", "part", *self.groups))
        self.write(text.getvalue())

    def see(self, row: Row) -> None:
        parts = {"train": row.group_errors, "validation": row.validation_group_errors}
        for part, errors in parts.items():
            if errors:
                values = ",".join(f"{errors.get(group, math.nan):.10E}" for group in self.groups)
                self.write(f"{row.step:06d},{part},{values}\n")


class EnergyVolumeLog(RowFile):
    """Volumes per atom of the training structures, then their predicted energies per atom every `interval` rows."""

    def __init__(self, path: str | Path, volume_per_atom: Tensor, interval: int) -> None:
        super().__init__(path)
        self.volume_per_atom = volume_per_atom
        self.interval = interval

    def begin(self) -> None:
        super().begin()
        self.write("training_index " + " ".join(f"{value:.6E}" for value in self.volume_per_atom.tolist()) + "\n")

    def see(self, row: Row) -> None:
        if row.step % self.interval == 0:
            energies = " ".join(f"{value:.6E}" for value in row.energies_per_atom().tolist())
            self.write(f"{row.step:06d} {energies}\n")


class Backups:
    """The potential every `interval` rows, as `nn_bk_00025.nn.dat`."""

    def __init__(self, folder: str | Path, interval: int) -> None:
        self.folder = Path(folder)
        self.interval = interval

    def begin(self) -> None:
        """Make the folder; backups of an earlier run or attempt go, or they would mix with the new ones."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for earlier in self.folder.glob("nn_bk_*.nn.dat"):
                earlier.unlink()
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> InputError:
        return InputError(f"{self.folder}: cannot make the backup folder: {error.strerror}")

    def see(self, row: Row) -> None:
        if row.step % self.interval == 0:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)  # it may be gone when a run is resumed
            except OSError as error:
                raise self._error(error) from error
            save_potential(row.potential, self.folder / f"nn_bk_{row.step:05d}.nn.dat", member=row.member)


class GpuLog(RowFile):
    """What nvidia-smi says of utilisation and memory, every 50 rows."""

    INTERVAL = 50
    QUERY = "index,utilization.gpu,memory.used,memory.total"

    def begin(self) -> None:
        super().begin()
        self.write(f"step,{self.QUERY}\n")

    def see(self, row: Row) -> None:
        if row.step % self.INTERVAL:
            return
        command = ["nvidia-smi", f"--query-gpu={self.QUERY}", "--format=csv,noheader"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        except (OSError, subprocess.SubprocessError) as error:
            answer = f"no reading: {error}\n"
        self.write("".join(f"{row.step:06d},{line}\n" for line in answer.splitlines()))


class ProgressRows:
    """Feeds a progress display with the rows of all members, and shows the best of them."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.trained = False  # whether any step was taken
        self._rows: dict[int, Row] = {}
        self._validated: dict[int, float] = {}  # eV/atom, the least of each member

    @property
    def best(self) -> int:
        """The member with the least validation loss so far, or else training loss."""
        scores = {k: self._validated.get(k, row.loss) for k, row in self._rows.items()}
        return min(scores, key=lambda k: scores[k] if math.isfinite(scores[k]) else math.inf, default=0)

    def begin(self) -> None:
        self.progress.restart()

    def see(self, row: Row) -> None:
        self.trained = self.trained or row.step > 0
        if row.validation is not None:
            self._validated[row.member] = min(row.validation, self._validated.get(row.member, math.inf))
        self._rows[row.member] = row
        best = min(self._rows.values(), key=lambda row: row.loss if math.isfinite(row.loss) else math.inf)
        validation = "" if best.validation is None else f", validation {best.validation:.3e}"
        loss = best.loss if math.isfinite(best.loss) else float("nan")
        forces = best.errors.forces if best.errors else None
        of_forces = "" if forces is None else f", forces {forces:.3g} eV/Å"
        of_all = f" (best of {len(self._rows)})" if len(self._rows) > 1 else ""
        done = min(row.step for row in self._rows.values())
        self.progress.update(done, f"loss {loss:.3e}{validation} eV/atom{of_forces}{of_all}")
