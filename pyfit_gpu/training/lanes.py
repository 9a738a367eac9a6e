"""The cuts of a set: lanes, whose sums are added up in order, and blocks, which are computed at once.

Both hold whole structures and depend on nothing but the set, so that sums have the same bits whatever the number of
threads or processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

N_LANES = 24  # at most: sums that are added up one after the other, whatever the number of threads or processes
# At least, of energies alone and of forces: threads that take turns at the interpreter need operations that last.
LANE_ATOMS = (16_384, 2_048)
# Times points, on a GPU: up to about here to start operations takes as long as they do (H100, 40-16-16-1).
RECORDED_ATOMS = 3_000_000
BLOCK_ATOMS = 24_576  # at most, on a CPU


def lane_bounds(sizes: Sequence[int], n_lanes: int, least: int) -> list[tuple[int, int]]:
    """First and one past the last structure of each lane: whole structures, about equal numbers of atoms.

    Fewer lanes than asked for where they would have less than `least` atoms, but one; none is empty.
    """
    return list(_cut(sizes, max(1, min(n_lanes, sum(sizes) // least, len(sizes)))))


def cut_blocks(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """First and one past the last of runs of structures with `most` atoms or less, give or take a structure."""
    return _cut(sizes, -(-sum(sizes) // most))


def _cut(sizes: Sequence[int], n_parts: int) -> Iterator[tuple[int, int]]:
    """Runs of structures, none empty; the middle of a structure decides in which part of all atoms it is."""
    twice_total = 2 * sum(sizes)
    first, done, current = 0, 0, 0
    for row, size in enumerate(sizes):
        part = (2 * done + size) * n_parts // twice_total
        if row and part != current:
            yield first, row
            first = row
        current = part
        done += size
    yield first, len(sizes)
