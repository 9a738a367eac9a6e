"""Results of many structures, batch by batch, with the card kept busy, and with smaller batches where its memory ends.

On a GPU three things go on at once: a thread reads and pads the next batch and copies it, on a stream of its own; the
batch before it is computed; and the results of the one before that are on their way to the host. On a CPU one batch is
done after the other.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Generic, TypeVar

import torch
from torch import Tensor

from pyfit_gpu.log import log
from pyfit_gpu.parallel import ahead
from pyfit_gpu.structures.batch import Structures, size_batches

B = TypeVar("B")
R = TypeVar("R")
Take = Callable[[list[int]], Structures]


class BatchStream(Generic[B, R]):
    """Batches on their way through a device."""

    def __init__(
        self,
        sizes: Sequence[int],
        make: Callable[[list[int], Structures | None], B],
        compute: Callable[[B], Callable[[], R]],
        device: torch.device,
    ) -> None:
        """Describe the way; nothing is done yet.

        Args:
            sizes: atoms of each structure.
            make: makes a batch of some rows, of structures that are there already or that it takes itself.
            compute: computes a batch, and gives a function that waits for the results: see `Arriving`.
        """
        self._sizes, self._make, self._compute = sizes, make, compute
        self._waits = 1 if device.type == "cuda" else 0  # batches whose results are on their way
        self._device = device
        self._limit: int | None = None  # atoms of a batch, since the memory ended

    def results(self, batches: Iterable[tuple[list[int], Structures | None]]) -> Iterator[R]:
        """Yield the results of rows of structures, which may be there already."""
        waiting: deque[Callable[[], R]] = deque()
        for rows, structures in batches:
            for result in self._started(rows, structures):
                waiting.append(result)
                while len(waiting) > self._waits:
                    yield waiting.popleft()()
            structures = None  # not held while the next batch is computed
        while waiting:
            yield waiting.popleft()()

    def _started(self, rows: list[int], structures: Structures | None) -> Iterator[Callable[[], R]]:
        """Start the computation of some rows; in parts, each half as large, where the memory does not suffice."""
        parts = deque(self._cut(rows))
        while parts:
            own = parts.popleft()
            try:
                result = self._compute(self._make(own, structures if own == rows else None))
            except torch.OutOfMemoryError:  # a GPU's
                if len(own) == 1:
                    raise
                result = None
            if result is None:  # outside of the handler, whose exception holds all that was allocated
                self._halve(own)
                parts.extendleft(reversed(self._cut(own)))
                continue
            yield result

    def _cut(self, rows: list[int]) -> list[list[int]]:
        if self._limit is None:
            return [rows]
        return [[rows[k] for k in part] for part in size_batches([self._sizes[row] for row in rows], self._limit)]

    def _halve(self, rows: list[int]) -> None:
        """Lower the limit to half of what did not fit."""
        n_atoms = len(rows) * max(self._sizes[row] for row in rows)
        if self._limit is None:
            log.warning("out of memory with a batch of %d atoms: going on with smaller batches", n_atoms)
        self._limit = n_atoms // 2
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


class Arriving:
    """Results that may still be on their way from a device to the host."""

    def __init__(self, device: torch.device) -> None:
        """Mark the end of the copies that were started until now."""
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        if self._event is not None:
            self._event.synchronize()


def read_ahead(
    take: Take, batches: Iterable[list[int]], device: torch.device
) -> Iterator[tuple[list[int], Structures | None]]:
    """Read structures and copy them to a GPU in a thread, beside what the GPU computes; None: they find no place there.

    Args:
        take: gives the structures of some rows, padded, on the device.
        batches: rows.
    """
    beside = torch.cuda.Stream(device)
    beside.wait_stream(torch.cuda.current_stream(device))

    def read(rows: list[int]) -> tuple[list[int], Structures | None, torch.cuda.Event]:
        structures, there = None, torch.cuda.Event()
        with torch.cuda.stream(beside), contextlib.suppress(torch.OutOfMemoryError):
            taken = take(rows)
            taken.prepare()
            structures = taken
        there.record(beside)
        return rows, structures, there

    for rows, structures, there in ahead(read, batches):
        here = torch.cuda.current_stream(device)
        here.wait_event(there)
        if structures is None:  # the memory is another batch's: they are taken once more when that one is done
            yield rows, None
            continue
        for tensor in _tensors(structures):
            tensor.record_stream(here)  # its memory is not given to the next copy while this stream still reads it
        yield rows, structures


def _tensors(structures: Structures) -> Iterator[Tensor]:
    values = [getattr(structures, field.name) for field in fields(structures)]
    return (own for own in (*values, structures.places, structures.sizes_on_device) if isinstance(own, Tensor))
