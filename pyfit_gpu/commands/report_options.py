"""The options of the verb `report`. Nothing heavy is imported here, see options.py."""

from __future__ import annotations

import argparse

from pyfit_gpu.commands.reading import add_reading

PARTS = ("errors", "physics", "training", "doctor", "data")


def add_report(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("dft_files", metavar="DATA", nargs="*", help="structures with labels, of any format in docs/formats")
    add("--potential", required=True, nargs="+", metavar="NN",
        help="potential (.nn.dat, .pinn) or run file; several: mean and spread")  # fmt: skip
    add("--set", dest="training_set", metavar="SET", help="training set, whose structures are evaluated too")
    add("--out", required=True, metavar="DIR", help="folder for report.html, report.json and the plots as PNG")
    add("--gate", metavar="FILE", help="limits (JSON5); exit status 1 if one is broken")
    add(
        "--references",
        metavar="FILE",
        help='values of physical properties to compare with (JSON5), as {"C11 of diamond": 160}',
    )
    add("--parts", metavar="NAME,..",
        help=f"what the report holds, parts of the physics one by one too ({','.join(PARTS)})")  # fmt: skip
    add("--e-shift", metavar="X", help="eV per atom, one number or Si=X,C=Y (the potential's own)")
    add("--uncertainty", metavar="FILE", help="uncertainty file, or none (the one beside the potential)")
    add_reading(verb)
