"""Exceptions with a message for the user: what was given cannot be used, or work that was right fails.

The command line turns an `InputError` into a message and exit status 2, a `Failure` into a message and status 1; any
other exception is a defect of the program and keeps its traceback.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

_SCREEN = 1_800  # characters, 24 lines with room for a remedy


class Remedy(enum.Enum):
    """Way out of an error, in Python's terms; the command line has its own text for each (commands/messages.py)."""

    OVERWRITE = "overwrite=True replaces it"
    OVERWRITE_OR_NUMBER = "overwrite=True replaces it, or give another name"
    E_SHIFT = "give e_shift"
    FIND_SHIFT = "pyfit_gpu.models.energy_shift.find_shift finds one from the energies of structures"
    LABEL_KEY = "ReadOptions names the one to read, as energy_key='REF_energy'"
    STRESS_KEY = "ReadOptions names the one to read: stress_key='REF_stress' or virial_key='REF_virial'"
    OTHER_NAMES = "ReadOptions(energy_key=..., forces_key=...) reads labels under other names"
    CONVERGED_STEPS = "vasp_steps='converged' takes the whole, converged steps alone"
    CONVERT = "save_training_set writes it as HDF5"
    UNITS = "give units='hartree,bohr' or units='eV,Ang'"
    PLUGIN = "pyfit_gpu.interfaces.lammps.build.build_plugin compiles it"
    UNCERTAINTY = "build_extrapolation_grade and build_error_bars find it, save_uncertainty writes it"
    ELEMENTS = "give elements=('Si', 'C'), in the order of the types"

    def __str__(self) -> str:
        return self.value


def shortened(items: Iterable[object], *, most: int = 6, separator: str = ", ") -> str:
    """Join items for a message, only the first ones and the number of the others where there are many."""
    texts = [str(item) for item in items]
    if len(texts) > most + 1:
        texts[most:] = [f"... ({len(texts) - most} more)"]
    return separator.join(texts)


def how_many(n: int, what: str = "structure") -> str:
    """Count things in words: 1 structure, 2 structures."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def a_screenful(text: str) -> str:
    """Cut the middle out of a message that a word from a damaged file has made longer than a screen."""
    return text if len(text) <= _SCREEN else f"{text[: _SCREEN - 300]} ... {text[-200:]}"


class Failure(RuntimeError):
    """Work ends early, although all that was given can be used."""


class InputError(ValueError):
    """A file, option or value from outside is wrong; the message says name, expected, got, where."""

    def __init__(self, fault: str, *, setting: str = "", where: str = "", remedy: Remedy | None = None) -> None:
        """Make an error.

        Args:
            fault: the message, without the remedy.
            setting: name in Python of the faulty setting.
            where: file, and line or other place in it, if the message says it.
            remedy: the way out.
        """
        fault = a_screenful(fault)
        super().__init__(fault if remedy is None else f"{fault} ({remedy})")
        self.fault = fault
        self.setting = setting
        self.where = where
        self.remedy = remedy

    def at(self, where: str) -> InputError:
        """Copy with the place in front of the message."""
        return InputError(f"{where}: {self.fault}", setting=self.setting, where=where, remedy=self.remedy)
