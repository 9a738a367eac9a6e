"""Several processes, started by torchrun, that share the work of one fit.

The first process runs the optimiser, writes every file and takes every decision; the others compute what it asks for
and send it back. What is summed over the set is cut into lanes that depend on the set alone (objective.py), and the
first process adds them up in their order: on CPUs the result has the same bits whatever the number of processes.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.training.blocks import BlockValue

if TYPE_CHECKING:
    from pyfit_gpu.models.networks import ElementNetworks
    from pyfit_gpu.training.objective import Objective

Deal = Literal["data", "members"]
T = TypeVar("T")
_STOP, _BUILD, _VALUES = range(3)
_HEADER = 6  # whole numbers
_PATIENCE = datetime.timedelta(days=30)  # the first process may write files, or wait for a disk, as long as it likes


@dataclass
class Team:
    """The processes of one fit, seen from one of them."""

    rank: int
    size: int
    device: torch.device  # where tensors must be to be sent
    deal: Deal = "data"  # each process computes some lanes of all members, or all lanes of some members
    objectives: list[Objective] = field(default_factory=list)
    _busy: bool = False  # in the middle of an evaluation

    @classmethod
    def join(cls, device: torch.device, deal: Deal = "data") -> Team:
        """Meet the other processes that torchrun started."""
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size(), device if on_gpu else torch.device("cpu"), deal)

    def leave(self) -> None:
        """The last thing a process does, however it ends: without it the process may be aborted on its way out."""
        dist.destroy_process_group()

    def faults(self, own: str = "") -> list[str]:
        """What every process found wrong, by rank; empty where nothing is. All of them call it."""
        found: list[str] = [""] * self.size
        dist.all_gather_object(found, own)
        return found

    def share_of(self, lanes: list[T]) -> list[T]:
        """Lanes that this process computes: a run of them, so that they stay in order."""
        return lanes if self.deal == "members" else lanes[self._run(len(lanes), self.rank)]

    def _run(self, count: int, rank: int) -> slice:
        return slice(count * rank // self.size, count * (rank + 1) // self.size)

    # The first process

    def dismiss(self) -> None:
        """The others go home. In the middle of an evaluation they do not listen: they go when this process has left."""
        if not self._busy:
            self._announce(_STOP)

    def build(self, name: str, make: Callable[[], Objective]) -> Objective:
        """The same objective in every process; `name` says which part of the set it is for."""
        self._announce(_BUILD, _PARTS.index(name))
        objective = make()
        self.objectives.append(objective)
        return objective

    def values(
        self, objective: Objective, points: Tensor, like: ElementNetworks, factor: Tensor | None, *, gradient: bool
    ) -> BlockValue:
        """What `Objective.lane_values` of all processes add up to."""
        number = self.objectives.index(objective)
        self._busy = True
        self._announce(_VALUES, number, len(points), points.shape[1], int(factor is not None), int(gradient))
        points = points.detach().double().to(self.device).contiguous()
        dist.broadcast(points, 0)
        if factor is not None:
            dist.broadcast(factor.double().to(self.device).contiguous(), 0)
        own = self._own_values(objective, points, like, factor, gradient=gradient)
        found = [own, *(self._receive(objective, rank, points, gradient=gradient) for rank in range(1, self.size))]
        self._busy = False
        if self.deal == "data":
            return BlockValue.sum([lane for lanes in found for lane in lanes])
        return BlockValue.join([lanes[0] for lanes in found if lanes])

    def _announce(self, *numbers: int) -> None:
        header = torch.zeros(_HEADER, dtype=torch.int64, device=self.device)
        header[: len(numbers)] = torch.tensor(numbers)
        dist.broadcast(header, 0)

    def _receive(self, objective: Objective, rank: int, points: Tensor, *, gradient: bool) -> list[BlockValue]:
        rows, members = len(objective.target), len(points)
        if self.deal == "data":
            bounds = objective.bounds[self._run(len(objective.bounds), rank)]
            return [self._receive_one(rank, members, end - first, points, objective, gradient) for first, end in bounds]
        own = self._run(members, rank)
        count = own.stop - own.start
        return [self._receive_one(rank, count, rows, points, objective, gradient)] if count else []

    def _receive_one(
        self, rank: int, members: int, rows: int, points: Tensor, objective: Objective, gradient: bool
    ) -> BlockValue:
        width = rows + 3 + (points.shape[1] if gradient else 0)
        packed = torch.empty(members, width, dtype=objective.dtype, device=self.device)
        dist.recv(packed, rank)
        packed = packed.to(objective.target.device)
        return BlockValue(packed[:, :rows], packed[:, rows : rows + 3], packed[:, rows + 3 :] if gradient else None)

    # Every process

    def _own_values(
        self, objective: Objective, points: Tensor, like: ElementNetworks, factor: Tensor | None, *, gradient: bool
    ) -> list[BlockValue]:
        """Lane by lane, or of its own members all lanes together."""
        points = points.to(objective.target.device)
        if self.deal == "data":
            return objective.lane_values(points, like, factor, gradient=gradient)
        own = self._run(len(points), self.rank)
        if own.start == own.stop:
            return []
        part = None if factor is None else factor[own]
        return [BlockValue.sum(objective.lane_values(points[own], like, part, gradient=gradient))]

    # The others

    def serve(self, like: ElementNetworks, make: Callable[[str], Objective]) -> None:
        """Compute what the first process asks for, until it is done.

        Args:
            make: builds the objective of a part of the set, as the first process does.

        Raises:
            RuntimeError: the first process has gone.
        """
        while True:
            header = torch.zeros(_HEADER, dtype=torch.int64, device=self.device)
            dist.broadcast(header, 0)
            order, number, *rest = header.tolist()
            if order == _STOP:
                return
            if order == _BUILD:
                self.objectives.append(make(_PARTS[number]))
            else:
                self._answer(self.objectives[number], like, *rest)

    def _answer(
        self, objective: Objective, like: ElementNetworks, members: int, n_weights: int, scaled: int, gradient: int
    ) -> None:
        points = torch.empty(members, n_weights, dtype=torch.float64, device=self.device)
        dist.broadcast(points, 0)
        factor = None
        if scaled:
            factor = torch.empty(members, len(objective.target), dtype=torch.float64, device=self.device)
            dist.broadcast(factor, 0)
            factor = factor.to(objective.target.device)
        for value in self._own_values(objective, points, like, factor, gradient=bool(gradient)):
            parts = [value.energies, value.squares] + ([] if value.gradient is None else [value.gradient])
            dist.send(torch.cat(parts, dim=1).to(self.device).contiguous(), 0)


_PARTS = ("training", "validation", "test")


def require_enough_members(deal: Deal, size: int, members: int) -> None:
    """Refuse to deal fewer members than processes.

    Raises:
        InputError: with both numbers.
    """
    if deal == "members" and members < size:
        raise InputError(f"distribute: expected at least as many members as processes ({size}), got {members}")
