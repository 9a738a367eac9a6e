"""Crystals at rest: no stress, no forces, and notes where there is no such cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyfit_gpu.interfaces.ase import PyfitCalculator
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.physics import equilibrium
from pyfit_gpu.physics.crystals import elementary_crystals
from pyfit_gpu.physics.data_cells import Reference
from pyfit_gpu.physics.energy_volume import energy_volume
from pyfit_gpu.physics.equation_of_state import UNKNOWN
from pyfit_gpu.physics.equilibrium import Solid, find_solids
from pyfit_gpu.physics.members import Members


def test_without_stress_and_forces(silicon: Potential, solids: list[Solid]) -> None:
    for solid in solids:
        ((number, state),) = solid.known
        assert number == 0
        atoms = state.atoms.copy()
        atoms.calc = PyfitCalculator(silicon)
        assert abs(atoms.get_stress()).max() < 1e-6
        assert abs(atoms.get_forces()).max() < 1e-5
        assert atoms.get_potential_energy() / len(atoms) == pytest.approx(state.energy, abs=1e-9)


def test_hcp_finds_its_own_ratio(solids: list[Solid]) -> None:
    hcp = next(solid for solid in solids if solid.phase == "hcp")
    lengths = hcp.crystal.lattice_constants(hcp.known[0][1].atoms)
    assert lengths["c"] / lengths["a"] == pytest.approx(1.7466, abs=1e-3)  # the ideal ratio is 1.633


def test_members_have_crystals_of_their_own(committee: Potential) -> None:
    crystals = [one for one in elementary_crystals("Si") if one.name == "diamond"]
    (solid,) = find_solids(Members(committee), crystals, [Reference(UNKNOWN)])
    assert solid.is_complete
    volumes = [state.volume for _, state in solid.known]
    assert 1e-4 < abs(volumes[0] - volumes[1]) < 0.5
    (alone,) = find_solids(Members(committee.member(1)), crystals, [Reference(UNKNOWN)])
    assert alone.states[0].volume == pytest.approx(volumes[1], rel=1e-7)


def test_what_is_denser_than_any_solid_is_not_computed(silicon: Potential, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydrogen's radius would let it be. Here diamond itself is taken for too dense."""
    crystals = [one for one in elementary_crystals("Si") if one.name == "diamond"]
    (found,) = find_solids(Members(silicon), crystals, [Reference(UNKNOWN)])
    assert found.is_complete
    monkeypatch.setattr(equilibrium, "_LEAST_VOLUME", 1.05 * found.known[0][1].volume)
    (found,) = find_solids(Members(silicon), crystals, [Reference(UNKNOWN)])
    assert not found.is_complete


def test_a_potential_without_minimum(silicon: Potential) -> None:
    """All energies zero: NaN and a note, and no curve."""
    flat = silicon.member(0)
    for tensor in (*flat.networks.weights, *flat.networks.biases):
        tensor.zero_()
    members = Members(flat)
    crystals = list(elementary_crystals("Si"))
    solids = find_solids(members, crystals, [Reference(UNKNOWN)] * len(crystals))
    assert {solid.note for solid in solids} == {"no minimum of the energy against volume"}
    found = energy_volume(members, solids)
    assert found.curves == ()
    assert all(np.isnan(one.value) and one.note for one in found.properties)
    assert torch.isnan(torch.tensor([solid.energy for solid in solids])).all()
