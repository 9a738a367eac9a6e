"""The options of the verb `select`. Nothing heavy is imported here, see options.py."""

from __future__ import annotations

import argparse

from pyfit_gpu.commands.parsing import whole
from pyfit_gpu.commands.reading import add_reading
from pyfit_gpu.datasets.selection_methods import METHODS, UNCERTAINTIES

WAYS = (*(method for method in METHODS if method != "uncertainty"), *UNCERTAINTIES)


def add_select(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("pool", metavar="POOL", nargs="+", help="structures of any format in docs/formats, labels or not")
    add(
        "--potential",
        required=True,
        nargs="+",
        metavar="NN",
        help="gives the network inputs, trained or not; several: their spread is an uncertainty",
    )
    add("-n", type=whole, required=True, metavar="N", help="structures to choose")
    add("--out", required=True, metavar="FILE", help=".extxyz: the chosen ones, the first choice first")
    add("--known", nargs="+", default=(), metavar="FILE", help="sets or structures that are there already")
    add("--method", default=METHODS[0], choices=WAYS, metavar="HOW", help=f"{', '.join(WAYS)} ({METHODS[0]})")
    add("--uncertainty", default="", metavar="FILE", help="for grade and error-bar (NN's stem + .uncertainty.txt)")
    add("--seed", type=whole, default=0, metavar="N", help="of the method random (0)")
    add_reading(verb)
