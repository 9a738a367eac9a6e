"""References for physical properties that the data do not have: measured values, or those of calculations elsewhere."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import replace

from pyfit_gpu.errors import InputError
from pyfit_gpu.physics.properties import Physics, Property
from pyfit_gpu.report.json5_files import read_number, read_object


def load_references(path: str | os.PathLike[str]) -> dict[str, float]:
    """Read a JSON5 file of values by full name, as in `{"C11 of diamond": 160}`, in the report's units.

    Raises:
        InputError: it cannot be read, or a value is no finite number; with its name.
    """
    name = os.fspath(path)
    found = {own: read_number(value, f"{name}: {own}") for own, value in read_object(path).items()}
    for own, value in found.items():
        if not math.isfinite(value):
            raise InputError(f"{name}: {own}: expected a finite number, found {value}")
    return found


def with_references(physics: Physics, references: Mapping[str, float]) -> tuple[Physics, list[str]]:
    """Put references into properties, in place of those of the data.

    Returns:
        the properties, and a line for each reference whose name no property has.
    """
    names = [_full_name(one) for one in physics.properties]
    properties = tuple(
        replace(one, reference=references.get(name, one.reference))
        for one, name in zip(physics.properties, names, strict=True)
    )
    unknown = []
    for name in references:
        if name not in names:
            near = ", ".join(difflib.get_close_matches(name, names, n=3))
            unknown.append(f"{name}: no property has this name" + (f" (there is {near})" if near else ""))
    return replace(physics, properties=properties), unknown


def _full_name(one: Property) -> str:
    return f"{one.name} of {one.phase}" if one.phase else one.name
