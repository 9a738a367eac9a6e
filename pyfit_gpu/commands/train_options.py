"""The options of the verbs `train` and `plan`. Nothing heavy is imported here, see options.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from pyfit_gpu.commands.parsing import duration, finite, finite_or_auto, whole
from pyfit_gpu.commands.reading import add_reading
from pyfit_gpu.optimizers.known import OPTIMIZERS

if TYPE_CHECKING:
    from pyfit_gpu.optimizers.base import OptimizerSettings


def add_train(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("training_set", metavar="SET", help="HDF5, manifest of shards (.json) or classic text")
    add(
        "--potential",
        required=True,
        nargs="+",
        metavar="NN",
        help="potential to start from (.nn.dat, .pinn); several: members",
    )
    add("--out", required=True, metavar="NN_OUT", help="potential to write; of several members the best")
    add("--steps", type=whole, default=120, help="optimiser steps (120); 0: evaluate and write the logs only")
    add("--members", type=whole, metavar="K", help="train so many random starts at once")
    add("--first-member", type=whole, default=0, metavar="J", help="number of the first member (0)")
    add("--weight-seed", type=whole, help="of random weights (the split's seed)")
    add("--randomize", action="store_true", help="start from random weights")
    add("--baseline", default="keep", choices=("keep", "fit"),
        help="fit: first fit the baseline of a physically informed network alone (keep)")  # fmt: skip
    add("--baseline-starts", type=whole, default=None, metavar="N", help="starts that compete for it (5)")
    add_split(verb.add_argument_group("which structures train").add_argument)
    _add_loss(verb.add_argument_group("what is minimised").add_argument)
    _add_optimizer(verb.add_argument_group("how").add_argument)
    _add_stopping(verb.add_argument_group("when it stops, and how it goes on").add_argument)
    _add_logs(verb.add_argument_group("files").add_argument)
    add_reading(verb)


def add_split(add: Callable[..., Any]) -> None:
    add("--train-fraction", type=finite, metavar="F", help="share of each group that trains (0.9)")
    add("--seed", type=whole, help="of the split (2); 0: a random one")
    add("--test-groups", nargs="+", metavar="PATTERN", help="whole groups that are only scored at the end; wildcards")
    add("--validation", nargs="+", default=(), metavar="FILE",
        help="sets or DFT files that validate: the whole SET trains")  # fmt: skip
    add("--test", nargs="+", default=(), metavar="FILE", help="sets or DFT files that are only scored at the end")
    add("--split", default="", metavar="NAME", help="use the split that the set stores under this name, or store it")


def _add_loss(add: Callable[..., Any]) -> None:
    add_label_weights(add, "with --resume the run's, or else by the scales of the labels")
    add("--group-weight", nargs="+", default=(), metavar="PATTERN=W", help="factor of the weights of whole groups")
    add("--window-weight", nargs="+", default=(), metavar="LOW:HIGH=W",
        help="factor of the weights by energy above the lowest, eV/atom")  # fmt: skip
    add("--group-target", nargs="+", default=(), metavar="PATTERN=E",
        help="energy RMSE of a group, eV/atom, below which it costs nothing")  # fmt: skip
    add("--huber", type=finite, default=0.0, metavar="E",
        help="errors of energies beyond E eV/atom count linearly (0: none do)")  # fmt: skip
    add("--l2", type=finite_or_auto, metavar="C",
        help="prefactor of the penalty on the parameters, or auto: by the evidence (with --resume the run's, or else "
        "1e-4 with lbfgs, auto with the other optimisers)")  # fmt: skip
    for name, what, prefactor in (
        ("negative", "negative A, alpha, B and beta, in plain form also a and lambda", 1),
        ("size", "the squares of the parameters", 0),
        ("spread", "their variance over the atoms", 0),
    ):
        add(f"--{name}-penalty", type=finite, metavar="C",
            help=f"prefactor of that on {what}, of a physically informed network ({prefactor})")  # fmt: skip
    add("--l2-form", choices=("norm", "squared"),
        help="whether --l2 is that of the parameters' norms or squares (with --resume the run's, or else norm with a "
        "number, squared with auto)")  # fmt: skip


def add_label_weights(add: Callable[..., Any], default: str) -> None:
    add("--force-weight", type=finite, metavar="W", help=f"of forces in the loss, Å^2 ({default}; 0: none)")
    add("--stress-weight", type=finite, metavar="W", help=f"of virials per atom in the loss ({default}; 0: none)")


def _add_optimizer(add: Callable[..., Any]) -> None:
    _add_optimizer_name(add)
    _add_settings(add, OPTIMIZERS["auto"])
    add("--conditioning", choices=("half", "std", "centre", "none"),
        help="how the inputs are shifted and scaled while they train (with --resume the run's, or else half; none "
        "where fewer atoms train than there are parameters)")  # fmt: skip
    add("--learning-rate-ramp", type=whole, default=0, metavar="N", help="steps in which it grows to its value (0)")
    add("--error-restart-level", type=float, default=0.0, metavar="E",
        help="a loss above it draws new parameters (0: never)")  # fmt: skip
    add("--memory", metavar="SIZE", help="4G, 512M: beyond it features are read from the file (80 %% of what there is)")
    add("--distribute", default="data", choices=("data", "members"), help="what torchrun's processes share (data)")


def _add_optimizer_name(add: Callable[..., Any]) -> None:
    add("--optimizer", choices=tuple(OPTIMIZERS), default="lbfgs",
        help="auto: LBFGS, then Gauss-Newton once it gains more a second (lbfgs)")  # fmt: skip


def _add_settings(add: Callable[..., Any], kind: type[OptimizerSettings], only: Collection[str] | None = None) -> None:
    """Add options for the settings of an optimiser: name, type and help are those of its fields; None: not given."""
    from dataclasses import fields

    hints = get_type_hints(kind)
    for one in fields(kind):
        if only is not None and one.name not in only:
            continue
        hint, default, text = hints[one.name], one.default, one.metadata["help"]
        if default is not None:
            text += f" ({default})" if isinstance(default, str) else f" ({default:g})".replace("e-0", "e-")
        how: dict[str, Any] = {"choices": get_args(hint)} if get_origin(hint) is Literal else {}
        if not how:
            is_whole = int in (hint, *get_args(hint))  # int, or int | None
            how = {"type": whole if is_whole else finite, "metavar": one.metadata["metavar"]}
        add(f"--{one.name.replace('_', '-')}", help=text, **how)


def _add_stopping(add: Callable[..., Any]) -> None:
    add("--validation-interval", type=whole, default=1, metavar="N", help="steps between validations (1; 0: never)")
    add("--patience", type=whole, default=0, metavar="N",
        help="stop after N validations without improvement (0: never)")  # fmt: skip
    add("--min-improvement", type=finite, default=0.0, metavar="E",
        help="smallest decrease that counts as one, eV/atom (0)")  # fmt: skip
    add("--target-rmse", type=finite, default=0.0, metavar="E", help="energy RMSE that ends it, eV/atom (0: never)")
    add("--max-time", type=duration, default=0.0, metavar="T",
        help="90s, 30m, 2h, minutes or H:MM:SS, ends before it (0: never)")  # fmt: skip
    add("--keep", default="best", choices=("best", "last"), help="parameters of the best validation or the last (best)")
    add("--stop-file", metavar="FILE", help="training ends when it is there (NN_OUT's stem + .stop; '' for none)")
    add("--resume", action="store_true", help="go on with the run file, if there is one")
    add("--allow-change", nargs="+", default=(), metavar="NAME", help="settings that may differ from the run's")
    add("--checkpoint-interval", type=finite, default=30.0, metavar="S", help="seconds between run files (30)")


def _add_logs(add: Callable[..., Any]) -> None:
    add("--run-file", metavar="FILE", help="to resume from (NN_OUT's stem + .run.h5; '' for none)")
    add("--ranking", metavar="FILE", help="of the members (NN_OUT's stem + .ranking.csv; '' for none)")
    add("--uncertainty", action="store_true",
        help="write grades and error bars too (NN_OUT's stem + .uncertainty.txt)")  # fmt: skip
    add("--live", default="", metavar="FILE.html", help="page of curves and errors, rewritten every few seconds")
    add("--loss-log", metavar="FILE", help="(NN_OUT's stem + .loss.txt; '' for none)")
    add("--validation-log", metavar="FILE", help="(NN_OUT's stem + .validation.txt; '' for none)")
    add("--group-log", metavar="FILE", help="errors by group (NN_OUT's stem + .groups.csv; '' for none)")
    add("--energy-volume-log", default="", metavar="FILE", help="predicted energies of the training structures (none)")
    add("--energy-volume-interval", type=whole, default=1, metavar="N", help="steps between its rows (1)")
    add("--backup-dir", metavar="DIR", help="folder of network backups (NN_OUT's stem + .backup; '' for none)")
    add("--backup-interval", type=whole, default=25, metavar="N", help="steps between backups (25; 0: never)")


def add_plan(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("training_set", metavar="SET", help="HDF5, manifest of shards (.json) or classic text")
    add("--potential", required=True, metavar="NN", help="potential (.nn.dat, .pinn) to train")
    add("--members", type=whole, default=1, metavar="K", help="networks trained at once (1)")
    add("--memory", metavar="SIZE", help="limit, such as 4G or 512M, of the GPU or else the process (0.8 of all)")
    _add_optimizer_name(add)
    _add_settings(add, OPTIMIZERS["auto"], only=OPTIMIZERS["auto"].fixed)
    add("--l2", type=finite_or_auto, metavar="C", help="as for train (1e-4 with lbfgs, auto with the other optimisers)")
    add_label_weights(add, "by the scales of the labels")
