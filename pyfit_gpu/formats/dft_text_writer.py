"""Writing the classic DFT input (docs/formats/dft_text.md)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from ase.data import chemical_symbols as CHEMICAL_SYMBOLS

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.text_lines import NO_ENERGY_PREFIX, is_unlabelled
from pyfit_gpu.structures.frames import Frame


def group_in_text(group: str, has_energy: bool) -> str:
    """Group name as the classic formats have it: it also says whether the structure has an energy."""
    return group if has_energy or is_unlabelled(group) else f"{NO_ENERGY_PREFIX}_{group}"


def write_dft_text(file: TextIO, frames: Iterable[Frame]) -> None:
    """Write frames in the classic form, 17 significant digits; a structure without an energy becomes NO_DFT.

    Raises:
        InputError: a structure that is not periodic in all directions, which the format cannot say.
    """
    for frame in frames:
        if not frame.pbc.all():
            raise InputError(f"{frame.source}: the classic text holds periodic structures only, pbc is {frame.pbc}")
        if frame.group.split() != [frame.group] or (frame.energy is not None and is_unlabelled(frame.group)):
            raise InputError(
                f"{frame.source}: group: expected one word, not {NO_ENERGY_PREFIX}... for a structure with an energy, "
                f"found '{frame.group}'"
            )
        group = group_in_text(frame.group, frame.energy is not None)
        weight = "" if frame.weight == 1.0 else f" weight={float(frame.weight)!r}"
        file.write(f"{group}{weight}\n1.0\n")
        for vector in frame.cell:
            file.write(" ".join(f"{value:.17g}" for value in vector) + "\n")
        file.write(f"{frame.n_atoms}\ncartesian\n")
        for atom in range(frame.n_atoms):
            cells = [f"{value:.17g}" for value in frame.positions[atom]]
            if frame.atomic_numbers[atom] > 0:
                cells.append(CHEMICAL_SYMBOLS[frame.atomic_numbers[atom]])
            if frame.forces is not None:
                cells += [f"{value:.17g}" for value in frame.forces[atom]]
            file.write(" ".join(cells) + "\n")
        file.write("0.0\n" if frame.energy is None else f"{frame.energy:.17g}\n")
