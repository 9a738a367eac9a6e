"""The files that a fit writes: their names, checks that they can be written, and the observers that write them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pyfit_gpu.commands.messages import found_faults
from pyfit_gpu.commands.train.logs import Backups, EnergyVolumeLog, GpuLog, GroupLog, LossLog, ValidationLog
from pyfit_gpu.commands.train.row_file import RowFile, check_replaceable
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.files import (
    allow_open_files,
    check_distinct,
    check_output,
    check_unlocked,
    check_writable,
    numbered_path,
)
from pyfit_gpu.formats.kinds import PotentialKind, identify
from pyfit_gpu.formats.uncertainty_file import FORMAT
from pyfit_gpu.locks import hold
from pyfit_gpu.training.history import Observer

# Description of each file, by its field of TrainingOutputs.
FILES = {
    "network": "network to write",
    "loss_log": "loss log",
    "validation_log": "validation log",
    "group_log": "group log",
    "energy_volume_log": "energy-volume log",
    "gpu_log": "GPU log",
    "run_file": "run file",
    "ranking": "ranking",
    "uncertainty": "uncertainty file",
    "live": "live page",
}
_COMMON = ("run_file", "ranking", "live")  # one file for all members
_LOGS: dict[str, type[RowFile]] = {
    "loss_log": LossLog,
    "validation_log": ValidationLog,
    "group_log": GroupLog,
    "energy_volume_log": EnergyVolumeLog,
    "gpu_log": GpuLog,
}
_RANKING = re.compile("rank,member,")
_UNCERTAINTY = re.compile(f"{FORMAT} ")
_PAGE = re.compile("<!DOCTYPE html>")


@dataclass(frozen=True)
class TrainingOutputs:
    """Files that a fit writes; an empty name or an interval of 0 switches one off."""

    network: str  # the best of several members
    loss_log: str = ""
    validation_log: str = ""
    group_log: str = ""
    energy_volume_log: str = ""
    energy_volume_interval: int = 0
    backup_dir: str = ""
    backup_interval: int = 0
    gpu_log: str = ""
    run_file: str = ""
    ranking: str = ""  # only with several members
    uncertainty: str = ""  # of the network
    live: str = ""  # page that is rewritten while the fit runs
    members: tuple[int, ...] = ()  # numbers of several members, each of which has files of its own

    def __post_init__(self) -> None:
        for name in ("energy_volume_interval", "backup_interval"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: expected a whole number >= 0, got {getattr(self, name)}")

    def _renamed(self, rename: Callable[[str], str], names: Sequence[str]) -> dict[str, str]:
        return {name: rename(getattr(self, name)) for name in names if getattr(self, name)}

    def numbered(self, number: int) -> TrainingOutputs:
        """Give every output the same number."""
        names = self._renamed(lambda path: str(numbered_path(path, number)), (*FILES, "backup_dir"))
        return replace(self, **names)  # type: ignore[arg-type]

    def of_members(self) -> list[TrainingOutputs]:
        """The outputs of each member; a single member has these themselves."""
        if not self.members:
            return [self]
        own = [name for name in (*FILES, "backup_dir") if name not in _COMMON]
        without = dict.fromkeys((*_COMMON, "gpu_log"), "")
        found = [
            replace(self, members=(), **{**self._renamed(partial(member_path, number=number), own), **without})  # type: ignore[arg-type]
            for number in self.members
        ]
        found[0] = replace(found[0], gpu_log=self.gpu_log)  # there is one GPU
        return found

    def files(self) -> dict[str, str]:
        """Names of the files by description, without backups; empty where switched off."""
        found = {what: getattr(self, name) for name, what in FILES.items()}
        if not self.members:
            return found
        best = [FILES[name] for name in ("network", "uncertainty", *_COMMON)]
        found = {what: path for what, path in found.items() if what in best}
        for number, own in zip(self.members, self.of_members(), strict=True):
            found |= {f"{what} of member {number}": path for what, path in own.files().items()}
        return found

    def paths(self) -> list[str]:
        """Names of all outputs that are written."""
        backups = [own.backup_dir for own in self.of_members() if own.backup_interval]
        return [path for path in (*self.files().values(), *backups) if path]

    def beside_run_file(self, path: str | os.PathLike[str]) -> str:
        """Path relative to the run file, so that a run can be resumed from another folder, or after it was moved."""
        return os.path.relpath(path, os.path.dirname(self.run_file) or ".")

    def hold(self) -> None:
        """Keep other jobs from these outputs (`locks.hold`); logs are locked once they are open.

        Raises:
            InputError: another job writes one of them.
        """
        ranking = self.ranking if self.members else ""
        backups = [own.backup_dir for own in self.of_members() if own.backup_interval]
        held = [path for path in (self.network, self.run_file, self.uncertainty, ranking, self.live, *backups) if path]
        logs = [path for own in self.of_members() for path in own._logs().values()]
        allow_open_files(len(held) + len(logs))
        for path in held:
            hold(path)
        for path in logs:
            check_unlocked(path)

    def faults(
        self,
        inputs: Mapping[str, str],
        *,
        overwrite: bool,
        continued: Collection[str] | None = None,
        logs_anew: bool = False,
    ) -> list[str]:
        """Faults that would keep these outputs from being written.

        Logs must not be an input; the network may be one, if it may be replaced.

        Args:
            inputs: files that the run reads, by description.
            overwrite: whether what is there may be replaced.
            continued: logs of the earlier run that goes on, by `beside_run_file`; its other outputs may exist, too.
            logs_anew: whether earlier logs may be replaced without `overwrite`, if that is what they are.
        """
        files = self.files()
        results = {what: path for what, path in files.items() if what.startswith(("network", "run file"))}
        resumed = continued is not None
        # An earlier run that neither goes on nor is replaced is a fault of its own: logs and backups are that run's.
        in_the_way = bool(self.run_file) and os.path.exists(self.run_file) and not resumed
        checks: list[Callable[[], None]] = [
            partial(self._check_result, path, overwrite=overwrite, resumed=resumed) for path in results.values() if path
        ]
        for own in self.of_members():
            for name, path in own._logs().items():
                known = in_the_way or (resumed and self.beside_run_file(path) in (continued or ()))
                checks.append(partial(_check_log, name, path, overwrite=overwrite or known, anew=logs_anew))
            if own.backup_dir and own.backup_interval:
                checks.append(partial(own._check_backups, inputs, overwrite or resumed or in_the_way))
        written = {
            path: (_UNCERTAINTY, what) for what, path in files.items() if what.startswith("uncertainty") and path
        }
        if self.ranking and self.members:
            written[self.ranking] = (_RANKING, FILES["ranking"])
        if self.live:
            written[self.live] = (_PAGE, FILES["live"])
        for path, kind in written.items():
            checks.append(partial(_check_written, path, *kind, overwrite=overwrite or in_the_way, resumed=resumed))
        networks = {what: path for what, path in results.items() if what.startswith("network")}
        the_rest = {what: path for what, path in files.items() if what not in networks}
        checks.append(partial(check_distinct, the_rest, {**networks, **inputs}))
        return found_faults(*checks)

    def _logs(self) -> dict[str, str]:
        """Names of the logs that are written, by field."""
        off = () if self.energy_volume_interval else ("energy_volume_log",)
        return {name: getattr(self, name) for name in _LOGS if getattr(self, name) and name not in off}

    def _check_result(self, path: str, *, overwrite: bool, resumed: bool) -> None:
        """Check the network, or the run file, which may hold hours of work."""
        exists = os.path.exists(path)
        if path == self.run_file and exists and not (overwrite or resumed):
            raise InputError(f"{path}: there is a run already (give --resume to go on, --overwrite to start afresh)")
        check_output(path, overwrite=overwrite or resumed)
        if resumed and exists and not overwrite and not isinstance(identify(path), PotentialKind):
            raise InputError(f"{path}: expected a network of the run here, found another file", remedy=Remedy.OVERWRITE)

    def _check_backups(self, inputs: Mapping[str, str], overwrite: bool) -> None:
        folder = Path(self.backup_dir)
        if not folder.exists():
            check_writable(folder)
        elif not folder.is_dir():
            raise InputError(f"{folder}: expected a folder for network backups, found a file")
        elif not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"{folder}: cannot write: no permission in the backup folder")
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

    def observers(self, train: TrainingSet, validation: TrainingSet | None = None) -> list[Observer]:
        """Make the observers that write the files of one member."""
        chosen: list[Observer] = []
        if self.loss_log:
            chosen.append(LossLog(self.loss_log))
        if self.validation_log:
            chosen.append(ValidationLog(self.validation_log))
        if self.group_log:
            groups = {*train.groups, *(validation.groups if validation is not None else ())}
            chosen.append(GroupLog(self.group_log, sorted(groups)))
        if self.energy_volume_log and self.energy_volume_interval:
            chosen.append(EnergyVolumeLog(self.energy_volume_log, train.volume_per_atom, self.energy_volume_interval))
        if self.backup_dir and self.backup_interval:
            chosen.append(Backups(self.backup_dir, self.backup_interval))
        if self.gpu_log:
            chosen.append(GpuLog(self.gpu_log))
        return chosen


def _check_log(name: str, path: str, *, overwrite: bool, anew: bool) -> None:
    check_output(path, overwrite=overwrite or anew)
    if anew and not overwrite:
        check_replaceable(path, _LOGS[name].FIRST_LINE, FILES[name])


def _check_written(path: str, first_line: re.Pattern[str], what: str, *, overwrite: bool, resumed: bool) -> None:
    """Check a file that is written at the end: a resumed run may replace its own."""
    check_output(path, overwrite=overwrite or resumed)
    if resumed and not overwrite:
        check_replaceable(path, first_line, what)


def member_path(path: str, number: int) -> str:
    """Put a member's number before the first dot: `fits/si.nn.dat` becomes `fits/si.m003.nn.dat`."""
    given = Path(path)
    stem, dot, ending = given.name.partition(".")
    return str(given.with_name(f"{stem}.m{number:03d}{dot}{ending}"))


def beside(path: str, ending: str) -> str:
    """Replace the ending: `out/si.trained.nn.dat` with `.loss.txt` becomes `out/si.trained.loss.txt`."""
    target = Path(path)
    name = target.name.removesuffix(".nn.dat")
    stem = name if name != target.name else target.stem
    return str(target.with_name(stem + ending))
