"""All physical properties of a potential, part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

from pyfit_gpu.errors import InputError
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.physics.dynamics import dynamics
from pyfit_gpu.physics.elastic import elastic_constants
from pyfit_gpu.physics.energy_volume import energy_volume
from pyfit_gpu.physics.equilibrium import Solid
from pyfit_gpu.physics.ground_states import expected_stable
from pyfit_gpu.physics.members import Members
from pyfit_gpu.physics.phases import find_phases
from pyfit_gpu.physics.phonons import phonons
from pyfit_gpu.physics.properties import Findings, Physics
from pyfit_gpu.physics.stacking_faults import stacking_faults
from pyfit_gpu.physics.surfaces import surfaces
from pyfit_gpu.physics.vacancies import vacancies
from pyfit_gpu.structures.batch import Structures

_Part = Callable[[Members, list[Solid]], Findings]
_PARTS: dict[str, _Part] = {
    "energy-volume": energy_volume,
    "elastic-constants": elastic_constants,
    "vacancy": vacancies,
    "surfaces": surfaces,
    "stacking-fault": stacking_faults,
    "phonons": phonons,
    "dynamics": dynamics,
}
PARTS = tuple(_PARTS)


def compute_physics(
    potential: Potential,
    structures: Structures | None = None,
    *,
    uncertainty: Uncertainty | None = None,
    parts: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda part: None,
) -> Physics:
    """Compute physical properties of a potential, each by all of its members.

    Args:
        structures: the data, which say which phases there are and what their values should be.
        uncertainty: of the potential or one of its members, for extrapolation grades.
        parts: some of `PARTS`; None: all.
        progress: called with the name of each part before it is computed.

    Raises:
        InputError: an unknown part, an uncertainty of another potential.
    """
    parts = PARTS if parts is None else parts
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise InputError(f"parts: expected some of {', '.join(PARTS)}, got {unknown[0]!r}")
    members = Members(potential, uncertainty)
    times = [time.perf_counter()]
    progress("crystals")
    solids = find_phases(members, structures)
    times.append(time.perf_counter())
    found = Findings.empty()
    chosen = [part for part in PARTS if part in parts]
    for part in chosen:
        progress(part)
        found += _PARTS[part](members, solids)
        times.append(time.perf_counter())
    taken = (end - begin for begin, end in pairwise(times))
    seconds = dict(zip(("crystals", *chosen), taken, strict=True))
    stable = tuple(solid.phase for solid in expected_stable(solids))
    return Physics(found.properties, found.curves, seconds, stable)
