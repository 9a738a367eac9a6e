"""Predictions of a potential: energies, and their exact derivatives, forces and stress.

With several members these are means, and their spread is given beside them: for member k of K,

    mean = 1/K sum_k x_k        spread = sqrt( 1/(K-1) sum_k (x_k - mean)^2 )
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from pyfit_gpu.models.all_parameters import LocalSlopes, energy_variances, force_variances
from pyfit_gpu.models.batch_stream import Take
from pyfit_gpu.models.batches import Batch, batch_atoms, batches, computed_batches
from pyfit_gpu.models.energy import energy_model
from pyfit_gpu.models.informed_rows import last_layer_rows
from pyfit_gpu.models.last_layer import LastLayerRows, n_last_parameters
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.uncertainty import PredictedUncertainty, Uncertainty
from pyfit_gpu.models.walk_base import Wanted
from pyfit_gpu.models.walks import Walked, walk_over
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.sums import sum_first_axis, sum_over_atoms

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Spread:
    """Sample standard deviations over members: a measure of their disagreement, not a calibrated error."""

    energy: Tensor  # (B,) eV
    forces: Tensor | None  # (n_atoms, 3) eV/Å, of each component; None: not asked for
    stress: Tensor | None  # (B, 6) eV/Å^3; NaN for a structure without a full cell

    def to(self, device: torch.device | str, dtype: torch.dtype, *, non_blocking: bool = False) -> Spread:
        def moved(one: Tensor) -> Tensor:
            return one.to(device, dtype, non_blocking=non_blocking)

        forces, stress = (None if one is None else moved(one) for one in (self.forces, self.stress))
        return Spread(moved(self.energy), forces, stress)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Energies, forces and stress, the mean of several members, on the networks' own scale (energy shift included)."""

    energy: Tensor  # (B,) eV
    atomic_energies: Tensor  # (n_atoms,) eV
    forces: Tensor | None  # (n_atoms, 3) eV/Å; None: not asked for
    stress: Tensor | None  # (B, 6) eV/Å^3, ASE's sign and order; NaN for a structure without a full cell
    spread: Spread | None = None  # None: a single member has none
    uncertainty: PredictedUncertainty | None = None  # None: not asked for

    @classmethod
    def empty(
        cls,
        n_structures: int,
        n_atoms: int,
        like: Tensor,
        *,
        derivatives: bool,
        spread: bool = False,
        uncertainty: PredictedUncertainty | None = None,
    ) -> Prediction:
        """Allocate a prediction, to be filled by `put`; an uncertainty likewise by its own `empty`."""

        def derived() -> tuple[Tensor | None, Tensor | None]:
            return (like.new_empty(n_atoms, 3), like.new_empty(n_structures, 6)) if derivatives else (None, None)

        member_spread = Spread(like.new_empty(n_structures), *derived()) if spread else None
        return cls(like.new_empty(n_structures), like.new_empty(n_atoms), *derived(), member_spread, uncertainty)

    def to(self, device: torch.device | str, dtype: torch.dtype, *, non_blocking: bool = False) -> Prediction:
        """The same on another device. With `non_blocking` a copy to the host goes on behind the caller's back."""

        def moved(one: Tensor) -> Tensor:
            return one.to(device, dtype, non_blocking=non_blocking)

        forces, stress = (None if one is None else moved(one) for one in (self.forces, self.stress))
        spread, uncertainty = self.spread, self.uncertainty
        return Prediction(
            moved(self.energy), moved(self.atomic_energies), forces, stress,
            None if spread is None else spread.to(device, dtype, non_blocking=non_blocking),
            None if uncertainty is None else uncertainty.to(device, dtype, non_blocking=non_blocking),
        )  # fmt: skip

    def put(self, part: Prediction, rows: Tensor, atoms: Tensor) -> None:
        """Fill in the prediction for some structures and their atoms."""
        self.atomic_energies[atoms] = part.atomic_energies
        if self.uncertainty is not None and part.uncertainty is not None:
            self.uncertainty.put(part.uncertainty, rows, atoms)
        both: list[tuple[Prediction | Spread, Prediction | Spread]] = [(self, part)]
        if self.spread is not None and part.spread is not None:
            both.append((self.spread, part.spread))
        for whole, found in both:
            whole.energy[rows] = found.energy
            if whole.forces is not None and found.forces is not None:
                whole.forces[atoms] = found.forces
            if whole.stress is not None and found.stress is not None:
                whole.stress[rows] = found.stress


