"""Summaries of training sets. Those of parts can be added, for a set that is never in memory as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.structures.frames import Frame, StructureSummary


@dataclass(frozen=True)
class LabelCounts:
    """Numbers of structures with each label, by one rule for files and sets; the counts of parts can be added."""

    energy: int = 0
    forces: int = 0  # on all atoms
    stress: int = 0  # a structure without a full cell has none, whatever its file says

    @classmethod
    def of(cls, training_set: TrainingSet) -> LabelCounts:
        known = (training_set.has_energy, training_set.has_forces, training_set.has_stress)
        return cls(*(int(which.sum()) for which in known))

    @classmethod
    def of_structure(cls, structure: Frame | StructureSummary) -> LabelCounts:
        if isinstance(structure, StructureSummary):
            has_forces, has_stress = structure.has_forces, structure.has_stress
        else:
            has_forces = structure.forces is not None
            has_stress = structure.stress is not None and structure.volume > 0
        return cls(int(structure.energy is not None), int(has_forces), int(has_stress))

    def __add__(self, other: LabelCounts) -> LabelCounts:
        return LabelCounts(self.energy + other.energy, self.forces + other.forces, self.stress + other.stress)

    def __str__(self) -> str:
        return f"{self.energy} with an energy, {self.forces} with forces, {self.stress} with stress"


@dataclass(frozen=True)
class SetSummary:
    """Numbers of structures, atoms and labels; the summaries of parts can be added."""

    elements: tuple[str, ...]
    energy_shift: tuple[float, ...] | None  # eV per atom of each element; None: not known
    n_features: int
    n_structures: int
    n_atoms: int
    labels: LabelCounts
    groups: frozenset[str]
    energy_sum: float  # eV/atom, the networks' scale, over the structures that have an energy

    @classmethod
    def of(cls, training_set: TrainingSet) -> SetSummary:
        known = training_set.has_energy
        return cls(
            elements=training_set.descriptor.elements,
            energy_shift=training_set.energy_shift,
            n_features=training_set.features.shape[1],
            n_structures=len(training_set),
            n_atoms=training_set.n_atoms,
            labels=LabelCounts.of(training_set),
            groups=frozenset(training_set.groups),
            energy_sum=float((training_set.energy_used / training_set.sizes)[known].sum()),
        )

    def __add__(self, other: SetSummary) -> SetSummary:
        """Summary of both parts together; values that must agree are taken from the first."""
        return SetSummary(
            elements=self.elements,
            energy_shift=self.energy_shift,
            n_features=self.n_features,
            n_structures=self.n_structures + other.n_structures,
            n_atoms=self.n_atoms + other.n_atoms,
            labels=self.labels + other.labels,
            groups=self.groups | other.groups,
            energy_sum=self.energy_sum + other.energy_sum,
        )

    def __str__(self) -> str:
        return (
            f"{self.n_structures} structures ({self.labels}) in {len(self.groups)} groups, {self.n_atoms} atoms x "
            f"{self.n_features} features, {describe_shift(self.elements, self.energy_shift)}"
        )


def describe_set(training_set: TrainingSet) -> str:
    return str(SetSummary.of(training_set))


def describe_shift(elements: tuple[str, ...], shifts: tuple[float, ...] | None) -> str:
    if shifts is None:
        return "e_shift unknown"
    named = (f"{symbol} {shift:g}" for symbol, shift in zip(elements, shifts, strict=True))
    return "e_shift " + (", ".join(named) if len(shifts) > 1 else f"{shifts[0]:g}")
