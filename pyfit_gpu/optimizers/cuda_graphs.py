"""CUDA graphs: many small operations on a GPU, recorded once for each shape and then started as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pyfit_gpu.fused import current
from pyfit_gpu.log import log
from pyfit_gpu.optimizers.base import MemberObjective

_Key = tuple[torch.Size, torch.dtype]
_CALLS_BEFORE = 3  # a recording takes as long as ten calls: shapes that are rare are not worth one


@dataclass(frozen=True, eq=False)
class _Recording:
    graph: torch.cuda.CUDAGraph
    argument: Tensor
    result: Tensor


class Recorded:
    """A function of one tensor on a GPU, recorded for every shape that comes back often.

    The function must do the same operations at the same addresses each time and never wait for the device, and a
    second call with the same argument must change nothing. Starting a hundred operations takes milliseconds, whatever
    they compute; recorded, loss and gradient of a small network take a sixth of the time (docs/performance.md).
    Recordings hold the memory that the largest of them computes in.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self._calls: dict[_Key, int] = {}
        self._recordings: dict[_Key, _Recording] = {}
        self._pool: Any = None
        self._has_memory = True

    def __call__(self, argument: Tensor) -> Tensor:
        """Compute the function; the next call overwrites the result."""
        key = (argument.shape, argument.dtype)
        self._calls[key] = self._calls.get(key, 0) + 1
        if key not in self._recordings:
            if self._calls[key] <= _CALLS_BEFORE or not self._has_memory:
                return self.function(argument)
            try:
                self._recordings[key] = self._record(argument)
            except torch.OutOfMemoryError:
                log.warning("too little memory on the GPU for recorded operations: they are started one by one")
                self._has_memory = False
                return self.function(argument)
        recording = self._recordings[key]
        recording.argument.copy_(argument)
        recording.graph.replay()
        return recording.result

    def _record(self, argument: Tensor) -> _Recording:
        argument = argument.detach().clone(memory_format=torch.contiguous_format)
        here, aside = torch.cuda.current_stream(argument.device), _stream_aside(argument.device)
        aside.wait_stream(here)
        try:
            with torch.cuda.stream(aside):
                self.function(argument)  # libraries make their workspaces before anything is recorded
        finally:
            here.wait_stream(aside)  # also after an error: what was started still reads the argument
        graph = torch.cuda.CUDAGraph()
        # One pool for all: they never run side by side. The stream that torch takes for itself, once for all devices,
        # is on the device that was the current one then.
        with current(argument.device), torch.cuda.graph(graph, pool=self._pool, stream=aside):
            result = self.function(argument)
        self._pool = graph.pool()
        return _Recording(graph, argument, result)


@cache
def _stream_aside(device: torch.device) -> torch.cuda.Stream:
    """The stream that is recorded: one for all recordings, as libraries have a workspace, some 30 MB, for each."""
    return torch.cuda.Stream(device)


class RecordedObjective:
    """An objective whose calls are recorded where that is worth it."""

    def __init__(self, objective: MemberObjective) -> None:
        self.objective = objective
        self._recorded = Recorded(self._packed)

    def __call__(self, points: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate members as the objective does; the results are the caller's own."""
        if len(points) > self.objective.recordable_points:
            return self.objective(points, members)
        found = self._recorded(torch.cat((points, members[:, None].to(points.dtype)), dim=1)).clone()
        n_parameters = points.shape[1]
        return found[:, 0], found[:, 1 : n_parameters + 1], found[:, n_parameters + 1 :]

    def _packed(self, argument: Tensor) -> Tensor:
        """Loss, gradient and extras side by side, of points beside the numbers of their members."""
        loss, gradient, extras = self.objective(argument[:, :-1], argument[:, -1].long())
        return torch.cat((loss[:, None], gradient, extras), dim=1)
