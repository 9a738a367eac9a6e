"""The baseline of a physically informed network, fitted before its networks train: progress, time, interruptions."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from pyfit_gpu.commands.interrupts import Terminated
from pyfit_gpu.commands.progress import Progress
from pyfit_gpu.commands.train.logs import ProgressRows
from pyfit_gpu.commands.train.preparation import Ready
from pyfit_gpu.log import log
from pyfit_gpu.training.baseline import STARTS, fit_baseline
from pyfit_gpu.training.history import Observers


def with_baseline(ready: Ready) -> Ready:
    """Fit the baseline if that is asked for, in about half of the time there is at most; the rest is for training.

    A run that goes on has its baseline, in the run file that is written before the first step of training.
    """
    job, settings = ready.job, ready.settings
    if job.start.baseline != "fit" or ready.resumption.run is not None:
        return ready
    started = time.monotonic()
    stop_file = job.how.stop_file

    def should_stop() -> bool:
        is_late = 0 < settings.max_time < 2 * (time.monotonic() - started)
        return is_late or bool(stop_file and os.path.exists(stop_file))

    @contextmanager
    def watched(stage: str, steps: int) -> Iterator[Observers]:
        with closing(Progress(f"baseline, {stage}", steps, "steps", quiet=job.setup.quiet)) as progress:
            yield [ProgressRows(progress)]

    try:
        potential = fit_baseline(
            ready.potential,
            ready.training_set.select(ready.split.train).to(job.setup.device, job.setup.dtype),
            settings,
            starts=STARTS if job.start.baseline_starts is None else job.start.baseline_starts,
            should_stop=should_stop,
            watched=watched,
            plan=ready.plan,
        )
    except (KeyboardInterrupt, Terminated):
        log.warning("interrupted while the baseline was fitted: nothing is written, the same command fits it anew")
        raise
    if settings.max_time:
        left = settings.max_time - (time.monotonic() - started)
        settings = replace(settings, max_time=max(left, 1e-6))
    return replace(ready, potential=potential, settings=settings)
