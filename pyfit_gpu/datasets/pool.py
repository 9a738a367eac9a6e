"""Structures of a pool as rows of numbers, by which those for the next round of DFT are chosen: see selection.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.feature_rows import read_features
from pyfit_gpu.datasets.selection import Selection, choose
from pyfit_gpu.datasets.selection_methods import METHODS, Method
from pyfit_gpu.datasets.training_set import TrainingSet, require_same_inputs
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.all_parameters import LocalSlopes, energy_variances
from pyfit_gpu.models.energy import energy_model, network_outputs
from pyfit_gpu.models.error_bars import ErrorBars
from pyfit_gpu.models.extrapolation import ExtrapolationGrade
from pyfit_gpu.models.last_layer import energy_rows
from pyfit_gpu.models.networks import ElementLayout
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import inputs_of_batch, predict, prediction_batches, rows_of_batch
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.copies import first_rows
from pyfit_gpu.sums import sum_over_atoms, sum_runs

_ATOMS_AT_ONCE = 100_000  # whose features are in memory


def structure_rows(whole: TrainingSet) -> Tensor:
    """(B, S (n_features + 1)) float64 on the host: sums of the inputs over the atoms of an element / n, and its share.

    Features in files are read for some `_ATOMS_AT_ONCE` atoms at a time.
    """
    n_elements = whole.descriptor.n_elements
    return torch.cat([_rows(*part, n_elements) for part in _windows(whole)])


def _rows(features: Tensor, species: Tensor, sizes: Tensor, n_elements: int) -> Tensor:
    by_element = []
    for element in range(n_elements):
        own = (species == element)[:, None]
        by_element.append(sum_runs(torch.cat((torch.where(own, features, 0.0), own.double()), dim=1), sizes))
    return torch.cat(by_element, dim=1) / sizes[:, None]


def highest_grade(grade: ExtrapolationGrade, whole: TrainingSet) -> Tensor:
    """(B,) extrapolation grade of each structure's atom that is farthest out."""
    host = grade.to("cpu", torch.float64)
    return torch.cat(
        [
            torch.segment_reduce(host(features, species), "max", lengths=sizes, unsafe=True)
            for features, species, sizes in _windows(whole)
        ]
    )


def energy_error_bars(potential: Potential, bars: ErrorBars, whole: TrainingSet) -> Tensor:
    """(B,) eV/atom: error bar of each structure's energy per atom, for a potential of one member.

    Raises:
        InputError: the set lacks the positions that energies depend on.
    """
    if potential.is_physically_informed:
        return _predicted_error_bars(potential, bars, whole)
    host, bars = potential.to("cpu", torch.float64), bars.to("cpu", torch.float64)
    n_elements = potential.descriptor.n_elements
    parts = []
    for features, species, sizes in _windows(whole):
        if bars.of_all:
            variances = energy_variances(bars, host, features, species, sizes)
            parts.append(bars.scaled("energy", variances) / sizes)
            continue
        layout = ElementLayout.of(species, n_elements)
        hidden = layout.restored(host.networks.with_vjp(layout.arrange(features))).hidden[0]
        rows = energy_rows(hidden, species, sizes, n_elements)
        parts.append(bars.deviations("energy", rows[:, None])[:, 0] / sizes)
    return torch.cat(parts)


def _predicted_error_bars(potential: Potential, bars: ErrorBars, whole: TrainingSet) -> Tensor:
    """Do as `energy_error_bars` with the positions of a set."""
    double, structures = _with_positions(potential, whole, "error bars")
    bars = bars.to(double.device)
    found = torch.empty(len(structures), dtype=torch.float64, device=double.device)
    for batch in prediction_batches(structures.sizes, structures.select, double):
        if bars.of_all:
            inputs = inputs_of_batch(double, batch, derivatives=False)[1]
            local = LocalSlopes.of(double, batch, inputs)
            variances = energy_variances(bars, double, inputs, batch.species, batch.sizes, local)
            found[batch.rows] = bars.scaled("energy", variances)
            continue
        rows = rows_of_batch(double, batch, derivatives=False)[1]
        found[batch.rows] = bars.deviations("energy", rows.of_energies()[:, None])[:, 0]
    return found.cpu() / whole.sizes.cpu()


