"""References from a file: which properties they belong to, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyfit_gpu.errors import InputError
from pyfit_gpu.physics.properties import Physics, Property
from pyfit_gpu.report.references import load_references, with_references

PHYSICS = Physics(
    (
        Property("C11", "diamond", 150.0, "GPa", reference=140.0),
        Property("C11", "fcc", 80.0, "GPa", reference=70.0),
        Property("C12", "diamond", 60.0, "GPa"),
    ),
    (),
    {},
)


def test_they_take_the_place_of_the_data() -> None:
    found, unknown = with_references(PHYSICS, {"C11 of diamond": 160.0, "C12 of diamond": 64.0})
    assert [one.reference for one in found.properties] == [160.0, 70.0, 64.0]
    assert unknown == []


def test_a_name_that_no_property_has() -> None:
    found, unknown = with_references(PHYSICS, {"C11 of dimond": 160.0})
    assert found == PHYSICS
    assert unknown == ["C11 of dimond: no property has this name (there is C11 of diamond, C12 of diamond, C11 of fcc)"]


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "references.json5"
    path.write_text('{"C11 of diamond": 160, // GPa\n}')
    assert load_references(path) == {"C11 of diamond": 160.0}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[160]", "references.json5: expected an object, found a list"),
        ('{"C11 of diamond": "160"}', "references.json5: C11 of diamond: expected a number, found '160'"),
        ('{"C11 of diamond": Infinity}', "C11 of diamond: expected a finite number, found inf"),
        ('{"C11 of diamond": true}', "C11 of diamond: expected a number"),
        ("{", "references.json5: expected JSON5"),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "references.json5"
    path.write_text(text)
    with pytest.raises(InputError, match=match):
        load_references(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.json5: cannot read"):
        load_references(tmp_path / "nothing.json5")
