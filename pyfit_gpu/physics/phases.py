"""The phases of a potential: reference crystals of the compositions that occur, and crystals of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from ase.data import atomic_numbers

from pyfit_gpu.physics.crystals import Crystal, binary_crystals, elementary_crystals
from pyfit_gpu.physics.data_cells import (
    DataCell,
    data_cells,
    energies_alone,
    find_reference,
    fingerprints,
    is_same,
    with_neighbors,
)
from pyfit_gpu.physics.equilibrium import Solid, find_solids
from pyfit_gpu.physics.members import Members
from pyfit_gpu.structures.batch import Structures

_MOST_CELL_ATOMS = 8  # of a cell that is a phase of its own
_MOST_OWN_PHASES = 4  # from the data, of a composition
_SAME_VOLUME = 0.01  # relative difference


def find_phases(members: Members, structures: Structures | None) -> list[Solid]:
    """Bring all crystals to rest: the common ones, and those of the data that are none of them."""
    cells = data_cells(structures, members.elements, members.cutoff)
    crystals = reference_crystals(structures, members.elements, members.cutoff)
    n_common = len(crystals)
    alone = energies_alone(structures, members.elements, members.cutoff)
    crystals += own_crystals(cells, crystals)
    solids = find_solids(members, crystals, [find_reference(crystal, cells, alone) for crystal in crystals])
    return _merged(solids[:n_common], solids[n_common:])


def _merged(common: Sequence[Solid], own: Sequence[Solid]) -> list[Solid]:
    """Crystals without those of the data that came to rest as another one, which gets their reference if it has none.

    An example is a hexagonal cell whose ratio of lengths is not the ideal one.
    """
    merged = list(common)
    for solid in own:
        twin = next((row for row, other in enumerate(merged) if _came_to_the_same(solid, other)), None)
        if twin is None:
            merged.append(solid)
        elif merged[twin].reference.atoms is None:
            merged[twin] = replace(merged[twin], reference=solid.reference)
    return merged


def _came_to_the_same(first: Solid, second: Solid) -> bool:
    if first.crystal.composition != second.crystal.composition or not (first.known and second.known):
        return False
    one, other = (solid.known[0][1] for solid in (first, second))
    return abs(one.volume / other.volume - 1) < _SAME_VOLUME and is_same(*fingerprints([one.atoms, other.atoms]))


def reference_crystals(structures: Structures | None, elements: Sequence[str], cutoff: float) -> list[Crystal]:
    """Common crystals of each element, and of each pair, that the data have by themselves; without data, of all.

    Args:
        cutoff: Å, within which the atoms of a crystal have neighbours.
    """
    several = len(elements) > 1
    single: set[str] = set(elements)
    pairs: set[tuple[str, ...]] = set(combinations(sorted(elements), 2))
    if several and structures is not None:
        single, pairs = _compositions(structures, elements, cutoff)
    crystals: list[Crystal] = []
    for symbol in elements:
        if symbol in single:
            crystals += elementary_crystals(symbol, f"{symbol} " if several else "")
    for first, second in combinations(elements, 2):
        if tuple(sorted((first, second))) in pairs:
            crystals += binary_crystals(first, second)
    return crystals


def _compositions(
    structures: Structures, elements: Sequence[str], cutoff: float
) -> tuple[set[str], set[tuple[str, ...]]]:
    """Elements that are alone in a periodic structure, and pairs of which one has as many of one as of the other.

    Isolated atoms, molecules and clusters bring no crystals: a potential of them knows none.
    """
    periodic = structures.pbc.all(dim=1).nonzero()[:, 0].tolist()
    single_atoms = [row for row in periodic if structures.sizes[row] == 1]
    alone = set(single_atoms) - set(with_neighbors(structures, single_atoms, cutoff))
    numbers = structures.atomic_numbers[[row for row in periodic if row not in alone]]
    counts = np.stack([(numbers == atomic_numbers[symbol]).sum(dim=1).cpu().numpy() for symbol in elements], axis=1)
    single, pairs = set(), set()
    for row in np.unique(counts, axis=0):
        present = np.flatnonzero(row)
        names = tuple(sorted(elements[int(k)] for k in present))
        if len(present) == 1:
            single.add(names[0])
        elif len(present) == 2 and len(set(row[present])) == 1:
            pairs.add(names)
    return single, pairs


def own_crystals(cells: Sequence[DataCell], known: Sequence[Crystal]) -> list[Crystal]:
    """Crystals of the data that are none of the known ones, the lowest of each composition."""
    cells = sorted((cell for cell in cells if len(cell.atoms) <= _MOST_CELL_ATOMS), key=lambda cell: cell.energy)
    prints = [
        (one.composition, own) for one, own in zip(known, fingerprints([one.atoms for one in known]), strict=True)
    ]
    found: list[Crystal] = []
    counts: dict[str, int] = {}
    for cell in cells:
        composition = cell.composition
        is_known = any(composition == other and is_same(cell.fingerprint, one) for other, one in prints)
        if is_known or counts.get(composition, 0) == _MOST_OWN_PHASES:
            continue
        counts[composition] = counts.get(composition, 0) + 1
        prints.append((composition, cell.fingerprint))
        name = cell.group or composition
        taken = sum(one.name.split(" #")[0] == name for one in (*known, *found))
        found.append(Crystal(f"{name} #{taken + 1}" if taken else name, "", cell.atoms))
    return found
