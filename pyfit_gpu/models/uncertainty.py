"""Uncertainty of a potential's predictions, and the check that it belongs to the potential at hand."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.models.error_bars import ErrorBars
from pyfit_gpu.models.extrapolation import ExtrapolationGrade
from pyfit_gpu.models.potential import Potential


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Extrapolation grade of a potential, and its error bars if they are known."""

    checksum: int  # of the potential's parameters
    elements: tuple[str, ...]
    grade: ExtrapolationGrade
    error_bars: ErrorBars | None = None  # of a potential of one member

    @classmethod
    def of(cls, potential: Potential, grade: ExtrapolationGrade, error_bars: ErrorBars | None = None) -> Uncertainty:
        return cls(parameter_checksum(potential), potential.descriptor.elements, grade, error_bars)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Uncertainty:
        error_bars = None if self.error_bars is None else self.error_bars.to(device, dtype)
        return replace(self, grade=self.grade.to(device, dtype), error_bars=error_bars)

    def empty(self, n_structures: int, n_atoms: int, like: Tensor, *, forces: bool) -> PredictedUncertainty:
        """Allocate what is to be found for some structures, to be filled by `PredictedUncertainty.put`.

        Args:
            forces: whether error bars of forces are wanted.

        Raises:
            InputError: they are, and there are none.
        """
        if forces and self.error_bars is None:
            raise InputError("force_errors: expected an uncertainty with error bars, got one without")
        energy = None if self.error_bars is None else like.new_empty(n_structures)
        return PredictedUncertainty(like.new_empty(n_atoms), energy, like.new_empty(n_atoms, 3) if forces else None)

    def check(self, potential: Potential, name: str = "uncertainty") -> None:
        """Refuse another potential than the one that this belongs to.

        Args:
            potential: in the precision of its file.
            name: of this uncertainty or its file, for messages.

        Raises:
            InputError: with what differs.
        """
        descriptor = potential.descriptor
        if self.elements != descriptor.elements:
            expected, found = ", ".join(descriptor.elements), ", ".join(self.elements)
            raise InputError(f"{name}: expected the elements {expected} of the potential, found {found}")
        if self.grade.n_inputs != descriptor.n_features:
            found = str(self.grade.n_inputs)
            raise InputError(f"{name}: expected {descriptor.n_features} inputs as the potential has, found {found}")
        checksum = parameter_checksum(potential)
        if checksum != self.checksum:
            fault = (
                f"{name}: belongs to another potential: expected the checksum {checksum:08x} of this one's parameters, "
                f"found {self.checksum:08x}"
            )
            if potential.dtype != torch.float64:
                fault += f"; or to this one before it was cast to {str(potential.dtype).removeprefix('torch.')}"
            raise InputError(fault)
        if self.error_bars is not None:
            self.error_bars.check(potential, name)

    def of_potential(self, potential: Potential, name: str = "uncertainty") -> Uncertainty:
        """The same for a potential: the grades alone for one of several members, to one of which this belongs.

        Members have the same inputs, and so the grades; arguments and errors as of `check`.
        """
        if potential.networks.n_members > 1 and self.checksum != parameter_checksum(potential):
            for number in range(potential.networks.n_members):
                if self.checksum == parameter_checksum(member := potential.member(number)):
                    self.check(member, name)
                    return Uncertainty.of(potential, self.grade)
        self.check(potential, name)
        return self


@dataclass(frozen=True, eq=False)
class PredictedUncertainty:
    """Grades of atoms, and standard deviations of energies and forces, in the order of structures and atoms."""

    grade: Tensor  # (n_atoms,)
    energy: Tensor | None  # (B,) eV; None: no error bars
    forces: Tensor | None  # (n_atoms, 3) eV/Å, of each component; None: not asked for

    def to(self, device: torch.device | str, dtype: torch.dtype, *, non_blocking: bool = False) -> PredictedUncertainty:
        def moved(one: Tensor) -> Tensor:
            return one.to(device, dtype, non_blocking=non_blocking)

        energy, forces = (None if one is None else moved(one) for one in (self.energy, self.forces))
        return PredictedUncertainty(moved(self.grade), energy, forces)

    def put(self, part: PredictedUncertainty, rows: Tensor, atoms: Tensor) -> None:
        """Fill in what was found for some structures and their atoms."""
        self.grade[atoms] = part.grade
        if self.energy is not None and part.energy is not None:
            self.energy[rows] = part.energy
        if self.forces is not None and part.forces is not None:
            self.forces[atoms] = part.forces


def parameter_checksum(potential: Potential) -> int:
    """CRC-32 of all members' parameters as float64, little endian, in the order of their files.

    Those of a physically informed network begin with the baseline, if it has one; those of a bare potential have it.
    """
    baseline = b""
    if potential.is_physically_informed and potential.use_baseline and not potential.is_bare:
        baseline = potential.baseline.numpy().astype("<f8").tobytes()
    return zlib.crc32(potential.parameters.numpy().astype("<f8").tobytes(), zlib.crc32(baseline))
