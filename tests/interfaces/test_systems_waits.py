"""Dynamics of many systems with fused kernels, interpreted: a step asks the device nothing."""

from __future__ import annotations

from pathlib import Path

import interpreted  # noqa: F401, first
import numpy as np
import pytest
import torch
from ase.build import bulk
from host_waits import HostWaits

from pyfit_gpu import fused
from pyfit_gpu.formats.nn_dat import load_potential
from pyfit_gpu.interfaces.systems import MovingSystems
from pyfit_gpu.models import walks
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame


def test_a_step_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers are those of `predict`."""
    potential = load_potential(Path(__file__).parents[1] / "data" / "si_small.nn.dat")
    atoms = bulk("Si", "diamond", a=5.479)
    frames = [Frame.of_atoms(atoms, "crystal"), Frame.of_atoms(bulk("Si", "diamond", a=5.6), "wider crystal")]
    structures = Structures.from_frames(frames)
    rng = np.random.default_rng(1)
    positions = structures.flatten(structures.positions)
    numbers = structures.flatten(structures.atomic_numbers)
    for module in (walks, fused):
        monkeypatch.setattr(module, "has_fused_kernels", lambda _: True)
    systems = MovingSystems(potential, structures.sizes, numbers, skin=0.5, late=True)
    systems.set_cells(structures.cell, structures.pbc)
    for _ in range(3):
        positions = positions + torch.from_numpy(rng.normal(0, 0.01, positions.shape))
        systems.predict(positions, derivatives=True)
    positions = positions + torch.from_numpy(rng.normal(0, 0.01, positions.shape))
    with HostWaits() as waits:
        found = systems.predict(positions, derivatives=True)
    assert not waits.found
    monkeypatch.undo()
    moved = [
        Frame(part.numpy(), frame.cell, frame.pbc, frame.atomic_numbers, "", "")
        for part, frame in zip(positions.split(structures.sizes), frames, strict=True)
    ]
    expected = predict(potential, Structures.from_frames(moved))
    for name in ("energy", "atomic_energies", "forces", "stress"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-9)
