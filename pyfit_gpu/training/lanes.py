"""Cutting a set: lanes, whose sums are added up in order, and blocks, each computed at once.

Both hold whole structures and depend on nothing but the set, so that sums have the same bits for any number of threads
or processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

N_LANES = 24  # most lanes, for any number of threads or processes
# Least atoms of a lane, for energies alone, with bonds and with forces, where an atom takes longer and longer: threads,
# which share the interpreter, need long operations.
LANE_ATOMS = (16_384, 4_096, 2_048)
# Most atoms times points of one recording on a GPU, for energies only and with forces; more points are computed in
# parts. Up to about here launches take as long as operations (energies, H100, 40-16-16-1; estimated for forces).
RECORDED_ATOMS = (3_000_000, 1_000_000)
BLOCK_ATOMS = 24_576  # most atoms of a block on a CPU


def least_lane_atoms(*, bonds: bool, forces: bool) -> int:
    """Least atoms of a lane.

    Args:
        bonds: whether energies are those of bonds.
        forces: whether forces or stress train.
    """
    return LANE_ATOMS[2 if forces else int(bonds)]


def lane_bounds(sizes: Sequence[int], n_lanes: int, least: int) -> list[tuple[int, int]]:
    """Cut structures into lanes with about equal numbers of atoms: first and one past the last structure of each.

    There are fewer than `n_lanes` where lanes would have less than `least` atoms, but at least one; none is empty.
    """
    return list(_cut(sizes, max(1, min(n_lanes, sum(sizes) // least, len(sizes)))))


def cut_blocks(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Cut structures into blocks of about `most` atoms or less: first and one past the last structure of each."""
    return _cut(sizes, -(-sum(sizes) // most))


def _cut(sizes: Sequence[int], n_parts: int) -> Iterator[tuple[int, int]]:
    """Cut into runs of structures, none empty; the middle of a structure decides which part it belongs to."""
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
