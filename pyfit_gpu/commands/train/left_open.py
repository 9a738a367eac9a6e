"""Settings of a fit that the command leaves open: those of the run that goes on, or else found from the data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from pyfit_gpu.commands.train.same_run import IMPLIED_SETTINGS
from pyfit_gpu.datasets.label_scales import balanced_weights
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.formats.run_file import Run
from pyfit_gpu.log import log
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.optimizers.base import Gives
from pyfit_gpu.training.input_statistics import ConditioningKind
from pyfit_gpu.training.settings import FitSettings

MAY_BE_OPEN = ("conditioning", "force_weight", "l2", "l2_form", "stress_weight")
L2 = 1e-4  # eV/atom


def settled(
    settings: FitSettings, left_open: Collection[str], train: TrainingSet, potential: Potential, earlier: Run | None
) -> FitSettings:
    """Give the settings that were left open their values.

    Args:
        left_open: names, of `MAY_BE_OPEN`.
        train: the structures that train.
        potential: which is trained.
        earlier: the run that goes on.
    """
    values = _found(settings, train, potential) if earlier is None else {**IMPLIED_SETTINGS, **earlier.settings}
    chosen = {name: values[name] for name in left_open if name in values}
    if earlier is None and "l2_form" in chosen and "l2" not in left_open:
        del chosen["l2_form"]  # what a number given alone means does not depend on other settings
    if chosen and earlier is None:
        log.info("not given and chosen: %s", ", ".join(f"{name} {chosen[name]}" for name in sorted(chosen)))
    return replace(settings, **chosen)


def _found(settings: FitSettings, train: TrainingSet, potential: Potential) -> dict[str, Any]:
    # Positions are what forces and stress are trained through; text sets hold none.
    has_positions = not bool(train.positions.isnan().any())
    force_weight, stress_weight = balanced_weights(train) if has_positions else (0.0, 0.0)
    return {
        "conditioning": conditioning_for(train, potential),
        "force_weight": force_weight,
        **_penalty(settings),
        "stress_weight": stress_weight,
    }


def _penalty(settings: FitSettings) -> dict[str, Any]:
    """The evidence where squares are penalised, for which no number is known to do for all sets."""
    squared = settings.l2_form == "squared" or settings.optimizer.needs is Gives.RESIDUALS
    return {"l2": "auto", "l2_form": "squared"} if squared else {"l2": L2, "l2_form": "norm"}


def conditioning_for(train: TrainingSet, potential: Potential) -> ConditioningKind:
    """Choose the conditioning by the amount of data: where fewer atoms train than there are parameters, none.

    The natural sizes of the inputs, which are small for far neighbours, then are a prior that the data cannot replace
    (docs/accuracy.md).
    """
    atoms = int(train.sizes[train.has_energy & (train.weight > 0)].sum())
    return "half" if atoms >= potential.networks.n_parameters else "none"
