"""Structures that are the same: the same atoms at the same places in the same cell, whatever their labels."""

from __future__ import annotations

from hashlib import blake2b
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.frames import Frame

# Å to which positions and cells are rounded: files print from six digits on, and a displacement of finite differences
# is a hundred times larger.
DECIMALS = 6
KEY_BYTES = 16

_SAME_LABEL = 1e-6  # relative, or eV, eV/Å, eV/Å^3: labels that differ by less were printed with other digits

Labels = tuple[float, float, float]  # one number for energy, forces and stress; NaN: not known


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
    lengths = rounded(np.concatenate((cell, positions))).tobytes()
    return hash_parts(np.asarray(atomic_numbers, np.int64).tobytes(), np.asarray(pbc, np.bool_).tobytes(), lengths)


def rounded(lengths: NDArray[Any]) -> FloatArray:
    """Round lengths (Å) to `DECIMALS`; a minus zero, which has other bytes, becomes zero."""
    found: FloatArray = lengths.astype(np.float64, copy=False).round(DECIMALS)
    found += 0.0
    return found


def hash_parts(*parts: bytes | memoryview) -> bytes:
    """Hash bytes that stand one after the other: of elements, pbc, cell and positions for `structure_key`."""
    digest = blake2b(parts[0], digest_size=KEY_BYTES)
    for part in parts[1:]:
        digest.update(part)
    return digest.digest()


def as_keys(keys: bytes | bytearray) -> NDArray[np.void]:
    """(B,) keys that stand one after the other in `keys`."""
    return np.frombuffer(bytes(keys), dtype=f"V{KEY_BYTES}")


def first_rows(keys: NDArray[np.void]) -> NDArray[np.int64]:
    """(B,) row of the first structure with the same key; a structure's own row where it is no copy."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], dtype=np.int64)


def label_numbers(energy: float | None, forces: FloatArray | None, stress: FloatArray | None) -> Labels:
    """One number for each label, by which the labels of copies are compared; NaN: not known."""
    return (
        nan if energy is None else energy,
        nan if forces is None else _projection(forces),
        nan if stress is None else _projection(stress),
    )


_direction = np.zeros(0)


def _projection(values: FloatArray) -> float:
    """Project onto a fixed direction, whose components are random and about 1: no symmetry of labels hides."""
    global _direction
    if len(_direction) < values.size:
        _direction = np.random.RandomState(1).uniform(0.5, 1.5, 2 * values.size)
    return float(values.ravel() @ _direction[: values.size])


def labels_differ(labels: Any, others: Any) -> NDArray[np.bool_]:
    """(...) bool, whether any label (..., 3) that both have differs, see `label_numbers`."""
    labels, others = np.asarray(labels), np.asarray(others)
    with np.errstate(invalid="ignore"):  # a comparison with NaN is false
        different = np.abs(labels - others) > _SAME_LABEL * np.maximum(1.0, np.abs(others))
    return np.asarray(different.any(axis=-1))


class UniqueStructures:
    """Structures seen so far, each once; counts the copies that were refused."""

    def __init__(self, only_element: int = 0) -> None:
        """Begin without any.

        Args:
            only_element: atomic number of atoms of which a file names no element.
        """
        self.n_copies = 0
        self.n_other_labels = 0  # copies with a label that the first one lacks, or has with another value
        self._only_element = only_element
        self._seen: dict[bytes, Labels] = {}

    def add(self, key: bytes, labels: Labels) -> None:
        """Add a structure that stays, whether a copy or not."""
        self._seen.setdefault(key, labels)

    def take(self, frame: Frame) -> bool:
        """Add a structure; returns whether it is none of those seen before."""
        numbers = np.where(frame.atomic_numbers == 0, self._only_element, frame.atomic_numbers)
        key = structure_key(numbers, frame.positions, frame.cell, frame.pbc)
        labels = label_numbers(frame.energy, frame.forces, frame.stress)
        first = self._seen.setdefault(key, labels)
        if first is labels:
            return True
        self.n_copies += 1
        lacks = np.isnan(first) & ~np.isnan(labels)
        self.n_other_labels += bool(lacks.any() or labels_differ(labels, first))
        return False
