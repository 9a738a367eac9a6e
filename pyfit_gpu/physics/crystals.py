"""Reference crystals: the common structures of elements and of binary compounds, as primitive cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.data import covalent_radii
from numpy.typing import NDArray

Symmetry = Literal["cubic", "hexagonal", "other"]

ELEMENTARY = ("fcc", "bcc", "hcp", "diamond", "sc")
BINARY = ("zincblende", "wurtzite", "rocksalt", "cesiumchloride")

_FACE_CENTRED = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))
_BODY_CENTRED = ((0, 1, 1), (1, 0, 1), (1, 1, 0))
_PRIMITIVE = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
# Rows: the vectors of the conventional cell in those of ASE's primitive one.
_CONVENTIONAL = {
    "fcc": _FACE_CENTRED,
    "diamond": _FACE_CENTRED,
    "zincblende": _FACE_CENTRED,
    "rocksalt": _FACE_CENTRED,
    "bcc": _BODY_CENTRED,
}
_HEXAGONAL = ("hcp", "wurtzite")


@dataclass(frozen=True, eq=False)
class Crystal:
    """A crystal structure, of any volume."""

    name: str  # of the phase, for reports
    prototype: str  # one of `ELEMENTARY` or `BINARY`; "": from the data
    atoms: Atoms  # a primitive cell; that of a cubic crystal has its cubic axes along x, y and z

    @property
    def volume(self) -> float:
        """Å^3 per atom."""
        return volume_per_atom(self.atoms)

    @property
    def composition(self) -> str:
        return composition_of(self.atoms)

    @property
    def symmetry(self) -> Symmetry:
        if not self.prototype:
            return "other"
        return "hexagonal" if self.prototype in _HEXAGONAL else "cubic"

    @property
    def conventional_vectors(self) -> NDArray[np.int64]:
        """(3, 3): rows are the vectors of the conventional cell in those of the primitive one."""
        return np.array(_CONVENTIONAL.get(self.prototype, _PRIMITIVE))

    def conventional(self, atoms: Atoms) -> Atoms:
        """The conventional cell of a relaxed primitive one."""
        return make_supercell(atoms, self.conventional_vectors)

    def lattice_constants(self, atoms: Atoms) -> dict[str, float]:
        """Å, lengths of the conventional cell's vectors: a, and b and c where they differ by symmetry."""
        lengths = np.linalg.norm(self.conventional_vectors @ atoms.cell.array, axis=1)
        names = {"cubic": "a", "hexagonal": "ac", "other": "abc"}[self.symmetry]
        return {name: float(lengths["abc".index(name)]) for name in names}


def elementary_crystals(symbol: str, prefix: str = "") -> Iterator[Crystal]:
    """Crystals of one element; the prefix tells phases of several elements apart."""
    for prototype in ELEMENTARY:
        yield Crystal(prefix + prototype, prototype, bulk(symbol, prototype, a=1.0))


def binary_crystals(first: str, second: str) -> Iterator[Crystal]:
    """Crystals of as many atoms of one element as of another."""
    for prototype in BINARY:
        yield Crystal(prototype, prototype, bulk(f"{first}{second}", prototype, a=1.0))


def volume_per_atom(atoms: Atoms) -> float:
    """Å^3."""
    return float(atoms.get_volume()) / len(atoms)


def composition_of(atoms: Atoms) -> str:
    """The formula with the smallest whole numbers: SiC."""
    return str(atoms.get_chemical_formula(empirical=True))


def scaled(atoms: Atoms, volume: float) -> Atoms:
    """The same crystal with another volume (Å^3 per atom)."""
    factor = (volume * len(atoms) / atoms.get_volume()) ** (1 / 3)
    return strained(atoms, (factor - 1) * np.eye(3))


def strained(atoms: Atoms, strain: NDArray[np.float64]) -> Atoms:
    """The same crystal with cell and positions strained, (3, 3)."""
    changed = atoms.copy()
    changed.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return changed


def bond_length(atoms: Atoms) -> float:
    """Å, the usual distance of nearest neighbours: the mean of two covalent radii over all atoms, twice."""
    return 2 * float(np.mean([covalent_radii[number] for number in atoms.numbers]))
