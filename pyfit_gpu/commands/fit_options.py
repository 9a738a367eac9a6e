"""Options of the verb `fit`. Nothing heavy is imported here, see options.py."""

from __future__ import annotations

import argparse

from pyfit_gpu.commands.parsing import duration, finite, whole
from pyfit_gpu.commands.reading import add_reading


def add_fit(verb: argparse.ArgumentParser) -> None:
    verb.description = (
        "Everything from data to a potential (docs/fit.md): looks for faults in the data, chooses a network, makes the "
        "training set, trains a committee, finds its uncertainties and errors, writes a report and a potential for "
        "LAMMPS. Each step is printed as the command that does the same. The same command again goes on where an "
        "earlier one was stopped."
    )
    add = verb.add_argument
    add("dft_files", metavar="DATA", nargs="+", help="structures of any format in docs/formats, with energies")
    add("--out", required=True, metavar="DIR", help="folder for all results, which is made")
    add("--time", type=duration, default=1800.0, metavar="T", help="for training: 90s, 30m, 2h (30m)")
    add("--members", type=whole, default=4, metavar="K", help="networks of the committee (4)")
    add("--elements", nargs="+", metavar="SYMBOL", help="their order in the potential (as the data bring them)")
    add("--pinn", action="store_true", help="physically informed networks, docs/pinn.md (straight ones)")
    add("--cutoff", type=finite, metavar="R", help="Å (from the distances in the data, as new --structures)")
    add("--test-groups", nargs="+", metavar="PATTERN", help="whole groups that are only scored; wildcards")
    add("--seed", type=whole, default=2, help="of the split and of the random starts (2)")
    add_reading(verb)
