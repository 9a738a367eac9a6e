"""Observers of a fit that write logs and backups, each row as soon as it is known, and readers of the logs."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from pyfit_gpu.commands.progress import Progress
from pyfit_gpu.commands.train.row_file import RowFile, read_number, read_table, read_text, table_row
from pyfit_gpu.errors import InputError, shortened
from pyfit_gpu.formats.nn_dat import NN_DAT_ENDING, PINN_ENDING, ending_of, save_potential
from pyfit_gpu.formats.text_lines import is_count
from pyfit_gpu.training.history import LabelErrors, StepRecord
from pyfit_gpu.training.loss import TERMS

_ERROR_ROW = re.compile(r"\s*\d+( +[-+\dnia][-+.\deEnaif]*)+\s*$")


class LossLog(RowFile):
    """Log of step and loss in eV/atom (`%06i %.10E`) for every row, then of the labels' errors (`_label_columns`)."""

    FIRST_LINE = _ERROR_ROW

    def on_step(self, row: StepRecord) -> None:
        self.write(f"{row.step:06d} {row.loss:.10E}{_label_columns(row.errors)}\n")


class ValidationLog(RowFile):
    """Log as `LossLog`, for the validation structures and the rows that validate."""

    FIRST_LINE = _ERROR_ROW

    def on_step(self, row: StepRecord) -> None:
        if row.validation is not None:
            self.write(f"{row.step:06d} {row.validation:.10E}{_label_columns(row.validation_errors)}\n")


def _label_columns(errors: LabelErrors | None) -> str:
    """RMSE of every term, in the order and units of `TERMS`, nan for terms that take no part.

    Empty where only energies train: their error is the loss, and the classic program's log has two columns.
    """
    if errors is None or errors.keys() <= {"energy"}:
        return ""
    return "".join(f" {errors[term.name]:.10E}" if term.name in errors else " nan" for term in TERMS)


def describe_error_log(path: Path) -> list[str]:
    """Lines about a `LossLog` or `ValidationLog`.

    Raises:
        InputError: something else than such rows.
    """
    rows = [line.split() for line in read_text(path).splitlines() if line.strip()]
    if any(len(row) < 2 or not is_count(row[0]) for row in rows):
        raise InputError(f"{path}: expected rows of a step and an error, found something else")
    errors = [(read_number(row[1], path), int(row[0])) for row in rows]
    best, step = min(errors)
    lines = [
        f"rows          {len(errors)}, steps {errors[0][1]} to {errors[-1][1]}",
        f"error         {errors[0][0]:.6g} to {errors[-1][0]:.6g} eV/atom, least {best:.6g} at step {step}",
    ]
    for term, value in zip(TERMS, rows[-1][2:], strict=False):  # fewer columns: only energies, or an earlier version
        if value != "nan":
            lines.append(f"{term.name:<13} RMSE {read_number(value, path):.6g} {term.unit} in the last row")
    return lines


class GroupLog(RowFile):
    """Log of every group's energy RMSE, eV/atom, in training and validation: `step,part,group,group,..`."""

    FIRST_LINE = re.compile("step,part,")

    def __init__(self, path: str | Path, groups: Sequence[str]) -> None:
        super().__init__(path)
        self.groups = groups

    def on_start(self) -> None:
        super().on_start()
        self.write(table_row(("step", "part", *self.groups)))

    def on_step(self, row: StepRecord) -> None:
        parts = {"train": row.group_errors, "validation": row.validation_group_errors}
        for part, errors in parts.items():
            if errors:
                values = ",".join(f"{errors.get(group, math.nan):.10E}" for group in self.groups)
                self.write(f"{row.step:06d},{part},{values}\n")


def describe_group_log(path: Path) -> list[str]:
    """Lines about a `GroupLog`: the last row of each part, eV/atom."""
    names, rows = read_table(path)
    lines = [f"groups        {len(names) - 2}"]
    for step, part, *errors in {row[1]: row for row in rows}.values():
        found = shortened(f"{name} {read_number(cell, path):.4g}" for name, cell in zip(names[2:], errors, strict=True))
        lines.append(f"{part:<13} step {read_number(step, path):.0f}: {found} eV/atom")
    return lines


