"""The options of the verb `doctor`. Nothing heavy is imported here, see options.py."""

from __future__ import annotations

import argparse

from pyfit_gpu.commands.parsing import finite, numbers
from pyfit_gpu.commands.reading import add_reading


def add_doctor(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("data", metavar="DATA", nargs="+", help="structures of any format in docs/formats, or training sets")
    add(
        "--potential",
        nargs="+",
        default=(),
        metavar="NN",
        help="gives the network inputs, trained or not; several trained members find outliers too",
    )
    add("--cutoff", type=finite, metavar="R", help="Å within which an atom has a neighbour (the potential's, or 6)")
    add("--json", default="", metavar="FILE", help="writes the findings as JSON, with all structures")
    add("--write-clean", default="", metavar="FILE", help=".extxyz: the structures that --leave-out does not name")
    add(
        "--leave-out",
        type=numbers,
        default=(),
        metavar="N,N",
        help="numbers of the findings whose structures are left out",
    )
    add_reading(verb)
