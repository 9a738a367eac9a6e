"""Splits of a training set into structures that train, validate and only test."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from pyfit_gpu.errors import InputError, shortened

CLASSIC_RULE = 1  # each group by itself, as the classic program splits
SPLIT_RULE = 2  # groups of one structure are split like one group, and copies of a structure stay together


@dataclass(frozen=True)
class Split:
    """Rows of structures in a training set, in the order in which they train."""

    train: list[int]
    validation: list[int]
    seed: int  # the seed that was drawn, where 0 asked for a random one
    groups_without_validation: tuple[str, ...]
    test: list[int] = field(default_factory=list)  # rows of whole groups, then of files: neither train nor validate
    # The arguments that the rows were drawn with, which a split stored under a name must have.
    train_fraction: float = float("nan")
    test_groups: tuple[str, ...] = ()  # names of groups, with wildcards
    n_structures: int = 0  # structures of the set that it divides


def matching_groups(pattern: str, groups: Iterable[str], what: str) -> set[str]:
    """Find the names that a shell pattern (`*`, `?`, `[...]`) matches, case-sensitively; a name matches itself.

    Args:
        pattern: name or pattern.
        groups: the existing names, repeated or not.
        what: the option or argument, for the message.

    Raises:
        InputError: the pattern matches none; the message gives the nearest names.
    """
    names = sorted(set(groups))
    found = {name for name in names if name == pattern or fnmatchcase(name, pattern)}
    if not found:
        folded = {name.lower(): name for name in names}  # matching is case-sensitive, which is easily overlooked
        close = difflib.get_close_matches(pattern.strip("*?").lower(), folded, n=3, cutoff=0.5)
        nearest = [folded[name] for name in close]
        hint = f"the nearest: {', '.join(nearest)}" if nearest else f"there are {shortened(names)}"
        raise InputError(
            f"{what}: expected the name of a group or a pattern, got {pattern!r}, which matches none ({hint})"
        )
    return found


def held_out(groups: Sequence[str], eligible: NDArray[np.bool_], patterns: Sequence[str]) -> NDArray[np.bool_]:
    """(B,) bool, structures with an energy whose group matches one of the patterns.

    Raises:
        InputError: a pattern that gives no structure to test on, or nothing left to train on.
    """
    chosen: set[str] = set()
    known = {groups[row] for row in np.flatnonzero(eligible).tolist()}
    for pattern in patterns:
        found = matching_groups(pattern, groups, "test_groups")
        if not found & known:
            raise InputError(f"test_groups: {pattern!r}: no structure of {shortened(sorted(found))} has an energy")
        chosen |= found
    rows = eligible & np.array([group in chosen for group in groups], dtype=np.bool_)
    if chosen and not (eligible & ~rows).any():
        raise InputError(
            f"test_groups: {shortened(patterns)} take all {int(rows.sum())} structures with an energy: "
            "nothing is left to train on"
        )
    return rows


def classic_split(
    groups: Sequence[str],
    volume_per_atom: NDArray[np.float64],
    eligible: NDArray[np.bool_],
    train_fraction: float,
    seed: int,
    *,
    pool: bool = False,
) -> Split:
    """Split as the classic program does: per group the extremes in volume train, and a share of the others is drawn.

    Args:
        groups: (B,) names.
        volume_per_atom: (B,) Å^3.
        eligible: (B,) bool, structures that take part: those with an energy.
        train_fraction: share of each group that trains; 1.0: all train, none validates.
        seed: of NumPy's RandomState, one generator for all groups in the order of their names; 0: a random seed.
        pool: whether groups of one structure are split like one group, after the others.

    Raises:
        InputError: a train_fraction outside 0 .. 1, a seed that NumPy does not take, or nothing eligible.
    """
    if not 0.0 <= train_fraction <= 1.0:
        raise InputError(f"train_fraction: expected a number from 0 to 1, got {train_fraction}")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed: expected a whole number from 0 to {2**32 - 1}, got {seed}")
    if not eligible.any():
        raise InputError("the training set holds no structure with an energy: there is nothing to train on")
    if seed == 0:
        seed = int(np.random.SeedSequence().generate_state(1)[0]) or 1
    # Rounded to the digits of a text set: equal volumes differ in their last bits from one file or device to another.
    volumes = [float(f"{volume:.6E}") for volume in volume_per_atom.tolist()]
    members: dict[str, list[int]] = {}
    for row in np.flatnonzero(eligible).tolist():
        members.setdefault(groups[row], []).append(row)

    # The legacy generator on purpose: its draws are the classic program's.
    generator = np.random.RandomState(seed)
    train: list[int] = []
    validation: list[int] = []
    for together in _in_order(members, pool):
        rows = sorted(together, key=lambda row: volumes[row])
        if train_fraction == 1.0:
            train += rows
            continue
        n = len(rows)
        train += [rows[0], rows[-1]] if n > 1 else rows
        inner = rows[1:-1]
        drawn: list[int] = []
        if inner:
            count = max(0, min(round((train_fraction - 2 / n) * n), n - 2))
            drawn = generator.choice(n - 2, count, replace=False).tolist()
        train += [inner[k] for k in drawn]
        validation += [inner[k] for k in sorted(set(range(len(inner))) - set(drawn))]
    lacking = groups_without_validation(groups, train, validation) if train_fraction < 1.0 else ()
    return Split(train, validation, seed, lacking, train_fraction=float(train_fraction), n_structures=len(groups))


def _in_order(members: Mapping[str, list[int]], pool: bool) -> list[list[int]]:
    """Rows that are split together, in the order of their groups' names; a pool of three or more stands last."""
    ordered = [members[name] for name in sorted(members)]
    pooled = [row for rows in ordered if len(rows) == 1 for row in rows]
    if not pool or len(pooled) < 3:  # two would train, as each alone does
        return ordered
    return [*(rows for rows in ordered if len(rows) > 1), pooled]


def groups_without_validation(
    groups: Sequence[str], train: Iterable[int], validation: Sequence[int]
) -> tuple[str, ...]:
    """Names of groups that train and do not validate; those of one structure count as one, if any of it validates.

    Args:
        groups: (B,) names.
    """
    trained = Counter(groups[row] for row in train)
    validated = Counter(groups[row] for row in validation)
    is_pooled = any(number == 1 and name not in trained for name, number in validated.items())
    lacking = (name for name, n in trained.items() if name not in validated and not (is_pooled and n == 1))
    return tuple(sorted(lacking))
