"""Training sets: features and labels of structures, which a network is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers as ATOMIC_NUMBERS
from numpy.typing import NDArray
from torch import Tensor

from pyfit_gpu.datasets.duplicates import first_among, structure_keys, with_copies
from pyfit_gpu.datasets.feature_rows import FeatureRows, join_features
from pyfit_gpu.datasets.splits import CLASSIC_RULE, SPLIT_RULE, Split, classic_split, held_out
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.errors import InputError, shortened
from pyfit_gpu.models.energy_shift import shift_of_structures
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.copies import first_rows
from pyfit_gpu.sums import ragged_range

ATOM_FIELDS = ("features", "species", "positions", "forces")
STRUCTURE_FIELDS = ("sizes", "energy", "volume", "weight", "cell", "pbc", "stress")


def label_bytes(n_atoms: int, n_structures: int) -> int:
    """Count the bytes of a `TrainingSet` without its features, but with the row numbers of `FeatureRows`."""
    by_atom = 8 * (1 + 3 + 3 + 1)  # species, positions, forces, row of the file
    by_structure = 8 * (4 + 1 + 9 + 6) + 3  # sizes, energy, volume, weight; group; cell; stress; pbc
    return by_atom * n_atoms + by_structure * n_structures


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Features and labels of flat atoms, one structure after the other, in file order; NaN where not known."""

    potential: Potential  # the potential that the set was made for, without parameters; the energy shift is the set's
    energy_shift: tuple[float, ...] | None  # eV per atom of each element; None: already in `energy`
    groups: tuple[str, ...]  # (B,)
    features: Tensor | FeatureRows  # (n_atoms, n_features); rows of a file are read where they are needed
    species: Tensor  # (n_atoms,) int64, index into the descriptor's elements
    positions: Tensor  # (n_atoms, 3) Å
    forces: Tensor  # (n_atoms, 3) eV/Å
    sizes: Tensor  # (B,) int64, atoms of each structure
    energy: Tensor  # (B,) eV, the file's own scale
    volume: Tensor  # (B,) Å^3, zero for a structure without a full cell
    weight: Tensor  # (B,)
    cell: Tensor  # (B, 3, 3) Å, rows are the vectors
    pbc: Tensor  # (B, 3) bool
    stress: Tensor  # (B, 6) eV/Å^3, ASE's sign and order
    splits: Mapping[str, Split] = field(default_factory=dict)  # stored under names, see named_splits.py

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def descriptor(self) -> LocalStructureParameters:
        return self.potential.descriptor

    @property
    def n_atoms(self) -> int:
        return len(self.species)

    @property
    def has_energy(self) -> Tensor:
        """(B,) bool."""
        return ~torch.isnan(self.energy)

    @property
    def has_forces(self) -> Tensor:
        """(B,) bool, whether the forces on all atoms are known."""
        unknown = torch.isnan(self.forces).any(dim=1)
        structure = torch.repeat_interleave(self.sizes)
        return torch.bincount(structure[unknown], minlength=len(self)) == 0

    @property
    def has_stress(self) -> Tensor:
        """(B,) bool; a structure without a full cell has none."""
        return ~torch.isnan(self.stress).any(dim=1) & (self.volume > 0)

    @property
    def volume_per_atom(self) -> Tensor:
        """(B,) Å^3."""
        return self.volume / self.sizes

    @property
    def energy_used(self) -> Tensor:
        """(B,) eV on the networks' scale: energy plus the energy shifts of all atoms."""
        if self.energy_shift is None or not any(self.energy_shift):
            return self.energy
        counts = torch.stack([self.count_species(species) for species in range(self.descriptor.n_elements)], dim=1)
        return self.energy + shift_of_structures(counts, self.energy_shift)

    def count_species(self, species: int) -> Tensor:
        """(B,) int64, atoms of one element in each structure."""
        structure = torch.repeat_interleave(self.sizes)
        return torch.bincount(structure[self.species == species], minlength=len(self))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> TrainingSet:
        """Move all tensors to a device, and the features to a dtype; labels keep their float64."""
        moved = {name: getattr(self, name).to(device) for name in (*ATOM_FIELDS, *STRUCTURE_FIELDS)}
        moved["features"] = moved["features"].to(device, dtype or self.features.dtype)
        return replace(self, **moved)

    def select(self, rows: Sequence[int] | Tensor) -> TrainingSet:
        """Select structures by row, in the given order. Stored splits are left out: their rows are the whole set's."""
        index = torch.as_tensor(rows, dtype=torch.int64, device=self.sizes.device)
        ends = torch.cumsum(self.sizes, 0)
        sizes = self.sizes[index]
        _, atoms = ragged_range((ends - self.sizes)[index], sizes, int(sizes.sum()))
        taken = {name: getattr(self, name)[atoms] for name in ATOM_FIELDS}
        taken |= {name: getattr(self, name)[index] for name in STRUCTURE_FIELDS}
        groups = tuple(self.groups[row] for row in index.tolist())
        return replace(self, groups=groups, splits={}, **taken)

    def structures(self) -> Structures:
        """The whole set as one padded batch, in the precision of its positions."""
        sizes = self.sizes.tolist()
        mask = torch.arange(max(sizes), device=self.sizes.device) < self.sizes[:, None]
        shape = tuple(mask.shape)
        positions = self.positions.new_zeros(*shape, 3)
        positions[mask] = self.positions
        forces = self.forces.new_full((*shape, 3), torch.nan)
        forces[mask] = self.forces
        atomic_numbers = torch.full(shape, -1, dtype=torch.int64, device=self.sizes.device)
        atomic_numbers[mask] = self.atomic_numbers
        return Structures(
            positions=positions,
            cell=self.cell,
            pbc=self.pbc,
            atomic_numbers=atomic_numbers,
            sizes=tuple(sizes),
            groups=self.groups,
            sources=(),
            energy=self.energy,
            forces=forces,
            stress=self.stress,
            weight=self.weight,
        )

    @property
    def atomic_numbers(self) -> Tensor:
        """(n_atoms,) int64."""
        numbers = [ATOMIC_NUMBERS[symbol] for symbol in self.descriptor.elements]
        return torch.tensor(numbers, device=self.species.device)[self.species]

    def structure_keys(self) -> NDArray[np.void]:
        """(B,) keys that copies of a structure share, whatever their labels: see `duplicates.structure_keys`."""
        return structure_keys(self.sizes, self.atomic_numbers, self.positions, self.cell, self.pbc, self.features)

    @cached_property
    def first_copies(self) -> NDArray[np.int64]:
        """(B,) row of the first copy of each structure, its own where it is the first one."""
        return first_rows(self.structure_keys())

    def plan_split(
        self, train_fraction: float = 0.9, seed: int = 2, test_groups: Sequence[str] = (), *, rule: int = SPLIT_RULE
    ) -> Split:
        """Choose the structures that train, validate and test; structures without an energy take part in none.

        The structures of test groups are taken out first. The others are divided as if the test groups were not in the
        set: one generator draws from the remaining groups, in the order of their names, and last from all groups of
        one structure together. Copies of a structure are drawn as one; those of structures that test take no part.

        Args:
            train_fraction: share of each group that trains.
            seed: of the draw; 0: a random one.
            test_groups: names of groups, with shell wildcards.
            rule: `CLASSIC_RULE` draws from each group by itself, and leaves copies where they are.

        Raises:
            InputError: a train_fraction outside 0 .. 1, a pattern that matches no group, or nothing to train on.
        """
        eligible = self.has_energy.cpu().numpy()
        test = held_out(self.groups, eligible, test_groups)
        volumes = self.volume_per_atom.cpu().double().numpy()
        rows = np.flatnonzero(eligible & ~test)
        leaders = rows
        if rule != CLASSIC_RULE:
            first = self.first_copies
            untested = rows[~np.isin(first[rows], first[test])]
            if len(rows) and not len(untested):
                raise InputError(
                    f"test_groups: {shortened(test_groups)}: all other structures are copies of theirs: nothing is "
                    "left to train on"
                )
            rows, leaders = untested, first_among(first, untested)
        drawn = np.zeros(len(self), dtype=np.bool_)
        drawn[leaders] = True
        split = classic_split(self.groups, volumes, drawn, train_fraction, seed, pool=rule != CLASSIC_RULE)
        split = with_copies(split, rows, leaders, self.groups)
        return replace(split, test=np.flatnonzero(test).tolist(), test_groups=tuple(test_groups))

    def split(self, train_fraction: float = 0.9, seed: int = 2) -> tuple[TrainingSet, TrainingSet]:
        """Training and validation sets, see `plan_split`."""
        plan = self.plan_split(train_fraction, seed)
        return self.select(plan.train), self.select(plan.validation)


