"""Units that a structure declares among its keys, such as `energy-unit=hartree`: converted, or refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats import units
from pyfit_gpu.formats.labels import OURS, LabelFinder, Scale

_WORDS: dict[str, units.Quantity] = {
    "energy": "energy",
    "force": "force",
    "stress": "stress",
    "virial": "energy",
    "length": "length",
    "position": "length",
    "pos": "length",
    "cell": "length",
    "lattice": "length",
}
_WORD = f"({'|'.join(_WORDS)})s?"
_KEY = re.compile(rf"{_WORD}_?units?|(?!unit_?cell)units?_?{_WORD}|()units?", re.IGNORECASE)
_OURS = ("ev", "metal", "ev,ang", "ev,a", "ev,angstrom", "ev/a", "ev/ang", "ev/angstrom")  # of the key `units` alone


@dataclass(frozen=True)
class DeclaredUnits:
    """Factors to eV, Å, eV/Å and eV/Å^3."""

    energy: float = 1.0
    force: float = 1.0
    stress: float = 1.0
    virial: float = 1.0
    length: float = 1.0
    keys: tuple[str, ...] = ()  # the keys that declare them

    @classmethod
    def of(cls, values: Mapping[str, str], source: str) -> DeclaredUnits:
        """Find the units that keys declare.

        Raises:
            InputError: a unit that is not known, or two for one quantity.
        """
        found: dict[str, float] = {}
        keys = []
        for key, value in values.items():
            match = _KEY.fullmatch(key.replace("-", "_")) if "unit" in key.lower() else None
            if match is None:
                continue
            keys.append(key)
            word = (match[1] or match[2] or "").lower()
            if not word:
                if value.lower().replace(" ", "") not in _OURS:
                    raise _refused(source, key, value, "eV,Ang; others quantity by quantity, as energy_unit=hartree")
                continue
            factor = units.factor(_WORDS[word], value)
            if factor is None:
                raise _refused(source, key, value, f"a unit of {_WORDS[word]}")
            name = "length" if _WORDS[word] == "length" else word
            if found.setdefault(name, factor) != factor:
                raise _refused(source, key, value, f"the unit of {name} that another key gives")
        return cls(**found, keys=tuple(keys)) if keys else _DEFAULT

    @property
    def scale(self) -> Scale:
        return Scale(self.energy, self.force, self.stress, self.virial) if self.keys else OURS

    def require(self, source: str, finder: LabelFinder) -> None:
        """Refuse labels whose units are open, because those of others are declared and are not ours.

        A stress in GPa or bar alone says nothing: programs that count in eV and Å write it.

        Raises:
            InputError: with the key that is missing.
        """
        if self.energy == self.length == self.force == self.virial == 1.0:
            return
        declared = {key.lower() for key in self.keys}
        for label, name in (("energy", "energy"), ("force", "forces"), ("stress", "stress"), ("virial", "virial")):
            if finder.has(name) and not any(label in key for key in declared):
                raise InputError(
                    f"{source}: {', '.join(self.keys)} declare units that are not ours, and none declares that of the "
                    f"{label}: expected {label}_unit as well"
                )


_DEFAULT = DeclaredUnits()


def _refused(source: str, key: str, value: str, expected: str) -> InputError:
    return InputError(f"{source}: {key}={value}: expected {expected}")
