"""The verb `fit`: runs the commands of its stages, remembers which are done, and goes on where it was stopped."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pyfit_gpu.commands.fit.choices import rate, training_options
from pyfit_gpu.commands.fit.layout import RECORD, Layout, remove
from pyfit_gpu.commands.fit.record import Record
from pyfit_gpu.commands.fit.request import Request, Survey, survey_data
from pyfit_gpu.commands.fit.stages import TRAINING, Stage, stages
from pyfit_gpu.commands.interrupts import STATUS_UNFINISHED
from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.commands.messages import in_options
from pyfit_gpu.errors import InputError
from pyfit_gpu.files import atomic_text, check_writable
from pyfit_gpu.locks import hold
from pyfit_gpu.log import log

Run = Callable[[Sequence[str]], int]


def fit(request: Request, *, setup: Setup, run: Run) -> int:
    """Fit a committee of potentials to data, from the data's faults to the potential's errors (docs/fit.md).

    Args:
        run: runs a command of this program and returns its exit status.

    Returns:
        Exit status: 0, or that of a signal which stopped training.

    Raises:
        InputError: nothing to train on, a folder that is not a fit's, or a fit of other data or with other arguments.
    """
    layout = Layout(request.out, request.members)
    path = layout.path(RECORD)
    _check_folder(request.out, path)
    digests = request.digests()
    is_new = setup.overwrite or not os.path.exists(path)
    if is_new:
        record = Record(request.arguments(), digests, choose(request, survey_data(request), setup))
        Path(request.out).mkdir(exist_ok=True)
        hold(path)
        if os.path.exists(path):
            if not setup.overwrite:
                raise InputError(f"{path}: another job has begun a fit there meanwhile")
            layout.remove_all()  # but for the record, which the new one replaces
        record.save(path)
    else:
        hold(path)
        record = Record.load(path)
        record.require_same(request.arguments(), digests, path)
        log.info("%s: goes on after %s", request.out, ", ".join(record.done) or "nothing")
    return _Fit(request, layout, path, run).run_all(record)


def _check_folder(folder: str, record: str) -> None:
    """Refuse a folder that cannot be written, or that holds something else than a fit."""
    if not os.path.exists(folder):
        check_writable(folder)
    elif not os.path.isdir(folder):
        raise InputError(f"{folder}: expected a folder for the fit, found a file")
    elif not os.path.exists(record) and any(not name.endswith(".partial") for name in os.listdir(folder)):
        raise InputError(f"{folder}: expected an empty folder, or that of an earlier fit, found other files")
    else:
        check_writable(record)


def choose(request: Request, survey: Survey, setup: Setup) -> dict[str, Any]:
    """Settings from the data: hidden layers and options of `train` by its amount, and whether energies train first."""
    width = survey.shape.width(survey.amount.n_labels)
    parameters = survey.shape.n_parameters(width)
    workers = rate(setup.device.type, torch.get_num_threads())
    amount, seconds = survey.amount, request.seconds
    training = training_options(amount, parameters, request.members, seconds, workers)
    energies_first = request.pinn and survey.has_derivatives
    return {"hidden": [width, width], "training": list(training), "energies_first": energies_first}


class _Fit:
    """Runs stages, and saves after each that it is done."""

    def __init__(self, request: Request, layout: Layout, path: str, run: Run) -> None:
        self._request = request
        self._layout = layout
        self._path = path
        self._run = run

    def run_all(self, record: Record) -> int:
        is_missing = False
        for stage in stages(self._request, self._layout, record.chosen):
            if self._is_done(stage, record) and not is_missing:
                continue
            is_missing = is_missing or not stage.is_optional  # nothing rests on what is optional
            record, words = self._begin(stage, record)
            status = self._status(stage, words)
            if stage.trained is not None:
                record, status = self._after_training(stage, record, status)
            if status and not stage.is_check:
                return status
            if all(map(os.path.exists, stage.outputs)):
                record = record.with_done(stage.name, stage.words)
                self._save(record)
        log.info("%s: the fit is complete; its commands: %s", self._request.out, self._layout.path("commands.sh"))
        return 0

    def _is_done(self, stage: Stage, record: Record) -> bool:
        """Whether a stage has nothing to do; training that its time ended goes on when it is given more."""
        if stage.name == TRAINING and 0 < record.time_was_up < self._request.seconds:
            return False
        return stage.name in record.done and all(map(os.path.exists, stage.outputs))

    def _begin(self, stage: Stage, record: Record) -> tuple[Record, Sequence[str]]:
        """Make way for a stage; words of its command, where the time that is left for training may be shorter."""
        if not stage.is_optional:
            record = record.before(stage.name)  # what comes after it is to be done anew, even if this is killed
        if stage.trained is None:
            self._save(record)
            remove(stage.outputs)
            return record, stage.words
        goes_on = os.path.exists(stage.trained.run_file)
        if goes_on:
            last = os.stat(stage.trained.run_file).st_mtime
            spent = record.spent.get(stage.name, 0.0) + max(0.0, last - record.began.get(stage.name, last))
        else:
            spent = 0.0
        record = record.with_times(stage.name, began=time.time(), spent=spent)
        self._save(record)
        if not goes_on:
            stage.trained.remove()
        left = stages(self._request, self._layout, record.chosen, record.spent)
        (now,) = (one for one in left if one.name == stage.name)
        return record, now.words

    def _after_training(self, stage: Stage, record: Record, status: int) -> tuple[Record, int]:
        """The record and the status after a training, which its time may have ended, as asked for."""
        is_up, now = status == STATUS_UNFINISHED, time.time()
        spent = record.spent[stage.name] + now - record.began[stage.name]
        record = record.with_times(stage.name, began=now, spent=spent)
        if stage.name == TRAINING:
            record = replace(record, time_was_up=self._request.seconds if is_up else 0.0)
        return record, 0 if is_up else status

    def _status(self, stage: Stage, words: Sequence[str]) -> int:
        command = as_typed(words)
        log.info("\n$ %s", command)
        try:
            return self._run(words)
        except InputError as error:
            if not stage.is_optional:
                raise
            log.info("%s: left out: %s (the same command tries it again)", stage.name, in_options(error))
            return 0

    def _save(self, record: Record) -> None:
        record.save(self._path)
        with atomic_text(self._layout.path("commands.sh")) as file:
            file.writelines(f"{as_typed(words)}\n" for words in record.done.values())


def as_typed(words: Sequence[str]) -> str:
    """A command as one types it into a shell."""
    return shlex.join(["pyfit-gpu", *words])