class EnergyVolumeLog(RowFile):
    """Log of the training structures' volumes per atom, then of predicted energies per atom every `interval` rows."""

    FIRST_LINE = re.compile("training_index")

    def __init__(self, path: str | Path, volume_per_atom: Tensor, interval: int) -> None:
        super().__init__(path)
        self.volume_per_atom = volume_per_atom
        self.interval = interval

    def on_start(self) -> None:
        super().on_start()
        self.write("training_index " + " ".join(f"{value:.6E}" for value in self.volume_per_atom.tolist()) + "\n")

    def on_step(self, row: StepRecord) -> None:
        if row.step % self.interval == 0:
            energies = " ".join(f"{value:.6E}" for value in row.energies_per_atom().tolist())
            self.write(f"{row.step:06d} {energies}\n")


def describe_energy_volume_log(path: Path) -> list[str]:
    """Lines about an `EnergyVolumeLog`."""
    lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
    steps = [line[0] for line in lines[1:]]
    for line in lines[1:]:
        if len(line) != len(lines[0]) or not is_count(line[0]):
            raise InputError(f"{path}: expected rows of a step and {len(lines[0]) - 1} energies, found "
                             f"'{' '.join(line)[:60]}'")  # fmt: skip
    saved = f"{len(steps)} saved, {steps[0]} to {steps[-1]}" if steps else "none saved"
    return [f"structures    {len(lines[0]) - 1}", f"steps         {saved}"]


class Backups:
    """Writes the potential every `interval` rows, as `nn_bk_00025.nn.dat` (or `.pinn`, where the form needs it)."""

    def __init__(self, folder: str | Path, interval: int) -> None:
        self.folder = Path(folder)
        self.interval = interval

    def on_start(self) -> None:
        """Make the folder, and remove backups of an earlier run or attempt, which would mix with the new ones."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for ending in (NN_DAT_ENDING, PINN_ENDING):
                for earlier in self.folder.glob(f"nn_bk_*{ending}"):
                    earlier.unlink()
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> InputError:
        return InputError(f"{self.folder}: cannot make the backup folder: {error.strerror}")

    def on_step(self, row: StepRecord) -> None:
        if row.step % self.interval == 0:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)  # it may be gone when a run is resumed
            except OSError as error:
                raise self._error(error) from error
            name = f"nn_bk_{row.step:05d}{ending_of(row.potential)}"
            save_potential(row.potential, self.folder / name, member=row.member)


class GpuLog(RowFile):
    """Log of GPU utilisation and memory by nvidia-smi, every 50 rows."""

    FIRST_LINE = re.compile("step,index,")
    INTERVAL = 50
    QUERY = "index,utilization.gpu,memory.used,memory.total"

    def on_start(self) -> None:
        super().on_start()
        self.write(f"step,{self.QUERY}\n")

    def on_step(self, row: StepRecord) -> None:
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
        self._rows: dict[int, StepRecord] = {}
        self._validated: dict[int, float] = {}  # eV/atom, the least of each member

    @property
    def best(self) -> int:
        """Member with the least validation loss so far, or else the least training loss."""
        scores = {k: self._validated.get(k, row.loss) for k, row in self._rows.items()}
        return min(scores, key=lambda k: scores[k] if math.isfinite(scores[k]) else math.inf, default=0)

    def on_start(self) -> None:
        self.progress.restart()

    def on_step(self, row: StepRecord) -> None:
        self.trained = self.trained or row.step > 0
        if row.validation is not None:
            self._validated[row.member] = min(row.validation, self._validated.get(row.member, math.inf))
        self._rows[row.member] = row
        best = min(self._rows.values(), key=lambda row: row.loss if math.isfinite(row.loss) else math.inf)
        validation = "" if best.validation is None else f", validation {best.validation:.3e}"
        loss = best.loss if math.isfinite(best.loss) else float("nan")
        forces = best.errors.get("forces") if best.errors else None
        with_forces = "" if forces is None else f", forces {forces:.3g} eV/Å"
        which = f" (best of {len(self._rows)})" if len(self._rows) > 1 else ""
        done = min(row.step for row in self._rows.values())
        self.progress.update(done, f"loss {loss:.3e}{validation} eV/atom{with_forces}{which}")
