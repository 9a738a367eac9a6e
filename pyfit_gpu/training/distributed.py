"""Several processes, started by torchrun, that share the work of one fit.

The first process runs the optimiser, writes every file and takes every decision; the others compute what it asks for
and send it back. Sums over the set are cut into lanes that depend on nothing but the set (objective.py), and the first
process adds them up in their order: on CPUs the result has the same bits for any number of processes.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pyfit_gpu.errors import Failure, InputError
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.training.blocks import BlockValue
from pyfit_gpu.training.columns import Columns

Distribute = Literal["data", "members"]
_STOP, _BUILD, _VALUES, _MATRIX = range(4)
_Widths = dict[str, int | None]  # see `Columns`
_HEADER = 7  # whole numbers
_PATIENCE = datetime.timedelta(days=30)  # the first process may write files, or wait for a disk, as long as it likes


class ProcessGone(Failure):
    """Another process of the fit has ended."""


@contextlib.contextmanager
def _talking() -> Iterator[None]:
    """Tell a connection that breaks from what goes wrong in this process."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessGone("another process of this training has ended: its own message says why") from error


@_talking()
def _broadcast(tensor: Tensor) -> None:
    """Send the first process's tensor to all others."""
    dist.broadcast(tensor, 0)


@_talking()
def _send(tensor: Tensor) -> None:
    """Send a tensor to the first process."""
    dist.send(tensor, 0)


@_talking()
def _receive_from(tensor: Tensor, rank: int) -> None:
    """Receive another process's tensor in place of this one."""
    dist.recv(tensor, rank)


class SharedObjective(Protocol):
    """An objective that exists in every process, as the process group sees it."""

    bounds: list[tuple[int, int]]  # first and one past the last structure of each lane
    squares: list[str]  # names of `BlockValue.squares`
    n_sums: int  # of local parameters of each member that an evaluation needs first; 0: none
    target: Tensor  # (B,), on the device of the set
    dtype: torch.dtype  # dtype in which lanes are computed

    def lane_values(
        self,
        points: Tensor,
        template: ElementNetworks,
        factor: Tensor | None,
        sums: Tensor | None,
        *,
        gradient: bool,
    ) -> list[BlockValue]:
        """Evaluate all members, lane by lane, on the lanes that this process owns."""

    def lane_matrices(
        self, point: Tensor, template: ElementNetworks, factor: Tensor | None, lanes: slice
    ) -> Iterator[Tensor]:
        """Yield lower triangles of J^T J (P, P) of one member, of these lanes among those that this process has."""


T = TypeVar("T")
Made = TypeVar("Made", bound=SharedObjective)


