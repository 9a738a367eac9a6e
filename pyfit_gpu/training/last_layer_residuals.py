"""Errors of predictions for the structures of a set, and their derivatives with respect to the last layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.datasets.feature_rows import read_features
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.models.batches import batch_atoms
from pyfit_gpu.models.last_layer import energy_rows, n_last_parameters
from pyfit_gpu.models.networks import ElementLayout
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import prediction_batches, rows_of_batch
from pyfit_gpu.structures.batch import size_batches
from pyfit_gpu.sums import sum_over_atoms

Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Residuals:
    """Predictions of one label for some structures: n structures or atoms with m components each."""

    structure: Tensor  # (n,) int64, row of the set
    errors: Tensor  # (n, m), predicted minus known, of extensive quantities in eV; NaN where not known
    rows: Tensor  # (n, m, P), derivatives with respect to the last layer


class AtomCounter:
    """Counts atoms over several sets."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = 0

    def add(self, n_atoms: int) -> None:
        self._done += n_atoms
        self._progress(self._done)


def residuals(
    potential: Potential, part: TrainingSet, counted: Tensor, derivatives: bool, done: AtomCounter
) -> Iterator[Mapping[str, Residuals]]:
    """Yield predictions and their derivatives, by label, for some structures (B,) bool of a set at a time."""
    chosen = counted.nonzero()[:, 0]
    own = part.select(chosen)
    if derivatives or potential.is_physically_informed:
        made = _from_positions(potential, own, derivatives=derivatives)
    else:
        made = _from_features(potential, own)
    for found in made:
        done.add(int(part.sizes[chosen[found["energy"].structure]].sum()))
        yield {
            label: Residuals(chosen[own.structure], own.errors.double(), own.rows.double())
            for label, own in found.items()
        }


def _from_features(potential: Potential, part: TrainingSet) -> Iterator[dict[str, Residuals]]:
    """Energies, from the features that the set holds."""
    n_elements = potential.descriptor.n_elements
    for rows in size_batches(part.sizes.tolist(), batch_atoms(part.sizes.device, potential.descriptor.n_features)):
        own = part.select(rows)
        layout = ElementLayout.of(own.species, n_elements)
        features = read_features(own.features).to(potential.dtype)
        found = layout.restored(potential.networks.with_vjp(layout.arrange(features)))
        energy = sum_over_atoms(found.outputs[..., 0], own.sizes)[0]
        derivatives = energy_rows(found.hidden[0], own.species, own.sizes, n_elements)
        yield {"energy": _energy_residuals(torch.tensor(rows, device=own.sizes.device), energy, derivatives, own)}


def _energy_residuals(structure: Tensor, energy: Tensor, rows: Tensor, own: TrainingSet) -> Residuals:
    return Residuals(structure, (energy - own.energy_used)[:, None], rows[:, None])


def _from_positions(potential: Potential, part: TrainingSet, *, derivatives: bool) -> Iterator[dict[str, Residuals]]:
    """Energies and, if wanted, forces and virials, computed anew from the positions."""
    for batch in prediction_batches(
        part.sizes.tolist(),
        lambda rows: part.select(rows).structures(),
        potential,
        n_rows=n_last_parameters(potential) if derivatives else 0,
    ):
        own = part.select(batch.rows)
        predicted, rows = rows_of_batch(potential, batch, derivatives=derivatives)
        energies = _energy_residuals(batch.rows, predicted.energy, rows.of_energies(), own)
        if not derivatives:
            yield {"energy": energies}
            continue
        forces, virials = rows.of_derivatives()
        assert predicted.forces is not None
        assert predicted.stress is not None
        structure = batch.rows[torch.repeat_interleave(own.sizes)]  # of each atom
        stress = (predicted.stress - own.stress) * own.volume[:, None]
        yield {
            "energy": energies,
            "forces": Residuals(structure, predicted.forces - own.forces, forces),
            "stress": Residuals(batch.rows, stress, virials),
        }
