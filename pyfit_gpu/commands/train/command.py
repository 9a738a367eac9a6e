"""The verb `train`: fits potentials to a training set, in one process or several."""

from __future__ import annotations

import signal

from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.commands.outcome import guarded
from pyfit_gpu.commands.train.baseline_first import with_baseline
from pyfit_gpu.commands.train.job import parts_of
from pyfit_gpu.commands.train.options import RunOptions, SplitOptions, StartOptions, WeightOptions
from pyfit_gpu.commands.train.outputs import TrainingOutputs
from pyfit_gpu.commands.train.preparation import Job
from pyfit_gpu.devices import world_size
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.opening import load_potentials, load_training_set
from pyfit_gpu.log import log
from pyfit_gpu.training.distributed import ProcessGone, ProcessGroup, require_enough_members
from pyfit_gpu.training.objective_builder import ObjectiveBuilder
from pyfit_gpu.training.settings import FitSettings

_REFUSED = 2  # exit status of the other processes when an input is wrong, which the first one reports


def train(
    training_set: str,
    *,
    start: StartOptions,
    outputs: TrainingOutputs,
    settings: FitSettings,
    setup: Setup,
    split: SplitOptions | None = None,
    weights: WeightOptions | None = None,
    run: RunOptions | None = None,
) -> int:
    """Fit potentials to a training set (HDF5, shard manifest or classic text); returns the exit status.

    Under torchrun the first process does this, and the others compute what it asks for.
    """
    job = Job(training_set, start, outputs, settings, setup, split or SplitOptions(), weights or WeightOptions(),
               run or RunOptions())  # fmt: skip
    if world_size() == 1:
        return with_baseline(job.prepared()).run(None)
    processes = ProcessGroup.join(setup.device, job.how.distribute)
    try:
        # A follower says what is wrong before it leaves: then the others end, and the launcher ends what is left.
        return _lead(job, processes) if processes.rank == 0 else guarded(lambda: _follow(job, processes))
    finally:
        processes.leave()


def _lead(job: Job, processes: ProcessGroup) -> int:
    try:
        ready = job.prepared()
        require_enough_members(processes.distribute, processes.size, ready.potential.networks.n_members)
        ready = with_baseline(ready)
    except BaseException:
        processes.hand_out(None)
        raise
    processes.hand_out((ready.split, ready.settings, ready.plan, ready.potential.without_parameters()))
    for rank, fault in enumerate(processes.faults()):
        if fault:
            raise InputError(f"process {rank}: {fault}")
    log.info("%d processes share the work (%s)", processes.size, processes.distribute)
    try:
        return ready.run(processes)
    finally:
        processes.release()


def _follow(job: Job, processes: ProcessGroup) -> int:
    """Work for the first process, which handles signals, decides when all stop, and reports faults."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    try:
        return _work(job, processes)
    except ProcessGone:
        return _REFUSED  # the first process says why


def _work(job: Job, processes: ProcessGroup) -> int:
    message = processes.hand_out(None)
    if message is None:
        return _REFUSED
    split, settings, plan, potential = message
    fault = ""
    try:
        own = load_training_set(job.training_set, lazy=True)
        whole = job.weighted(job.together(own).whole)
        template = load_potentials(job.start.potentials).networks
    except InputError as error:
        fault = str(error)
    if any(processes.faults(fault)):
        return _REFUSED
    parts = dict(zip(("training", "validation", "test"), parts_of(whole, split, job.setup), strict=True))
    processes.work(template, ObjectiveBuilder(parts, settings, plan, processes, potential=potential).make)
    return 0
