"""Choices of a user for what files of structures leave open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, get_args

from ase.data import chemical_symbols

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.units import parse_unit_system

VaspSteps = Literal["all", "converged"]
Wanted = Callable[[int], bool]  # whether the structure with this number in the file must be a frame


@dataclass(frozen=True)
class ReadOptions:
    """Choices for reading files of structures. An empty name stands for the names that programs write."""

    energy_key: str = ""  # name of the energy in the file
    forces_key: str = ""
    stress_key: str = ""  # of a stress, ASE's sign
    virial_key: str = ""  # of a virial, eV: stress = -virial / volume
    group_key: str = ""
    weight_key: str = ""
    vasp_steps: VaspSteps = "all"  # "converged": leave out ionic steps that are incomplete or not converged
    units: str = ""  # energy,length of formats that do not say theirs: "eV,Ang", "hartree,bohr"
    elements: tuple[str, ...] = ()  # of types 0, 1, .. in formats whose types are numbers

    def __post_init__(self) -> None:
        if self.vasp_steps not in get_args(VaspSteps):
            raise InputError(f"vasp_steps: expected one of {', '.join(get_args(VaspSteps))}, got {self.vasp_steps!r}")
        if self.stress_key and self.virial_key:
            raise InputError("stress_key: expected without virial_key: both give the stress", setting="stress_key")
        if self.units:
            parse_unit_system(self.units)
        for symbol in self.elements:
            if symbol not in chemical_symbols[1:]:
                raise InputError(f"elements: expected chemical symbols, got {symbol!r}", setting="elements")


LEFT_OPEN = ("units", "elements")  # what some formats do not say
LABEL_KEYS = tuple(one.name for one in fields(ReadOptions) if one.name.endswith("_key"))
