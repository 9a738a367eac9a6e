"""Options of the verbs that read files of structures: what the files leave open. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyfit_gpu.formats.read_options import ReadOptions


def add_reading(verb: argparse.ArgumentParser) -> None:
    """Add the options of `ReadOptions`: what files of structures leave open."""
    add = verb.add_argument_group("how the files are read").add_argument
    add("--energy-key", default="", metavar="NAME", help="name of the energy in the files (the names in use)")
    add("--forces-key", default="", metavar="NAME", help="of the forces")
    add("--stress-key", default="", metavar="NAME", help="of the stress, positive for tension")
    add("--virial-key", default="", metavar="NAME", help="of the virial, eV: stress = -virial / volume")
    add("--group-key", default="", metavar="NAME", help="of the group")
    add("--weight-key", default="", metavar="NAME", help="of the weight")
    add("--vasp-steps", default="all", choices=("all", "converged"), help="converged: leave out the other ionic steps")
    add("--units", default="", metavar="E,L", help="units of files that do not say theirs: eV,Ang or hartree,bohr")
    add("--type-elements", default="", metavar="A,B", help="elements of files whose types are numbers 0, 1, ..: Si,C")


def read_options(options: argparse.Namespace) -> ReadOptions:
    """Collect the options that `add_reading` adds.

    Raises:
        InputError: units or elements that are not known.
    """
    from dataclasses import fields

    from pyfit_gpu.formats.read_options import ReadOptions

    given = {one.name: getattr(options, one.name) for one in fields(ReadOptions) if one.name != "elements"}
    return ReadOptions(**given, elements=tuple(options.type_elements.replace(",", " ").split()))


def reading_words(options: argparse.Namespace) -> list[str]:
    """Write the options that `add_reading` adds and that were given, as words of a command."""
    parser = argparse.ArgumentParser()
    add_reading(parser)
    return [
        word
        for action in parser._actions
        if action.dest != "help" and getattr(options, action.dest) != action.default
        for word in (action.option_strings[0], getattr(options, action.dest))
    ]
