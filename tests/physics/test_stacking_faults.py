"""Lines of stacking faults: they begin at the crystal, and end at the crystal or at a fault of the stacking."""

from __future__ import annotations

import numpy as np
import pytest

from pyfit_gpu.physics import stacking_faults as module
from pyfit_gpu.physics.equilibrium import Solid
from pyfit_gpu.physics.members import Members
from pyfit_gpu.physics.slabs import cut_slab
from pyfit_gpu.physics.stacking_faults import stacking_faults


@pytest.fixture
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_N_POINTS", 5)


def test_glide_planes_of_diamond(members: Members, diamond: Solid, few_points: None) -> None:
    found = stacking_faults(members, [diamond])
    (curve,) = found.curves
    (line,) = curve.y
    assert line[0] == 0
    values = {one.name: one.value for one in found.properties}
    assert values["intrinsic-fault-energy"] == line[-1]
    assert values["unstable-fault-energy"] == max(line)
    assert 0 < line[-1] < max(line)


def test_the_fault_of_diamond_keeps_its_bonds(diamond: Solid) -> None:
    """At the end of the line every atom inside still has four neighbours at the crystal's distance."""
    ((number, state),) = diamond.known
    slab = cut_slab(diamond.crystal, state.atoms, (1, 1, 1), 12.0)
    start = module._shifted(number, state, slab, diamond)[-1]
    distances = start.atoms.repeat((3, 3, 1)).get_all_distances(mic=True)
    bond = np.sqrt(3) / 4 * diamond.crystal.lattice_constants(state.atoms)["a"]
    assert set((abs(distances - bond) < 1e-3).sum(axis=1).tolist()) == {3, 4}


@pytest.mark.parametrize("phase", ["bcc", "sc"])
def test_a_whole_vector_ends_at_the_crystal(
    members: Members, solids: list[Solid], phase: str, few_points: None
) -> None:
    solid = next(one for one in solids if one.phase == phase)
    found = stacking_faults(members, [solid])
    assert [one.name for one in found.properties] == ["unstable-fault-energy"]
    assert found.curves[0].y[0][-1] == pytest.approx(0, abs=1)  # mJ/m^2


def test_a_crystal_of_the_data_has_no_line(members: Members, solids: list[Solid]) -> None:
    found = stacking_faults(members, [solids[-1]])
    assert np.isnan(found.properties[0].value)
    assert "no line of faults known" in found.properties[0].note
