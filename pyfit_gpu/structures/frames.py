"""One structure on the host: `Frame`, as read from a file; `StructureSummary`, without coordinates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pyfit_gpu.errors import InputError
from pyfit_gpu.structures.cells import FLAT, FloatArray, cell_volumes, flat_cells

if TYPE_CHECKING:
    from ase import Atoms


def fits_utf8(text: str) -> bool:
    """Whether UTF-8 can hold a text: JSON and names of files can bring half a character (a lone surrogate)."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


@dataclass(frozen=True, eq=False)
class Frame:
    """One structure on the host, as a file gives it. Labels a file does not give are None, never zero."""

    positions: FloatArray  # (n, 3) Å
    cell: FloatArray  # (3, 3) Å, rows are the vectors; zero rows where there is none
    pbc: NDArray[np.bool_]  # (3,)
    atomic_numbers: NDArray[np.int64]  # (n,); 0: the file names no element
    group: str
    source: str  # where it was read, for messages: "si.dat, structure 3 (line 21)"
    energy: float | None = None  # eV, whole structure, the file's own scale
    forces: FloatArray | None = None  # (n, 3) eV/Å
    stress: FloatArray | None = None  # (6,) eV/Å^3, ASE's sign and order xx yy zz yz xz xy
    weight: float = 1.0
    unread: tuple[str, ...] = ()  # what the file holds of it and is not read: "key REF_energy", "column spin"
    chosen: tuple[str, ...] = ()  # options of the reader that it was read with: "energy_key", "units"

    def __post_init__(self) -> None:
        if not fits_utf8(self.group):
            raise InputError(f"{self.source}: group: expected text that UTF-8 can hold, found {self.group!a:.80}")

    @classmethod
    def of_atoms(cls, atoms: Atoms, source: str, group: str = "") -> Frame:
        """Take a structure of ASE, without labels; positions are not copied."""
        numbers = atoms.numbers.astype(np.int64)
        return cls(atoms.positions, atoms.cell.array, atoms.pbc, numbers, group, source)

    @property
    def n_atoms(self) -> int:
        return len(self.positions)

    @property
    def element_counts(self) -> dict[int, int]:
        """Atoms by atomic number; 0: the file names no element."""
        return Counter(self.atomic_numbers.tolist())

    @property
    def volume(self) -> float:
        """Å^3, |det(cell)|; zero for a structure without a full cell."""
        return float(cell_volumes(torch.from_numpy(np.array(self.cell, dtype=np.float64))))


@dataclass(frozen=True, slots=True)
class StructureSummary:
    """Composition, group and energy of a structure whose coordinates were skipped."""

    element_counts: dict[int, int]  # atoms by atomic number; 0: the file names no element
    group: str
    source: str  # where it was read, see `Frame`
    energy: float | None = None  # eV, whole structure, the file's own scale
    # For messages only: a quick look does not see all lines.
    has_forces: bool = field(default=False, compare=False)
    has_stress: bool = field(default=False, compare=False)
    unread: tuple[str, ...] = field(default=(), compare=False)  # see `Frame`
    chosen: tuple[str, ...] = field(default=(), compare=False)

    @property
    def n_atoms(self) -> int:
        return sum(self.element_counts.values())


def check_frames(frames: Sequence[Frame]) -> None:
    """Apply `check_frame` to many frames: vectorised, and one by one only where something looks unusual."""
    cells = np.stack([frame.cell for frame in frames])
    labels = (np.array([frame.energy or 0.0, frame.weight]) for frame in frames)
    numbers = [cells.ravel(), *labels]
    for frame in frames:
        numbers += [value.ravel() for value in (frame.positions, frame.forces, frame.stress) if value is not None]
    usual = np.full(len(frames), bool(np.isfinite(np.concatenate(numbers)).all()))
    if usual.all():
        lengths = np.linalg.norm(cells, axis=2)
        directions = cells / np.where(lengths > 0, lengths, 1.0)[:, :, None]
        usual = np.abs(np.linalg.det(directions)) >= FLAT  # and if fewer vectors are periodic, they are no flatter
        usual &= [frame.n_atoms > 0 and frame.weight >= 0 for frame in frames]
    for row in np.flatnonzero(~usual).tolist():
        check_frame(frames[row])


def check_frame(frame: Frame) -> None:
    """Refuse a frame that cannot be computed with: no atoms, numbers that are not finite, a singular cell."""
    if frame.n_atoms == 0:
        raise InputError(f"{frame.source}: expected at least one atom, found none")
    labels = {
        "positions": frame.positions,
        "cell": frame.cell,
        "energy": frame.energy,
        "forces": frame.forces,
        "stress": frame.stress,
        "weight": frame.weight,
    }
    for name, value in labels.items():
        if value is not None and not np.isfinite(value).all():
            raise InputError(f"{frame.source}: {name}: expected finite numbers, found NaN or infinity")
    if frame.weight < 0:
        raise InputError(f"{frame.source}: weight: expected a number >= 0, found {frame.weight}")
    if flat_cells(frame.cell, frame.pbc):
        raise InputError(
            f"{frame.source}: the cell is singular: the periodic vectors of {frame.cell.tolist()} are flat"
        )
