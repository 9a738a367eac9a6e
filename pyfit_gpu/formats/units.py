"""Units that files declare or leave to be said, in terms of eV, Å, eV/Å and eV/Å^3 (CODATA 2014, as in ASE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ase import units

from pyfit_gpu.errors import InputError

Quantity = Literal["energy", "length", "force", "stress"]

KILOBAR = 0.1 * units.GPa  # eV/Å^3

_PER_MOLE = units.kcal / units.mol

# The spellings that files have, in lower case and without blanks, and what one of the unit is in ours.
_FACTORS: dict[Quantity, dict[str, float]] = {
    "energy": {
        **dict.fromkeys(("ev", "electronvolt", "electron_volt"), 1.0),
        "mev": 1e-3,
        **dict.fromkeys(("hartree", "ha", "eh", "e_h", "au", "a.u.", "atomic"), units.Hartree),
        **dict.fromkeys(("rydberg", "ry"), units.Rydberg),
        **dict.fromkeys(("kcal/mol", "kcal/mole", "kcalpermol"), _PER_MOLE),
        **dict.fromkeys(("kj/mol", "kj/mole"), units.kJ / units.mol),
    },
    "length": {
        **dict.fromkeys(("a", "å", "ang", "angstrom", "angstroem", "ångström"), 1.0),
        **dict.fromkeys(("bohr", "a0", "a_0", "au", "a.u.", "atomic"), units.Bohr),
        "nm": 10.0,
    },
    "stress": {
        "bar": 1e-4 * units.GPa,
        "kbar": KILOBAR,
        "gpa": units.GPa,
        "mpa": 1e-3 * units.GPa,
        "pa": units.Pascal,
    },
    "force": {},
}


def factor(quantity: Quantity, unit: str) -> float | None:
    """Convert one `unit` to eV, Å, eV/Å or eV/Å^3; None: the unit is not known.

    Units of forces and stress may be quotients, as `hartree/bohr` and `eV/A^3` (also `**3` and `³`).
    """
    spelt = "".join(unit.split()).strip("'\"").lower()
    if spelt in _FACTORS[quantity]:
        return _FACTORS[quantity][spelt]
    power = {"force": "", "stress": "3"}.get(quantity)
    if power is None:
        return None
    energy, _, length = spelt.replace("**", "^").replace("³", "^3").rpartition("/")
    if power:
        length, mark, found = length.rpartition("^")
        if not mark or found != power:
            return None
    above, below = _FACTORS["energy"].get(energy), _FACTORS["length"].get(length)
    return None if above is None or below is None else above / below ** int(power or 1)


@dataclass(frozen=True)
class UnitSystem:
    """Units of energy and length of a file that does not say them; forces are their quotient."""

    energy: float  # eV
    length: float  # Å

    @property
    def force(self) -> float:
        """One unit of force in eV/Å."""
        return self.energy / self.length


def parse_unit_system(text: str) -> UnitSystem:
    """Read `ENERGY,LENGTH`, as `eV,Ang` or `hartree,bohr`.

    Raises:
        InputError: not two units, or one that is not known.
    """
    words = text.split(",")
    if len(words) == 2:
        energy, length = factor("energy", words[0]), factor("length", words[1])
        if energy is not None and length is not None:
            return UnitSystem(energy, length)
    raise InputError(
        f"units: expected those of energy and length, as eV,Ang or hartree,bohr, got {text!r}", setting="units"
    )
