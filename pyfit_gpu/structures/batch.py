"""A padded batch of structures on one device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.devices import sent
from pyfit_gpu.errors import InputError
from pyfit_gpu.parallel import lazy
from pyfit_gpu.structures.cells import cell_volumes
from pyfit_gpu.structures.frames import Frame, check_frames


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
    sources: tuple[str, ...]  # file and place of each structure, for messages; empty where they are not known
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

        device = torch.device(device)

        def tensor(array: np.ndarray, dtype: torch.dtype = torch.float64) -> Tensor:
            return sent(torch.from_numpy(array).to(dtype), device)

        return cls(
            positions=tensor(positions, dtype),
            cell=tensor(np.stack([frame.cell for frame in frames]), dtype),
            pbc=sent(torch.from_numpy(np.stack([frame.pbc for frame in frames])), device),
            atomic_numbers=sent(torch.from_numpy(atomic_numbers), device),
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

    @lazy
    def sizes_on_device(self) -> Tensor:
        """(B,) int64, `sizes` beside the positions."""
        return sent(torch.tensor(self.sizes), self.positions.device)

    @lazy
    def places(self) -> Tensor:
        """(n_atoms,) int64, flat places of the atoms among B x A, which padding fills; known without asking a GPU."""
        sizes, padded = np.array(self.sizes), self.atomic_numbers.shape[1]
        skipped = np.repeat(np.arange(len(sizes)) * padded - (np.cumsum(sizes) - sizes), sizes)
        return sent(torch.from_numpy(skipped + np.arange(self.n_atoms)), self.positions.device)

    def prepare(self) -> None:
        """Make what is made when it is first asked for: on a GPU, beside what is computed there."""
        _ = self.sizes_on_device, self.places

    def changed(self, **values: Any) -> Structures:
        """The same atoms with other positions, cells or periodicity on the same device."""
        found = replace(self, **values)
        self.prepare()
        vars(found).update(sizes_on_device=self.sizes_on_device, places=self.places)
        return found

    @property
    def atom_mask(self) -> Tensor:
        """(B, A) bool, False where padded."""
        return self.atomic_numbers >= 0

    @property
    def volume(self) -> Tensor:
        """(B,) Å^3, |det(cell)|; zero for a structure without a full cell."""
        return cell_volumes(self.cell)

    def describe_atom(self, atom: int) -> str:
        """File and place that an atom of the batch, counted from 0 without padding, was read from."""
        numbered = (f"structure {row} (group {group})" for row, group in enumerate(self.groups, 1))
        return describe_atom(self.sizes, self.sources or tuple(numbered), atom)

    def flatten(self, per_atom: Tensor) -> Tensor:
        """(B, A, ...) to (n_atoms, ...): the atoms one structure after the other, without padding."""
        return per_atom.flatten(0, 1).index_select(0, self.places)

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
        """Select structures by row, re-padded to the largest. A contiguous `range` gives views."""
        index: Tensor | slice
        if isinstance(rows, range) and rows.step == 1 and rows.start >= 0:  # a slice from -2 to 0 is empty
            index = slice(rows.start, rows.stop)
        else:
            index = sent(torch.tensor(list(rows)), self.positions.device)
        n_padded = max(self.sizes[row] for row in rows)
        return Structures(
            positions=self.positions[index, :n_padded],
            cell=self.cell[index],
            pbc=self.pbc[index],
            atomic_numbers=self.atomic_numbers[index, :n_padded],
            sizes=tuple(self.sizes[row] for row in rows),
            groups=tuple(self.groups[row] for row in rows),
            sources=tuple(self.sources[row] for row in rows) if self.sources else (),
            energy=self.energy[index],
            forces=self.forces[index, :n_padded],
            stress=self.stress[index],
            weight=self.weight[index],
        )


def describe_atom(sizes: Sequence[int], sources: Sequence[str], atom: int) -> str:
    """File and place that an atom, counted from 0 over structures of these sizes and sources, was read from."""
    offsets = np.cumsum((0, *sizes))
    row = int(np.searchsorted(offsets, atom, side="right")) - 1
    return f"{sources[row]}, atom {atom - offsets[row] + 1}"


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
