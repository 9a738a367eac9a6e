"""Shared by the tests of physics: a potential of silicon, one of several members, their crystals at rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pyfit_gpu as pf
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.physics.equilibrium import Solid
from pyfit_gpu.physics.members import Members
from pyfit_gpu.physics.phases import find_phases
from pyfit_gpu.structures.batch import Structures


@pytest.fixture(scope="session")
def silicon(example_data: Path) -> Potential:
    return pf.load_potential(example_data / "si.nn.dat")


@pytest.fixture(scope="session")
def silicon_data(example_data: Path) -> Structures:
    return pf.load_structures(example_data / "si_dft.extxyz")


@pytest.fixture(scope="session")
def committee(silicon: Potential) -> Potential:
    """Silicon and another with parameters a little beside it."""
    other = silicon.member(0)
    generator = torch.Generator().manual_seed(1)
    for weights in other.networks.weights:
        weights += 2e-3 * torch.randn(weights.shape, generator=generator, dtype=weights.dtype)
    return pf.join_members([silicon, other])


@pytest.fixture(scope="session")
def members(silicon: Potential) -> Members:
    return Members(silicon)


@pytest.fixture(scope="session")
def solids(members: Members, silicon_data: Structures) -> list[Solid]:
    return find_phases(members, silicon_data)


@pytest.fixture(scope="session")
def diamond(solids: list[Solid]) -> Solid:
    return next(solid for solid in solids if solid.phase == "diamond")