def predict(
    potential: Potential,
    structures: Structures,
    *,
    derivatives: bool = True,
    backend: str = "auto",
    uncertainty: Uncertainty | None = None,
    force_errors: bool = False,
) -> Prediction:
    """Predict energies, forces and stress of structures, with mean and spread of several members; atoms in file order.

    Computed in the potential's dtype, in batches of similar size; neighbours are found in the positions' precision.

    Args:
        derivatives: whether forces and stress are wanted.
        uncertainty: of this potential, which gives the grades of atoms and the error bars of energies, or of one of
            its members, which gives the grades.
        force_errors: whether error bars of forces are wanted too, which take several times as long as the rest.

    Raises:
        InputError: an element that the potential lacks, two atoms at one place, a logarithm of zero, bond-order
            parameters that make no sense, or an uncertainty of another potential or, for errors of forces, without
            error bars.
        ValueError: structures and potential on different devices.
    """
    energy_model(potential, "predict")
    if structures.positions.device != potential.device:
        raise ValueError(
            f"predict: structures are on {structures.positions.device}, the potential is on {potential.device}"
        )
    like = potential.networks.weights[0]
    spread = potential.networks.n_members > 1
    found = None
    if uncertainty is not None:
        uncertainty = uncertainty.of_potential(potential).to(potential.device, potential.dtype)
        found = uncertainty.empty(len(structures), structures.n_atoms, like, forces=force_errors)
    whole = Prediction.empty(
        len(structures), structures.n_atoms, like, derivatives=derivatives, spread=spread, uncertainty=found
    )
    n_rows = rows_of_pairs(potential, uncertainty) if force_errors else 0

    def compute(batch: Batch) -> Callable[[], tuple[Prediction, Tensor, Tensor]]:
        part = predict_batch(
            potential, batch, derivatives=derivatives, uncertainty=uncertainty, force_errors=force_errors
        )
        return lambda: (part, batch.rows, batch.atoms)

    for part, rows, atoms in predicted_batches(
        structures.sizes, structures.select, potential, compute, backend=backend, n_rows=n_rows
    ):
        whole.put(part, rows, atoms)
    return whole


def prediction_batches(
    sizes: Sequence[int],
    take: Take,
    potential: Potential,
    *,
    backend: str = "auto",
    n_rows: int = 0,
) -> Iterator[Batch]:
    """Batches for `predict_batch`; see `batches`. Pairs have a row for each member: many members get small batches.

    Args:
        n_rows: further rows that pairs have.
    """
    max_atoms = _batch_atoms(potential, n_rows)
    return batches(sizes, take, potential, backend=backend, dtype=potential.dtype, max_atoms=max_atoms)


def predicted_batches(
    sizes: Sequence[int],
    take: Take,
    potential: Potential,
    compute: Callable[[Batch], Callable[[], R]],
    *,
    backend: str = "auto",
    n_rows: int = 0,
    from_host: bool = False,
) -> Iterator[R]:
    """Yield what is computed of `prediction_batches`; see `computed_batches`."""
    return computed_batches(
        sizes, take, potential, compute,
        device=potential.device, from_host=from_host, max_atoms=_batch_atoms(potential, n_rows), backend=backend,
        dtype=potential.dtype,
    )  # fmt: skip


