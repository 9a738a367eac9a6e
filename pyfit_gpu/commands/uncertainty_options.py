"""Options of the verb `uncertainty`, which has one task."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from pyfit_gpu.commands.parsing import finite
from pyfit_gpu.commands.reading import add_reading

Adder = Callable[[Callable[..., Any]], None]


def add_uncertainty(verb: argparse.ArgumentParser, *, split: Adder, weights: Adder) -> argparse.ArgumentParser:
    """Add the task `build` to the verb's parser, and return that of the task.

    Args:
        split, weights: add the options of `train` for which structures train, and for the weights of labels.
    """
    verb.description = "Grades of extrapolation and error bars of a potential (docs/uncertainty.md)."
    tasks = verb.add_subparsers(metavar="TASK", required=True)
    task: argparse.ArgumentParser = tasks.add_parser("build", help="write the uncertainty file beside a potential")
    task.set_defaults(task="build")
    task.description = (
        "Write what is known about the errors of a potential beside it (docs/uncertainty.md): for each atom a grade "
        "of extrapolation, for energies and forces error bars, calibrated on validation structures. For any "
        "potential, from the set that trained it. With the run file beside the potential, split and weights are the "
        "run's."
    )
    add = task.add_argument
    add("training_set", metavar="SET", help="that trained it: HDF5, manifest of shards (.json) or classic text")
    add(
        "--potential", required=True, nargs="+", metavar="NN",
        help="potential (.nn.dat, .pinn); several: a file for each",
    )  # fmt: skip
    add("--out", metavar="FILE", help="uncertainty file to write (NN's stem + .uncertainty.txt)")
    split(task.add_argument_group("which structures train, and which calibrate").add_argument)
    own = task.add_argument_group("error bars").add_argument
    weights(own)
    own("--error-bars", choices=("last-layer", "all-parameters"), default="last-layer",
        help="parameters that they come from; all take more time and a larger file (last-layer)")  # fmt: skip
    own("--penalty", type=finite, metavar="A",
        help="on the squares of these parameters, beside the squared loss (by the evidence)")  # fmt: skip
    add_reading(task)
    return task
