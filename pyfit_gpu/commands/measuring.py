"""Grade and error bars of a potential, found with progress and closing lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """Find grade, unless it is given, and error bars, with progress and closing lines; see `build_error_bars`.

    There is the grade alone where a set lacks the positions that the energies of a potential depend on.
    """
    bars = None
    if potential.is_physically_informed and bool(train.positions.isnan().any()):
        log.warning("error bars: %s needs positions, the set has none: only the extrapolation grade", potential.kind)
    else:
        bars = _error_bars(potential, train, validation, weights, penalty, form, quiet=quiet)
    if grade is None:
        grade = build_extrapolation_grade(train, potential)
        warn_of_coarse(grade, potential.descriptor.elements)
    return Uncertainty.of(potential, grade, bars)


def _error_bars(
    potential: Potential,
    train: TrainingSet,
    validation: TrainingSet | None,
    weights: Mapping[str, float],
    penalty: float | None,
    form: Form,
    *,
    quiet: bool,
) -> ErrorBars:
    n_atoms = train.n_atoms + (0 if validation is None else validation.n_atoms)
    with closing(Progress("error bars", n_atoms, "atoms", quiet=quiet)) as progress:
        bars = build_error_bars(
            potential, train, validation, weights=weights, penalty=penalty, form=form, progress=progress.update
        )
    for line in describe(bars):
        log.info("%s", line)
    for label, own in bars.calibrations.items():
        if not own.is_calibrated:
            log.warning("error bars of %s: not calibrated, nothing validates: scaled by the training residuals", label)
    return bars


def warn_of_coarse(grade: ExtrapolationGrade, elements: Sequence[str]) -> None:
    """Warn of elements with one cluster for all atoms, which has room for much that was never in it."""
    for number, symbol in enumerate(elements):
        n_atoms = grade.n_atoms[grade.element == number].tolist()
        if len(n_atoms) == 1:
            log.warning("extrapolation grade: 1 cluster for %s: %d atoms train, coarse", symbol, n_atoms[0])


def describe(bars: ErrorBars) -> list[str]:
    """Lines about error bars: how many parameters the data decide, and what calibrated the labels that are."""
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
    return lines
