"""Values of labels as files give them, checked and converted."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pyfit_gpu.errors import InputError
from pyfit_gpu.structures.cells import FloatArray

_SYMMETRIC = ([0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1])  # xx yy zz yz xz xy
_FLAT_VOLUME = 1e-6  # Å^3
_BLANKS = str.maketrans("[],{}", "     ")


def text(value: Any) -> str:
    """Give a value as the text that stands in the file; `_JSON` texts are decoded as ASE does."""
    if isinstance(value, str) and value.startswith("_JSON "):
        try:
            return str(json.loads(value.removeprefix("_JSON ")))
        except (ValueError, RecursionError):
            return value
    return str(value)


def finite(value: Any, shape: tuple[int, ...], name: str, source: str) -> FloatArray:
    """(shape) float64 copy of numbers, which may be the text of a file.

    Raises:
        InputError: no numbers, another shape, NaN or infinity.
    """
    raw = np.asarray(parsed(value) if isinstance(value, str) else value)
    if raw.shape == (1,) and not shape:
        raw = raw[0]
    if raw.dtype.kind not in "fiu" or raw.shape != shape:
        got = f"{str(raw)[:60]!r}" if raw.dtype.kind == "U" else f"{raw.dtype} {raw.shape}: {value!s:.60}"
        raise InputError(f"{source}: {name} must be numbers of shape {shape}, got {got}")
    if not np.isfinite(raw).all():
        raise InputError(f"{source}: {name} has NaN or infinity")
    return np.array(raw, dtype=np.float64)


def parsed(value: str) -> Any:
    """Numbers of a text, (n,), NaN and infinity among them; a text that holds anything else, or nothing, stays."""
    numbers = value.removeprefix("_JSON ").translate(_BLANKS)
    if "_" in numbers or not numbers.isascii():  # float() takes 1_0 and the digits of other scripts
        return value
    try:
        return np.array(list(map(float, numbers.split()))) if numbers.strip() else value
    except ValueError:
        return value


def voigt(value: Any, name: str, source: str) -> FloatArray:
    """(6,) xx yy zz yz xz xy, from six numbers or a symmetric (3, 3) or (9,) matrix, which is symmetrised.

    Raises:
        InputError: as `finite`.
    """
    raw = np.asarray(parsed(value) if isinstance(value, str) else value)
    if raw.size != 9:
        return finite(raw, (6,), name, source)
    matrix = finite(raw.reshape(3, 3), (3, 3), name, source)
    return ((matrix + matrix.T) / 2)[_SYMMETRIC]


def stress_of_virial(virial: Any, cell: FloatArray, name: str, source: str) -> FloatArray | None:
    """(6,) -virial / volume; None without a full cell (3, 3).

    Raises:
        InputError: as `voigt`.
    """
    with np.errstate(all="ignore"):
        volume = abs(np.linalg.det(cell))
    return -voigt(virial, name, source) / volume if _FLAT_VOLUME < volume < np.inf else None
