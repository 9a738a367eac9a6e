"""Sums in a fixed order, and rows of different lengths that lie one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_PART = 1024  # numbers added up at a time
_RUN = 64  # rows that one thread of a GPU adds up


def ragged_range(first: Tensor, counts: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Expand ranges: first (7, 3) and counts (2, 3) give owners 0 0 1 1 1 and numbers 7 8 3 4 5.

    The `total` of the counts is an argument so that nothing waits for a GPU.
    """
    owners = torch.repeat_interleave(counts, output_size=total)
    offset = first - torch.cumsum(counts, 0) + counts
    return owners, torch.arange(total, device=counts.device) + offset.index_select(0, owners)


def sum_runs(values: Tensor, lengths: Tensor, *, longest: int = 0) -> Tensor:
    """(n, ..) to (B, ..): sums of runs of `lengths` (B,) rows each, always in the same order.

    Args:
        longest: of the runs, where long ones are possible. On a GPU a thread adds up a run: these are cut into parts.
    """
    if values.device.type == "cpu" or longest <= _RUN:
        return _sum_each(values, lengths)
    return sum_in_parts(values, lengths, longest)


def sum_in_parts(values: Tensor, lengths: Tensor, longest: int) -> Tensor:
    """Sums as those of `sum_runs`, but runs are cut into parts of a fixed length, their sums again, until few are left.

    How many parts there are only the device knows. As many as there can be are made, the last ones empty, so that
    nothing waits for it.
    """
    while longest > _RUN:
        parts = (lengths + (_RUN - 1)) // _RUN
        ends = torch.cumsum(parts, 0)
        number = torch.arange(len(values) // _RUN + len(lengths), device=values.device)
        run = torch.searchsorted(ends, number, right=True).clamp_(max=len(lengths) - 1)
        begin = (number - (ends - parts).index_select(0, run)) * _RUN
        values = _sum_each(values, (lengths.index_select(0, run) - begin).clamp_(0, _RUN))
        lengths, longest = parts, -(-longest // _RUN)
    return _sum_each(values, lengths)


def _sum_each(values: Tensor, lengths: Tensor) -> Tensor:
    return torch.segment_reduce(values, "sum", lengths=lengths, axis=0, unsafe=True)


def take_columns(rows: Tensor, numbers: Tensor) -> Tensor:
    """(r, N) to (r, n): columns `numbers` (n,), row by row, which takes a third of the time of doing it at once."""
    return torch.stack([row.index_select(0, numbers) for row in rows])


@dataclass(frozen=True, eq=False)
class RepeatedPlaces:
    """Places in a table that rows are added to, several of them to the same one, always in the same order.

    On a CPU `index_add_` adds one after the other; on a GPU it adds in whichever order threads come, so that rows for
    the same place are summed before.
    """

    places: Tensor  # (m,) int64; each once if rows are summed before
    order: Tensor | None  # (n',) int64, rows by place; None: all as they stand
    lengths: Tensor | None  # (m,) int64, rows for each place

    @classmethod
    def of(cls, places: Tensor, unused: int) -> RepeatedPlaces:
        """Sort the places of rows where that is needed.

        Args:
            places: (n,) int64.
            unused: a place whose sum nobody needs.
        """
        if places.device.type == "cpu":
            return cls(places, None, None)
        known = (places != unused).nonzero()[:, 0]
        order = known[torch.argsort(places[known], stable=True)]
        once, lengths = torch.unique_consecutive(places[order], return_counts=True)
        return cls(once, order, lengths)

    def add(self, table: Tensor, rows: Tensor, *, sign: int = 1) -> None:
        """Add rows (n, F), or subtract them with `sign` -1, in a table (N, F)."""
        if self.order is not None and self.lengths is not None:
            rows = sum_runs(rows.index_select(0, self.order), self.lengths)
        table.index_add_(0, self.places, rows, alpha=sign)


def sum_over_atoms(atomic: Tensor, sizes: Tensor, *, largest: int = 0) -> Tensor:
    """(K, n_atoms) to (K, B): the sum of each structure's atoms, always in the same order.

    Args:
        atomic: values per atom, one structure after the other.
        sizes: (B,) int64, atoms of each structure.
        largest: of the sizes; see `sum_runs`.
    """
    return sum_runs(atomic.T.contiguous(), sizes, longest=largest).T


def ordered_sum(values: Tensor) -> Tensor:
    """Sum over the last axis, in parts of a fixed length.

    torch.sum splits a single long row among the threads, but not one of several rows: its bits would depend on the
    number of threads and of members.
    """
    padded = torch.nn.functional.pad(values, (0, -values.shape[-1] % _PART))
    return padded.unflatten(-1, (-1, _PART)).sum(dim=-1).sum(dim=-1)


def sum_first_axis(values: Tensor) -> Tensor:
    """(n, ..) to (..), n at least 1: on a CPU one after the other.

    There torch's own adds the last columns of an array in another order than the others, so that the bits of a number
    would depend on where it stands.
    """
    if values.device.type != "cpu":
        return values.sum(dim=0)
    first, *others = values.unbind()
    total = first.clone()
    for value in others:
        total += value
    return total
