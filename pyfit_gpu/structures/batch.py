"""Atomic structures: `Frame`, as read from a file; `Outline`, without coordinates; `Structures`, a padded batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyfit_gpu.errors import InputError

FloatArray = NDArray[np.float64]

NO_ENERGY_PREFIX = "NO_DFT"

_FLAT = 1e-6  # volume of a cell whose vectors have length 1, below which it has none


def is_unlabelled(group: str) -> bool:
    """Whether the classic formats take structures of this group for predictions only."""
    return group.startswith(NO_ENERGY_PREFIX)


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
class Outline:
    """What counts of a structure whose coordinates were passed over."""

    element_counts: dict[int, int]  # atoms by atomic number; 0: the file names no element
    group: str
    source: str  # as a frame's
    energy: float | None = None  # eV, whole structure, the file's own scale

    @property
    def n_atoms(self) -> int:
        return sum(self.element_counts.values())


@dataclass(frozen=True, eq=False)
class Structures:
    """A padded batch of structures on one device. Labels are float64; those not known are NaN, never zero.

    The element is kept as an atomic number: the species index of an element belongs to a potential, whose
    order of elements gives it (`LocalStructureParameters.species_index`).
    """

    positions: Tensor  # (B, A, 3) Å, zero where padded
    cell: Tensor  # (B, 3, 3) Å, rows are the vectors
    pbc: Tensor  # (B, 3) bool
    atomic_numbers: Tensor  # (B, A) int64; 0 where the file names no element, -1 where padded
    sizes: tuple[int, ...]  # atoms of each structure
    groups: tuple[str, ...]
    sources: tuple[str, ...]  # file and place of each structure, for messages
    energy: Tensor  # (B,) eV, the file's own scale
    forces: Tensor  # (B, A, 3) eV/Å
    stress: Tensor  # (B, 6) eV/Å^3, ASE's sign and order
    weight: Tensor  # (B,)

    @classmethod
    def from_frames(
        cls,
        frames: Sequence[Frame],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> Structures:
        """Pad the frames to their largest and move them to a device; `dtype` is that of positions and cells.

        Raises:
            InputError: no frame, a cell that is singular in its periodic directions, a number that is not finite.
        """
        if not frames:
            raise InputError("a batch needs at least one structure, got none")
        check_frames(frames)
        sizes = np.array([frame.n_atoms for frame in frames])
        mask = np.arange(sizes.max()) < sizes[:, None]
        positions = np.zeros((*mask.shape, 3))
        positions[mask] = np.concatenate([frame.positions for frame in frames])
        atomic_numbers = np.full(mask.shape, -1, dtype=np.int64)
        atomic_numbers[mask] = np.concatenate([frame.atomic_numbers for frame in frames])
        forces = np.full((*mask.shape, 3), np.nan)
        stress = np.full((len(frames), 6), np.nan)
        for row, frame in enumerate(frames):
            if frame.forces is not None:
                forces[row, : frame.n_atoms] = frame.forces
            if frame.stress is not None:
                stress[row] = frame.stress

        def tensor(array: np.ndarray, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.from_numpy(array).to(device=device, dtype=dtype)

        return cls(
            positions=tensor(positions, dtype),
            cell=tensor(np.stack([frame.cell for frame in frames]), dtype),
            pbc=torch.from_numpy(np.stack([frame.pbc for frame in frames])).to(device),
            atomic_numbers=torch.from_numpy(atomic_numbers).to(device),
            sizes=tuple(sizes.tolist()),
            groups=tuple(frame.group for frame in frames),
            sources=tuple(frame.source for frame in frames),
            energy=tensor(np.array([np.nan if frame.energy is None else frame.energy for frame in frames])),
            forces=tensor(forces),
            stress=tensor(stress),
            weight=tensor(np.array([frame.weight for frame in frames])),
        )

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def n_atoms(self) -> int:
        """Atoms of all structures, padding not counted."""
        return sum(self.sizes)

    @property
    def atom_mask(self) -> Tensor:
        """(B, A) bool, False where padded."""
        return self.atomic_numbers >= 0

    @property
    def volume(self) -> Tensor:
        """(B,) Å^3, |det(cell)|; zero for a structure without a full cell."""
        return cell_volumes(self.cell)

    def describe_atom(self, atom: int) -> str:
        """Where an atom of the batch, counted from 0 without padding, was read."""
        return describe_atom(self.sizes, self.sources, atom)

    def flatten(self, per_atom: Tensor) -> Tensor:
        """(B, A, ...) to (n_atoms, ...): the atoms one structure after the other, without padding."""
        return per_atom[self.atom_mask]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Structures:
        dtype = dtype or self.positions.dtype
        return replace(
            self,
            positions=self.positions.to(device, dtype),
            cell=self.cell.to(device, dtype),
            pbc=self.pbc.to(device),
            atomic_numbers=self.atomic_numbers.to(device),
            energy=self.energy.to(device),
            forces=self.forces.to(device),
            stress=self.stress.to(device),
            weight=self.weight.to(device),
        )

    def select(self, rows: Sequence[int]) -> Structures:
        """The named structures in the given order, padded to the largest of them; those of a plain range as views."""
        index: Tensor | slice
        if isinstance(rows, range) and rows.step == 1 and rows.start >= 0:  # a slice from -2 to 0 is empty
            index = slice(rows.start, rows.stop)
        else:
            index = torch.tensor(list(rows), device=self.positions.device)
        n_padded = max(self.sizes[row] for row in rows)
        return Structures(
            positions=self.positions[index, :n_padded],
            cell=self.cell[index],
            pbc=self.pbc[index],
            atomic_numbers=self.atomic_numbers[index, :n_padded],
            sizes=tuple(self.sizes[row] for row in rows),
            groups=tuple(self.groups[row] for row in rows),
            sources=tuple(self.sources[row] for row in rows),
            energy=self.energy[index],
            forces=self.forces[index, :n_padded],
            stress=self.stress[index],
            weight=self.weight[index],
        )


def describe_atom(sizes: Sequence[int], sources: Sequence[str], atom: int) -> str:
    """Where an atom was read, counted from 0 over structures of these sizes and sources."""
    offsets = np.cumsum((0, *sizes))
    row = int(np.searchsorted(offsets, atom, side="right")) - 1
    return f"{sources[row]}, atom {atom - offsets[row] + 1}"


def cell_volumes(cell: Tensor) -> Tensor:
    """(...) Å^3 of cells (..., 3, 3); zero where the vectors span no volume, but for rounding."""
    lengths = torch.linalg.vector_norm(cell, dim=-1, keepdim=True)
    directions = cell / torch.where(lengths > 0, lengths, 1.0)
    is_full = torch.linalg.det(directions).abs() >= _FLAT
    return torch.where(is_full, torch.linalg.det(cell).abs(), 0.0)


def size_batches(sizes: Sequence[int], max_atoms: int = 20_000) -> Iterator[list[int]]:
    """Rows of structures of similar size, smallest first: padded, a batch has at most `max_atoms` atoms.

    A single structure larger than that is a batch of its own. Rows of equal size keep their order.
    """
    batch: list[int] = []
    for row in sorted(range(len(sizes)), key=sizes.__getitem__):
        if batch and (len(batch) + 1) * sizes[row] > max_atoms:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def complete_cell(cell: FloatArray, pbc: NDArray[np.bool_]) -> FloatArray:
    """(..., 3, 3) cells whose non-periodic rows are unit vectors orthogonal to the other rows.

    Only periodic rows repeat anything, so the others may be anything that keeps the cell invertible.
    """
    completed = np.array(cell, dtype=np.float64)
    completed[~pbc] = 0.0
    for axis in range(3):
        is_open = ~pbc[..., axis]
        if is_open.any():
            # The last right singular vector is orthogonal to every row: the rank is below 3 while a row is zero.
            completed[is_open, axis] = np.linalg.svd(completed[is_open])[2][..., -1, :]
    return completed


def check_frames(frames: Sequence[Frame]) -> None:
    """As `check_frame`: all at once where nothing is unusual, the others one by one."""
    cells = np.stack([frame.cell for frame in frames])
    labels = (np.array([frame.energy or 0.0, frame.weight]) for frame in frames)
    numbers = [cells.ravel(), *labels]
    for frame in frames:
        numbers += [value.ravel() for value in (frame.positions, frame.forces, frame.stress) if value is not None]
    usual = np.full(len(frames), bool(np.isfinite(np.concatenate(numbers)).all()))
    if usual.all():
        lengths = np.linalg.norm(cells, axis=2)
        directions = cells / np.where(lengths > 0, lengths, 1.0)[:, :, None]
        usual = np.abs(np.linalg.det(directions)) >= _FLAT  # and if fewer vectors are periodic, they are no flatter
        usual &= [frame.n_atoms > 0 and frame.weight >= 0 for frame in frames]
    for row in np.flatnonzero(~usual).tolist():
        check_frame(frames[row])


def check_frame(frame: Frame) -> None:
    """Refuse what cannot be computed with: no atoms, numbers that are not finite, a singular cell."""
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
    completed = complete_cell(frame.cell, frame.pbc)
    lengths = np.linalg.norm(completed, axis=1)
    if np.any(lengths == 0) or abs(np.linalg.det(completed / lengths[:, None])) < _FLAT:
        raise InputError(
            f"{frame.source}: the cell is singular: the periodic vectors of {frame.cell.tolist()} are flat"
        )
