"""JSON with structures of pymatgen beside their labels: mlearn's data, and records of databases alike."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ase import units

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.programs.assembly import Found, group_of_name, make_frame, numbers_of_symbols
from pyfit_gpu.formats.programs.json_files import as_expected, entry, load_json
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.structures.frames import Frame

_STRUCTURE = re.compile(rb'"structure"\s*:\s*\{')
_KBAR = 0.1 * units.GPa
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
    sites = entry(structure, "sites", source)
    lattice = structure.get("lattice")
    labels = dict(record)
    for name in _CONTAINERS:
        if isinstance(record.get(name), Mapping):
            labels |= record[name]
    stress, unread = _stress(labels, options)
    group = labels.get(options.group_key or "group")
    return make_frame(
        Found(
            source=source,
            group="_".join(str(group).split()) if group else group_of_name(path),
            positions=[entry(site, "xyz", source) for site in sites],
            atomic_numbers=numbers_of_symbols([_symbol(site, source) for site in sites], source),
            cell=None if lattice is None else entry(lattice, "matrix", source),
            pbc=None if lattice is None else lattice.get("pbc", (True, True, True)),
            energy=labels.get(options.energy_key or "energy"),
            forces=labels.get(options.forces_key or "forces"),
            stress=stress,
            weight=float(labels.get(options.weight_key, 1.0)) if options.weight_key else 1.0,
            unread=unread,
        )
    )


def _symbol(site: Mapping[str, Any], source: str) -> Any:
    species = entry(site, "species", source)
    if len(species) != 1 or species[0].get("occu", 1) != 1:
        raise InputError(f"{source}: expected sites of one element each, found {species!r:.60}")
    return entry(species[0], "element", source)


def _stress(labels: Mapping[str, Any], options: ReadOptions) -> tuple[Any, tuple[str, ...]]:
    """Stress in eV/Å^3 with ASE's sign, and what is not read of it.

    mlearn's virial_stress is VASP's: kbar, positive for compression, xx yy zz xy and two more, whose order is yz xz in
    its deformed cells and xz yz in its molecular dynamics.
    """
    if options.stress_key:
        return labels.get(options.stress_key), ()
    if "virial_stress" in labels:
        values = np.asarray(labels["virial_stress"], dtype=np.float64)
        if values.shape == (6,) and values[4] == values[5]:
            return -_KBAR * values[[0, 1, 2, 4, 5, 3]], ()
        return None, ("key virial_stress (yz and xz differ, and files have them in either order)",)
    return None, ("key stress (its unit and sign are not known)",) if "stress" in labels else ()
