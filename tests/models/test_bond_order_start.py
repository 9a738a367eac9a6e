"""First bond-order parameters: crystals of many elements are bound by about their cohesive energies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk
from bond_order_sum import named_parameters

from pyfit_gpu.models.bond_order_start import starting_baseline, usual_bonds
from pyfit_gpu.models.elemental_solids import elemental_solid
from pyfit_gpu.models.new_potential import new_potential
from pyfit_gpu.models.potential import Form, Potential, n_bond_order_parameters
from pyfit_gpu.models.prediction import evaluate
from pyfit_gpu.physics.members import as_frame
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.bonds import Bonds, find_bonds

LENGTHS = {"cutoff": 5.5, "cutoff_width": 1.0}


def bare(elements: list[str], form: Form = "squared", bonds: Bonds | None = None, cutoff: float = 5.5) -> Potential:
    draft = new_potential(elements, cutoff, form=form, bonds=bonds, hidden=(0,))
    zero = torch.zeros(1, draft.networks.n_parameters, dtype=torch.float64)
    return Potential(**{**vars(draft), "networks": draft.networks.with_flat(zero)})


@pytest.mark.parametrize("form", ["squared", "plain"])
@pytest.mark.parametrize("symbol", ["Al", "Si", "Fe", "Cu", "W", "C", "Na", "Ti"])
def test_elemental_crystals(symbol: str, form: Form) -> None:
    """Lowest within 8 % of the lattice constant, and there minus the cohesive energy within a fifth."""
    scales = np.linspace(0.8, 1.3, 26)
    frames = []
    for scale in scales:
        cell = bulk(symbol)
        cell.set_cell(cell.cell * scale, scale_atoms=True)
        frames.append(as_frame(cell))
    solid = elemental_solid(symbol)
    potential = bare([symbol], form, cutoff=max(5.0, 1.8 * solid.bond_length))
    energies = evaluate(potential, Structures.from_frames(frames)).numpy() / len(cell)
    assert scales[np.argmin(energies)] == pytest.approx(1.03, abs=0.05)
    assert energies.min() == pytest.approx(-solid.cohesive_energy, rel=0.2)
    assert energies[0] > 0  # repulsive


def test_a_compound() -> None:
    """Silicon carbide: -6.34 eV/atom, below the mean of its elements."""
    frame = as_frame(bulk("SiC", "zincblende", 4.36))
    elements = ["Si", "C"]
    bonds = find_bonds([frame], elements, usual_bonds(elements))
    energy = float(evaluate(bare(elements, bonds=bonds), Structures.from_frames([frame]))) / 2
    assert energy == pytest.approx(-6.34, rel=0.2)


def test_both_forms_are_the_same_potential() -> None:
    frame = as_frame(bulk("SiC", "zincblende", 4.36))
    found = [evaluate(bare(["Si", "C"], form), Structures.from_frames([frame])) for form in ("squared", "plain")]
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)


def test_the_order_of_the_numbers() -> None:
    """By the names that the formulas have, for the second element of two."""
    bonds = Bonds(torch.tensor([[2.0, 3.0], [4.0, 5.0]]).double(), torch.tensor([4.0, 6.0]).double())
    numbers = np.array(starting_baseline(["Si", "C"], bonds, "plain", **LENGTHS)).reshape(2, -1)
    found = named_parameters(numbers[1], 2)
    np.testing.assert_allclose(found["alpha"], [11 / 4, 11 / 5])
    np.testing.assert_allclose(found["beta"], [2.6 / 4, 2.6 / 5])
    np.testing.assert_allclose(found["lambda"], [[3 / 4, 3 / 4.5], [3 / 4.5, 3 / 5]])
    assert np.all(found["a"] == 0.85)
    assert np.all(found["h"] == 0)
    assert 0 < found["sigma"][0] < 7.37


@pytest.mark.parametrize("elements", [["Si"], ["Si", "C"], ["H", "O", "Xe"], ["Po", "Og"]], ids="-".join)
@pytest.mark.parametrize("cutoff", [2.0, 5.5])
def test_every_element_has_numbers(elements: list[str], cutoff: float) -> None:
    """Also where the table has no energy, the crystal is unknown, or the cutoff is shorter than the bonds."""
    potential = new_potential(elements, cutoff, form="plain", gaussian_centers=(1.5,))
    assert potential.use_baseline
    assert potential.networks.layer_sizes[-1] == n_bond_order_parameters(len(elements))
    assert np.isfinite(potential.bond_order_parameters).all()


def test_a_network_begins_near_the_baseline() -> None:
    """Random parameters change those of the atoms by a few hundredths."""
    draft = new_potential(["Si"], 5.0, form="plain")
    assert (draft.descriptor.gi_mode, draft.max_random, draft.form) == (2, 0.1, "plain")
    drawn = Potential(
        **{
            **vars(draft),
            "networks": draft.networks.with_flat(torch.zeros(1, draft.networks.n_parameters, dtype=torch.float64)),
        }
    )
    outputs = torch.stack([drawn.randomized(seed).networks(2 * torch.rand(1, 9, 40).double()) for seed in range(20)])
    assert 0.01 < float(outputs.square().mean().sqrt()) < 0.12
