"""Writing extended XYZ with all digits, so that ASE and our reader give back the same numbers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TextIO, TypeVar

import numpy as np

from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.frames import Frame

T = TypeVar("T")
V = TypeVar("V")

_PLAIN_WORD = re.compile(r"(?!(?:t|f|true|false|nan|inf|infinity)$)(?:[a-z_/]|\.{1,2}/)[a-z0-9_.+/-]*", re.IGNORECASE)


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
    columns: Iterable[Mapping[str, FloatArray]] | None = None,
    notes: Iterable[Mapping[str, str | float]] | None = None,
) -> None:
    """Write frames as extended XYZ (Å, eV); atomic number 0 becomes X, the source is not written.

    Spreads, one for each frame, become energy_std and stress_std of the structure and forces_std of its atoms; further
    columns of its atoms, (n, m) each, and notes on the structure come under their own names.

    ase.io.write prints positions and forces with eight decimals and has no option for more. Here they are written
    with the shortest digits that give the same float64.
    """
    from ase.data import chemical_symbols

    if isinstance(path_or_file, str | os.PathLike):
        with open(path_or_file, "w", encoding="utf-8") as file:
            write_extxyz(file, frames, spreads, columns, notes)
        return
    for ((frame, spread), more), note in _beside(_beside(_beside(frames, spreads, None), columns, {}), notes, {}):
        whole = {
            "pos": frame.positions,
            "forces": frame.forces,
            "forces_std": None if spread is None else spread.forces,
            **more,
        }
        known = {name: values for name, values in whole.items() if values is not None}
        rows = np.concatenate(list(known.values()), axis=1).tolist()
        widths = {name: values.shape[1] for name, values in known.items()}
        path_or_file.write(f"{len(rows)}\n{_comment_line(frame, widths, spread, note)}\n")
        for number, row in zip(frame.atomic_numbers.tolist(), rows, strict=True):
            path_or_file.write(f"{chemical_symbols[number]:2} {' '.join(map(repr, row))}\n")


def _beside(items: Iterable[T], values: Iterable[V] | None, default: V) -> Iterator[tuple[T, V]]:
    """Pair items with as many values, or with a default."""
    return zip(items, repeat(default)) if values is None else zip(items, values, strict=True)


def _comment_line(
    frame: Frame, columns: Mapping[str, int], spread: LabelSpread | None, notes: Mapping[str, str | float]
) -> str:
    parts = []
    if frame.cell.any():
        parts.append(f'Lattice="{_numbers(frame.cell)}"')
    parts.append("Properties=species:S:1" + "".join(f":{name}:R:{width}" for name, width in columns.items()))
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
    parts += [f"{name}={_note(value)}" for name, value in notes.items()]
    parts.append('pbc="' + " ".join("T" if periodic else "F" for periodic in frame.pbc) + '"')
    return " ".join(parts)


def _note(value: str | float) -> str:
    """Write a note: ASE reads whole numbers back as such."""
    if isinstance(value, str):
        return _extxyz_word(value)
    return repr(value) if isinstance(value, int) else _numbers(value)


def _numbers(values: Any) -> str:
    return " ".join(map(repr, np.asarray(values, dtype=np.float64).ravel().tolist()))


def _extxyz_word(word: str) -> str:
    """Quote a word so that ASE reads back the same text: it would read 001 as a number and T as a boolean."""
    if _PLAIN_WORD.fullmatch(word):
        return word
    return '"' + f"_JSON {json.dumps(word)}".replace("\\", r"\\").replace('"', r"\"") + '"'
