"""The elements of a vasprun.xml, some of whose symbols VASP cuts (`X` for Xe, `r` for Zr)."""

from __future__ import annotations

from dataclasses import dataclass, field

from ase.data import chemical_symbols as CHEMICAL_SYMBOLS

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.text_lines import is_count
from pyfit_gpu.formats.vasp.elements import number_of, number_of_title


@dataclass
class AtomInfo:
    """The tables of `<atominfo>`, row by row."""

    n_atoms: str = ""
    atoms: list[tuple[str, str]] = field(default_factory=list)  # symbol, number of the species
    titles: list[str] = field(default_factory=list)  # of the potentials of the species

    def add(self, table: str, cells: list[str]) -> None:
        """Take a row of one of the tables."""
        if table == "array atoms":
            symbol, species = [*cells, "", ""][:2]
            self.atoms.append((symbol, species))
        elif table == "array atomtypes":
            self.titles.append(cells[-1] if cells else "")

    def atomic_numbers(self, path: str) -> list[int]:
        """Atomic numbers of all atoms.

        Raises:
            InputError: rows are missing, or an element cannot be told.
        """
        if self.n_atoms and self.n_atoms != str(len(self.atoms)):
            raise InputError(
                f"{path}: expected {self.n_atoms} atoms in <atominfo>, found {len(self.atoms)}", where=path
            )
        known = {row: self._number(path, *row) for row in set(self.atoms)}
        return [known[row] for row in self.atoms]

    def _number(self, path: str, symbol: str, species: str) -> int:
        index = int(species) - 1 if is_count(species) else -1
        title = self.titles[index] if 0 <= index < len(self.titles) else ""
        by_symbol, by_title = number_of(symbol), number_of_title(title)
        if by_symbol and by_title in (0, by_symbol):
            return by_symbol
        if by_title and symbol and symbol in CHEMICAL_SYMBOLS[by_title]:
            return by_title
        other = f" and the potential {title!r}" if title else ""
        raise InputError(
            f"{path}: which element is {symbol!r}? VASP cuts some symbols in this file{other}; "
            "the OUTCAR of the run has the names of all potentials",
            where=path,
        )
