"""Reports before and after a fit: messages in the log, and a ranking of its members."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.commands.train.outputs import TrainingOutputs
from pyfit_gpu.commands.train.row_file import read_number, read_table, table_row
from pyfit_gpu.datasets.splits import Split
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError, shortened
from pyfit_gpu.files import atomic_text
from pyfit_gpu.log import log
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.training.history import History, LabelErrors, MemberHistory
from pyfit_gpu.training.loss import TERMS, weighted_terms
from pyfit_gpu.training.settings import FitSettings


def announce(
    potential: Potential, parts: Mapping[str, TrainingSet], settings: FitSettings, split: Split, setup: Setup
) -> None:
    """Log which networks train on which structures, and how.

    Args:
        parts: the structures that train, validate and test.
    """
    sizes = "-".join(str(size) for size in potential.networks.layer_sizes)
    n_members = potential.networks.n_members
    several = f"{n_members} members, each " if n_members > 1 else ""
    log.info("%snetwork %s (%d parameters), %s, %s",
             several, sizes, potential.networks.n_parameters, setup.dtype, setup.device)  # fmt: skip
    parts = {name: part for name, part in parts.items() if name != "test" or len(part)}
    counts = ", ".join(f"{len(part)} {'structures ' * (name == 'train')}{name} ({part.n_atoms} atoms)"
                       for name, part in parts.items())  # fmt: skip
    log.info("%s, split seed %d", counts, split.seed)
    log.info("labels: %s", ", ".join(f"{_count_labels(part)} {name}" for name, part in parts.items()))
    weights = settings.loss_weights
    if any(weights.values()):
        shown = (
            f"{term.weight_name.removesuffix('_weight')} {weights[term.name]:g} {term.weight_unit}".rstrip()
            for term in weighted_terms()
        )
        log.info("weights: energy 1, %s", ", ".join(shown))
    elif bool(parts["train"].has_forces.any()):
        log.info("energies alone train; forces are known, and take part with a force weight (--force-weight 0.1)")
    if settings.patience and not (len(parts["validate"]) and settings.validation_interval):
        log.warning("patience: nothing validates, so it ends nothing")
    log.info("%d steps of %s", settings.steps, settings.optimizer.describe())


def _count_labels(part: TrainingSet) -> str:
    counts = {term.name: int((term.known(part) & (part.weight > 0)).sum()) for term in TERMS}
    energies = counts.pop("energy")
    others = (f"{count} {'' if k else 'structures '}with {name}" for k, (name, count) in enumerate(counts.items()))
    return ", ".join([f"{energies} energies", *others])


def summarize(history: History, outputs: TrainingOutputs, seconds: float) -> None:
    """Log how the fit ended: for several members the best one, and where the others are."""
    best = history.best
    if outputs.members:
        _summarize_members(history, outputs)
    log.info(
        "%s after %d steps: loss %.6e eV/atom (start %.6e)%s, %d evaluations in %.2f s",
        _end(history, best),
        best.step,
        best.loss[-1],
        best.loss[0],
        _validation(best),
        history.n_evaluations,
        seconds,
    )
    if best.kept_step != best.step and best.validation:
        log.info("kept: the parameters of step %d, with the least validation loss", best.kept_step)
    kept = best.errors[min(best.kept_step, len(best.errors) - 1)]
    for name, errors in (("training", kept), ("validation", best.kept_validation_errors)):
        if errors is not None and len(errors) > 1:
            log.info("%s RMSE: %s", name, describe_errors(errors))
    if best.test is not None:
        log.info("test RMSE: %s", describe_errors(best.test))
        lines = (f"{group}: energy {1000 * error:.3f} meV/atom" for group, error in best.test_group_errors.items())
        for line in shortened(lines, most=20, separator="\n").split("\n"):
            log.info("  %s", line)
    if best.loss[-1] > best.loss[0]:
        log.warning("the loss is larger than at the start: training diverged (try a smaller learning rate)")
    if best.gave_up:
        log.warning("the loss was above error_restart_level after every restart: the last network is written")
    log.info("wrote %s", outputs.network)


def _end(history: History, best: MemberHistory) -> str:
    if history.end != "done":
        return {"interrupted": "interrupted", "time": "out of time"}[history.end]
    said = {"gave up": "gave up", "patience": "no more improvement", "target": "target reached", "failed": "failed"}
    return said.get(best.status, "done")


def _validation(best: MemberHistory) -> str:
    if not best.validation:
        return ""
    step, value = max(best.validation.items())
    least_at = min(best.validation, key=best.validation.__getitem__)
    least = f"; least {best.validation[least_at]:.6e} at step {least_at}" if least_at != step else ""
    return f", validation {value:.6e} (step {step}{least})"


def _summarize_members(history: History, outputs: TrainingOutputs) -> None:
    scores = [member.score for member in history.members if math.isfinite(member.score)]
    failed = len(history.members) - len(scores)
    log.info(
        "%d members: score %.6e to %.6e eV/atom%s; best is member %d%s",
        len(history.members),
        min(scores, default=math.nan),
        max(scores, default=math.nan),
        f", {failed} without a result" if failed else "",
        outputs.members[history.ranking[0]],
        f", ranking in {outputs.ranking}" if outputs.ranking else "",
    )


def describe_errors(errors: LabelErrors) -> str:
    """Describe every error in words, in the unit that people read."""
    return ", ".join(term.described(errors[term.name]) for term in TERMS if term.name in errors)


def write_ranking(history: History, outputs: TrainingOutputs) -> None:
    """Write the members from best to worst, with the errors of the parameters that are kept, eV/atom and eV/Å."""
    ranked = [term.name for term in TERMS if term.ranked]
    columns = ("rank", "member", "score", "kept_step", "steps", "status", "restarts", "training_loss",
               "validation_loss", *(f"validation_{name}" for name in ranked), *(f"test_{name}" for name in ranked),
               "network")  # fmt: skip
    files = [own.network for own in outputs.of_members()]
    with atomic_text(outputs.ranking) as file:
        file.write(table_row(columns))
        for rank, k in enumerate(history.ranking, 1):
            one = history.members[k]
            errors = [
                found.get(name) if found else None
                for found in (one.kept_validation_errors, one.test)
                for name in ranked
            ]
            values = (one.score, one.kept_step, one.step, one.status, one.n_restarts, one.loss[one.kept_step],
                      one.kept_validation, *errors)  # fmt: skip
            shown = [f"{value:.6e}" if isinstance(value, float) else "" if value is None else value for value in values]
            file.write(table_row((rank, outputs.members[k], *shown, os.path.basename(files[k]))))


def describe_ranking(path: Path) -> list[str]:
    """Lines about a ranking: the best three."""
    names, rows = read_table(path)
    if not {"rank", "member", "score", "network"} <= set(names):
        raise InputError(f"{path}: expected columns rank, member, score and network, found {', '.join(names)[:60]}")
    lines = [f"members       {len(rows)}"]
    for row in (dict(zip(names, cells, strict=True)) for cells in rows[:3]):
        score = read_number(row["score"], path)
        lines.append(f"rank {row['rank']:<8} member {row['member']}, score {score:.4e} eV/atom, {row['network']}")
    return lines
