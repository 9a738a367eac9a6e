"""The data that is examined: structures with flat atoms on the host, whatever they were read from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers as ATOMIC_NUMBERS
from numpy.typing import NDArray

from pyfit_gpu.datasets.duplicates import structure_keys
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.structures.batch import Structures, describe_atom
from pyfit_gpu.structures.cells import FloatArray, cell_volumes
from pyfit_gpu.structures.copies import first_rows
from pyfit_gpu.structures.elements import index_elements
from pyfit_gpu.structures.frames import Frame, check_frames
from pyfit_gpu.sums import ragged_range

Rows = NDArray[np.int64]

_WHOLE = ("sizes", "atomic_numbers", "pbc")  # arrays that a training set has in flat atoms, too
_DOUBLES = ("positions", "forces", "cell", "energy", "stress", "weight")


@dataclass(frozen=True, eq=False)
class Records:
    """Structures one after the other, with all labels; NaN is not known."""

    sizes: Rows  # (B,) atoms of each structure
    atomic_numbers: Rows  # (n,); 0: the file names no element
    positions: FloatArray  # (n, 3) Å
    forces: FloatArray  # (n, 3) eV/Å
    cell: FloatArray  # (B, 3, 3) Å, rows are the vectors
    pbc: NDArray[np.bool_]  # (B, 3)
    energy: FloatArray  # (B,) eV
    stress: FloatArray  # (B, 6) eV/Å^3, ASE's sign and order
    weight: FloatArray  # (B,)
    groups: tuple[str, ...]
    files: tuple[str, ...]  # that each structure was read from
    sources: tuple[str, ...]  # "file, structure N" of each
    keys: NDArray[np.void]  # (B,) that copies share

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def n_atoms(self) -> int:
        return len(self.atomic_numbers)

    @cached_property
    def starts(self) -> Rows:
        """(B,) first atom of each structure."""
        return np.asarray(np.cumsum(self.sizes) - self.sizes, dtype=np.int64)

    @cached_property
    def owner(self) -> Rows:
        """(n,) structure of each atom."""
        return np.repeat(np.arange(len(self)), self.sizes)

    @cached_property
    def first_copy(self) -> Rows:
        """(B,) row of the first copy of each structure; its own where it is none."""
        return first_rows(self.keys)

    @cached_property
    def volume(self) -> FloatArray:
        """(B,) Å^3; zero for a structure without a full cell."""
        return np.asarray(cell_volumes(torch.from_numpy(self.cell)).numpy())

    @cached_property
    def has_positions(self) -> NDArray[np.bool_]:
        """(B,) bool; classic text sets have none."""
        return np.asarray(~np.isnan(self.positions[self.starts, 0]))

    @property
    def energy_per_atom(self) -> FloatArray:
        """(B,) eV/atom."""
        return np.asarray(self.energy / self.sizes)

    @cached_property
    def force_counts(self) -> Rows:
        """(B,) atoms of each structure whose forces are known."""
        known = ~np.isnan(self.forces).any(axis=1)
        return np.bincount(self.owner[known], minlength=len(self))

    @property
    def has_forces(self) -> NDArray[np.bool_]:
        """(B,) bool, on all atoms."""
        return np.asarray(self.force_counts == self.sizes)

    @property
    def has_stress(self) -> NDArray[np.bool_]:
        """(B,) bool; a structure without a full cell has none."""
        return np.asarray(~np.isnan(self.stress).any(axis=1) & (self.volume > 0))

    @cached_property
    def elements(self) -> Rows:
        """(S,) atomic numbers that occur."""
        return np.unique(self.atomic_numbers)

    @cached_property
    def counts(self) -> Rows:
        """(B, S) atoms of each element in each structure."""
        species = np.searchsorted(self.elements, self.atomic_numbers)
        flat = np.bincount(self.owner * len(self.elements) + species, minlength=len(self) * len(self.elements))
        return flat.reshape(len(self), len(self.elements))

    def atoms_of(self, row: int) -> slice:
        """Place of a structure's atoms."""
        start = int(self.starts[row])
        return slice(start, start + int(self.sizes[row]))

    def describe_atom(self, atom: int) -> str:
        """File and place that an atom, counted from 0 over all structures, was read from."""
        return describe_atom(self.sizes.tolist(), self.sources, atom)

    def of_elements(self, elements: Sequence[str]) -> Records:
        """The same where atoms of which a file names no element have the only one of a potential.

        Raises:
            InputError: an element that is not one of them.
        """
        species = index_elements(torch.from_numpy(self.atomic_numbers), elements, self.describe_atom).numpy()
        named = replace(self, atomic_numbers=np.array([ATOMIC_NUMBERS[symbol] for symbol in elements])[species])
        rows = np.unique(self.owner[self.atomic_numbers == 0])
        keys = self.keys.copy()
        keys[rows] = named._keys_of(rows)  # copies of structures whose file names elements are known as such
        return replace(named, keys=keys)

    def _keys_of(self, rows: Rows) -> NDArray[np.void]:
        """Keys of some structures, whose positions are known."""
        atoms = self.atoms_of_rows(rows)
        parts = {"sizes": rows, "atomic_numbers": atoms, "positions": atoms, "cell": rows, "pbc": rows}
        chosen = {name: torch.from_numpy(getattr(self, name)[places]) for name, places in parts.items()}
        return structure_keys(**chosen, features=torch.zeros(0))

    def frame(self, row: int) -> Frame:
        """One structure by itself; labels that are not known in full are None."""
        atoms = self.atoms_of(row)
        stress = self.stress[row]
        return Frame(
            positions=self.positions[atoms],
            cell=self.cell[row],
            pbc=self.pbc[row],
            atomic_numbers=self.atomic_numbers[atoms],
            group=self.groups[row],
            source=self.sources[row],
            energy=None if np.isnan(self.energy[row]) else float(self.energy[row]),
            forces=self.forces[atoms] if self.force_counts[row] == self.sizes[row] else None,
            stress=None if np.isnan(stress).any() else stress,
            weight=float(self.weight[row]),
        )

    def atoms_of_rows(self, rows: Rows) -> Rows:
        """Numbers of the atoms of some structures, one structure after the other."""
        starts, sizes = torch.from_numpy(self.starts[rows]), torch.from_numpy(self.sizes[rows])
        return np.asarray(ragged_range(starts, sizes, int(sizes.sum()))[1].numpy())

    def batch(self, rows: Rows) -> Structures:
        """Some structures, padded."""
        sizes, atoms = self.sizes[rows], self.atoms_of_rows(rows)
        mask = np.arange(sizes.max()) < sizes[:, None]

        def padded(values: NDArray[Any], fill: float) -> torch.Tensor:
            whole = np.full((*mask.shape, *values.shape[1:]), fill, dtype=values.dtype)
            whole[mask] = values[atoms]
            return torch.from_numpy(whole)

        return Structures(
            positions=padded(self.positions, 0.0),
            atomic_numbers=padded(self.atomic_numbers, -1),
            forces=padded(self.forces, np.nan),
            **{name: torch.from_numpy(getattr(self, name)[rows]) for name in ("cell", "pbc", "energy", "stress")},
            weight=torch.from_numpy(self.weight[rows]),
            sizes=tuple(sizes.tolist()),
            groups=tuple(self.groups[row] for row in rows.tolist()),
            sources=tuple(self.sources[row] for row in rows.tolist()),
        )

    def windows(self, n_atoms: int) -> Iterator[range]:
        """Runs of structures of at most so many atoms, or of one larger structure."""
        first = 0
        while first < len(self):
            stop = int(np.searchsorted(self.starts + self.sizes, self.starts[first] + n_atoms, side="right"))
            stop = max(stop, first + 1)
            yield range(first, stop)
            first = stop

    @classmethod
    def of_frames(cls, frames: Sequence[Frame]) -> Records:
        """Gather frames; the file of each is what its source begins with.

        Raises:
            InputError: no frame at all, or one that cannot be computed with.
        """
        if not frames:
            raise InputError("expected at least one structure, found none")
        check_frames(frames)
        nan = {n: np.full((n, 3), np.nan) for n in {frame.n_atoms for frame in frames}}
        no_stress = np.full(6, np.nan)
        return cls._with_keys(
            sizes=np.array([frame.n_atoms for frame in frames]),
            atomic_numbers=np.concatenate([frame.atomic_numbers for frame in frames]),
            positions=np.concatenate([frame.positions for frame in frames]),
            forces=np.concatenate([nan[one.n_atoms] if one.forces is None else one.forces for one in frames]),
            cell=np.array([frame.cell for frame in frames], dtype=np.float64),
            pbc=np.array([frame.pbc for frame in frames]),
            energy=np.array([np.nan if frame.energy is None else frame.energy for frame in frames]),
            stress=np.array([no_stress if frame.stress is None else frame.stress for frame in frames]),
            weight=np.array([frame.weight for frame in frames]),
            groups=tuple(frame.group for frame in frames),
            files=tuple(frame.source.partition(", structure ")[0] for frame in frames),
            sources=tuple(frame.source for frame in frames),
        )

    @classmethod
    def of_set(cls, whole: TrainingSet, path: str = "the set") -> Records:
        """Take what a training set holds; its structures are numbered from 1 and have the names of their groups."""
        own: dict[str, Any] = {name: getattr(whole, name).cpu().numpy() for name in _WHOLE}
        own |= {name: _doubles(getattr(whole, name)) for name in _DOUBLES}
        return cls(
            **own,
            groups=whole.groups,
            files=(path,) * len(whole),
            sources=tuple(f"{path}, structure {k} (group {group})" for k, group in enumerate(whole.groups, start=1)),
            keys=whole.structure_keys(),
        )

    @classmethod
    def of_structures(cls, batch: Structures) -> Records:
        """Take the padding away from a batch."""
        numbered = (f"structure {k} (group {group})" for k, group in enumerate(batch.groups, start=1))
        sources = batch.sources or tuple(numbered)
        return cls._with_keys(
            sizes=np.array(batch.sizes),
            atomic_numbers=batch.flatten(batch.atomic_numbers).cpu().numpy(),
            positions=_doubles(batch.flatten(batch.positions)),
            forces=_doubles(batch.flatten(batch.forces)),
            pbc=batch.pbc.cpu().numpy(),
            **{name: _doubles(getattr(batch, name)) for name in ("cell", "energy", "stress", "weight")},
            groups=batch.groups,
            files=tuple(source.partition(", structure ")[0] for source in sources)
            if batch.sources
            else ("",) * len(batch),
            sources=sources,
        )

    @classmethod
    def _with_keys(cls, **own: Any) -> Records:
        found = cls(**own, keys=np.zeros(0, dtype=np.void))
        return replace(found, keys=found._keys_of(np.arange(len(found))))

    @classmethod
    def joined(cls, parts: Sequence[Records]) -> Records:
        """Put records one after the other."""
        if len(parts) == 1:
            return parts[0]
        joined: dict[str, Any] = {}
        for name in (one.name for one in fields(cls)):
            values = [getattr(part, name) for part in parts]
            joined[name] = tuple(chain(*values)) if isinstance(values[0], tuple) else np.concatenate(values)
        return cls(**joined)


def _doubles(values: torch.Tensor) -> FloatArray:
    return np.asarray(values.cpu().double().numpy())
