"""Relaxation of atoms in fixed cells, many structures of all members side by side.

Each structure has its own steps of L-BFGS from forces alone, without a line search, as ASE's (Nocedal, Math. Comput.
35, 773 (1980)). All structures of a member that are not at rest yet are evaluated at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from pyfit_gpu.physics.members import Evaluated, Members
from pyfit_gpu.structures.cells import FloatArray

FORCE_TOLERANCE = 1e-3  # eV/Å
NOT_AT_REST = "the atoms of a member did not come to rest"
_MOST_STEPS = 200
_MOST_MOVE = 0.2  # Å, of the atom that moves furthest, in a step
_STIFFNESS = 70.0  # eV/Å^2, the second derivative that a search begins with
_MEMORY = 50  # steps that are remembered


@dataclass(frozen=True, eq=False)
class Start:
    """A structure that one member is to relax."""

    member: int
    atoms: Atoms
    direction: FloatArray | None = None  # (3,) unit vector along which atoms may move; None: all directions


@dataclass(frozen=True, eq=False)
class Relaxed:
    """A structure with its atoms at rest; `evaluated` is of this structure."""

    atoms: Atoms
    evaluated: Evaluated
    at_rest: bool  # False: not within the steps allowed, or it fell apart


def relax(members: Members, starts: Sequence[Start]) -> list[Relaxed]:
    """Move the atoms of all structures until no force is above `FORCE_TOLERANCE`."""
    atoms = [start.atoms.copy() for start in starts]
    searches = [_Search() for _ in starts]
    active = list(range(len(starts)))
    at_rest: set[int] = set()
    for _ in range(_MOST_STEPS):
        found = members.evaluate([(starts[row].member, [atoms[row]]) for row in active], grades=False)
        going_on = []
        for row, (one,) in zip(active, found, strict=True):
            forces = _free(one.forces, starts[row].direction)
            largest = np.linalg.norm(forces, axis=1).max()
            if largest < FORCE_TOLERANCE:
                at_rest.add(row)
            if largest < FORCE_TOLERANCE or not np.isfinite(largest):
                continue
            atoms[row].positions += searches[row].step(atoms[row].positions, forces)
            going_on.append(row)
        active = going_on
        if not active:
            break
    final = members.evaluate([(start.member, [own]) for start, own in zip(starts, atoms, strict=True)])
    return [Relaxed(own, one, row in at_rest) for row, (own, (one,)) in enumerate(zip(atoms, final, strict=True))]


def _free(forces: FloatArray, direction: FloatArray | None) -> FloatArray:
    return forces if direction is None else (forces @ direction)[:, None] * direction


class _Search:
    """L-BFGS of one structure."""

    def __init__(self) -> None:
        self._pairs: deque[tuple[FloatArray, FloatArray]] = deque(maxlen=_MEMORY)
        self._last: tuple[FloatArray, FloatArray] | None = None

    def step(self, positions: FloatArray, forces: FloatArray) -> FloatArray:
        """(n, 3) Å, how far to move the atoms."""
        if self._last is not None:
            move, change = (positions - self._last[0]).ravel(), (self._last[1] - forces).ravel()
            if move @ change > 1e-12 * (change @ change):  # where the energy is not convex nothing is learned
                self._pairs.append((move, change))
        self._last = positions.copy(), forces
        step = self._times_inverse(forces.ravel()).reshape(-1, 3)
        longest = float(np.linalg.norm(step, axis=1).max())
        return step * min(1.0, _MOST_MOVE / longest)

    def _times_inverse(self, forces: FloatArray) -> FloatArray:
        """Forces times the inverse of the second derivatives, by the two loops over the steps before."""
        rest = forces.copy()
        factors = []
        for move, change in reversed(self._pairs):
            factor = (move @ rest) / (move @ change)
            rest -= factor * change
            factors.append(factor)
        rest /= _STIFFNESS
        for (move, change), factor in zip(self._pairs, reversed(factors), strict=True):
            rest += (factor - (change @ rest) / (move @ change)) * move
        return rest
