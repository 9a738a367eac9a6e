"""Options of `train` beside the settings of the fit itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from pyfit_gpu.commands.parsing import (
    GroupRule,
    WindowRule,
    group_rules_as_text,
    parse_by_group,
    parse_windows,
    windows_as_text,
)
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.run_file import Run
from pyfit_gpu.training.distributed import Distribute

MOST_MEMBERS = 10_000  # each has files of its own


@dataclass(frozen=True)
class SplitOptions:
    """Options of the split. None: as in the stored split, or else 0.9, 2 and none."""

    name: str = ""  # name under which the set stores the split; empty: not stored
    train_fraction: float | None = None  # share of each group that trains
    seed: int | None = None  # 0 draws one
    test_groups: tuple[str, ...] | None = None  # patterns
    validation: tuple[str, ...] = ()  # files that validate: then the whole set trains
    test: tuple[str, ...] = ()  # files that are only scored at the end
    reading: ReadOptions = field(default_factory=ReadOptions)  # of those files

    def __post_init__(self) -> None:
        given = {"--split": self.name, "--seed": self.seed is not None}
        given["--train-fraction"] = self.train_fraction not in (None, 1.0)
        against = [option for option, is_given in given.items() if is_given]
        if self.validation and against:
            raise InputError(
                f"--validation: expected without {' and '.join(against)}: with files of its own the whole set trains"
            )

    @property
    def files(self) -> dict[str, tuple[str, ...]]:
        """Files beside the set, by their purpose."""
        return {"validation": self.validation, "test": self.test}


@dataclass(frozen=True)
class WeightOptions:
    """Rules of weights and targets; where several apply to a structure, the last one counts."""

    groups: tuple[GroupRule, ...] = ()  # factors of whole groups
    windows: tuple[WindowRule, ...] = ()  # factors by eV/atom above the lowest energy
    targets: tuple[GroupRule, ...] = ()  # RMSE of a group, eV/atom, below which it costs nothing

    def as_settings(self) -> dict[str, list[str]]:
        """Rules of weights in the form that a run file keeps."""
        return {"group_weight": group_rules_as_text(self.groups), "window_weight": windows_as_text(self.windows)}


def with_plain_rules(run: Run) -> Run:
    """Rewrite a run's rules of weights as `WeightOptions` writes them, so that 2 equals 2.0."""
    earlier = WeightOptions(
        parse_by_group(run.settings.get("group_weight", ()), "group_weight"),
        parse_windows(run.settings.get("window_weight", ()), "window_weight"),
    )
    return replace(run, settings={**run.settings, **earlier.as_settings()})


@dataclass(frozen=True)
class StartOptions:
    """Options of the parameters that training starts from."""

    potentials: tuple[str, ...]  # one file, or one for each member
    members: int | None = None  # number of random starts
    first_member: int = 0  # number of the first member
    weight_seed: int | None = None  # seed of random parameters; None: the split's
    randomize: bool = False  # draw parameters even if the file holds some
    baseline: Literal["keep", "fit"] = "keep"  # whether the baseline of a physically informed network is fitted first
    baseline_starts: int | None = None  # starts that compete for it; None: 5

    def __post_init__(self) -> None:
        if self.members is not None and not 1 <= self.members <= MOST_MEMBERS:
            raise InputError(f"members: expected a whole number from 1 to {MOST_MEMBERS}, got {self.members}")
        if self.baseline != "fit" and self.baseline_starts is not None:
            raise InputError(
                f"baseline_starts: expected where the baseline is fitted alone, got {self.baseline_starts} with "
                f"baseline {self.baseline}"
            )


@dataclass(frozen=True)
class RunOptions:
    """Options of the job: resuming, stopping, processes, memory."""

    resume: bool = False  # go on with the run file, if it exists
    allow_change: tuple[str, ...] = ()  # settings that may differ from the run's
    checkpoint_interval: float = 30.0  # s
    stop_file: str = ""
    distribute: Distribute = "data"
    started: float | None = None  # time.monotonic() at which the job began; None: now
    memory: int | None = None  # bytes of the device, or on a CPU of all processes together; None: most of it
    left_open: frozenset[str] = frozenset()  # settings of the run that goes on, or else found from the data

    def __post_init__(self) -> None:
        if not self.checkpoint_interval >= 0:
            raise InputError(f"checkpoint_interval: expected seconds >= 0, got {self.checkpoint_interval}")
