"""Frames from numbers that a reader found, checked in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.formats.label_values import finite, stress_of_virial, voigt
from pyfit_gpu.formats.text_lines import is_unlabelled
from pyfit_gpu.structures.frames import Frame


@dataclass(frozen=True, kw_only=True)
class Found:
    """Numbers that a reader found for one structure, in eV, Å, eV/Å and eV/Å^3; None: the file does not say."""

    source: str
    group: str
    positions: Any  # (n, 3)
    atomic_numbers: Any  # (n,)
    cell: Any = None  # (3, 3), rows
    pbc: Any = None  # (3,); None: periodic where there is a cell
    energy: Any = None
    forces: Any = None  # (n, 3)
    stress: Any = None  # (3, 3) or (6,) xx yy zz yz xz xy, ASE's sign
    virial: Any = None  # as stress, eV: stress = -virial / volume; not read without a full cell
    weight: float = 1.0
    unread: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()  # as both of `Frame`


def make_frame(found: Found) -> Frame:
    """Check shapes and numbers, and make a frame.

    Raises:
        InputError: a wrong shape, NaN or infinity, or no atoms.
    """
    numbers = np.asarray(found.atomic_numbers, dtype=np.int64).reshape(-1)
    n = len(numbers)
    if n == 0:
        raise InputError(f"{found.source}: no atoms")
    cell = np.zeros((3, 3)) if found.cell is None else finite(found.cell, (3, 3), "cell", found.source)
    pbc = np.any(cell != 0, axis=1) if found.pbc is None else found.pbc
    unlabelled = found.energy is None or is_unlabelled(found.group)  # as in the classic text: for predictions only
    stress, unread = None, found.unread
    if found.stress is not None:
        stress = voigt(found.stress, "stress", found.source)
    elif found.virial is not None:
        stress = stress_of_virial(found.virial, cell, "virial", found.source)
        unread += ("key virial (without a full cell)",) if stress is None else ()
    return Frame(
        positions=finite(found.positions, (n, 3), "positions", found.source),
        cell=cell,
        pbc=np.array(pbc, dtype=np.bool_),
        atomic_numbers=numbers,
        group=found.group,
        source=found.source,
        energy=None if unlabelled else float(finite(found.energy, (), "energy", found.source)),
        forces=None if found.forces is None else finite(found.forces, (n, 3), "forces", found.source),
        stress=stress,
        weight=found.weight,
        unread=unread,
        chosen=found.chosen,
    )


def numbers_of_symbols(symbols: Sequence[Any], source: str) -> NDArray[np.int64]:
    """Atomic numbers of chemical symbols (n,).

    Raises:
        InputError: a word that is no element's symbol.
    """
    for symbol in symbols:
        if not isinstance(symbol, str) or symbol not in atomic_numbers:
            raise InputError(f"{source}: expected chemical symbols, found {symbol!r:.60}")
    return np.array([atomic_numbers[symbol] for symbol in symbols], dtype=np.int64)


def numbers_of_types(
    types: NDArray[Any], elements: NDArray[np.int64] | None, source: str, missing: str
) -> NDArray[np.int64]:
    """Atomic numbers of atoms whose file has types 0, 1, ...; all 0 (not named) if there is one type alone.

    Args:
        elements: atomic numbers by type, if known.
        missing: what would name the elements, for the message.

    Raises:
        InputError: several types without elements, or a type without one.
    """
    types = types.astype(np.int64)
    if elements is None:
        if types.any():
            raise InputError(
                f"{source}: {missing}: expected the elements of types 0 to {types.max()}",
                setting="elements",
                remedy=Remedy.ELEMENTS,
            )
        return types
    if len(types) and (types.min() < 0 or types.max() >= len(elements)):
        raise InputError(
            f"{source}: expected types 0 to {len(elements) - 1} (of {len(elements)} elements), found "
            f"{types.min()} to {types.max()}"
        )
    return elements[types]
