"""Training as a job: progress, logs, run file, signals, and outputs that are written however training ends."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pyfit_gpu.commands.interrupts import STATUS_UNFINISHED, StopRequest, stop_on_signals
from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.commands.measuring import measure
from pyfit_gpu.commands.progress import Progress
from pyfit_gpu.commands.train.live import LivePage
from pyfit_gpu.commands.train.logs import ProgressRows
from pyfit_gpu.commands.train.outputs import TrainingOutputs
from pyfit_gpu.commands.train.row_file import RowFile
from pyfit_gpu.commands.train.summary import announce, summarize, write_ranking
from pyfit_gpu.datasets.splits import Split
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import save_potential
from pyfit_gpu.formats.run_file import FitState, Run, save_run
from pyfit_gpu.formats.uncertainty_file import save_uncertainty
from pyfit_gpu.log import log
from pyfit_gpu.models.extrapolation import ExtrapolationGrade
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.training.fit import fit
from pyfit_gpu.training.history import History
from pyfit_gpu.training.loop import TrainingFailure
from pyfit_gpu.training.settings import FitSettings

if TYPE_CHECKING:
    from pyfit_gpu.training.distributed import ProcessGroup
    from pyfit_gpu.training.memory_plan import MemoryPlan


@dataclass(frozen=True)
class Resumption:
    """Facts for the run file, and the earlier run to go on with."""

    options: dict[str, Any] = field(default_factory=dict)  # other settings that a resumed run must share; JSON
    data: dict[str, Any] = field(default_factory=dict)  # see `same_run.describe_data`
    first_member: int = 0
    interval: float = 30.0  # s between run files; 0: one after every step
    run: Run | None = None  # the run to go on with
    changed: bool = False  # whether settings differ from that run's, with the user's consent


def run_fit(
    potential: Potential,
    training_set: TrainingSet,
    split: Split,
    settings: FitSettings,
    outputs: TrainingOutputs,
    setup: Setup,
    *,
    random_starts: bool = False,
    stop_file: str = "",
    resumption: Resumption | None = None,
    plan: MemoryPlan | None = None,
    processes: ProcessGroup | None = None,
) -> int:
    """Train all members of a potential and write every output, also when a signal or a failure ends it early.

    Args:
        random_starts: whether the potential's parameters were drawn, see `fit`.
        stop_file: training ends when a file of this name exists.
        plan: what is kept in memory, see `fit`.
        processes: the processes that share the work, of which this one is the first.

    Returns:
        Exit status: 0, the status of a signal, or STATUS_UNFINISHED when time was up.

    Raises:
        TrainingFailure: the loss of every member is no longer a number; outputs hold the last finite parameters.
    """
    resumption = resumption or Resumption()
    train, validation, test = parts_of(training_set, split, setup)
    announce(potential, {"train": train, "validate": validation, "test": test}, settings, split, setup)
    if outputs.validation_log and not (split.validation and settings.validation_interval):
        log.info("nothing validates: no validation log is written")
        outputs = replace(outputs, validation_log="")
    observers = [own.observers(train, validation) for own in outputs.of_members()]
    with ExitStack() as stack:
        logs = {outputs.beside_run_file(one.path): one for own in observers for one in own if isinstance(one, RowFile)}
        for one in logs.values():
            stack.callback(one.close)
        if resumption.run is not None:
            _resume_logs(logs, resumption.run)
        progress = Progress("training", settings.steps, "steps", quiet=setup.quiet, limit=settings.max_time)
        stack.enter_context(closing(progress))
        rows = ProgressRows(progress)
        numbers = outputs.members or (0,)
        earlier = resumption.run
        live = LivePage(outputs.live, os.path.basename(outputs.network), numbers, settings.steps, earlier=earlier)
        stack.enter_context(closing(live))
        checkpoints = _Checkpoints(potential, settings, outputs, resumption, logs)
        with stop_on_signals() as stop:
            stopped = _Stopped(stop, stop_file)
            started = time.monotonic()
            try:
                history = fit(
                    potential,
                    train,
                    validation,
                    test=test if len(test) else None,
                    first_member=resumption.first_member,
                    random_starts=random_starts,
                    settings=settings,
                    observers=lambda k: [rows, *observers[k], *live.observers(k)],
                    should_stop=stopped,
                    checkpoint=checkpoints,
                    resume=_state(resumption),
                    plan=plan,
                    processes=processes,
                )
            except BaseException as error:
                # Whatever ends training (a full disk, a second signal), the result so far is not lost.
                if rows.trained or isinstance(error, TrainingFailure):
                    save_members(potential, outputs, rows.best)
                raise
            save_members(potential, outputs, history.ranking[0])
            checkpoints.finish(history)
    if outputs.uncertainty and (stop or history.end == "time"):
        log.info("stopped early: no uncertainty file is written")
    elif outputs.uncertainty:
        save_uncertainties(potential, outputs, history.ranking[0], train, validation, settings, quiet=setup.quiet)
    if outputs.ranking and outputs.members:
        write_ranking(history, outputs)
    summarize(history, outputs, time.monotonic() - started)
    if stopped.by_file:
        log.info("stopped by %s", stop_file)
        return 0
    return STATUS_UNFINISHED if history.end == "time" else stop.status


def parts_of(training_set: TrainingSet, split: Split, setup: Setup) -> tuple[TrainingSet, TrainingSet, TrainingSet]:
    """Training, validation and test structures, on the device."""
    train, validation, test = (
        training_set.select(rows).to(setup.device, setup.dtype) for rows in (split.train, split.validation, split.test)
    )
    return train, validation, test


def _state(resumption: Resumption) -> FitState | None:
    run = resumption.run
    return None if run is None else replace(run.state, known=not resumption.changed)


def _resume_logs(logs: Mapping[str, RowFile], run: Run) -> None:
    begun = any(member["history"]["loss"] for member in run.state.members)  # else the fit begins the logs
    written = {path: position for path, position in run.logs.items() if path in logs and (begun or position[1])}
    for path, position in written.items():
        logs[path].check(*position)  # all of them before any is changed
    for path, one in logs.items():
        if path not in run.logs:
            one.on_start()  # a log that the run did not have begins here
        elif path in written:
            one.resume(*written[path])


class _Stopped:
    """Whether to stop after this step, because of a signal or of a file."""

    def __init__(self, signals: StopRequest, stop_file: str) -> None:
        self.signals = signals
        self.stop_file = stop_file
        self.by_file = False

    def __call__(self) -> bool:
        if self.signals:
            return True
        self.by_file = bool(self.stop_file) and os.path.exists(self.stop_file)
        return self.by_file


class _Checkpoints:
    """Writes the run file at intervals, and at the end."""

    def __init__(
        self,
        potential: Potential,
        settings: FitSettings,
        outputs: TrainingOutputs,
        resumption: Resumption,
        logs: Mapping[str, RowFile],
    ) -> None:
        self.potential = potential
        self.settings = settings
        self.path = outputs.run_file
        self.resumption = resumption
        self.logs = logs
        for one in logs.values():
            one.keeps_earlier = bool(self.path)
        self.written = -math.inf  # the first is written before any other output, so that these belong to it
        self.last: FitState | None = None

    def __call__(self, state: Callable[[], FitState], last: bool) -> None:
        if not self.path:
            return
        if last:
            self.last = state()
        elif time.monotonic() - self.written >= self.resumption.interval:
            self._save(state(), done=False)

    def finish(self, history: History) -> None:
        """Write the last run file, with the parameters that are kept."""
        if self.last is not None:
            self._save(self.last, done=history.end == "done")

    def _save(self, state: FitState, *, done: bool) -> None:
        settings = {**self.settings.by_name(), **self.resumption.options}
        positions = {path: one.position() for path, one in self.logs.items()}
        run = Run(self.potential, state, settings, self.resumption.data, positions, self.resumption.first_member, done)
        save_run(run, self.path)
        for one in self.logs.values():
            one.saved()
        self.written = time.monotonic()


def save_members(potential: Potential, outputs: TrainingOutputs, best: int) -> None:
    """Write the networks of all members, and the best one under the common name."""
    for k, own in enumerate(outputs.of_members()):
        save_potential(potential, own.network, member=k)
    if outputs.members:
        save_potential(potential, outputs.network, member=best)


def save_uncertainties(
    potential: Potential,
    outputs: TrainingOutputs,
    best: int,
    train: TrainingSet,
    validation: TrainingSet,
    settings: FitSettings,
    *,
    quiet: bool,
) -> None:
    """Write the uncertainty files of all members, and that of the best one under the common name."""
    grade: ExtrapolationGrade | None = None  # the same for all members
    for k, own in enumerate(outputs.of_members()):
        try:
            member = potential.member(k)
            found = measure(member, train, validation, settings.loss_weights, grade=grade, quiet=quiet)
        except InputError as error:  # a member that failed predicts no numbers
            log.warning("%s: no uncertainty file: %s", own.network, error)
            continue
        grade = found.grade
        for path in dict.fromkeys([own.uncertainty, *([outputs.uncertainty] if k == best else [])]):
            save_uncertainty(found, path)
            log.info("wrote %s", path)
