"""Network inputs: those without spread, and rows of numbers that structures with the same inputs share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pyfit_gpu.datasets.build import assemble
from pyfit_gpu.datasets.feature_rows import read_features
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.descriptors.feature_names import feature_names
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.doctor.findings import Finding
from pyfit_gpu.doctor.records import Records
from pyfit_gpu.errors import shortened
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.sums import sum_runs

NO_SPREAD = "inputs without spread"

_FLAT = 1e-6  # range of an input as a share of its size, or of the largest range of all
_ATOMS_AT_ONCE = 50_000  # whose inputs are in memory


@dataclass(frozen=True, eq=False)
class Inputs:
    """Sums, ranges and numbers of the network inputs of all atoms, which themselves are not kept."""

    rows: FloatArray  # (B, ..) by element: sums of the inputs and of their squares over the atoms / n, and its share
    lowest: FloatArray  # (S, n_inputs); infinite for an element without an atom
    highest: FloatArray  # (S, n_inputs)
    n_atoms: FloatArray  # (S,)

    @classmethod
    def of(cls, windows: Iterable[TrainingSet]) -> Inputs:
        """Sum up windows of a set, whose inputs are read or computed one window after the other."""
        parts = [_of_window(window) for window in windows]
        rows, low, high, count = (
            np.stack(own) if k else np.concatenate(own) for k, own in enumerate(zip(*parts, strict=True))
        )
        return cls(rows, low.min(axis=0), high.max(axis=0), count.sum(axis=0))


def _of_window(window: TrainingSet) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    features, species, sizes = read_features(window.features), window.species, window.sizes
    by_element, low, high, counts = [], [], [], []
    for element in range(window.descriptor.n_elements):
        own = species == element
        values = torch.where(own[:, None], features, 0.0)
        by_element.append(sum_runs(torch.cat((values, values.square(), own.double()[:, None]), dim=1), sizes))
        low.append(torch.where(own[:, None], features, torch.inf).amin(dim=0))
        high.append(torch.where(own[:, None], features, -torch.inf).amax(dim=0))
        counts.append(own.sum().double())
    rows = torch.cat(by_element, dim=1) / sizes[:, None]
    return rows.numpy(), torch.stack(low).numpy(), torch.stack(high).numpy(), torch.stack(counts).numpy()


def windows_of_set(whole: TrainingSet, records: Records) -> Iterator[TrainingSet]:
    """Yield parts of a set with their features in memory."""
    for rows in records.windows(_ATOMS_AT_ONCE):
        yield whole.select(rows).to("cpu", torch.float64)


def windows_of_records(records: Records, potential: Potential, device: torch.device) -> Iterator[TrainingSet]:
    """Yield training sets of some structures after the other, with features computed for a potential."""
    for rows in records.windows(_ATOMS_AT_ONCE):
        yield assemble(
            records.sizes[rows].tolist(),
            lambda own, rows=rows: records.batch(rows.start + np.array(own)).to(device),  # type: ignore[misc]
            potential,
            device=device,
            dtype=torch.float64,
        ).to("cpu", torch.float64)


def check_spread(records: Records, inputs: Inputs, descriptor: LocalStructureParameters) -> Iterator[Finding]:
    """Yield for each element the inputs that are the same for all of its atoms."""
    names = feature_names(descriptor)
    for symbol, low, high, n in zip(descriptor.elements, inputs.lowest, inputs.highest, inputs.n_atoms, strict=True):
        if n < 2:
            if not n:
                yield Finding.of(records, NO_SPREAD, "warning", f"no atom of {symbol}: its network cannot be trained")
            continue
        spread = high - low
        flat = spread <= _FLAT * np.maximum(np.abs(high), spread.max())
        if flat.any():
            which = shortened(names[k] for k in np.flatnonzero(flat))
            text = (
                f"inputs that are the same for all {int(n)} atoms of {symbol} and teach nothing, {int(flat.sum())} of "
                f"{len(flat)}: {which}"
            )
            yield Finding.of(records, NO_SPREAD, "warning", text, (), float(flat.sum()), "inputs")
