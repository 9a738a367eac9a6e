"""A short dynamics: energy is kept, distances are those of the crystal, explosions are said."""

from __future__ import annotations

import numpy as np
import pytest

from pyfit_gpu.physics import dynamics as module
from pyfit_gpu.physics.dynamics import dynamics
from pyfit_gpu.physics.equilibrium import Solid
from pyfit_gpu.physics.members import Members


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STEPS_BEFORE", 40)
    monkeypatch.setattr(module, "_STEPS", 60)


def test_silicon(members: Members, diamond: Solid, short: None) -> None:
    found = dynamics(members, [diamond])
    values = {one.name: one.value for one in found.properties}
    assert abs(values["energy-drift"]) < 0.5  # meV/atom/ps
    assert 150 < values["temperature"] < 450
    (curve,) = found.curves
    x, (g,) = np.array(curve.x), curve.y
    density = 1 / diamond.known[0][1].volume
    width = x[1] - x[0]
    first_shell = x < 3.0
    neighbors = np.sum(4 * np.pi * x[first_shell] ** 2 * np.array(g)[first_shell] * width * density)
    assert neighbors == pytest.approx(4, abs=0.05)
    assert max(np.array(g)[x < 2.0]) == 0


@pytest.mark.parametrize("step", [30.0, 1e4])
def test_an_explosion_is_reported(
    members: Members, diamond: Solid, short: None, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    monkeypatch.setattr(module, "_STEP", step)
    monkeypatch.setattr(module, "_LONGEST_STEP", step)
    found = dynamics(members, [diamond])
    assert all(np.isnan(one.value) for one in found.properties)
    assert found.properties[0].note.startswith("explodes at 300 K: member 1 after")
    assert np.isnan(found.curves[0].y[0]).all()
