"""Grade and error bars of a potential, found with progress and closing lines."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

from pyfit_gpu.commands.progress import Progress
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.log import log
from pyfit_gpu.models.error_bars import ErrorBars, Form
from pyfit_gpu.models.extrapolation import ExtrapolationGrade
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.training.clusters import build_extrapolation_grade
from pyfit_gpu.training.laplace import build_error_bars


def measure(
    potential: Potential,
    train: TrainingSet,
    validation: TrainingSet | None,
    weights: Mapping[str, float],
    *,
    penalty: float | None = None,
    form: Form = "last-layer",
    grade: ExtrapolationGrade | None = None,
    quiet: bool = False,
) -> Uncertainty:
    """Find grade, unless it is given, and error bars, with progress and closing lines; see `build_error_bars`."""
    n_atoms = train.n_atoms + (0 if validation is None else validation.n_atoms)
    with closing(Progress("error bars", n_atoms, "atoms", quiet=quiet)) as progress:
        bars = build_error_bars(
            potential, train, validation, weights=weights, penalty=penalty, form=form, progress=progress.update
        )
    for line in describe(bars):
        log.info("%s", line)
    return Uncertainty.of(potential, grade or build_extrapolation_grade(train, potential), bars)


def describe(bars: ErrorBars) -> list[str]:
    """Lines about error bars: how many parameters the data decide, and what calibrated each label."""
    which = "all" if bars.of_all else "the last layer's"
    penalties = " ".join(f"{value:.2g}" for value in bars.penalties)
    count = f"{bars.n_effective:.1f} of {which} {len(bars.root)} parameters"
    lines = [f"error bars: {count} decided by the data, penalty {penalties}"]
    for label, own in bars.calibrations.items():
        if own.is_calibrated:
            ratio = (own.factor / bars.noise) ** 0.5 if bars.noise > 0 else float("inf")
            lines.append(
                f"error bars of {label}: calibrated on {own.n_values} validation values, {ratio:.3g} times what the "
                "training residuals give"
            )
        else:
            lines.append(f"error bars of {label}: not calibrated, nothing validates: scaled by the training residuals")
    return lines
