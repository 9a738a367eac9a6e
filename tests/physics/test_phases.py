"""Which crystals are computed: those of the compositions, and those that only the data have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from pyfit_gpu.physics.data_cells import Reference
from pyfit_gpu.physics.equation_of_state import UNKNOWN
from pyfit_gpu.physics.equilibrium import Solid
from pyfit_gpu.physics.ground_states import expected_stable, ground_states, supercell
from pyfit_gpu.physics.phases import reference_crystals
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame

MakeFrame = Callable[..., Frame]


def structures_of(make_frame: MakeFrame, *cells: Atoms) -> Structures:
    frames = (make_frame(atoms.positions, atoms.cell.array, symbols=atoms.get_chemical_symbols()) for atoms in cells)
    return Structures.from_frames(list(frames))


def test_one_element() -> None:
    names = [one.name for one in reference_crystals(None, ["Cu"], 6.0)]
    assert names == ["fcc", "bcc", "hcp", "diamond", "sc"]


def test_compositions_of_the_data(make_frame: MakeFrame) -> None:
    """No crystals of carbon alone, none of three elements."""
    data = structures_of(
        make_frame,
        bulk("Si"),
        bulk("SiC", "zincblende", a=4.4),
        Atoms("SiCGe", cell=3 * np.eye(3), positions=[[0, 0, 0], [1.5, 0, 0], [0, 1.5, 0]]),
    )
    names = [one.name for one in reference_crystals(data, ["Si", "C", "Ge"], 6.0)]
    assert names == [
        "Si fcc",
        "Si bcc",
        "Si hcp",
        "Si diamond",
        "Si sc",
        "zincblende",
        "wurtzite",
        "rocksalt",
        "cesiumchloride",
    ]


def test_isolated_atoms_and_molecules_bring_no_crystals(make_frame: MakeFrame) -> None:
    """The one in a large cell would be simple cubic."""
    data = structures_of(make_frame, Atoms("C", cell=12 * np.eye(3)), bulk("Si"))
    molecules = [make_frame([[0.0, 0, 0], [1.5, 0, 0]][:n], symbols=["Si", "C"][:n]) for n in (1, 2)]
    assert {one.composition for one in reference_crystals(data, ["Si", "C"], 6.0)} == {"Si"}
    assert reference_crystals(Structures.from_frames(molecules), ["Si", "C"], 6.0) == []


def test_without_data_all_elements_and_pairs() -> None:
    crystals = reference_crystals(None, ["Si", "C"], 6.0)
    assert len(crystals) == 14
    assert {one.composition for one in crystals} == {"Si", "C", "CSi"}


def test_crystals_of_the_data(solids: list[Solid]) -> None:
    """The silicon of the examples has beta tin; its hexagonal cells come to rest as hcp and are its reference."""
    assert [solid.phase for solid in solids] == ["fcc", "bcc", "hcp", "diamond", "sc", "beta_tin_eos"]
    assert all(solid.reference.atoms is not None for solid in solids)


def test_ground_state_by_the_data(solids: list[Solid]) -> None:
    assert [solid.phase for solid in ground_states(solids)] == ["diamond"]


def test_ground_state_by_the_potential(solids: list[Solid]) -> None:
    """Without the diamond of the data the lowest of those that they have: beta tin."""
    known = [solid for solid in solids if solid.phase != "diamond"]
    assert [solid.phase for solid in ground_states(known)] == ["beta_tin_eos"]
    assert ground_states([]) == []


def test_the_ground_state_of_the_data_should_be_stable_also_where_a_member_lacks_it(solids: list[Solid]) -> None:
    """Not the next best one, which the defects are computed for."""
    lost = [replace(one, states=(None,)) if one.phase == "diamond" else one for one in solids]
    assert [solid.phase for solid in ground_states(lost)] == ["beta_tin_eos"]
    assert [solid.phase for solid in expected_stable(lost)] == ["diamond"]
    assert [solid.phase for solid in expected_stable(solids)] == ["diamond"]
    unknown = [replace(one, reference=Reference(UNKNOWN)) for one in lost]  # without data: what the potential has
    assert expected_stable(unknown) == ground_states(unknown)


@pytest.mark.parametrize("length", [5.0, 9.5, 12.0])
def test_supercell_is_as_long_as_asked(diamond: Solid, length: float) -> None:
    atoms = supercell(diamond, diamond.known[0][1].atoms, length)
    assert np.allclose(atoms.cell.array, atoms.cell.array[0, 0] * np.eye(3))
    assert length <= atoms.cell.array[0, 0] < length + 5.48
