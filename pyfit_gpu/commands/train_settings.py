"""Options of `train` and `plan` as keywords of Python. Nothing heavy is imported until it is needed, see verbs.py."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from pyfit_gpu.commands.reading import read_options

FIT = ("steps", "learning_rate_ramp", "l2", "l2_form", "conditioning", "force_weight", "stress_weight",
       "huber", "negative_penalty", "size_penalty", "spread_penalty", "error_restart_level",
       "validation_interval", "patience", "min_improvement", "target_rmse", "max_time",
       "keep")  # fmt: skip


def given_settings(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Settings that the command gives, without those that it leaves open."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def optimizer_of(options: argparse.Namespace, name: str) -> Any:
    """Settings of the optimiser that were given.

    Raises:
        InputError: one that this optimiser does not have.
    """
    from dataclasses import fields

    from pyfit_gpu.errors import InputError
    from pyfit_gpu.optimizers.known import OPTIMIZERS

    names = {one.name for kind in OPTIMIZERS.values() for one in fields(kind)}
    given = given_settings(options, (one for one in names if hasattr(options, one)))
    own = {one.name for one in fields(OPTIMIZERS[name])}
    foreign = sorted(given.keys() - own)
    if foreign:
        option = f"--{foreign[0].replace('_', '-')}"
        others = [other for other, kind in OPTIMIZERS.items() if foreign[0] in {one.name for one in fields(kind)}]
        raise InputError(f"{option}: expected with --optimizer {' or '.join(others)} alone, the optimiser is {name}")
    return OPTIMIZERS[name](**given)


def split_of(options: argparse.Namespace) -> Any:
    """The split that the command asks for, `SplitOptions`."""
    from pyfit_gpu.commands.train.options import SplitOptions

    return SplitOptions(
        options.split,
        options.train_fraction,
        options.seed,
        None if options.test_groups is None else tuple(options.test_groups),
        tuple(options.validation),
        tuple(options.test),
        read_options(options),
    )


def outputs_of(options: argparse.Namespace) -> Any:
    """The files that `train` writes, `TrainingOutputs`."""
    from pyfit_gpu.commands.train.outputs import TrainingOutputs

    return TrainingOutputs(
        network=options.out,
        loss_log=path_of(options, options.loss_log, ".loss.txt"),
        validation_log=path_of(options, options.validation_log, ".validation.txt"),
        group_log=path_of(options, options.group_log, ".groups.csv"),
        energy_volume_log=options.energy_volume_log,
        energy_volume_interval=options.energy_volume_interval,
        backup_dir=path_of(options, options.backup_dir, ".backup"),
        backup_interval=options.backup_interval,
        run_file=path_of(options, options.run_file, ".run.h5"),
        ranking=path_of(options, options.ranking, ".ranking.csv"),
        uncertainty=path_of(options, None, ".uncertainty.txt") if options.uncertainty else "",
        live=options.live,
    )


def path_of(options: argparse.Namespace, name: str | None, ending: str) -> str:
    """Name that was given, or the output's stem with this ending."""
    from pyfit_gpu.commands.train.outputs import beside

    return beside(options.out, ending) if name is None else name
