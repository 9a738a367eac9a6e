"""Predictions of a potential for frames, on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.commands.jobs import Setup, frame_batches
from pyfit_gpu.formats.extxyz.writer import LabelSpread
from pyfit_gpu.models.batch_stream import Arriving
from pyfit_gpu.models.batches import Batch
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import Prediction, Spread, predict_batch, predicted_batches, rows_of_pairs
from pyfit_gpu.models.uncertainty import PredictedUncertainty, Uncertainty
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.frames import Frame


@dataclass(frozen=True, eq=False)
class FramePrediction:
    """Prediction for many frames, on the host; energies on the networks' own scale."""

    energy: FloatArray  # (B,) eV
    forces: list[FloatArray] | None  # per frame (n, 3) eV/Å; None: not asked for
    stress: FloatArray | None  # (B, 6) eV/Å^3, NaN for a frame without a full cell
    spread: FramePrediction | None = None  # standard deviations over members; None: there is only one
    grades: list[FloatArray] | None = None  # per frame (n,), extrapolation grades; None: not known
    error_bars: FramePrediction | None = None  # standard deviations, of energies and perhaps forces; None: not known

    @classmethod
    def joined(cls, parts: Sequence[FramePrediction]) -> FramePrediction:
        """Predictions of frames one after the other, of which all have what the first one has."""
        first = parts[0]
        if len(parts) == 1:
            return first

        def every(name: str) -> list[Any] | None:
            return None if getattr(first, name) is None else [getattr(part, name) for part in parts]

        forces, stress, grades = every("forces"), every("stress"), every("grades")
        spread, error_bars = every("spread"), every("error_bars")
        return cls(
            np.concatenate([part.energy for part in parts]),
            None if forces is None else [*chain(*forces)],
            None if stress is None else np.concatenate(stress),
            None if spread is None else cls.joined(spread),
            None if grades is None else [*chain(*grades)],
            None if error_bars is None else cls.joined(error_bars),
        )

    def atom_columns(self) -> list[dict[str, FloatArray]] | None:
        """Further values of each frame's atoms, (n, 1) or (n, 3) each, by name."""
        if self.grades is None:
            return None
        columns = [{"extrapolation_grade": own[:, None]} for own in self.grades]
        if self.error_bars is not None and self.error_bars.forces is not None:
            for own, deviation in zip(columns, self.error_bars.forces, strict=True):
                own["forces_uncertainty"] = deviation
        return columns

    def more_values(self) -> list[dict[str, float]] | None:
        """Further values of each frame, by name."""
        bars = self.error_bars
        return None if bars is None else [{"energy_uncertainty": one} for one in bars.energy.tolist()]

    def label_spreads(self) -> list[LabelSpread] | None:
        """Spread of each frame's labels; None: there is only one member."""
        spread = self.spread
        if spread is None:
            return None
        forces: Sequence[FloatArray | None] = spread.forces or [None] * len(spread.energy)
        return [
            LabelSpread(e, f, s) for e, f, s in zip(spread.energy.tolist(), forces, spread.known_stress(), strict=True)
        ]

    def known_stress(self) -> list[FloatArray | None]:
        """Stress of each frame; None where it has none."""
        if self.stress is None:
            return [None] * len(self.energy)
        return [None if np.isnan(stress).any() else stress for stress in self.stress]

    def frames(self, frames: Sequence[Frame], energy: FloatArray) -> list[Frame]:
        """The frames with predicted labels in place of their own, and `energy` (B,) eV."""
        forces: Sequence[FloatArray | None] = self.forces or [None] * len(frames)
        rows = zip(frames, energy, forces, self.known_stress(), strict=True)
        return [replace(frame, energy=float(e), forces=f, stress=s) for frame, e, f, s in rows]


def predict_frames(
    frames: Sequence[Frame],
    model: Potential,
    setup: Setup,
    *,
    derivatives: bool,
    uncertainty: Uncertainty | None = None,
    forces_uncertainty: bool = False,
) -> FramePrediction:
    """Predict frames batch by batch on the device; results are on the host, in the frames' order."""
    model = model.to(setup.device, setup.dtype)
    uncertainty = None if uncertainty is None else uncertainty.to(setup.device, setup.dtype)
    sizes = [frame.n_atoms for frame in frames]
    like = torch.empty(0, dtype=torch.float64)
    spread = model.networks.n_members > 1
    known = None if uncertainty is None else uncertainty.empty(len(frames), sum(sizes), like, forces=forces_uncertainty)
    whole = Prediction.empty(len(frames), sum(sizes), like, derivatives=derivatives, spread=spread, uncertainty=known)
    n_rows = rows_of_pairs(model, uncertainty) if forces_uncertainty else 0

    def compute(batch: Batch) -> Callable[[], tuple[Prediction, Tensor, Tensor]]:
        part = predict_batch(
            model, batch, derivatives=derivatives, uncertainty=uncertainty, force_errors=forces_uncertainty
        )
        found = part.to("cpu", torch.float64, non_blocking=True)
        rows, atoms = (own.to("cpu", non_blocking=True) for own in (batch.rows, batch.atoms))
        arriving = Arriving(setup.device)

        def arrived() -> tuple[Prediction, Tensor, Tensor]:
            arriving.wait()
            return found, rows, atoms

        return arrived

    take = frame_batches(frames, setup)
    for arrived in predicted_batches(sizes, take, model, compute, n_rows=n_rows, from_host=True):
        whole.put(*arrived)
    member_spread = None if whole.spread is None else FramePrediction(*_on_host(whole.spread, sizes))
    grades = None if known is None else [part.numpy() for part in known.grade.split(sizes)]
    return FramePrediction(*_on_host(whole, sizes), member_spread, grades, _error_bars(known, sizes))


def _error_bars(known: PredictedUncertainty | None, sizes: Sequence[int]) -> FramePrediction | None:
    if known is None or known.energy is None:
        return None
    forces = None if known.forces is None else [part.numpy() for part in known.forces.split(list(sizes))]
    return FramePrediction(known.energy.numpy(), forces, None)


def _on_host(
    found: Prediction | Spread, sizes: Sequence[int]
) -> tuple[FloatArray, list[FloatArray] | None, FloatArray | None]:
    """Energy, forces and stress as NumPy arrays, forces split by structure."""
    forces = None if found.forces is None else [part.numpy() for part in found.forces.split(list(sizes))]
    return found.energy.numpy(), forces, None if found.stress is None else found.stress.numpy()
