"""Data files of LAMMPS: a box with atoms, `atom_style atomic`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from pyfit_gpu.interfaces.lammps.cells import Box


def write_data(
    file: TextIO, box: Box, types: NDArray[np.int64], elements: Sequence[str], masses: Sequence[float], title: str
) -> None:
    """Write a data file. Its numbers have 17 significant digits.

    Args:
        types: (n,), number of each atom's element, counted from 0.
        elements: chemical symbols, in the order of the types.
        masses: u, of the elements.
        title: the first line.
    """
    file.write(f"{' '.join(title.split())} (pyfit-gpu)\n\n{len(types)} atoms\n{len(elements)} atom types\n\n")
    for name, begin, length in zip("xyz", box.origin, np.diagonal(box.cell), strict=True):
        file.write(f"{begin:.17g} {begin + length:.17g} {name}lo {name}hi\n")
    tilts = [float(box.cell[row, column]) for row, column in ((1, 0), (2, 0), (2, 1))]
    if any(tilts):
        file.write(" ".join(f"{tilt:.17g}" for tilt in tilts) + " xy xz yz\n")
    file.write("\nMasses\n\n")
    for number, (element, mass) in enumerate(zip(elements, masses, strict=True), start=1):
        file.write(f"{number} {mass:.10g}  # {element}\n")
    file.write("\nAtoms # atomic\n\n")
    for number, (kind, position) in enumerate(zip(types + 1, box.positions, strict=True), start=1):
        file.write(f"{number} {kind} " + " ".join(f"{value:.17g}" for value in position) + "\n")


def boundary(box: Box, *, open_end: str = "f") -> str:
    """Arguments of `boundary`: p where the box is periodic, else `open_end` (f: fixed, s: follows the atoms)."""
    return " ".join("p" if periodic else open_end for periodic in box.pbc)


def quoted(name: object) -> str:
    """Write a name as one word of a LAMMPS script."""
    text = str(name)
    return text if re.fullmatch(r"[\w./+:@%,=~-]+", text) else f'"{text}"'
