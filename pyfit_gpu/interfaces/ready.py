"""A potential made ready for another program: on its device, in its precision, with energy shift and uncertainty."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.devices import select_device, select_dtype
from pyfit_gpu.formats.opening import find_uncertainty, load_potentials, load_uncertainty_of
from pyfit_gpu.models.energy import energy_model
from pyfit_gpu.models.energy_shift import EnergyShift, evaluation_shift
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.uncertainty import Uncertainty

Path = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Ready:
    """A copy of a potential, which `fit` does not change, and what belongs to it."""

    potential: Potential
    energy_shift: Tensor  # (S,) eV per atom, float64, to take off its energies
    uncertainty: Uncertainty | None

    @classmethod
    def of(
        cls,
        potential: Potential | Path | Sequence[Path],
        purpose: str,
        *,
        device: torch.device | str | None,
        dtype: torch.dtype | str,
        e_shift: EnergyShift | None,
        uncertainty: Uncertainty | Path | None,
    ) -> Ready:
        """Load what is a file, and move everything to one device.

        Args:
            potential: the potential, or its file, or the files of several members.
            purpose: what it is wanted for, for messages.
            device: None: the potential's own, and a GPU if there is one for a file.
            dtype: of features and networks.
            e_shift: as for `evaluation_shift`.
            uncertainty: of this potential, or its file; None: the file beside that of the potential, if there is one.

        Raises:
            InputError: a file that is not a potential, files that do not go together, an unknown device, an invalid
                number, an uncertainty of another potential.
        """
        if not isinstance(potential, Potential):
            paths, potential = potential, load_potentials(potential)
            device = "auto" if device is None else device
            uncertainty = find_uncertainty(paths, potential) if uncertainty is None else uncertainty
        energy_model(potential, purpose)
        device = potential.device if device is None else select_device(str(device))
        dtype = select_dtype(str(dtype).removeprefix("torch."))
        shift = torch.tensor(evaluation_shift(potential, e_shift), dtype=torch.float64, device=device)
        if isinstance(uncertainty, Uncertainty):
            uncertainty = uncertainty.of_potential(potential)
        elif uncertainty is not None:
            uncertainty = load_uncertainty_of(uncertainty, potential)
        return cls(
            copy.deepcopy(potential).to(device, dtype),
            shift,
            None if uncertainty is None else uncertainty.to(device, dtype),
        )
