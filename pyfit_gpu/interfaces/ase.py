"""A potential as a calculator of ASE, for molecular dynamics, relaxations and everything else that ASE does.

Energies are on the scale of the DFT data: E = E_nn - sum over atoms of their element's energy shift.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.outputs import Properties
from torch import Tensor

from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.interfaces.ready import Ready
from pyfit_gpu.models.batches import Batch
from pyfit_gpu.models.energy_shift import EnergyShift
from pyfit_gpu.models.extrapolation import ExtrapolationError
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import Spread, predict_batch
from pyfit_gpu.models.uncertainty import PredictedUncertainty, Uncertainty
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.verlet import VerletList

_SPREADS = ("energy_std", "forces_std", "stress_std")
_UNCERTAINTIES = ("extrapolation_grade",)
_ERROR_BARS = ("energy_uncertainty", "forces_uncertainty")
_DERIVATIVES = {"forces", "stress", "forces_std", "stress_std", "forces_uncertainty"}


class PyfitCalculator(Calculator):
    """Energies (eV), forces (eV/Å) and stress (eV/Å^3, ASE's sign and order) of a potential.

    With several members these are means, and `energy_std`, `forces_std` and `stress_std` are the sample standard
    deviations, in `results` and by `get_property`; with an uncertainty, so is the `extrapolation_grade` of each atom,
    and with error bars the standard deviations `energy_uncertainty` (eV, of the total energy) and, only when they are
    asked for, `forces_uncertainty` (eV/Å, of each component), which take several times as long as forces.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012, as in ASE
    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012

    def __init__(
        self,
        potential: Potential | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str = torch.float64,
        skin: float = 0.5,
        e_shift: EnergyShift | None = None,
        uncertainty: Uncertainty | str | os.PathLike[str] | None = None,
        max_grade: float | None = None,
    ) -> None:
        """Make a calculator.

        Args:
            potential: the potential, or its .nn.dat file, or the files of several members. Later changes of its
                parameters have no effect.
            device: "cpu", "cuda:N" or "auto"; None: the potential's own, and "auto" for a file.
            dtype: float64 or float32, of features and networks. Positions, neighbours and results are float64.
            skin: Å, see `VerletList`; 0: neighbours are searched at every calculation.
            e_shift: eV per atom, one number or one for each element; None: the potential's own, or 0 with a warning
                if it is unknown.
            uncertainty: of this potential, or its file; None: the file beside that of the potential, if there is one.
            max_grade: extrapolation grade above which a calculation fails; None: none.

        Raises:
            InputError: a file that is not a potential, files that do not go together, an unknown device, an invalid
                number, an uncertainty of another potential, `max_grade` without one.
        """
        _check_number(max_grade)
        # A copy: `fit` changes parameters in place, which ASE's cache of results would not notice.
        ready = Ready.of(
            potential, "PyfitCalculator", device=device, dtype=dtype, e_shift=e_shift, uncertainty=uncertainty
        )
        self.potential = ready.potential
        self.energy_shift = ready.energy_shift  # (S,) eV per atom
        self.neighbor_list = VerletList(self.potential.neighbor_cutoff, skin)
        self.uncertainty = ready.uncertainty
        if self.uncertainty is None and max_grade is not None:
            fault = "max_grade: expected an uncertainty, which gives the grades, got none"
            raise InputError(fault, remedy=Remedy.UNCERTAINTY)
        self.max_grade = max_grade
        super().__init__()
        if self.potential.networks.n_members > 1:
            self.implemented_properties = [*self.implemented_properties, *_SPREADS]
        if self.uncertainty is not None:
            self.implemented_properties = [*self.implemented_properties, *_UNCERTAINTIES]
            if self.uncertainty.error_bars is not None:
                self.implemented_properties += _ERROR_BARS

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill `results`, with forces and stress only where one of them is asked for. ASE calls this."""
        super().calculate(atoms, properties, system_changes)
        if self.atoms is None:
            raise InputError("calculate: expected an Atoms object, got None")
        frame = _frame(self.atoms, self.potential)
        has_volume = frame.volume > 0
        if not has_volume and not {"stress", "stress_std"}.isdisjoint(properties):
            raise PropertyNotImplementedError(
                f"stress: expected a cell of 3 independent vectors, got {self.atoms.cell.tolist()}"
            )
        batch = self._batch(frame)
        derivatives = not _DERIVATIVES.isdisjoint(properties)
        prediction = predict_batch(
            self.potential,
            batch,
            derivatives=derivatives,
            uncertainty=self.uncertainty,
            force_errors="forces_uncertainty" in properties,
        )
        if prediction.uncertainty is not None:
            self._check_grade(prediction.uncertainty.grade, batch)
        shifts = self.energy_shift[batch.species]
        energy = float(prediction.energy.double() - shifts.sum())
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": _array(prediction.atomic_energies.double() - shifts),
        }
        if prediction.forces is not None and prediction.stress is not None:
            self.results["forces"] = _array(prediction.forces)
            if has_volume:
                self.results["stress"] = _array(prediction.stress[0])
        if prediction.spread is not None:
            self.results |= _spread_results(prediction.spread, has_volume)
        if prediction.uncertainty is not None:
            self.results |= _uncertainty_results(prediction.uncertainty)

    def _check_grade(self, grade: Tensor, batch: Batch) -> None:
        """Fail above the highest grade that is allowed."""
        if self.max_grade is None or self.uncertainty is None or not len(grade) or float(grade.max()) <= self.max_grade:
            return
        atom = int(grade.argmax())
        descriptor = self.potential.descriptor
        inputs = batch.features(descriptor)[atom]
        farthest = self.uncertainty.grade.describe_farthest(inputs, int(batch.species[atom]), descriptor)
        raise ExtrapolationError(
            f"{batch.structures.describe_atom(atom)}: expected an extrapolation grade of at most {self.max_grade:g}, "
            f"got {float(grade[atom]):.4g} (farthest out: {farthest})",
            atom=atom,
            grade=float(grade[atom]),
        )

    def _batch(self, frame: Frame) -> Batch:
        device = self.potential.device
        structures = Structures.from_frames([frame], device=device)
        species = self.potential.species_index(structures)
        return Batch(
            rows=torch.zeros(1, dtype=torch.int64, device=device),
            atoms=torch.arange(len(species), device=device),
            structures=structures,
            species=species,
            neighbors=self.neighbor_list(structures).to(self.potential.dtype),
        )

    def set(self, **settings: Any) -> dict[str, Any]:
        """Refuse all settings: ASE would keep them, but nothing reads them."""
        if settings:
            raise InputError(f"PyfitCalculator: expected settings when it is made, got set({', '.join(settings)})")
        return {}

    def export_properties(self) -> Properties:
        """Results with names that ASE knows; it refuses others."""
        own = (*_SPREADS, *_UNCERTAINTIES, *_ERROR_BARS)
        return Properties({name: value for name, value in self.results.items() if name not in own})

    def _get_name(self) -> str:
        return "pyfit"


def _check_number(max_grade: float | None) -> None:
    if max_grade is not None and not (max_grade > 0 and math.isfinite(max_grade)):
        raise InputError(f"max_grade: expected a number above 0, got {max_grade}")


def _spread_results(spread: Spread, has_volume: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"energy_std": float(spread.energy)}
    if spread.forces is not None and spread.stress is not None:
        found["forces_std"] = _array(spread.forces)
        if has_volume:
            found["stress_std"] = _array(spread.stress[0])
    return found


def _uncertainty_results(found: PredictedUncertainty) -> dict[str, Any]:
    results: dict[str, Any] = {"extrapolation_grade": _array(found.grade)}
    if found.energy is not None:
        results["energy_uncertainty"] = float(found.energy)
    if found.forces is not None:
        results["forces_uncertainty"] = _array(found.forces)
    return results


def _frame(atoms: Atoms, potential: Potential) -> Frame:
    source = "Atoms, counted from 1"
    ghosts = np.flatnonzero(atoms.numbers == 0)
    if len(ghosts):
        # In a file without symbols 0 stands for a potential's only element; in ASE it is X, which is none.
        elements = ", ".join(potential.descriptor.elements)
        raise InputError(f"{source}, atom {ghosts[0] + 1}: expected an element of the potential ({elements}), found X")
    return Frame.of_atoms(atoms, source)


def _array(values: Tensor) -> FloatArray:
    return values.double().cpu().numpy()
