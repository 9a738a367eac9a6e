"""Physical properties on the page, and signs that a crystal is not stable."""

from __future__ import annotations

import math
import re

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
BAND_AXES = ("q", "frequency (THz)", (0.0, 0.5, 1.0), BRANCHES, ((0.0, "Γ"), (1.0, "X")))
BAND = Curve("phonons", "diamond", *BAND_AXES)


def test_table_of_a_phase() -> None:
    section = physics_section(make_physics(C11, Property("a", "fcc", math.nan, "Å", note="it melts")))
    assert len(section.text) == 1  # nothing is said of what should be stable where nothing should
    first, second = section.tables
    assert (first.title, second.title) == ("diamond", "fcc")
    assert first.columns == ("property", "value", "unit", "spread", "reference", "difference", "grade")
    assert first.rows == (("C11", 102.0, "GPa", pytest.approx(math.sqrt(8)), 110.0, -8.0, 0.5),)
    assert second.columns == ("property", "value", "unit", "note")
    assert second.rows[0][3] == "it melts"


def test_a_phase_of_which_nothing_is_known_is_a_row() -> None:
    unknown = [Property(name, "fcc", math.nan, "", note="it melts") for name in ("a", "b", "c")]
    assert [row[0] for row in physics_section(make_physics(*unknown)).tables[0].rows] == ["a"]
    known = Property("d", "fcc", math.nan, "", reference=1.0, note="it melts")
    assert [row[0] for row in physics_section(make_physics(*unknown, known)).tables[0].rows] == ["d"]
    assert len(physics_section(make_physics(*unknown, energy("fcc", 1.0))).tables[0].rows) == 4


def test_without_crystals() -> None:
    section = physics_section(make_physics(Property("energy-drift", "", math.nan, "meV", note="no crystal at rest")))
    assert section.tables == ()
    assert section.text == ("The data have no crystal whose properties could be computed.",)


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


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        (("diamond",), ["diamond: it melts"]),
        (("fcc",), []),
        ((), []),
        (None, ["no crystal came to rest by all members"]),
    ],
)
def test_what_is_not_at_rest_or_not_there_is_not_stable(phases: tuple[str, ...] | None, expected: list[str]) -> None:
    unknown = [
        Property(name, "diamond", math.nan, "", note="it melts")
        for name in ("potential-energy", "C11", "C11 from energy")
    ]
    assert instabilities(make_physics(energy("fcc", -5.0), *unknown), phases) == expected


def test_a_ground_state_that_no_part_was_computed_for() -> None:
    physics = Physics((Property("energy-drift", "fcc", 1.0, "meV"),), (), {}, stable=("diamond",))
    assert instabilities(physics) == ["diamond: not at rest by all members"]


def test_text_names_what_is_stable() -> None:
    assert physics_section(make_physics(C11), ["diamond"]).text[0].startswith("Nothing speaks against")
    assert "stab" not in " ".join(physics_section(make_physics(C11)).text)


def test_pictures_have_names_of_their_own_that_a_disk_takes() -> None:
    phases = ("A-B", "A_B", "名字", "名前", "long" * 100, "long" * 101)
    curves = [Curve("phonon-dispersion", one, *BAND_AXES) for one in phases]
    names = [plot.name for plot in physics_section(make_physics(C11, curves=tuple(curves))).plots]
    assert len(set(names)) == len(phases)
    assert all(re.fullmatch(r"\w{,80}", name, re.ASCII) for name in names)


def test_what_may_be_negative() -> None:
    others = [Property(name, "diamond", -1.0, "GPa") for name in ("C12", "C14", "surface-energy", "C11 from energy")]
    assert instabilities(make_physics(*others, C11, curves=(BAND,)), ["diamond"]) == []


def test_imaginary_modes() -> None:
    lowest = Property.of_members("phonon-frequency-minimum", "diamond", "THz", [-1.5, -0.5])
    (line,) = instabilities(make_physics(lowest), ["diamond"])
    assert line == "phonons of diamond: imaginary modes, the lowest at −1.000 THz"
    assert physics_section(make_physics(C11, lowest), ["diamond"], [line]).text[0] == line
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
    assert instabilities(physics, ["diamond"]) == []
    (line,) = unknown_stability(physics, ["diamnd"])
    assert line == "diamnd: the report has no phase of this name (there is diamond)"
    (line,) = unknown_stability(make_physics(energy("fcc", -5.0)), ["fcc"])
    assert line == "fcc: neither elastic constants nor phonons of it were computed"
    assert len(unknown_stability(None, ["fcc", "bcc"])) == 2