def require_same_inputs(expected: LocalStructureParameters, found: LocalStructureParameters, where: str) -> None:
    """Refuse to mix sets and potentials whose settings give other network inputs.

    Raises:
        InputError: with the name of the differing setting and both values.
    """
    difference = expected.difference(found)
    if difference:
        raise InputError(f"{where}: {difference}")


def concatenate(sets: Sequence[TrainingSet]) -> TrainingSet:
    """Join sets, one after the other. Splits stored with the first are kept: its rows stay where they are.

    Raises:
        InputError: other descriptor settings or another energy shift, with the name of the setting.
    """
    first = sets[0]
    for other in sets[1:]:
        require_same_inputs(first.descriptor, other.descriptor, "the training sets differ")
        if first.energy_shift != other.energy_shift:
            raise InputError(
                f"the training sets differ: e_shift: expected {first.energy_shift}, found {other.energy_shift}"
            )
    joined: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in sets])
        for name in (*ATOM_FIELDS, *STRUCTURE_FIELDS)
        if name != "features"
    }
    joined["features"] = join_features([part.features for part in sets])
    groups = tuple(group for part in sets for group in part.groups)
    return replace(first, groups=groups, **joined)


def interleave(shards: Sequence[TrainingSet]) -> TrainingSet:
    """Put shards back in file order: structure i of the whole is structure i // N of shard i mod N."""
    whole = concatenate(shards)
    starts = np.cumsum([0, *(len(shard) for shard in shards)])
    return whole.select([int(starts[i % len(shards)]) + i // len(shards) for i in range(len(whole))])
