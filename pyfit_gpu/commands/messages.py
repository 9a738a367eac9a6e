"""Messages of the library for users of the command line: options in place of Python's keywords."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

from pyfit_gpu.errors import InputError, Remedy

_WORDS = {
    Remedy.OVERWRITE: "give --overwrite to replace it",
    Remedy.OVERWRITE_OR_NUMBER: "give --overwrite to replace it, --unique to number it",
    Remedy.E_SHIFT: "give --e-shift",
    Remedy.FIND_SHIFT: "only prepare finds shifts from energies",
    Remedy.LABEL_KEY: "name the one to read with --{option} NAME",
    Remedy.STRESS_KEY: "name the one to read with --stress-key NAME or --virial-key NAME",
    Remedy.OTHER_NAMES: "--energy-key NAME, --forces-key NAME ... read labels under other names",
    Remedy.CONVERGED_STEPS: "--vasp-steps converged takes the whole, converged steps alone",
    Remedy.CONVERT: "pyfit-gpu convert {where} SET.h5",
    Remedy.UNITS: "give --units hartree,bohr or --units eV,Ang",
    Remedy.PLUGIN: "pyfit-gpu lammps build compiles it",
    Remedy.UNCERTAINTY: "pyfit-gpu uncertainty build and train --uncertainty write one",
    Remedy.ELEMENTS: "give --type-elements Si,C, in the order of the types",
}


def shown(text: str) -> str:
    """Escape what a terminal would obey or could not show: control characters, directions of writing, surrogates.

    Names in files can hold anything. Line ends stay.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def in_options(error: InputError) -> str:
    """Message of an error for a user of the command line."""
    if error.remedy is None:
        return str(error)
    return f"{error.fault} ({_WORDS[error.remedy].format(where=error.where, option=error.setting.replace('_', '-'))})"


class OptionsFormatter(logging.Formatter):
    """Formats a `Remedy` among a message's arguments as an option, and the whole as `shown`."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple) and any(isinstance(value, Remedy) for value in record.args):
            record = copy.copy(record)
            record.args = tuple(_WORDS[value] if isinstance(value, Remedy) else value for value in record.args or ())
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return shown(super().formatMessage(record))


def found_faults(*checks: Callable[[], None]) -> list[str]:
    """Messages of the checks that fail."""
    found = []
    for check in checks:
        try:
            check()
        except InputError as error:
            found.append(in_options(error))
    return found