@dataclass
class ProcessGroup:
    """The processes of one fit, seen from one of them."""

    rank: int
    size: int
    device: torch.device  # where tensors must be to be sent
    distribute: Distribute = "data"  # each process computes some lanes of all members, or all lanes of some members
    objectives: list[SharedObjective] = field(default_factory=list)
    _busy: bool = False  # in the middle of an evaluation

    @classmethod
    def join(cls, device: torch.device, distribute: Distribute = "data") -> ProcessGroup:
        """Join the other processes that torchrun started."""
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size(), device if on_gpu else torch.device("cpu"), distribute)

    def leave(self) -> None:
        """Leave the group. Every process must do this last, however it ends, or it may abort on its way out."""
        dist.destroy_process_group()

    def faults(self, own: str = "") -> list[str]:
        """Exchange the faults that the processes found, by rank; empty where there is none. All processes call this."""
        found: list[str] = [""] * self.size
        with _talking():
            dist.all_gather_object(found, own)
        return found

    def hand_out(self, value: Any) -> Any:
        """Give every process the first one's value. All processes call this."""
        found = [value]
        with _talking():
            dist.broadcast_object_list(found, 0)
        return found[0]

    def share_of(self, lanes: list[T]) -> list[T]:
        """Consecutive lanes that this process computes, so that they stay in order."""
        return lanes if self.distribute == "members" else lanes[self._own(len(lanes), self.rank)]

    def _own(self, count: int, rank: int) -> slice:
        return slice(count * rank // self.size, count * (rank + 1) // self.size)

    # In the first process

    def release(self) -> None:
        """Tell the workers to exit. During an evaluation they are not listening and exit when the connection closes."""
        if not self._busy:
            self._announce(_STOP)

    def build(self, name: str, make: Callable[[], Made]) -> Made:
        """Make the same objective in every process, for the part of the set called `name`."""
        self._announce(_BUILD, _PARTS.index(name))
        objective = make()
        self.objectives.append(objective)
        return objective

    def values(
        self,
        objective: SharedObjective,
        points: Tensor,
        template: ElementNetworks,
        factor: Tensor | None,
        sums: Tensor | None,
        *,
        gradient: bool,
    ) -> BlockValue:
        """Sum of the `lane_values` of all processes."""
        number = self.objectives.index(objective)
        self._busy = True
        known = [int(value is not None) for value in (factor, sums)]
        self._announce(_VALUES, number, *points.shape, *known, int(gradient))
        points = self._cast(points)
        for values in (factor, sums):
            if values is not None:
                self._cast(values)
        own = self._own_values(objective, points, template, factor, sums, gradient=gradient)
        widths = _widths(objective, points.shape[1] if gradient else 0, has_sums=sums is not None)
        found = [own, *(self._receive(objective, rank, len(points), widths) for rank in range(1, self.size))]
        self._busy = False
        if self.distribute == "data":
            return BlockValue.sum([lane for lanes in found for lane in lanes])
        return BlockValue.join([lanes[0] for lanes in found if lanes])

    def matrices(
        self, objective: SharedObjective, point: Tensor, template: ElementNetworks, factor: Tensor | None
    ) -> Iterator[Tensor]:
        """Yield the `lane_matrices` of all lanes in order, each process having computed some."""
        self._busy = True
        self._announce(_MATRIX, self.objectives.index(objective), point.shape[1], int(factor is not None))
        point = self._cast(point)
        if factor is not None:
            self._cast(factor)
        device, n_lanes = objective.target.device, len(objective.bounds)
        yield from objective.lane_matrices(point.to(device), template, factor, self._own_lanes(n_lanes))
        for rank in range(1, self.size):
            own = self._own(n_lanes, rank)
            for _ in range(own.stop - own.start):
                received = torch.empty(point.shape[1], point.shape[1], dtype=torch.float64, device=self.device)
                _receive_from(received, rank)
                yield received.to(device)
        self._busy = False

    def _own_lanes(self, n_lanes: int) -> slice:
        """Lanes of which this process makes matrices, among those that it has."""
        return self._own(n_lanes, self.rank) if self.distribute == "members" else slice(None)

    def _announce(self, *numbers: int) -> None:
        header = torch.zeros(_HEADER, dtype=torch.int64, device=self.device)
        header[: len(numbers)] = torch.tensor(numbers)
        _broadcast(header)

    def _cast(self, values: Tensor) -> Tensor:
        """Send numbers to all others; returns them as they are sent."""
        sent = values.detach().double().to(self.device).contiguous()
        _broadcast(sent)
        return sent

    def _receive(self, objective: SharedObjective, rank: int, members: int, widths: _Widths) -> list[BlockValue]:
        if self.distribute == "data":
            counts = [end - first for first, end in objective.bounds[self._own(len(objective.bounds), rank)]]
        else:
            own = self._own(members, rank)
            members = own.stop - own.start
            counts = [len(objective.target)] if members else []
        found = []
        for n_structures in counts:
            columns = Columns({"energies": n_structures, **widths})
            packed = torch.empty(members, columns.width, dtype=objective.dtype, device=self.device)
            _receive_from(packed, rank)
            found.append(BlockValue.from_named(columns.unpack(packed.to(objective.target.device))))
        return found

    # In every process

    def _own_values(
        self,
        objective: SharedObjective,
        points: Tensor,
        template: ElementNetworks,
        factor: Tensor | None,
        sums: Tensor | None,
        *,
        gradient: bool,
    ) -> list[BlockValue]:
        """Values of this process: of its own lanes, one by one, or of all lanes together for its own members."""
        points = points.to(objective.target.device)
        if self.distribute == "data":
            return objective.lane_values(points, template, factor, sums, gradient=gradient)
        own = self._own(len(points), self.rank)
        if own.start == own.stop:
            return []
        parts = [None if values is None else values[own] for values in (factor, sums)]
        return [BlockValue.sum(objective.lane_values(points[own], template, *parts, gradient=gradient))]

    # In the other processes

    def work(self, template: ElementNetworks, make: Callable[[str], SharedObjective]) -> None:
        """Compute what the first process asks for, until it is done.

        Args:
            template: networks with the same layers as those in training.
            make: makes the objective of a part of the set, as the first process does.

        Raises:
            ProcessGone: the first process has ended.
        """
        while True:
            header = torch.zeros(_HEADER, dtype=torch.int64, device=self.device)
            _broadcast(header)
            order, number, *rest = header.tolist()
            if order == _STOP:
                return
            if order == _BUILD:
                self.objectives.append(make(_PARTS[number]))
            elif order == _MATRIX:
                self._answer_matrices(self.objectives[number], template, *rest[:2])
            else:
                self._answer(self.objectives[number], template, *rest)

    def _answer(
        self,
        objective: SharedObjective,
        template: ElementNetworks,
        members: int,
        n_parameters: int,
        scaled: int,
        summed: int,
        gradient: int,
    ) -> None:
        points = self._receive_cast(members, n_parameters)
        factor = self._receive_cast(members, len(objective.target)).to(objective.target) if scaled else None
        sums = self._receive_cast(members, objective.n_sums).to(objective.target) if summed else None
        widths = _widths(objective, n_parameters if gradient else 0, has_sums=bool(summed))
        for value in self._own_values(objective, points, template, factor, sums, gradient=bool(gradient)):
            columns = Columns({"energies": value.energies.shape[1], **widths})
            _send(columns.pack(value.named()).to(self.device).contiguous())

    def _receive_cast(self, members: int, count: int) -> Tensor:
        """Receive numbers (members, count) of the whole set that the first process sends to all others."""
        values = torch.empty(members, count, dtype=torch.float64, device=self.device)
        _broadcast(values)
        return values

    def _answer_matrices(
        self, objective: SharedObjective, template: ElementNetworks, n_parameters: int, scaled: int
    ) -> None:
        point = self._receive_cast(1, n_parameters)
        factor = self._receive_cast(1, len(objective.target)).to(objective.target) if scaled else None
        own = self._own_lanes(len(objective.bounds))
        for matrix in objective.lane_matrices(point.to(objective.target.device), template, factor, own):
            _send(matrix.to(self.device))


def _widths(objective: SharedObjective, n_parameters: int, *, has_sums: bool) -> _Widths:
    """Columns in which a `BlockValue` is sent, beside those of its energies.

    Args:
        n_parameters: 0: it has no gradient.
        has_sums: whether the sums of the local parameters are known, so that they are not sent.
    """
    widths: _Widths = dict.fromkeys(objective.squares)
    if n_parameters:
        widths["gradient"] = n_parameters
    if objective.n_sums and not has_sums:
        widths["sums"] = objective.n_sums
    return widths


_PARTS = ("training", "validation", "test")


def require_enough_members(distribute: Distribute, size: int, members: int) -> None:
    """Refuse to distribute fewer members than processes.

    Raises:
        InputError: with both numbers.
    """
    if distribute == "members" and members < size:
        raise InputError(f"distribute: expected at least as many members as processes ({size}), got {members}")
