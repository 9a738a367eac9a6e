"""Structures from files that ASE reads.

ASE leaves out the key_value_pairs of a database. Here they are read, and so are its data.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.compressed import is_compressed, plain_name
from pyfit_gpu.formats.head import Head, read_head
from pyfit_gpu.formats.label_values import finite
from pyfit_gpu.formats.labels import LabelFinder, meaning
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.structures.frames import Frame

if TYPE_CHECKING:
    from ase import Atoms

_HEAD_BYTES = 4096
_SUFFIXES = {".db", ".traj", ".cif"}
_JSON_DATABASE = re.compile(rb"""\s*\{\s*"\d+"\s*:\s*\{""")
_NO_LABELS = ("unique_id", "name")  # of a database's rows


def looks_like_ase(head: Head) -> bool:
    """Whether the name or the first bytes say one of ASE's formats; classic and our own files give False."""
    name = plain_name(head.path)
    return os.path.splitext(name)[1].lower() in _SUFFIXES or _format_of(head.raw[:_HEAD_BYTES]) is not None


def read_ase_frames(path: str | os.PathLike[str], options: ReadOptions | None = None) -> Iterator[Frame]:
    """Read every structure of a file (Å, eV, eV/Å, eV/Å^3), with the force-consistent energy where there is one.

    Raises:
        InputError: a file that cannot be read to its end, or holds no structures or NaN in one.
    """
    path = os.fspath(path)
    number = 0
    for number, atoms in enumerate(_images_or_input_error(path), start=1):
        yield _frame(atoms, path, f"{path}, structure {number}", options or ReadOptions())
    if number == 0:
        raise InputError(f"{path}: no structures in it")


def _format_of(head: bytes) -> str | None:
    """ASE's name of the format by a file's first bytes, which are more reliable than its name; None: not known."""
    if head.startswith(b"- of Ulm"):
        return "traj"
    if head.startswith(b"SQLite format 3\0"):
        return "db"
    if _JSON_DATABASE.match(head):
        return "json"
    return None


def _images_or_input_error(path: str) -> Iterator[Atoms]:
    """Structures as ASE reads them; whatever ASE raises becomes an InputError that says where."""
    number = 0
    try:
        for atoms in _images(path):
            yield atoms
            number += 1
    except (InputError, MemoryError):
        raise
    except Exception as error:  # ASE and its parsers raise anything, from XYZError to AssertionError
        where = f"{path}, structure {number + 1}" if number else path
        raise InputError(f"{where}: ASE cannot read it ({type(error).__name__}: {error})") from error


def _images(path: str) -> Iterator[Atoms]:
    from ase.io import iread
    from ase.io.formats import filetype

    head = read_head(path, _HEAD_BYTES)
    if head.is_folder:
        raise InputError(f"{path}: cannot read: Is a directory")
    absolute = os.path.abspath(path)  # a bare name that begins with "postgres" would be an address to ASE
    kind = _format_of(head.raw) or filetype(absolute)
    options: dict[str, Any] = {"index": ":", "format": kind, "parallel": False}
    if kind in ("vasp-xml", "vasp-out"):  # ASE passes over what formats/vasp/ checks
        raise InputError(f"{path}: the output of VASP is not read through ASE")
    if kind in ("db", "json"):
        if is_compressed(path):
            raise InputError(
                f"{path}: expected a database of ASE as it is, found a compressed one: decompress it first"
            )
        yield from _database_rows(absolute, kind)
    else:
        yield from iread(absolute, do_not_split_by_at_sign=True, **options)


def _database_rows(path: str, kind: str) -> Iterator[Atoms]:
    # Not by iread, which leaves out the key_value_pairs.
    from ase.db import connect

    if kind == "db":  # ASE would write its tables into an SQLite file of someone else's
        with closing(sqlite3.connect(f"{Path(path).as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT id FROM systems LIMIT 1")
    with connect(path, type=kind, serial=True) as database:
        for row in database.select():
            yield row.toatoms(add_additional_information=True)


def _frame(atoms: Atoms, path: str, source: str, options: ReadOptions) -> Frame:
    n = len(atoms)
    if n == 0:
        raise InputError(f"{source}: no atoms")
    numbers = np.array(atoms.numbers, dtype=np.int64)
    if numbers.min() < 0 or numbers.max() > 118:
        raise InputError(f"{source}: atomic numbers must be 0 to 118, got {numbers.min()} to {numbers.max()}")
    cell = finite(atoms.cell.array, (3, 3), "cell", source)
    values, columns = _named_values(atoms, options)
    finder = LabelFinder(values, columns, options, source)
    labels = finder.labels(values, columns, n, cell, path)
    return Frame(
        positions=finite(atoms.positions, (n, 3), "positions", source),
        cell=cell,
        pbc=np.array(atoms.pbc, dtype=np.bool_),
        atomic_numbers=numbers,
        source=source,
        **vars(labels),
    )


def _named_values(atoms: Atoms, options: ReadOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values and per-atom columns by name: results of the calculator, info, rows of a database, arrays."""
    values: dict[str, Any] = {}
    columns: dict[str, Any] = {
        name: array for name, array in atoms.arrays.items() if name not in ("numbers", "positions")
    }
    # Not atoms.get_forces(): it applies constraints, the potential needs the forces as computed.
    results = getattr(atoms.calc, "results", {})
    matrices = {options.stress_key.lower(), options.virial_key.lower()}  # not by atom, for three atoms either
    info = dict(atoms.info)
    more = {name: info.pop(name) for name in ("key_value_pairs", "data") if isinstance(info.get(name), Mapping)}
    places = {"": results, "info": info, **more}
    for place, name, value in ((place, *item) for place, found in places.items() for item in found.items()):
        if value is None or name in _NO_LABELS:
            continue
        label = meaning(name)
        if label is None:
            by_atom = np.shape(value)[:1] == (len(atoms),) and np.ndim(value) == 2 and name.lower() not in matrices
        else:
            by_atom = label.label == "forces"
        target = columns if by_atom else values
        target[f"{place}.{name}" if name in target else name] = value
    return values, columns
