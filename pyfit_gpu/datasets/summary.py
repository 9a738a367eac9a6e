"""What there is to say about a training set, or about the parts of one that is never in memory."""

from __future__ import annotations

from dataclasses import dataclass

from pyfit_gpu.datasets.training_set import TrainingSet


@dataclass(frozen=True)
class SetSummary:
    """Numbers of structures, atoms and labels; those of parts can be added."""

    elements: tuple[str, ...]
    energy_shift: tuple[float, ...] | None  # eV per atom of each element; None: not known
    n_features: int
    n_structures: int
    n_atoms: int
    n_energies: int  # structures that have one
    n_forces: int
    n_stress: int
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
            n_energies=int(known.sum()),
            n_forces=int(training_set.has_forces.sum()),
            n_stress=int(training_set.has_stress.sum()),
            groups=frozenset(training_set.groups),
            energy_sum=float((training_set.energy_used / training_set.sizes)[known].sum()),
        )

    def __add__(self, other: SetSummary) -> SetSummary:
        """Of both parts; what must be the same in both is that of the first."""
        return SetSummary(
            elements=self.elements,
            energy_shift=self.energy_shift,
            n_features=self.n_features,
            n_structures=self.n_structures + other.n_structures,
            n_atoms=self.n_atoms + other.n_atoms,
            n_energies=self.n_energies + other.n_energies,
            n_forces=self.n_forces + other.n_forces,
            n_stress=self.n_stress + other.n_stress,
            groups=self.groups | other.groups,
            energy_sum=self.energy_sum + other.energy_sum,
        )

    def __str__(self) -> str:
        return (
            f"{self.n_structures} structures ({self.n_energies} with an energy, {self.n_forces} with forces, "
            f"{self.n_stress} with stress) in {len(self.groups)} groups, {self.n_atoms} atoms x {self.n_features} "
            f"features, {describe_shift(self.elements, self.energy_shift)}"
        )


def describe_set(training_set: TrainingSet) -> str:
    return str(SetSummary.of(training_set))


def describe_shift(elements: tuple[str, ...], shifts: tuple[float, ...] | None) -> str:
    if shifts is None:
        return "e_shift unknown"
    named = (f"{symbol} {shift:g}" for symbol, shift in zip(elements, shifts, strict=True))
    return "e_shift " + (", ".join(named) if len(shifts) > 1 else f"{shifts[0]:g}")
