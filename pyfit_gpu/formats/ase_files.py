"""Structures from every file type that ASE reads, and extended XYZ files with all digits.

ASE reads leniently: it drops the incomplete steps of a VASP run, takes unconverged ones as they are, stops
an xyz file at its first blank line and leaves out the key_value_pairs of a database. Here the first three are
errors, and key_value_pairs are read.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

import numpy as np

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.text_lines import is_unlabelled
from pyfit_gpu.formats.vasp_check import check_outcar, check_vasprun
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.frames import Frame

if TYPE_CHECKING:
    from ase import Atoms

_HEAD_BYTES = 4096
_COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}  # as in ASE
_SUFFIXES = {".xyz", ".extxyz", ".xml", ".db", ".traj", ".cif"}
_OUTCAR_START = re.compile(rb"\s*vasp\.\d")
_JSON_DATABASE = re.compile(rb"""\s*\{\s*"\d+"\s*:\s*\{""")
_PLAIN_WORD = re.compile(r"(?!(?:t|f|true|false|nan|inf|infinity)$)[a-z_][a-z0-9_.+-]*", re.IGNORECASE)


class _OutcarText(io.TextIOWrapper):
    # ASE takes constraints from a CONTCAR or POSCAR beside the OUTCAR. They mean nothing to us, and a broken
    # one must not decide whether the OUTCAR can be read: this name has no such neighbours.
    name = os.devnull


def looks_like_ase(head: Head) -> bool:
    """Whether the name or the first bytes say one of ASE's formats; classic and our own files give False."""
    name = os.path.basename(head.path)
    root, suffix = os.path.splitext(name)
    is_compressed = suffix in _COMPRESSED
    if is_compressed:
        suffix = os.path.splitext(root)[1]
    if "vasprun" in name or "OUTCAR" in name or suffix.lower() in _SUFFIXES:
        return True
    try:
        return _format_of(_head(head.path) if is_compressed else head.raw[:_HEAD_BYTES]) is not None
    except Exception:  # not the compressed file that its name says: the reader names the fault
        return False


def read_ase_frames(path: str | os.PathLike[str]) -> Iterator[Frame]:
    """Read every structure of a file (Å, eV, eV/Å, eV/Å^3), with the force-consistent energy where there is one.

    Raises:
        InputError: a file that cannot be read to its end, holds no structures or NaN in one, or a VASP run that is
            truncated or has an ionic step without electronic convergence.
    """
    path = os.fspath(path)
    number = 0
    for number, atoms in enumerate(_images_or_input_error(path), start=1):
        yield _frame(atoms, path, f"{path}, structure {number}")
    if number == 0:
        raise InputError(f"{path}: no structures in it")


@dataclass(frozen=True, eq=False)
class LabelSpread:
    """Standard deviations of a frame's labels over several potentials."""

    energy: float  # eV
    forces: FloatArray | None  # (n, 3) eV/Å; None: not known
    stress: FloatArray | None  # (6,) eV/Å^3, xx yy zz yz xz xy


def write_extxyz(
    path_or_file: str | os.PathLike[str] | TextIO,
    frames: Iterable[Frame],
    spreads: Iterable[LabelSpread] | None = None,
) -> None:
    """Write frames as extended XYZ (Å, eV); atomic number 0 becomes X, the source is not written.

    Spreads, one for each frame, become energy_std and stress_std of the structure and forces_std of its atoms.

    ase.io.write prints positions and forces with eight decimals and has no option for more. Here they are written
    with the shortest digits that give the same float64.
    """
    from ase.data import chemical_symbols

    if isinstance(path_or_file, str | os.PathLike):
        with open(path_or_file, "w", encoding="utf-8") as file:
            write_extxyz(file, frames, spreads)
        return
    pairs = zip(frames, repeat(None)) if spreads is None else zip(frames, spreads, strict=True)
    for frame, spread in pairs:
        columns = {
            "pos": frame.positions,
            "forces": frame.forces,
            "forces_std": None if spread is None else spread.forces,
        }
        known = {name: values for name, values in columns.items() if values is not None}
        rows = np.concatenate(list(known.values()), axis=1).tolist()
        path_or_file.write(f"{len(rows)}\n{_comment_line(frame, list(known), spread)}\n")
        for number, row in zip(frame.atomic_numbers.tolist(), rows, strict=True):
            path_or_file.write(f"{chemical_symbols[number]:2} {' '.join(map(repr, row))}\n")


def _comment_line(frame: Frame, columns: Sequence[str], spread: LabelSpread | None) -> str:
    parts = []
    if frame.cell.any():
        parts.append(f'Lattice="{_numbers(frame.cell)}"')
    parts.append("Properties=species:S:1" + "".join(f":{name}:R:3" for name in columns))
    parts.append(f"group={_extxyz_word(frame.group)}")
    if frame.weight != 1:
        parts.append(f"weight={_numbers(frame.weight)}")
    if frame.energy is not None:
        parts.append(f"energy={_numbers(frame.energy)}")
    if frame.stress is not None:
        parts.append(f'stress="{_numbers(frame.stress[[0, 5, 4, 5, 1, 3, 4, 3, 2]])}"')
    if spread is not None:
        parts.append(f"energy_std={_numbers(spread.energy)}")
        if spread.stress is not None:
            parts.append(f'stress_std="{_numbers(spread.stress)}"')  # ASE makes no matrix of such a name
    parts.append('pbc="' + " ".join("T" if periodic else "F" for periodic in frame.pbc) + '"')
    return " ".join(parts)


def _numbers(values: Any) -> str:
    return " ".join(map(repr, np.asarray(values, dtype=np.float64).ravel().tolist()))


def _extxyz_word(word: str) -> str:
    """Quote a word so that ASE reads back the same text: it would read 001 as a number and T as a boolean."""
    if _PLAIN_WORD.fullmatch(word):
        return word
    return '"' + f"_JSON {json.dumps(word)}".replace("\\", r"\\").replace('"', r"\"") + '"'


def _open(path: str) -> IO[bytes]:
    module = _COMPRESSED.get(os.path.splitext(path)[1])
    return open(path, "rb") if module is None else importlib.import_module(module).open(path, "rb")


def _head(path: str) -> bytes:
    with _open(path) as file:
        return file.read(_HEAD_BYTES)


def _format_of(head: bytes) -> str | None:
    """ASE's name of the format by a file's first bytes, which are more reliable than its name; None: not known."""
    if b"<modeling" in head:
        return "vasp-xml"
    if _OUTCAR_START.match(head) and b"executed on" in head:
        return "vasp-out"
    if head.startswith(b"- of Ulm"):
        return "traj"
    if head.startswith(b"SQLite format 3\0"):
        return "db"
    if _JSON_DATABASE.match(head):
        return "json"
    count, comment = [*head.split(b"\n", 2), b""][:2]
    if count.strip().isdigit() and (b"Lattice=" in comment or b"Properties=" in comment):
        return "extxyz"
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
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # ASE and its parsers raise anything, from XYZError to AssertionError
        where = f"{path}, structure {number + 1}" if number else path
        raise InputError(f"{where}: ASE cannot read it ({type(error).__name__}: {error})") from error


def _images(path: str) -> Iterator[Atoms]:
    from ase.io import iread
    from ase.io.formats import filetype

    head = _head(path)
    if not head:
        raise InputError(f"{path}: empty file")
    absolute = os.path.abspath(path)  # a bare name that begins with "postgres" would be an address to ASE
    kind = _format_of(head) or filetype(absolute)
    options: dict[str, Any] = {"index": ":", "format": kind, "parallel": False}
    if kind == "vasp-xml":
        with _open(path) as file:
            check_vasprun(path, file)
            file.seek(0)
            yield from iread(file, **options)
    elif kind == "vasp-out":
        with _OutcarText(_open(path), encoding="latin-1") as text:
            check_outcar(path, text)
            text.seek(0)
            yield from iread(text, **options)
    elif kind == "extxyz":
        with io.TextIOWrapper(_open(path), encoding="utf-8") as text:
            yield from iread(text, **options)
            # ASE stops at the first blank line: structures after it would be lost
            if rest := next((line for line in text if line.strip()), None):
                raise InputError(f"{path}: blank line between structures, before {rest[:60]!r}")
    elif kind in ("db", "json"):
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


def _frame(atoms: Atoms, path: str, source: str) -> Frame:
    n = len(atoms)
    if n == 0:
        raise InputError(f"{source}: no atoms")
    # Not atoms.get_forces(): it applies constraints, the potential needs the forces as computed.
    results = getattr(atoms.calc, "results", {})
    pairs = atoms.info.get("key_value_pairs")
    info = {**pairs, **atoms.info} if isinstance(pairs, Mapping) else atoms.info
    energy = results.get("free_energy")
    energy = results.get("energy") if energy is None else energy
    forces, stress = results.get("forces"), results.get("stress")
    numbers = np.array(atoms.numbers, dtype=np.int64)
    if numbers.min() < 0 or numbers.max() > 118:
        raise InputError(f"{source}: atomic numbers must be 0 to 118, got {numbers.min()} to {numbers.max()}")
    group = _group(info, path)
    if is_unlabelled(group):  # as in the classic text: for predictions only
        energy = None
    return Frame(
        positions=_finite(atoms.positions, (n, 3), "positions", source),
        cell=_finite(atoms.cell.array, (3, 3), "cell", source),
        pbc=np.array(atoms.pbc, dtype=np.bool_),
        atomic_numbers=numbers,
        group=group,
        source=source,
        energy=None if energy is None else float(_finite(np.squeeze(energy), (), "energy", source)),
        forces=None if forces is None else _finite(forces, (n, 3), "forces", source),
        stress=None if stress is None else _voigt(stress, source),
        weight=_weight(info.get("weight", 1.0), source),
    )


def _finite(value: Any, shape: tuple[int, ...], name: str, source: str) -> FloatArray:
    """A float64 copy of the shape, without NaN or infinity."""
    raw = np.asarray(value)
    if raw.dtype.kind not in "fiu" or raw.shape != shape:
        got = f"{raw.dtype} {raw.shape}: {value!s:.60}"
        raise InputError(f"{source}: {name} must be numbers of shape {shape}, got {got}")
    if not np.isfinite(raw).all():
        raise InputError(f"{source}: {name} has NaN or infinity")
    return np.array(raw, dtype=np.float64)


def _voigt(stress: Any, source: str) -> FloatArray:
    """(6,) xx yy zz yz xz xy, also from a (3, 3) or (9,) matrix."""
    stress = np.asarray(stress)
    if stress.size != 9:
        return _finite(stress, (6,), "stress", source)
    matrix = _finite(stress.reshape(3, 3), (3, 3), "stress", source)
    return ((matrix + matrix.T) / 2)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def _group(info: Mapping[str, Any], path: str) -> str:
    name = os.path.basename(path)
    for candidate in (info.get("group"), info.get("config_type"), name.split(".")[0], name):
        if candidate is not None and (words := str(candidate).split()):
            return "_".join(words)
    raise AssertionError(path)  # a file that was read has a name


def _weight(value: Any, source: str) -> float:
    weight = float(_finite(np.squeeze(value), (), "weight", source))
    if weight < 0:
        raise InputError(f"{source}: weight must be 0 or more, got {weight}")
    return weight
