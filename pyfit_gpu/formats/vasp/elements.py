"""Elements by the names that VASP gives them."""

from __future__ import annotations

import re

from ase.data import atomic_numbers as ATOMIC_NUMBERS

# Si_pv, H1.25, H.5, Er_3: what follows the symbol is the potential's
_SYMBOL = re.compile(r"([A-Z][a-z]?)(?:[_.\d].*)?")


def number_of(symbol: str) -> int:
    """Atomic number of a symbol; 0: it is none."""
    return ATOMIC_NUMBERS.get(symbol, 0)


def number_of_title(title: str) -> int:
    """Atomic number by the title of a potential, as `PAW_PBE Zr_sv 07Sep2000`; 0: it names no element."""
    for word in title.split()[:2]:
        if (match := _SYMBOL.fullmatch(word)) and (number := number_of(match[1])):
            return number
    return 0
