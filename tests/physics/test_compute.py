"""All parts together: what comes out, with members, grades and references, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from bond_order_samples import make_bond_order
from sample_sets import make_potential

import pyfit_gpu as pf
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.physics import relaxation
from pyfit_gpu.physics.compute import PARTS
from pyfit_gpu.physics.properties import Property
from pyfit_gpu.structures.batch import Structures

QUICK = ("energy-volume", "elastic-constants")


def test_members_grades_and_references(committee: Potential, silicon: Potential, silicon_data: Structures) -> None:
    training_set = pf.build_training_set(silicon_data, silicon)
    uncertainty = pf.Uncertainty.of(committee, pf.build_extrapolation_grade(training_set, silicon))
    seen: list[str] = []
    found = pf.compute_physics(committee, silicon_data, uncertainty=uncertainty, parts=QUICK, progress=seen.append)
    assert seen == ["crystals", *QUICK] == list(found.seconds)
    assert found.stable == ("diamond",)
    assert all(seconds > 0 for seconds in found.seconds.values())
    for one in found.properties:
        assert len(one.members) == 2
        assert one.value == pytest.approx(np.mean(one.members))
        assert one.spread == pytest.approx(np.std(one.members, ddof=1))
        assert one.grade is not None
        assert one.grade > 0
    length = found.find("lattice-constant-a", "diamond")
    assert length.reference == pytest.approx(5.4756, abs=1e-3)
    assert length.grade < 1.2  # inside of the data
    assert found.find("bulk-modulus", "diamond").reference == pytest.approx(86.5, abs=0.5)
    assert found.find("C11", "diamond").reference is None
    # The silicon of the examples has no atoms alone, far outside.
    assert found.find("cohesive-energy", "diamond").grade > length.grade
    assert {curve.phase for curve in found.curves} >= {"fcc", "bcc", "hcp", "diamond", "sc", "beta_tin_eos"}
    assert all(len(curve.y) == 2 for curve in found.curves)


def test_a_single_member_without_data_and_grades(silicon: Potential) -> None:
    found = pf.compute_physics(silicon, parts=["energy-volume"])
    assert {one.phase for one in found.properties} == {"fcc", "bcc", "hcp", "diamond", "sc"}
    assert all(one.reference is None and one.grade is None and np.isnan(one.spread) for one in found.properties)
    with pytest.raises(KeyError, match="lattice-constant-a of the only phase: expected one property, found 5"):
        found.find("lattice-constant-a")


def test_random_networks_of_two_elements_give_notes_not_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever such a potential has of crystals: every value that is missing says why. Atoms fall into each other."""
    monkeypatch.setattr(relaxation, "_MOST_STEPS", 30)
    parts = [part for part in PARTS if part not in ("dynamics", "phonons")]
    found = pf.compute_physics(make_potential(["Si", "C"]), parts=parts)
    assert found.properties
    assert all(one.note for one in found.properties if np.isnan(one.value))


def test_unknown_part(silicon: Potential) -> None:
    with pytest.raises(InputError, match=r"parts: expected some of energy-volume, .*, got 'magnetism'"):
        pf.compute_physics(silicon, parts=["magnetism"])


def test_a_bond_order_potential() -> None:
    """A crystal is bound and stable, and its elastic constants follow from energies as from stress."""
    found = pf.compute_physics(make_bond_order(bare=True), parts=["energy-volume", "elastic-constants"])
    values = {(one.phase, one.name): one.value for one in found.properties}
    assert values["diamond", "cohesive-energy"] < -1
    for name in ("C11", "C12", "C44"):
        from_energy = values["diamond", f"{name} from energy"]
        assert values["diamond", name] == pytest.approx(from_energy, rel=5e-3, abs=0.1)


def test_atoms_alone_are_not_extrapolated_by_a_bond_order_potential(silicon_data: Structures) -> None:
    potential = make_bond_order(max_random=0.02)
    grade = pf.build_extrapolation_grade(pf.build_training_set(silicon_data, potential), potential)
    uncertainty = pf.Uncertainty.of(potential, grade)
    found = pf.compute_physics(potential, silicon_data, uncertainty=uncertainty, parts=["energy-volume"])
    one = found.find("cohesive-energy", "diamond")
    assert one.value == pytest.approx(found.find("potential-energy", "diamond").value)  # no e_shift: 0 alone
    assert one.grade == found.find("potential-energy", "diamond").grade
    assert one.note.endswith("the potential's have no energy: this is as good as its e_shift")


def test_uncertainty_of_another_potential(silicon: Potential, silicon_data: Structures) -> None:
    grade = pf.build_extrapolation_grade(pf.build_training_set(silicon_data, silicon), silicon)
    with pytest.raises(InputError, match="belongs to another potential"):
        pf.compute_physics(silicon, uncertainty=pf.Uncertainty.of(silicon.randomized(1), grade))


def test_unknown_for_one_member_is_unknown_for_all() -> None:
    one = Property.of_members("C11", "fcc", "GPa", [1.0, np.nan])
    assert np.isnan(one.value)
    assert np.isnan(one.spread)
