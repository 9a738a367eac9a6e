"""JSON with structures of pymatgen beside their labels: mlearn's data, and records of databases alike."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.label_values import finite
from pyfit_gpu.formats.labels import LabelFinder, meaning
from pyfit_gpu.formats.programs.assembly import Found, make_frame, numbers_of_symbols
from pyfit_gpu.formats.programs.json_files import as_expected, entry, load_json
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.units import KILOBAR
from pyfit_gpu.structures.frames import Frame

_STRUCTURE = re.compile(rb'"structure"\s*:\s*\{')
_CONTAINERS = ("outputs", "data")  # objects inside a record that hold labels


def looks_like_pymatgen(head: Head) -> bool:
    """Whether this is JSON with a `structure` that is an object."""
    return head.begins_with("[", "{") and _STRUCTURE.search(head.raw) is not None


def read_pymatgen(path: str, options: ReadOptions) -> Iterator[Frame]:
    """Read every record with a `structure`, however deep it stands (eV, Å, eV/Å).

    Raises:
        InputError: no JSON, no record, a site that several elements share, or numbers that do not fit.
    """
    with as_expected(path):
        records = list(_records(load_json(path)))
    if not records:
        raise InputError(f"{path}: no records with a 'structure' in it")
    for number, record in enumerate(records, start=1):
        source = f"{path}, structure {number}"
        with as_expected(source):
            frame = _frame(record, options, path, source)
        yield frame


def _records(content: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(content, Mapping) and isinstance(content.get("structure"), Mapping):
        yield content
    elif isinstance(content, Mapping | list):
        for inner in content.values() if isinstance(content, Mapping) else content:
            yield from _records(inner)


def _frame(record: Mapping[str, Any], options: ReadOptions, path: str, source: str) -> Frame:
    structure = record["structure"]
    sites, lattice = entry(structure, "sites", source), structure.get("lattice")
    numbers = numbers_of_symbols([_symbol(site, source) for site in sites], source)
    if len(numbers) == 0:
        raise InputError(f"{source}: no atoms")
    cell = np.zeros((3, 3)) if lattice is None else finite(entry(lattice, "matrix", source), (3, 3), "cell", source)
    values, unread = _values(record, options)
    chosen = options.forces_key.lower()
    names = [name for name in values if _label(name) == "forces" or name.lower() == chosen]
    columns = {name: values.pop(name) for name in names}
    finder = LabelFinder(values, columns, options, source)
    labels = finder.labels(values, columns, len(numbers), cell, path)
    return make_frame(
        Found(
            source=source,
            positions=[entry(site, "xyz", source) for site in sites],
            atomic_numbers=numbers,
            cell=cell,
            pbc=(False,) * 3 if lattice is None else lattice.get("pbc", (True, True, True)),
            **{**vars(labels), "unread": labels.unread + unread},
        )
    )


def _values(record: Mapping[str, Any], options: ReadOptions) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Values by name, of the record and of its outputs, and what is left out because it is not known what it means.

    mlearn's virial_stress is VASP's: kbar, positive for compression, xx yy zz xy and two more, whose order is yz xz in
    its deformed cells and xz yz in its molecular dynamics.
    """
    values = {name: value for name, value in record.items() if not isinstance(value, Mapping) and value is not None}
    for name in _CONTAINERS:
        if isinstance(record.get(name), Mapping):
            values |= record[name]
    unread: list[str] = []
    if not options.stress_key and not options.virial_key:
        for name in [name for name in values if _label(name) in ("stress", "virial")]:
            unread.append(f"key {name} (its unit and sign are not known)")
            del values[name]
        virial = values.pop("virial_stress", None)
        if virial is not None:
            numbers = np.asarray(virial, dtype=np.float64)
            if numbers.shape == (6,) and numbers[4] == numbers[5]:
                values["stress"] = -KILOBAR * numbers[[0, 1, 2, 4, 5, 3]]
            else:
                unread.append("key virial_stress (yz and xz differ, and files have them in either order)")
    return values, tuple(unread)


def _label(name: str) -> str:
    known = meaning(name)
    return "" if known is None else known.label


def _symbol(site: Mapping[str, Any], source: str) -> Any:
    species = entry(site, "species", source)
    if len(species) != 1 or species[0].get("occu", 1) != 1:
        raise InputError(f"{source}: expected sites of one element each, found {species!r:.60}")
    return entry(species[0], "element", source)
