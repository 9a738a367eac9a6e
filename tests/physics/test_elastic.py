"""Elastic constants: as the example prints them, from energy as from stress, and by symmetry."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.units import GPa

from pyfit_gpu.physics.elastic import elastic_constants
from pyfit_gpu.physics.energy_volume import energy_volume
from pyfit_gpu.physics.equilibrium import Solid
from pyfit_gpu.physics.members import Members


@pytest.fixture(scope="module")
def constants(members: Members, solids: list[Solid]) -> dict[tuple[str, str], float]:
    return {(one.phase, one.name): one.value for one in elastic_constants(members, solids).properties}


def test_as_the_example_prints(
    example_data: Path, members: Members, diamond: Solid, constants: dict, monkeypatch, capsys
) -> None:
    script = example_data.parent / "elastic_constants.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--device", "cpu"])
    runpy.run_path(str(script), run_name="__main__")
    printed = dict(re.findall(r"^(.+?) {2,}(\S+) (?:Å|GPa)$", capsys.readouterr().out, re.MULTILINE))
    lengths = {one.name: one.value for one in energy_volume(members, [diamond]).properties}
    assert f"{lengths['lattice-constant-a']:.4f}" == printed["lattice constant"]
    for name in ("C11", "C12", "C44"):
        assert f"{constants['diamond', name]:.1f}" == printed[name]


def test_energy_says_the_same_as_stress(constants: dict) -> None:
    pairs = [
        (value, constants[phase, f"{name} from energy"])
        for (phase, name), value in constants.items()
        if (phase, f"{name} from energy") in constants
    ]
    assert len(pairs) == 4 * 3 + 5 + 9
    stress, energy = np.array(pairs).T
    assert np.allclose(stress, energy, rtol=5e-3, atol=0.1)


def test_bulk_modulus_of_the_curve(members: Members, diamond: Solid, constants: dict) -> None:
    found = {one.name: one.value for one in energy_volume(members, [diamond]).properties}
    from_constants = (constants["diamond", "C11"] + 2 * constants["diamond", "C12"]) / 3
    assert found["bulk-modulus"] == pytest.approx(from_constants, rel=0.02)


def test_lowest_eigenvalue_of_a_cubic_crystal(constants: dict) -> None:
    for phase in ("fcc", "bcc", "sc", "diamond"):
        c11, c12, c44 = (constants[phase, name] for name in ("C11", "C12", "C44"))
        expected = min(c11 - c12, c44, c11 + 2 * c12)
        assert constants[phase, "lowest-elastic-eigenvalue"] == pytest.approx(expected, abs=1e-3)
    assert constants["fcc", "lowest-elastic-eigenvalue"] < 0


def test_second_derivatives_are_those_of_clamped_atoms(diamond: Solid) -> None:
    """The strain part of the Hessian, per volume; C44 with atoms clamped is 89.0 GPa by the example."""
    ((_, state),) = diamond.known
    clamped = state.hessian[:6, :6] / state.atoms.get_volume() / GPa
    assert clamped[3, 3] == pytest.approx(89.0, abs=0.1)
