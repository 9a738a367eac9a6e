"""Energies that look like energies per atom, among those of structures of one composition."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pyfit_gpu.structures.cells import FloatArray

_CLOSE = 0.05  # relative: energies per atom of one composition that count as equal
_SHARE = 0.1  # of the structures must have such an energy per atom: it is no exception itself
_MOST = 0.9  # share of structures with equal energies, whatever their sizes, for all of them to be per atom
_SMALLEST = 0.5  # eV: about the zero of energy nothing can be said


def look_per_atom(energy: FloatArray, n_atoms: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(B,) bool, structures of several atoms whose energy E, and not E / n, is what others have per atom.

    Cohesive energies spread from those of crystals to zero, and the E of a stretched crystal may well be the E / n of
    another. So the energies E / n of those found must stand apart: fewer structures than they are may lie between them
    and half the way to the others, or beyond. Where nearly all structures of different sizes have one energy, all of
    them are per atom.

    Args:
        energy: (B,) eV, of structures with the same elements in the same ratio.
        n_atoms: (B,).
    """
    if _are_one_energy(energy, n_atoms):
        return n_atoms > 1
    per_atom = energy / n_atoms
    ordered = np.sort(per_atom)
    margin = _CLOSE * np.abs(energy)
    equal = np.searchsorted(ordered, energy + margin, "right") - np.searchsorted(ordered, energy - margin, "left")
    candidates = (n_atoms > 1) & (np.abs(energy) > _SMALLEST) & (equal >= max(1.0, _SHARE * len(energy)))
    found = np.zeros(len(energy), dtype=np.bool_)
    for n in np.unique(n_atoms[candidates]).tolist():
        here = candidates & (n_atoms == n)
        ratios = per_atom[~candidates] / np.median(energy[here])
        found |= here & (np.count_nonzero(ratios < (1 + 1 / n) / 2) < np.count_nonzero(here))
    return found


def _are_one_energy(energy: FloatArray, n_atoms: NDArray[np.int64]) -> bool:
    """Whether nearly all have about the same energy, though one is at least twice as large as another."""
    middle = np.median(energy) if len(energy) else 0.0
    equal = np.abs(energy - middle) <= _CLOSE * abs(middle)
    if len(energy) < 3 or abs(middle) < _SMALLEST or np.count_nonzero(equal) < _MOST * len(energy):
        return False
    return bool(n_atoms[equal].max() >= 2 * n_atoms[equal].min())
