"""Data of FitSNAP: a JSON file with one `Dataset`, after a line of comment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.groups import name_group
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.programs.assembly import Found, make_frame, numbers_of_symbols
from pyfit_gpu.formats.programs.json_files import as_expected, entry, load_json
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.units import KILOBAR
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.frames import Frame

_START = re.compile(rb'\A(?:\s*[^{\s][^\n]*\n)?\s*\{\s*"Dataset"\s*:\s*\{')

# Units by the name that stands in the file, in ours. FitSNAP's stress is a pressure: positive for compression.
_UNITS: dict[str, dict[str, float]] = {
    "EnergyStyle": {"electronvolt": 1.0},
    "PositionsStyle": {"angstrom": 1.0},
    "LatticeStyle": {"angstrom": 1.0},
    "ForcesStyle": {"electronvoltperangstrom": 1.0},
    "StressStyle": {"bar": -1e-3 * KILOBAR, "kb": -KILOBAR, "kbar": -KILOBAR},
    "AtomTypeStyle": {"chemicalsymbol": 1.0},
}


def looks_like_fitsnap(head: Head) -> bool:
    """Whether the first object has a `Dataset`."""
    return _START.match(head.raw) is not None


def read_fitsnap(path: str, options: ReadOptions) -> Iterator[Frame]:
    """Read all structures, with the units that the file names.

    Raises:
        InputError: a unit that is not known, a key that is missing, or numbers that do not fit.
    """
    dataset = entry(load_json(path, comment=True), "Dataset", path)
    data = entry(dataset, "Data", path)
    if not isinstance(data, list) or not data:
        raise InputError(f"{path}: expected structures under 'Data', found none")
    factors = {style: _factor(dataset, style, path) for style in _UNITS}
    for number, record in enumerate(data, start=1):
        source = f"{path}, structure {number}"
        with as_expected(source):
            frame = _frame(record, factors, path, source)
        yield frame


def _frame(record: Mapping[str, Any], factors: Mapping[str, float], path: str, source: str) -> Frame:
    symbols = entry(record, "AtomTypes", source)
    if record.get("NumAtoms", len(symbols)) != len(symbols):
        raise InputError(f"{source}: expected {record['NumAtoms']} atom types (NumAtoms), found {len(symbols)}")
    return make_frame(
        Found(
            source=source,
            group=name_group(path),
            positions=_scaled(entry(record, "Positions", source), factors["PositionsStyle"], "Positions", source),
            atomic_numbers=numbers_of_symbols(symbols, source),
            cell=_scaled(entry(record, "Lattice", source), factors["LatticeStyle"], "Lattice", source),
            energy=_scaled(record.get("Energy"), factors["EnergyStyle"], "Energy", source),
            forces=_scaled(record.get("Forces"), factors["ForcesStyle"], "Forces", source),
            stress=_scaled(record.get("Stress"), factors["StressStyle"], "Stress", source),
        )
    )


def _factor(dataset: Mapping[str, Any], style: str, path: str) -> float:
    known = _UNITS[style]
    name = str(dataset.get(style, next(iter(known)))).lower()
    if name not in known:
        raise InputError(f"{path}: {style}: expected {' or '.join(known)}, found {name!r:.40}")
    return known[name]


def _scaled(value: Any, unit: float, name: str, source: str) -> FloatArray | None:
    if value is None:
        return None
    try:
        return np.array(value, dtype=np.float64) * unit
    except (TypeError, ValueError):
        raise InputError(f"{source}: {name}: expected numbers, found {value!r:.60}") from None
