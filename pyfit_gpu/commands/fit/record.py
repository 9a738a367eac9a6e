"""The record of a fit, `fit.json` in its folder: what was asked for, on which data, and what is done."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pyfit_gpu._version import __version__
from pyfit_gpu.errors import InputError, shortened
from pyfit_gpu.files import atomic_text

FORMAT, VERSION = "pyfit-gpu fit", 2
STAGES = ("potential", "doctor", "set", "energies", "training", "uncertainty", "errors", "report", "lammps")


@dataclass(frozen=True)
class Record:
    """Facts by which a fit goes on."""

    arguments: dict[str, Any]
    data: dict[str, str]  # SHA-256 of the files, by name
    chosen: dict[str, Any]  # settings found from the data
    done: dict[str, list[str]] = field(default_factory=dict)  # words of the commands that have ended, by stage
    began: dict[str, float] = field(default_factory=dict)  # s since the epoch, of the last time that a training began
    spent: dict[str, float] = field(default_factory=dict)  # s of each training before
    time_was_up: float = 0.0  # s, the time asked for when it ended training; 0: it did not
    created_by: str = f"pyfit-gpu {__version__}"

    @classmethod
    def load(cls, path: str) -> Record:
        """Read a record.

        Raises:
            InputError: it cannot be read, is no record, or one of another version.
        """
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
            found = (content.pop("format"), content.pop("version"))
            record = cls(**(_of_version_1(content) if found == (FORMAT, 1) else content))
        except OSError as error:
            raise InputError(f"{path}: cannot read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(f"{path}: expected the record of a fit, found another file or a damaged one") from error
        if found not in ((FORMAT, 1), (FORMAT, VERSION)):
            raise InputError(f"{path}: expected {FORMAT} version {VERSION}, found {found[0]} version {found[1]}")
        return record

    def save(self, path: str) -> None:
        with atomic_text(path) as file:
            json.dump({"format": FORMAT, "version": VERSION, **asdict(self)}, file, indent=1)
            file.write("\n")

    def with_done(self, stage: str, words: Sequence[str]) -> Record:
        return replace(self, done={**self.done, stage: list(words)})

    def with_times(self, stage: str, *, began: float, spent: float) -> Record:
        return replace(self, began={**self.began, stage: began}, spent={**self.spent, stage: spent})

    def before(self, stage: str) -> Record:
        """The same with only the stages before one done."""
        earlier = STAGES[: STAGES.index(stage)]
        return replace(self, done={name: words for name, words in self.done.items() if name in earlier})

    def describe(self) -> list[str]:
        """A few lines about the fit."""
        given = {name: value for name, value in self.arguments.items() if value not in (None, [], False)}
        ended = f"; ended by its time, {self.time_was_up:g} s" if self.time_was_up else ""
        layers = "-".join(map(str, self.chosen["hidden"]))
        left = [stage for stage in STAGES if stage not in self.done]
        if not self.chosen["energies_first"]:
            left.remove("energies")
        return [
            f"data          {shortened(self.data)}",
            f"asked for     {', '.join(f'{name} {_shown(value)}' for name, value in given.items())}",
            f"chosen        hidden layers {layers}; {' '.join(self.chosen['training']) or 'options of train as usual'}",
            f"done          {', '.join(stage for stage in STAGES if stage in self.done) or 'nothing'}{ended}",
            *([f"not done      {', '.join(left)}"] if left else []),
        ]

    def require_same(self, arguments: Mapping[str, Any], data: Mapping[str, str], path: str) -> None:
        """Refuse to go on with other arguments or other data.

        Raises:
            InputError: with the names of all that differ.
        """
        faults = [
            f"{name}: expected {_shown(value)} (the earlier fit's), got {_shown(arguments[name])}"
            for name, value in self.arguments.items()
            if arguments[name] != value
        ]
        faults += _changed_files(self.data, data)
        if faults:
            raise InputError("\n".join(f"{os.path.dirname(path) or '.'}: {fault}" for fault in faults))


def _of_version_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a fit by an earlier version, which had straight networks and one training alone."""
    times = {name: {"training": content[f"training_{name}"]} for name in ("began", "spent")}
    kept = {name: value for name, value in content.items() if not name.startswith("training_")}
    arguments, chosen = {"pinn": False, **content["arguments"]}, {"energies_first": False, **content["chosen"]}
    return {**kept, **times, "arguments": arguments, "chosen": chosen}


def _shown(value: object) -> str:
    if isinstance(value, list):
        return shortened(value, separator=" ") or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _changed_files(earlier: Mapping[str, str], data: Mapping[str, str]) -> list[str]:
    if list(earlier.values()) == list(data.values()):  # perhaps under other names
        return []
    changed = [name for name in data if earlier.get(name, data[name]) != data[name]]
    new = [name for name in data if name not in earlier]
    gone = [name for name in earlier if name not in data]
    faults = [
        f"data: {shortened(names)} {one if len(names) == 1 else several}"
        for names, one, several in (
            (changed, "changed since the fit began", "changed since the fit began"),
            (new, "is not among the fit's data", "are not among the fit's data"),
            (gone, "is no longer given", "are no longer given"),
        )
        if names
    ]
    return faults or ["data: the files are in another order"]
