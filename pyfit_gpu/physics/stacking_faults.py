"""Generalised stacking-fault lines: one half of a slab is shifted over the other, atoms relax along the normal.

    gamma(s) = (E(shifted by s) - E(not shifted)) / area

Where the line ends at a stacking fault its energy is the intrinsic one; the highest point is the unstable one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pyfit_gpu.physics.equilibrium import Solid, State
from pyfit_gpu.physics.ground_states import ground_states
from pyfit_gpu.physics.members import Members, highest_grade
from pyfit_gpu.physics.properties import Curve, Findings, Property
from pyfit_gpu.physics.relaxation import NOT_AT_REST, Relaxed, Start, relax
from pyfit_gpu.physics.slabs import Plane, Slab, cut_slab
from pyfit_gpu.physics.surfaces import JOULE_PER_SQUARE_METRE, slab_thickness
from pyfit_gpu.structures.cells import FloatArray

_N_POINTS = 11
_UNSTABLE = "unstable-fault-energy"
_INTRINSIC = "intrinsic-fault-energy"
_SAME_HEIGHT = 1e-3  # Å


@dataclass(frozen=True)
class _Line:
    plane: Plane
    vector: tuple[float, float, float]  # of the whole line, by vectors of the conventional cell
    label: str
    ends_at_fault: bool  # and not at the crystal


_CLOSE_PACKED = _Line((1, 1, 1), (1 / 6, 1 / 6, -1 / 3), "a/6 [11-2] in (111)", True)
_BASAL = _Line((0, 0, 1), (2 / 3, 1 / 3, 0.0), "a/3 [10-10] in (0001)", True)
_LINES = {
    "fcc": _CLOSE_PACKED,
    "diamond": _CLOSE_PACKED,
    "zincblende": _CLOSE_PACKED,
    "hcp": _BASAL,
    "wurtzite": _BASAL,
    "bcc": _Line((1, 1, 0), (0.5, -0.5, 0.5), "a/2 [1-11] in (110)", False),
    "rocksalt": _Line((1, 1, 0), (0.5, -0.5, 0.0), "a/2 [1-10] in (110)", False),
    "sc": _Line((1, 1, 0), (0.0, 0.0, 1.0), "a [001] in (110)", False),
    "cesiumchloride": _Line((1, 1, 0), (0.0, 0.0, 1.0), "a [001] in (110)", False),
}


def stacking_faults(members: Members, solids: Sequence[Solid]) -> Findings:
    """Shift the halves of slabs of each ground state, by all members, in one relaxation."""
    stable = ground_states(solids)
    if not stable:
        return Findings.unknown(_UNSTABLE, "mJ/m^2")
    found = Findings.empty()
    lined = [solid for solid in stable if solid.crystal.prototype in _LINES]
    for solid in stable:
        if solid not in lined:
            found += Findings.unknown(_UNSTABLE, "mJ/m^2", solid.phase, "no line of faults known for this crystal")
    thickness = slab_thickness(members)
    slabs = []
    for solid in lined:
        plane = _LINES[solid.crystal.prototype].plane
        slabs.append([cut_slab(solid.crystal, state.atoms, plane, thickness) for _, state in solid.known])
    starts = [
        start
        for solid, own in zip(lined, slabs, strict=True)
        for slab, (number, state) in zip(own, solid.known, strict=True)
        for start in _shifted(number, state, slab, solid)
    ]
    relaxed = relax(members, starts)
    per_solid = len(members) * _N_POINTS
    for row, (solid, own) in enumerate(zip(lined, slabs, strict=True)):
        found += _line(solid, own, relaxed[row * per_solid : (row + 1) * per_solid])
    return found


def _shifted(number: int, state: State, slab: Slab, solid: Solid) -> list[Start]:
    line = _LINES[solid.crystal.prototype]
    vector = np.array(line.vector) @ solid.crystal.conventional_vectors @ state.atoms.cell.array
    upper = slab.heights > _fault_height(slab)
    if line.ends_at_fault:  # the other way atoms would come to lie on top of each other
        vector *= max((1, -1), key=lambda sign: _shortest(slab, upper, sign * vector))
    starts = []
    for part in np.linspace(0, 1, _N_POINTS):
        atoms = slab.atoms.copy()
        atoms.positions[upper] += part * vector
        starts.append(Start(number, atoms, slab.normal))
    return starts


def _fault_height(slab: Slab) -> float:
    """Å: the narrowest gap, and of several the one nearest to the middle: the glide planes of diamond are narrow."""
    heights = np.sort(slab.heights)
    gaps = np.diff(heights)
    middles = (heights[1:] + heights[:-1]) / 2
    real = gaps > _SAME_HEIGHT
    narrowest = real & (gaps < gaps[real].min() + _SAME_HEIGHT)
    return float(min(middles[narrowest], key=lambda middle: abs(middle - heights.mean())))


def _shortest(slab: Slab, upper: NDArray[np.bool_], vector: FloatArray) -> float:
    """Å, the shortest distance between atoms once the upper half is shifted."""
    atoms = slab.atoms.repeat((3, 3, 1))
    atoms.positions[np.tile(upper, 9)] += vector
    distances = atoms.get_all_distances(mic=True)
    return float(distances[distances > 0].min())


def _line(solid: Solid, slabs: Sequence[Slab], relaxed: Sequence[Relaxed]) -> Findings:
    energies = np.array([one.evaluated.energy for one in relaxed]).reshape(len(slabs), _N_POINTS)
    areas = np.array([slab.area for slab in slabs])
    lines = (energies - energies[:, :1]) / areas[:, None] * JOULE_PER_SQUARE_METRE * 1e3
    line = _LINES[solid.crystal.prototype]
    grade = highest_grade([[one.evaluated for one in relaxed]])
    note = line.label if all(one.at_rest for one in relaxed) else f"{line.label}; {NOT_AT_REST}"
    make = partial(Property.of_members, grade=grade, note=note)
    found = [make(_UNSTABLE, solid.phase, "mJ/m^2", lines.max(axis=1))]
    if line.ends_at_fault:
        found.append(make(_INTRINSIC, solid.phase, "mJ/m^2", lines[:, -1]))
    x = tuple(np.linspace(0, 1, _N_POINTS).tolist())
    y = tuple(tuple(values) for values in lines.tolist())
    curve = Curve("stacking-fault", solid.phase, f"shift / ({line.label})", "energy (mJ/m^2)", x, y)
    return Findings(tuple(found), (curve,))
