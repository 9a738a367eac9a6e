"""Elements as solids or molecules: bond lengths, coordination and cohesive energies, for a first guess."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ase.data import atomic_numbers as ATOMIC_NUMBERS
from ase.data import covalent_radii as COVALENT_RADII
from ase.data import reference_states as REFERENCE_STATES

# Nearest-neighbour distance over the lattice constant, and number of nearest neighbours.
_LATTICES = {
    "fcc": (math.sqrt(1 / 2), 12),
    "hcp": (1.0, 12),
    "bcc": (math.sqrt(3) / 2, 8),
    "diamond": (math.sqrt(3) / 4, 4),
    "sc": (1.0, 6),
}
_UNKNOWN_COORDINATION = 6
_UNKNOWN_ENERGY = 3.5  # eV per atom, the median of the table

# eV per atom at 0 K and 1 atm: C. Kittel, Introduction to Solid State Physics, 8th edition, chapter 3, table 1; H: half
# the dissociation energy of the molecule.
_COHESIVE_ENERGIES = {
    "H": 2.24, "Li": 1.63, "Be": 3.32, "B": 5.81, "C": 7.37, "N": 4.92, "O": 2.60, "F": 0.84, "Ne": 0.02, "Na": 1.113,
    "Mg": 1.51, "Al": 3.39, "Si": 4.63, "P": 3.43, "S": 2.85, "Cl": 1.40, "Ar": 0.080, "K": 0.934, "Ca": 1.84,
    "Sc": 3.90, "Ti": 4.85, "V": 5.31, "Cr": 4.10, "Mn": 2.92, "Fe": 4.28, "Co": 4.39, "Ni": 4.44, "Cu": 3.49,
    "Zn": 1.35, "Ga": 2.81, "Ge": 3.85, "As": 2.96, "Se": 2.46, "Br": 1.22, "Kr": 0.116, "Rb": 0.852, "Sr": 1.72,
    "Y": 4.37, "Zr": 6.25, "Nb": 7.57, "Mo": 6.82, "Tc": 6.85, "Ru": 6.74, "Rh": 5.75, "Pd": 3.89, "Ag": 2.95,
    "Cd": 1.16, "In": 2.52, "Sn": 3.14, "Sb": 2.75, "Te": 2.19, "I": 1.11, "Xe": 0.16, "Cs": 0.804, "Ba": 1.90,
    "La": 4.47, "Ce": 4.32, "Pr": 3.70, "Nd": 3.40, "Sm": 2.14, "Eu": 1.86, "Gd": 4.14, "Tb": 4.05, "Dy": 3.04,
    "Ho": 3.14, "Er": 3.29, "Tm": 2.42, "Yb": 1.60, "Lu": 4.43, "Hf": 6.44, "Ta": 8.10, "W": 8.90, "Re": 8.03,
    "Os": 8.17, "Ir": 6.94, "Pt": 5.84, "Au": 3.81, "Hg": 0.67, "Tl": 1.88, "Pb": 2.03, "Bi": 2.18, "Th": 6.20,
    "U": 5.55, "Np": 4.73, "Pu": 3.60, "Am": 2.73,
}  # fmt: skip


@dataclass(frozen=True)
class ElementalSolid:
    """Typical surroundings of an atom among its own kind."""

    bond_length: float  # Å
    coordination: float
    cohesive_energy: float  # eV per atom


def elemental_solid(symbol: str) -> ElementalSolid:
    """The usual form of an element; where it is no simple crystal, estimates."""
    number = ATOMIC_NUMBERS[symbol]
    state: dict[str, Any] = REFERENCE_STATES[number] or {}  # type: ignore[assignment]
    energy = _COHESIVE_ENERGIES.get(symbol, _UNKNOWN_ENERGY)
    if state.get("symmetry") in _LATTICES:
        factor, coordination = _LATTICES[state["symmetry"]]
        return ElementalSolid(factor * state["a"], coordination, energy)
    return ElementalSolid(2 * float(COVALENT_RADII[number]), _UNKNOWN_COORDINATION, energy)
