"""Energies of free surfaces, relaxed in the smallest cell, so without reconstructions that need a larger one.

gamma = (E(slab) - sum over atoms of the crystal's energy) / (2 area)
"""

from __future__ import annotations

from collections.abc import Sequence

from ase.units import _e as ELEMENTARY_CHARGE

from pyfit_gpu.physics.equilibrium import Solid
from pyfit_gpu.physics.ground_states import ground_states
from pyfit_gpu.physics.members import Members, highest_grade
from pyfit_gpu.physics.properties import Findings, Property
from pyfit_gpu.physics.relaxation import NOT_AT_REST, Relaxed, Start, relax
from pyfit_gpu.physics.slabs import Plane, Slab, cut_slab

JOULE_PER_SQUARE_METRE = ELEMENTARY_CHARGE * 1e20  # times eV/Å^2
_NAME = "free-surface-energy"
_PLANES: dict[str, tuple[Plane, ...]] = {
    "cubic": ((1, 0, 0), (1, 1, 0), (1, 1, 1)),
    "hexagonal": ((0, 0, 1), (1, 0, 0), (1, 1, 0)),
    "other": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
}


def slab_thickness(members: Members) -> float:
    """Å, so that atoms in the middle hardly know of the surfaces."""
    return max(12.0, 2.5 * members.cutoff)


def surfaces(members: Members, solids: Sequence[Solid]) -> Findings:
    """Cut each ground state along three planes, by all members, in one relaxation."""
    stable = ground_states(solids)
    if not stable:
        return Findings.unknown(_NAME, "J/m^2")
    places = [(solid, plane) for solid in stable for plane in _PLANES[solid.crystal.symmetry]]
    thickness = slab_thickness(members)
    slabs = [
        [cut_slab(solid.crystal, state.atoms, plane, thickness) for _, state in solid.known] for solid, plane in places
    ]
    relaxed = relax(members, [Start(k, slab.atoms) for own in slabs for k, slab in enumerate(own)])
    properties = []
    for row, ((solid, plane), own) in enumerate(zip(places, slabs, strict=True)):
        properties.append(_energy(solid, plane, own, relaxed[row * len(members) : (row + 1) * len(members)]))
    return Findings(tuple(properties), ())


def _energy(solid: Solid, plane: Plane, slabs: Sequence[Slab], relaxed: Sequence[Relaxed]) -> Property:
    values = [
        (one.evaluated.energy - len(one.atoms) * state.energy) / (2 * slab.area) * JOULE_PER_SQUARE_METRE
        for slab, one, (_, state) in zip(slabs, relaxed, solid.known, strict=True)
    ]
    name = f"{_NAME} {''.join(str(index) for index in plane)}"
    grade = highest_grade([[one.evaluated for one in relaxed]])
    note = "" if all(one.at_rest for one in relaxed) else NOT_AT_REST
    return Property.of_members(name, solid.phase, "J/m^2", values, grade=grade, note=note)
