"""Options of `train` beside the settings of the fit itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pyfit_gpu.commands.parsing import (
    GroupRule,
    WindowRule,
    group_rules_as_text,
    parse_by_group,
    parse_windows,
    windows_as_text,
)
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.run_file import Run
from pyfit_gpu.training.distributed import Distribute

MOST_MEMBERS = 10_000  # each has files of its own


@dataclass(frozen=True)
class SplitOptions:
    """Which structures train. None: what the stored split says, or else 0.9, 2 and none."""

    name: str = ""  # under which the set stores it; empty: not stored
    train_fraction: float | None = None  # share of each group that trains
    seed: int | None = None  # 0 draws one
    test_groups: tuple[str, ...] | None = None  # patterns


@dataclass(frozen=True)
class WeightOptions:
    """Rules of weights and targets; of several that apply to a structure, the last counts."""

    groups: tuple[GroupRule, ...] = ()  # factors of whole groups
    windows: tuple[WindowRule, ...] = ()  # factors by eV/atom above the lowest energy
    targets: tuple[GroupRule, ...] = ()  # RMSE of a group, eV/atom, below which it costs nothing

    def as_settings(self) -> dict[str, list[str]]:
        """How a run file keeps the weights."""
        return {"group_weight": group_rules_as_text(self.groups), "window_weight": windows_as_text(self.windows)}


def with_plain_rules(run: Run) -> Run:
    """A run whose rules of weights are written as `WeightOptions` does: 2.0 is the 2 of an earlier command line."""
    earlier = WeightOptions(
        parse_by_group(run.settings.get("group_weight", ()), "group_weight"),
        parse_windows(run.settings.get("window_weight", ()), "window_weight"),
    )
    return replace(run, settings={**run.settings, **earlier.as_settings()})


@dataclass(frozen=True)
class StartOptions:
    """Where training starts."""

    potentials: tuple[str, ...]  # one, or one of each member
    members: int | None = None  # so many random starts
    first_member: int = 0  # number of the first
    weight_seed: int | None = None  # of random weights; None: the split's
    randomize: bool = False  # random weights whatever the file holds

    def __post_init__(self) -> None:
        if self.members is not None and not 1 <= self.members <= MOST_MEMBERS:
            raise InputError(f"members: expected a whole number from 1 to {MOST_MEMBERS}, got {self.members}")


@dataclass(frozen=True)
class RunOptions:
    """How the job is run."""

    resume: bool = False  # go on with the run file, if it is there
    allow_change: tuple[str, ...] = ()  # settings that may differ from the run's
    checkpoint_interval: float = 30.0  # s
    stop_file: str = ""
    distribute: Distribute = "data"
    started: float | None = None  # time.monotonic() at which the job began; None: now
    memory: int | None = None  # bytes of the device, or on a CPU of all processes together; None: most of it

    def __post_init__(self) -> None:
        if not self.checkpoint_interval >= 0:
            raise InputError(f"checkpoint_interval: expected seconds >= 0, got {self.checkpoint_interval}")
