"""Outliers of a committee: labels that the members agree on getting wrong, while they get others right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pyfit_gpu.doctor.findings import Finding
from pyfit_gpu.doctor.records import Records
from pyfit_gpu.errors import how_many
from pyfit_gpu.models.energy_shift import shift_of_structures
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.structures.batch import size_batches
from pyfit_gpu.structures.cells import FloatArray

OUTLIER = "outlier"

_LIMIT = 10.0  # times the scale of the errors, with the spread of the members
_BATCH_ATOMS = 20_000


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors of a potential for each structure, and the spread of its members; NaN where a label is not known."""

    energy: FloatArray  # (B,) eV/atom
    energy_spread: FloatArray  # (B,) eV/atom; zero for one member
    forces: FloatArray  # (B,) eV/Å, root mean square
    forces_spread: FloatArray  # (B,) eV/Å, root mean square

    @classmethod
    def of(cls, records: Records, potential: Potential) -> Errors:
        """Predict all structures that have positions, on the potential's device."""
        found = cls(*(np.full(len(records), np.nan) for _ in range(4)))
        rows = np.flatnonzero(records.has_positions)
        for batch in size_batches(records.sizes[rows].tolist(), _BATCH_ATOMS):
            found._predict(records, rows[batch], potential)
        return found

    def _predict(self, records: Records, rows: np.ndarray, potential: Potential) -> None:
        batch = records.batch(rows)
        prediction = predict(potential, batch.to(potential.device)).to("cpu", torch.float64)
        assert prediction.forces is not None
        sizes = records.sizes[rows]
        species = potential.species_index(batch.to(potential.device)).cpu()
        owner = torch.repeat_interleave(torch.from_numpy(sizes))
        n_elements = potential.descriptor.n_elements
        counts = torch.bincount(owner * n_elements + species, minlength=len(rows) * n_elements).view(-1, n_elements)
        shift = potential.energy_shift.cpu().nan_to_num()
        energy = prediction.energy.numpy() - shift_of_structures(counts, shift.tolist()).numpy()
        self.energy[rows] = (energy - records.energy[rows]) / sizes
        known = batch.flatten(batch.forces)
        self.forces[rows] = _rms(prediction.forces - known, owner, sizes)
        spread = prediction.spread
        if spread is None or spread.forces is None:
            self.energy_spread[rows], self.forces_spread[rows] = 0.0, 0.0
        else:
            self.energy_spread[rows] = spread.energy.numpy() / sizes
            self.forces_spread[rows] = _rms(spread.forces, owner, sizes)


def _rms(values: torch.Tensor, owner: torch.Tensor, sizes: np.ndarray) -> FloatArray:
    squares = np.bincount(owner.numpy(), values.square().sum(dim=1).numpy(), minlength=len(sizes))
    return np.asarray(np.sqrt(squares / (3 * sizes)))


def check_outliers(records: Records, errors: Errors) -> Iterator[Finding]:
    """Yield structures whose error is far beyond the spread of the members and the errors of the other structures."""
    energy = np.abs(errors.energy - np.nanmedian(errors.energy)) if not np.isnan(errors.energy).all() else errors.energy
    for what, unit, factor, error, spread in (
        ("energy", "meV/atom", 1000.0, energy, errors.energy_spread),
        ("forces", "eV/Å", 1.0, errors.forces, errors.forces_spread),
    ):
        if np.isnan(error).all():
            continue
        usual = 1.4826 * float(np.nanmedian(error))
        far = np.nan_to_num(error) > _LIMIT * np.sqrt(usual**2 + np.nan_to_num(spread) ** 2)
        if not far.any():
            continue
        rows = np.flatnonzero(far)
        rows = rows[np.argsort(-error[rows], kind="stable")]
        worst = rows[0]
        text = (
            f"errors of the {what} far beyond the others and the members' spread in {how_many(len(rows))}: up to "
            f"{factor * error[worst]:.4g} {unit} (spread {factor * spread[worst]:.3g}; median of all "
            f"{factor * np.nanmedian(error):.3g}) in {records.sources[worst]}: the label may be wrong, or the "
            "structure unlike all that trained"
        )
        yield Finding.of(records, OUTLIER, "warning", text, rows, factor * float(error[worst]), unit)
