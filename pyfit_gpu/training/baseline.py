"""The global baseline of physically informed networks, fitted alone before the networks' perturbations of it.

It is a bare bond-order potential, 4 S + 1 + 3 S^2 numbers for each element. Energies are fitted from several starts:
the potential's own baseline, and others with every number changed at random. They compete on a sample of the
structures; the best one goes on with all of them. Forces and stress, which cost far more, are left to the networks.
Gauss-Newton fits: some of the numbers compensate one another, along which LBFGS is slow.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import Failure, InputError
from pyfit_gpu.log import log
from pyfit_gpu.models.bond_order import parameter_names
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.optimizers.gauss_newton_settings import GaussNewtonSettings
from pyfit_gpu.optimizers.lbfgs_settings import LBFGSSettings
from pyfit_gpu.training.fit import fit
from pyfit_gpu.training.history import History, Observers
from pyfit_gpu.training.local_parameters import sample_of
from pyfit_gpu.training.loop import TrainingFailure
from pyfit_gpu.training.loss import weighted_terms
from pyfit_gpu.training.memory_plan import MemoryPlan
from pyfit_gpu.training.settings import FitSettings

STARTS = 5
_STEPS = 30
_LAST_STEPS = 15
_CHANGE = 0.1  # of a number, largest share at a start
_LEAST_CHANGE = 0.1  # where the number is nearly 0


def fit_baseline(
    potential: Potential,
    train: TrainingSet,
    settings: FitSettings,
    *,
    starts: int = STARTS,
    should_stop: Callable[[], bool] = lambda: False,
    watched: Callable[[str, int], AbstractContextManager[Observers]] = lambda stage, steps: nullcontext(()),
    plan: MemoryPlan | None = None,
) -> Potential:
    """Fit the baseline; the potential returned has it, and the given one's networks.

    Args:
        potential: physically informed or bare; of a bare one the biases are zero afterwards.
        train: structures that all have an energy.
        settings: of which `huber`, targets, penalties on local parameters and the seed count.
        starts: how many.
        should_stop: asked after every step.
        watched: gives the observers of a stage of so many steps, for as long as it takes.
        plan: what of the whole set is kept in memory, see `fit`.

    Raises:
        InputError: a straight network, no start, or a start that is none.
        Failure: no start has a loss that is a number.
    """
    if not potential.is_physically_informed:
        raise InputError(f"baseline: expected a physically informed network, got {potential.kind}")
    if starts < 1:
        raise InputError(f"baseline_starts: expected a whole number above 0, got {starts}")
    optimizer = LBFGSSettings() if settings.size_penalty else GaussNewtonSettings()
    energies_alone: dict[str, Any] = {term.weight_name: 0.0 for term in weighted_terms()}
    kept = replace(
        settings, **energies_alone, steps=_STEPS, optimizer=optimizer, l2=0.0, l2_form="norm", conditioning="none",
        max_time=0.0, patience=0, target_rmse=0.0, spread_penalty=0.0, keep="last", error_restart_level=0.0,
        learning_rate_ramp=0,
    )  # fmt: skip
    bare = _bare(potential, train, _starts(potential, starts, settings.seed))
    sample = sample_of(train)

    def fitted_to(own: Potential, part: TrainingSet, stage: str, steps: int, plan: MemoryPlan | None) -> History:
        log.info("baseline: %s, up to %d steps on %d structures", stage, steps, len(part))
        own_settings = replace(kept, steps=steps)
        with watched(stage, steps) as observers:
            return fit(own, part, settings=own_settings, observers=observers, should_stop=should_stop, plan=plan)

    try:
        first = fitted_to(bare, sample, f"{starts} starts compete", _STEPS, None)
        losses = " ".join(f"{1e3 * member.score:.4g}" for member in first.members)
        log.info("baseline: losses of %d starts on %d structures: %s meV/atom", starts, len(sample), losses)
        best = bare.member(first.ranking[0])
        last = fitted_to(best, train, "the best goes on", _LAST_STEPS, plan)
    except TrainingFailure as error:
        raise Failure(f"baseline: {error}") from error
    if first.interrupted or last.interrupted:
        done = (first.best.step, last.best.step)
        log.warning("baseline: stopped before its end, after %d and %d steps: it is kept as it is", *done)
    found = potential.baseline + best.networks.biases[0][0].double().cpu()
    _log_numbers(potential, found, last.loss[-1])
    fitted = replace(potential, use_baseline=True, bond_order_parameters=tuple(found.flatten().tolist()))
    if not potential.is_bare:
        return fitted
    return replace(
        fitted, networks=replace(potential.networks, biases=(torch.zeros_like(potential.networks.biases[0]),))
    )


def _log_numbers(potential: Potential, found: Tensor, loss: float) -> None:
    log.info("baseline: loss %.4g meV/atom", 1e3 * loss)
    names = parameter_names(potential.descriptor.n_elements)
    for symbol, row in zip(potential.descriptor.elements, found.tolist(), strict=True):
        shown = " ".join(f"{value:.4g}" for value in row)
        log.info("baseline of %s (%s): %s", symbol, " ".join(names), shown)


def _starts(potential: Potential, count: int, seed: int | None) -> Tensor:
    """(K, S, N) float64: by how much the starts differ from the potential's baseline."""
    own = potential.baseline
    origin = potential.networks.biases[0][:1].double().cpu() if potential.is_bare else torch.zeros_like(own)[None]
    drawn = np.random.default_rng(seed).uniform(-1, 1, (count - 1, *own.shape))
    changes = _CHANGE * torch.from_numpy(drawn) * own.abs().clamp(min=_LEAST_CHANGE / _CHANGE)
    return torch.cat((origin, origin + changes))


def _bare(potential: Potential, train: TrainingSet, changes: Tensor) -> Potential:
    """Bare potentials with the potential's baseline and these differences from it, one member for each."""
    device, dtype = train.features.device, train.features.dtype
    empty = changes.new_empty(*changes.shape[:2], 0, changes.shape[2])
    networks = ElementNetworks((empty,), (changes,), potential.networks.activation).to(device, dtype)
    return replace(
        potential, networks=networks, use_baseline=True, energy_shift=potential.energy_shift.clone(), untrained=()
    )
