"""Physical properties on the page, and signs that a crystal is not stable."""

from __future__ import annotations

import math

import pytest

from pyfit_gpu.physics.properties import Curve, Physics, Property
from pyfit_gpu.report.physics_sections import (
    has_signs,
    instabilities,
    physics_section,
    physics_values,
    unknown_stability,
)


def make_physics(*properties: Property, curves: tuple[Curve, ...] = ()) -> Physics:
    return Physics(properties, curves, {"crystals": 1.0, "elastic-constants": 0.5})


def energy(phase: str, value: float) -> Property:
    return Property("potential-energy", phase, value, "eV/atom")


C11 = Property.of_members("C11", "diamond", "GPa", [100.0, 104.0], reference=110.0, grade=0.5)
BRANCHES = ((-0.01, 2.0, 3.0), (0.0, 4.0, 5.0))
BAND = Curve("phonons", "diamond", "q", "frequency (THz)", (0.0, 0.5, 1.0), BRANCHES, ((0.0, "Γ"), (1.0, "X")))


def test_table_of_a_phase() -> None:
    section = physics_section(make_physics(C11, Property("a", "fcc", math.nan, "Å", note="it melts")))
    assert len(section.text) == 1  # nothing is said of what should be stable where nothing should
    first, second = section.tables
    assert (first.title, second.title) == ("diamond", "fcc")
    assert first.columns == ("property", "value", "unit", "spread", "reference", "difference", "grade")
    assert first.rows == (("C11", 102.0, "GPa", pytest.approx(math.sqrt(8)), 110.0, -8.0, 0.5),)
    assert second.columns == ("property", "value", "unit", "note")
    assert second.rows[0][3] == "it melts"


def test_phases_come_from_the_lowest_energy_up() -> None:
    physics = make_physics(
        C11, energy("fcc", -5.0), energy("diamond", -5.4), energy("sc", math.nan), energy("hcp", -5.1)
    )
    assert [table.title for table in physics_section(physics).tables] == ["diamond", "hcp", "fcc", "sc"]


def test_values() -> None:
    (value,) = physics_values(make_physics(C11))
    assert (value.full_name, value.value, value.unit, value.reference) == ("C11 of diamond", 102.0, "GPa", 110.0)
    assert value.spread == pytest.approx(math.sqrt(8))


def test_curves_of_several_phases_share_a_plot() -> None:
    curves = tuple(
        Curve("energy-volume", phase, "volume (Å^3)", "energy (eV)", (1.0, 2.0), ((1.0, 2.0), (1.5, 2.5)))
        for phase in ("fcc", "bcc")
    )
    plot, bands = physics_section(make_physics(C11, curves=(*curves, BAND))).plots
    assert plot.title == "Energy volume"
    assert plot.x_label == "volume (Å³)"
    assert [series.label for series in plot.series] == ["fcc", "", "bcc", ""]
    assert plot.series[0].look == plot.series[1].look != plot.series[2].look
    assert bands.title == "Phonons, diamond"
    assert bands.ticks == ((0.0, "Γ"), (1.0, "X"))
    assert len({plot.name, bands.name}) == 2


def test_marks_at_one_place_are_joined() -> None:
    ticks = ((0.0, "G"), (1.0, "U"), (1.0, "K"), (2.0, "G"))
    band = Curve("phonon-dispersion", "fcc", "q", "frequency (THz)", (0.0, 2.0), ((0.0, 1.0),), ticks)
    (plot,) = physics_section(make_physics(C11, curves=(band,))).plots
    assert plot.ticks == ((0.0, "Γ"), (1.0, "U|K"), (2.0, "Γ"))
    assert plot.title == "Phonon dispersion, fcc"


@pytest.mark.parametrize("name", ["C11", "C44", "bulk-modulus", "lowest-elastic-eigenvalue"])
def test_negative_elastic_constants(name: str) -> None:
    physics = make_physics(Property(name, "diamond", -3.0, "GPa"), Property(name, "fcc", -4.0, "GPa"))
    (line,) = instabilities(physics, ["diamond"])
    assert line.startswith(f"{name} of diamond: −3.000 GPa")
    assert instabilities(physics, []) == []


def test_what_may_be_negative() -> None:
    others = [Property(name, "diamond", -1.0, "GPa") for name in ("C12", "C14", "surface-energy", "C11 from energy")]
    assert instabilities(make_physics(*others, C11, curves=(BAND,)), ["diamond"]) == []


def test_imaginary_modes() -> None:
    lowest = Property.of_members("phonon-frequency-minimum", "diamond", "THz", [-1.5, -0.5])
    (line,) = instabilities(make_physics(lowest), ["diamond"])
    assert line == "phonons of diamond: imaginary modes, the lowest at −1.000 THz"
    assert physics_section(make_physics(C11, lowest), ["diamond"]).text[0] == line
    sound = Property("phonon-frequency-minimum", "diamond", -0.01, "THz")
    assert instabilities(make_physics(sound), ["diamond"]) == []


def test_only_what_was_looked_at_is_said_to_be_stable() -> None:
    lowest = Property("phonon-frequency-minimum", "diamond", -0.01, "THz")
    surface = Property("free-surface-energy 100", "diamond", 2.0, "J/m^2")
    said = physics_section(make_physics(C11, lowest, surface), ["diamond"]).text[0]
    assert said == "Nothing speaks against the stability of diamond (looked at: elastic constants, phonons)."
    assert has_signs(make_physics(C11), "diamond")
    assert not has_signs(make_physics(C11), "fcc")
    assert not has_signs(make_physics(surface), "diamond")


def test_stability_that_is_not_known() -> None:
    lacking = Property("phonon-frequency-minimum", "diamond", math.nan, "THz", note="phonopy is not installed")
    physics = make_physics(C11, lacking)
    (line,) = unknown_stability(physics, ["diamond"])
    assert line == "phonon-frequency-minimum of diamond: not known (phonopy is not installed)"
    assert physics_section(physics, ["diamond"]).text[0] == line
    assert instabilities(physics, ["diamond"]) == []
    (line,) = unknown_stability(physics, ["diamnd"])
    assert line.startswith("diamnd: neither elastic constants nor phonons")
    assert len(unknown_stability(None, ["fcc", "bcc"])) == 2