def _with_positions(potential: Potential, whole: TrainingSet, purpose: str) -> tuple[Potential, Structures]:
    """Potential and structures, in float64 on the potential's device, where their energies take less time.

    Raises:
        InputError: a set without positions.
    """
    if bool(whole.positions.isnan().any()):
        raise InputError(f"{purpose}: expected structures with positions for {potential.kind}, got a set without")
    return potential.to(potential.device, torch.float64), whole.structures().to(potential.device, torch.float64)


def energy_spread(potential: Potential, whole: TrainingSet) -> Tensor:
    """(B,) eV/atom: standard deviation over the members of a potential of each structure's energy per atom.

    Raises:
        InputError: the potential has one member; the set lacks the positions that energies depend on.
    """
    model = energy_model(potential, "select")
    if potential.networks.n_members < 2:
        raise InputError("spread: expected several potentials, got one")
    if model.uses_vectors:
        return _predicted_spread(potential, whole)
    host = potential.to("cpu", torch.float64)
    parts = []
    for features, species, sizes in _windows(whole):
        energies = model.energies(network_outputs(host, features, species), species, None)
        parts.append((sum_over_atoms(energies, sizes) / sizes).std(dim=0))
    return torch.cat(parts)


def _predicted_spread(potential: Potential, whole: TrainingSet) -> Tensor:
    """Do as `energy_spread` with the positions of a set."""
    double, structures = _with_positions(potential, whole, "spread")
    found = predict(double, structures, derivatives=False)
    assert found.spread is not None
    return found.spread.energy.cpu() / whole.sizes.cpu()


def _windows(whole: TrainingSet) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield features, species and sizes of some structures after the other, on the host."""
    sizes = whole.sizes.cpu()
    numbers = torch.div(torch.cumsum(sizes, 0) - sizes, _ATOMS_AT_ONCE, rounding_mode="floor")
    first = 0
    for own in sizes.split(torch.unique_consecutive(numbers, return_counts=True)[1].tolist()):
        atoms = torch.arange(first, first + int(own.sum()), device=whole.species.device)
        features = read_features(whole.features[atoms]).to("cpu", torch.float64)
        yield features, whole.species[atoms].cpu(), own
        first += len(atoms)


def select_structures(
    pool: Structures | TrainingSet,
    potential: Potential,
    n: int,
    *,
    method: Method = METHODS[0],
    known: Structures | TrainingSet | None = None,
    scores: Tensor | None = None,
    seed: int = 0,
) -> Selection:
    """Choose n structures of a pool that add most to known ones, none twice and none that is known already.

    Args:
        potential: gives the descriptor; its parameters are not used.
        known: structures of the training set.
        scores: (B,) uncertainty of each structure of the pool, for the method "uncertainty".
        seed: of the method "random".

    Raises:
        InputError: as `choose`; an element that the potential lacks; a set that was made with other settings.
    """
    of_pool = _as_set(pool, potential)
    before = None if known is None else _as_set(known, potential)
    keys = of_pool.structure_keys()
    free = first_rows(keys) == np.arange(len(keys))
    if before is not None:
        free &= ~np.isin(keys, before.structure_keys())
    return choose(
        structure_rows(of_pool),
        n,
        method,
        n_elements=potential.descriptor.n_elements,
        known=None if before is None else structure_rows(before),
        free=torch.from_numpy(free),
        scores=scores,
        seed=seed,
    )


def _as_set(structures: Structures | TrainingSet, potential: Potential) -> TrainingSet:
    if isinstance(structures, TrainingSet):
        require_same_inputs(potential.descriptor, structures.descriptor, "the set does not fit the potential")
        return structures
    return build_training_set(structures, potential)
