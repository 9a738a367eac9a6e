"""Structures that are the same: one key for the same atoms at the same places in the same cell, whatever the labels."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyfit_gpu.structures.cells import FloatArray

# Å to which positions and cells are rounded: files print from six digits on, and a displacement of finite differences
# is a hundred times larger.
DECIMALS = 6
KEY_BYTES = 16


def structure_key(
    atomic_numbers: NDArray[np.int64], positions: NDArray[Any], cell: NDArray[Any], pbc: NDArray[np.bool_]
) -> bytes:
    """Compute a key that structures share if elements, positions, cell and pbc are the same to `DECIMALS`.

    The order of the atoms, another choice of the cell and wrapped positions make another structure.

    Args:
        atomic_numbers: (n,).
        positions: (n, 3) Å.
        cell: (3, 3) Å.
        pbc: (3,) bool.
    """
    digest = blake2b(np.asarray(atomic_numbers, dtype=np.int64).tobytes(), digest_size=KEY_BYTES)
    digest.update(np.asarray(pbc, dtype=np.bool_).tobytes())
    for lengths in (cell, positions):
        digest.update(rounded(lengths).tobytes())
    return digest.digest()


def rounded(lengths: NDArray[Any]) -> FloatArray:
    """Round lengths (Å) to `DECIMALS`, without a minus zero, whose bytes are not those of zero."""
    return np.asarray(np.round(np.asarray(lengths, dtype=np.float64), DECIMALS) + 0.0)