def _batch_atoms(potential: Potential, n_rows: int) -> int:
    most = batch_atoms(potential.device, potential.descriptor.n_features)
    return max(1, most // (potential.networks.n_members + n_rows))


def rows_of_pairs(potential: Potential, uncertainty: Uncertainty | None) -> int:
    """Number of rows that pairs have for error bars of forces, see `prediction_batches`."""
    bars = None if uncertainty is None else uncertainty.error_bars
    return 0 if bars is None or bars.of_all else n_last_parameters(potential)


def evaluate(potential: Potential, structures: Structures, *, backend: str = "auto") -> Tensor:
    """(B,) eV: energies of structures, the mean over several members, on the networks' own scale.

    `predict` gives forces and stress too. The verb `pyfit-gpu evaluate` writes files (commands/evaluate.py), and
    `Objective.evaluate` gives the loss of a fit.
    """
    return predict(potential, structures, derivatives=False, backend=backend).energy


@torch.no_grad()
def predict_batch(
    potential: Potential,
    batch: Batch,
    *,
    derivatives: bool = True,
    uncertainty: Uncertainty | None = None,
    force_errors: bool = False,
) -> Prediction:
    """Do as `predict` for one batch; neighbours and uncertainty have the potential's dtype and device."""
    bars = None if uncertainty is None else uncertainty.error_bars
    rows = None if bars is None or bars.of_all else last_layer_rows(potential, batch, derivatives=force_errors)
    grade = None if uncertainty is None else uncertainty.grade
    walk = walk_over(potential, batch, Wanted(derivatives, rows, grade))
    found = _summed(batch, walk)
    if walk.grades is None:
        return found
    energy, forces = None, None
    if bars is not None and rows is not None:
        energy = bars.deviations("energy", rows.of_energies()[:, None])[:, 0]
        forces = bars.deviations("forces", rows.of_derivatives()[0]) if force_errors else None
    elif bars is not None:
        assert walk.inputs is not None
        local = LocalSlopes.of(potential, batch, walk.inputs)
        variances = energy_variances(bars, potential, walk.inputs, batch.species, batch.sizes, local)
        energy = bars.scaled("energy", variances).to(potential.dtype)
        if force_errors:
            variances = force_variances(bars, potential, batch, walk.inputs, local)
            forces = bars.scaled("forces", variances).to(potential.dtype)
    return replace(found, uncertainty=PredictedUncertainty(walk.grades, energy, forces))


@torch.no_grad()
def rows_of_batch(potential: Potential, batch: Batch, *, derivatives: bool) -> tuple[Prediction, LastLayerRows]:
    """Predict, and collect derivatives with respect to the last layer's parameters, of a potential of one member.

    Args:
        derivatives: whether forces and stress are wanted, and their rows.
    """
    rows = last_layer_rows(potential, batch, derivatives=derivatives)
    return _summed(batch, walk_over(potential, batch, Wanted(derivatives, rows))), rows


@torch.no_grad()
def inputs_of_batch(potential: Potential, batch: Batch, *, derivatives: bool = True) -> tuple[Prediction, Tensor]:
    """Predict, and give the networks' inputs (n, F), too.

    Args:
        derivatives: whether forces and stress are wanted.
    """
    walk = walk_over(potential, batch, Wanted(derivatives, keep_inputs=True))
    assert walk.inputs is not None
    return _summed(batch, walk), walk.inputs


def _summed(batch: Batch, walk: Walked) -> Prediction:
    sums = sum_over_atoms(walk.energies, batch.sizes, largest=max(batch.structures.sizes))
    if walk.virials is None:
        return _summarize_members(sums, walk.energies, None, None)
    volume = batch.structures.volume.to(walk.virials.dtype)[:, None, None]
    stress = torch.where(volume > 0, walk.virials / volume.where(volume > 0, 1.0), torch.nan)
    return _summarize_members(sums, walk.energies, walk.forces, stress)


def _summarize_members(
    energy: Tensor, atomic_energies: Tensor, forces: Tensor | None, stress: Tensor | None
) -> Prediction:
    """Reduce several members to mean and spread; a single one is given as it is.

    Args:
        energy, atomic_energies: (K, B) and (K, n_atoms) eV.
        forces, stress: (n_atoms, K, 3) eV/Å and (B, K, 6) eV/Å^3.
    """
    if len(energy) == 1:
        forces = None if forces is None else forces[:, 0]
        return Prediction(energy[0], atomic_energies[0], forces, None if stress is None else stress[:, 0])
    mean_energy, energy_spread = _mean_and_spread(energy, 0)
    mean_forces, forces_spread = (None, None) if forces is None else _mean_and_spread(forces, 1)
    mean_stress, stress_spread = (None, None) if stress is None else _mean_and_spread(stress, 1)
    spread = Spread(energy_spread, forces_spread, stress_spread)
    return Prediction(mean_energy, _mean_and_spread(atomic_energies, 0)[0], mean_forces, mean_stress, spread)


def _mean_and_spread(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean and sample standard deviation over the members along `dim`, which both lack.

    Everything is relative to the first member: large values cost no digits, and equal members have exactly their
    common value as mean and exactly zero as spread.
    """
    first = values.narrow(dim, 0, 1)
    differences = values - first
    mean = sum_first_axis(differences.movedim(dim, 0)) / values.shape[dim]
    squares = (differences - mean.unsqueeze(dim)).square()
    spread = (sum_first_axis(squares.movedim(dim, 0)) / (values.shape[dim] - 1)).sqrt()
    return first.squeeze(dim) + mean, spread
