"""Training: `fit` minimises the loss of one set, full batch, for several networks at once; observers write logs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from pyfit_gpu.datasets.training_set import TrainingSet, require_same_inputs
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.run_file import FitState
from pyfit_gpu.models.energy import energy_model
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.optimizers.base import Gives
from pyfit_gpu.training.distributed import ProcessGroup
from pyfit_gpu.training.history import History, Observers
from pyfit_gpu.training.input_statistics import ConditioningKind, condition
from pyfit_gpu.training.local_parameters import condition_outputs, require_sense
from pyfit_gpu.training.loop import FitRun, Starts, TrainingFailure
from pyfit_gpu.training.loss import require_labels
from pyfit_gpu.training.memory_plan import MemoryPlan
from pyfit_gpu.training.objective_builder import ObjectiveBuilder
from pyfit_gpu.training.settings import FitSettings

__all__ = ["FitState", "TrainingFailure", "fit"]


def fit(
    potential: Potential,
    train: TrainingSet,
    validation: TrainingSet | None = None,
    *,
    test: TrainingSet | None = None,
    members: int | None = None,
    first_member: int = 0,
    random_starts: bool = False,
    steps: int | None = None,
    settings: FitSettings | None = None,
    observers: Observers = (),
    should_stop: Callable[[], bool] = lambda: False,
    checkpoint: Callable[[Callable[[], FitState], bool], None] | None = None,
    resume: FitState | None = None,
    plan: MemoryPlan | None = None,
    processes: ProcessGroup | None = None,
) -> History:
    """Train the networks' parameters in place, in the dtype and on the device of the training set.

    The potential takes over the set's energy shift (unknown, if the set does not know it). Each member has its own
    optimiser, line search, end and restarts, and costs nothing once it has ended; its numbers do not depend on which
    others are trained beside it.

    Args:
        potential: its parameters are the start and receive the result: those of the best validation, if there is one.
        train: structures that all have an energy; forces and stress count, where known, with the settings' weights.
        validation: structures that all have an energy; None or empty: no validation.
        test: structures that take no part; the final parameters are scored on them.
        members: number of random starts, drawn with the settings' seed; the potential receives the best of them, and
            `History.potential` has all. None: the potential's own members are trained.
        first_member: number of the first member, which together with the seed decides what is drawn.
        random_starts: whether the potential's parameters were drawn (`randomized`, or a header that asks for it);
            implied by `members`. Then they are taken for those of the conditioned inputs, and a member whose loss is
            no longer a number may draw others.
        steps: overrides `settings.steps`; 0 evaluates, and leaves parameters that were not drawn as they are.
        observers: told about every row as soon as it is known; a function gives the observers of each member.
        should_stop: asked after every step.
        checkpoint: called at the start and after every step with a function that gives the state, and whether it was
            the last step.
        resume: the state from which to go on, with inputs conditioned as there, whatever the settings say.
        plan: what is kept in memory; None: everything, but derivatives of features up to half of the memory.
        processes: the processes that share the work, of which this one is the first.

    Raises:
        InputError: a set made with other descriptor settings (named), an optimiser that cannot train this kind of
            potential, a weight for a label that no structure has, or local parameters of the start that make no sense;
            nothing has been changed then.
        TrainingFailure: the loss of every member is no longer a number.
    """
    settings = settings or FitSettings()
    if steps is not None:
        settings = replace(settings, steps=steps)
    require_trainable(potential, settings)
    sets = {"training": train, "validation": validation, "test": test}
    for name, part in sets.items():
        if part is not None and len(part):
            require_same_inputs(potential.descriptor, part.descriptor, f"the {name} set is not this potential's")
    require_labels(train, settings.loss_weights)
    if test is not None and not (len(test) and bool(test.weight.sum() > 0)):
        test = None
    if test is not None and not bool(test.has_energy.all()):
        raise InputError("test: expected structures that all have an energy (split() leaves out those without)")
    trained = potential
    if members is not None:
        if members < 1:
            raise InputError(f"members: expected a whole number above 0, got {members}")
        trained = potential.random_members(range(first_member, first_member + members), settings.seed)
    drawn = random_starts or members is not None
    kind: ConditioningKind = "none" if potential.is_bare else settings.conditioning
    conditioning = (
        condition_outputs(potential, train, condition(train, kind)) if resume is None else resume.conditioning
    )
    objectives = ObjectiveBuilder(sets, settings, plan, processes, conditioning, potential)
    starts = Starts(first_member, drawn or trained.networks.n_members > 1, conditioned=drawn)
    run = FitRun(trained, objectives, settings, starts, observers)
    shift = torch.tensor(train.energy_shift or (math.nan,) * potential.descriptor.n_elements, dtype=torch.float64)
    for changed in (potential, trained):
        changed.energy_shift.copy_(shift)
    if resume is not None:
        run.restore(resume)
    if drawn:
        run.write_starts()
    try:
        history = run.until_done(should_stop, checkpoint)
    except TrainingFailure:
        never = not any(math.isfinite(loss) for member in run.histories for loss in member.loss)
        if potential.is_physically_informed and never:
            require_sense(run.whole(), run.template.flat(), run.template, train.groups)
        raise
    if test is not None:
        run.score_test()
    if potential.is_physically_informed:
        run.warn_of_negative(history.ranking[0])
    if trained is not potential:
        potential.networks.copy_member(0, trained.networks, history.ranking[0])
    return history


def require_trainable(potential: Potential, settings: FitSettings) -> None:
    """Refuse settings that do not go with the kind of potential.

    Raises:
        InputError: networks of an unknown number of outputs, penalties on local parameters where there are none, or
            J^T J of what is no sum of squares of few residuals.
    """
    energy_model(potential, "train")
    penalties = {f"{name}_penalty": settings.local_penalties[name] for name in ("size", "spread")}
    if not potential.is_physically_informed:
        for name, value in settings.local_penalties.items():
            if value not in (0, getattr(FitSettings, f"{name}_penalty")):  # that of negative ones is on by default
                raise InputError(
                    f"{name}_penalty: expected 0 for {potential.kind}, got {value:g}: it has no local parameters"
                )
        return
    wanting = [settings.optimizer.name] if settings.optimizer.needs is Gives.RESIDUALS else []
    wanting += ["l2 auto"] if settings.l2 == "auto" else []
    for name, value in penalties.items():
        if value and wanting:
            raise InputError(
                f"{name}: expected 0 with {wanting[0]}, got {value:g}: J^T J has no rows for each local parameter of "
                "each atom, LBFGS with a given penalty takes everything"
            )
