"""Walks over the atoms of a batch: what is asked of them, and what both ways of walking have in common."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pyfit_gpu.models.batches import Batch
from pyfit_gpu.models.energy import energy_model
from pyfit_gpu.models.extrapolation import ExtrapolationGrade
from pyfit_gpu.models.last_layer import LastLayerRows
from pyfit_gpu.models.potential import Potential


@dataclass(frozen=True, eq=False)
class Wanted:
    """Results that are wanted beside the energies."""

    derivatives: bool  # whether forces and virials are
    rows: LastLayerRows | None = None  # filled on the way
    grade: ExtrapolationGrade | None = None  # which grades the atoms
    keep_inputs: bool = False  # whether the networks' inputs are


class Walk:
    """A potential, a batch and what is wanted of it; grades and inputs after the walk."""

    def __init__(self, potential: Potential, batch: Batch, wanted: Wanted) -> None:
        self.model = energy_model(potential, "predict")
        self.descriptor = potential.descriptor
        self.batch = batch
        self.rows = wanted.rows
        self.grade = wanted.grade
        self.grades: Tensor | None = None  # (n_atoms,), after `run` if there is a grade
        self.keeps_inputs = wanted.keep_inputs or wanted.grade is not None
        self.inputs: Tensor | None = None  # (n_atoms, n_features) of the networks, after `run` if they are kept
        self.n_members = potential.networks.n_members
        self.like = potential.networks.weights[0]

    def _keep(self, inputs: Tensor) -> None:
        """Keep the inputs of all atoms where they are wanted, and find the grades."""
        self.inputs = inputs if self.keeps_inputs else None
        if self.grade is not None:
            self.grades = self.grade(inputs, self.batch.species)
