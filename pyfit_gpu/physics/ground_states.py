"""The crystals on which defects, phonons and dynamics are computed: of each composition the most stable one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from numpy.typing import NDArray

from pyfit_gpu.physics.equilibrium import Solid
from pyfit_gpu.structures.cells import FloatArray

_MOST = 3  # compositions, those of most elements first
_LEAST_LENGTH = 9.5  # Å, of a supercell


def ground_states(solids: Sequence[Solid], most: int = _MOST) -> list[Solid]:
    """The most stable crystal of each composition that all members have: by the data, or else by the potential."""
    return _most_stable([solid for solid in solids if solid.is_complete], most)


def _most_stable(solids: Sequence[Solid], most: int) -> list[Solid]:
    """The most stable crystal of each composition."""
    best: dict[str, Solid] = {}
    for solid in solids:
        composition = solid.crystal.composition
        if composition not in best or _rank(solid) < _rank(best[composition]):
            best[composition] = solid
    return sorted(best.values(), key=lambda solid: -len(set(solid.crystal.atoms.numbers.tolist())))[:most]


def expected_stable(solids: Sequence[Solid], most: int = _MOST) -> list[Solid]:
    """The ground states, and where a member lacks the one of the data, that one and not the next best."""
    return _most_stable([solid for solid in solids if solid.is_complete or solid.is_in_data], most)


def _rank(solid: Solid) -> tuple[bool, float]:
    """Sorts solids that the data have before others, then by energy."""
    if solid.is_in_data:
        return False, solid.reference.equation.energy
    return True, solid.energy


def supercell(solid: Solid, atoms: Atoms, least_length: float = _LEAST_LENGTH) -> Atoms:
    """The conventional cell of a relaxed primitive one, repeated to a least length (Å) in all directions."""
    return make_supercell(atoms, supercell_vectors(solid, least_length))


def supercell_vectors(solid: Solid, least_length: float = _LEAST_LENGTH) -> NDArray[np.int64]:
    """(3, 3): rows are the vectors of the supercell in those of the primitive cell, the same for all members."""
    vectors = solid.crystal.conventional_vectors
    cells = np.mean([state.atoms.cell.array for _, state in solid.known], axis=0)
    # Of the cell's planes, not vectors: a skewed cell is thinner than its vectors are long.
    heights = 1 / np.linalg.norm(np.linalg.inv(vectors @ cells), axis=0)
    return np.ceil(least_length / heights - 1e-6).astype(np.int64)[:, None] * vectors


def elementary_energies(solids: Sequence[Solid]) -> dict[str, FloatArray]:
    """Energies (K,) eV per atom of the ground states of elements, by their symbols."""
    stable = ground_states(solids, len(solids))
    found = {solid.crystal.composition: solid for solid in stable}
    return {
        symbol: np.array([state.energy for _, state in solid.known])
        for symbol, solid in found.items()
        if set(solid.crystal.atoms.symbols) == {symbol}
    }
