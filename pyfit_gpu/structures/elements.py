"""Elements of atoms: numbered as a potential orders them, and counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np
import torch
from ase.data import atomic_numbers as ATOMIC_NUMBERS
from ase.data import chemical_symbols as CHEMICAL_SYMBOLS
from numpy.typing import NDArray
from torch import Tensor

from pyfit_gpu.devices import sent
from pyfit_gpu.errors import InputError
from pyfit_gpu.structures.frames import Frame, StructureSummary


def index_elements(numbers: Tensor, elements: Sequence[str], where: Callable[[int], str]) -> Tensor:
    """(n_atoms,) int64, index into `elements` of atomic numbers (n_atoms,).

    Args:
        where: names an atom, counted from 0, in an error.

    Raises:
        InputError: an element that is not one of them, or atoms without an element for several elements.
    """
    table = torch.full((len(CHEMICAL_SYMBOLS),), -1, dtype=torch.int64)
    if len(elements) == 1:
        table[0] = 0  # a file without symbols means the potential's only element
    for species, symbol in enumerate(elements):
        table[ATOMIC_NUMBERS[symbol]] = species
    index = sent(table, numbers.device)[numbers]
    if bool((index < 0).any()):
        atom = int((index < 0).nonzero()[0])
        raise unknown_element(int(numbers[atom]), elements, where(atom))
    return index


def unknown_element(number: int, elements: Sequence[str], where: str) -> InputError:
    expected = f"expected an element of the potential ({', '.join(elements)})"
    found = f"found {CHEMICAL_SYMBOLS[number]}" if number else "the file names no element"
    return InputError(f"{where}: {expected}, {found}")


def count_elements(structures: Sequence[Frame | StructureSummary], elements: Sequence[str]) -> NDArray[np.int64]:
    """(B, S) atoms of each element in each structure.

    Raises:
        InputError: an element that is not one of `elements`, with structure and, of a frame, atom.
    """
    column = {ATOMIC_NUMBERS[symbol]: species for species, symbol in enumerate(elements)}
    if len(elements) == 1:
        column[0] = 0  # a file without symbols means the only element
    counts = np.zeros((len(structures), len(elements)), dtype=np.int64)
    for row, structure in enumerate(structures):
        for number, count in structure.element_counts.items():
            if number not in column:
                _blame_element(structure, number, elements)
            counts[row, column[number]] += count
    return counts


def _blame_element(structure: Frame | StructureSummary, number: int, elements: Sequence[str]) -> NoReturn:
    where = structure.source
    if isinstance(structure, Frame):
        where += f", atom {structure.atomic_numbers.tolist().index(number) + 1}"
    raise unknown_element(number, elements, where)
