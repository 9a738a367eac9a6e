"""What is known about the uncertainty of a potential's predictions, and which potential it belongs to."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import torch

from pyfit_gpu.errors import InputError
from pyfit_gpu.models.extrapolation import ExtrapolationGrade
from pyfit_gpu.models.potential import Potential


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Extrapolation grade of a potential."""

    checksum: int  # of the potential's parameters
    elements: tuple[str, ...]
    grade: ExtrapolationGrade

    @classmethod
    def of(cls, potential: Potential, grade: ExtrapolationGrade) -> Uncertainty:
        return cls(parameter_checksum(potential), potential.descriptor.elements, grade)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Uncertainty:
        return replace(self, grade=self.grade.to(device, dtype))

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
            raise InputError(
                f"{name}: belongs to another potential: expected the checksum {checksum:08x} of this one's parameters, "
                f"found {self.checksum:08x}"
            )


def parameter_checksum(potential: Potential) -> int:
    """CRC-32 of all members' parameters as float64, little endian, in the order of their files."""
    flat = potential.networks.flat().detach().to("cpu", torch.float64).numpy()
    return zlib.crc32(flat.astype("<f8").tobytes())
