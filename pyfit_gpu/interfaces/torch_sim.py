"""A potential as a model of torch-sim: molecular dynamics and relaxations of many systems at once.

Energies are on the scale of the DFT data: E = E_nn - sum over atoms of their element's energy shift.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.interfaces.ready import Path, Ready
from pyfit_gpu.interfaces.systems import MovingSystems
from pyfit_gpu.models.energy_shift import EnergyShift
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import Prediction
from pyfit_gpu.models.uncertainty import Uncertainty

try:
    from torch_sim.models.interface import ModelInterface
    from torch_sim.state import SimState
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "PyfitModel needs torch-sim: pip install 'pyfit-gpu[torch-sim]' (its newest versions need Python 3.12, this is "
        f"Python {sys.version_info.major}.{sys.version_info.minor}; missing: {error.name})",
        name=error.name,
    ) from error

_VOIGT = (0, 5, 4, 5, 1, 3, 4, 3, 2)  # which of xx yy zz yz xz xy stands at each place of a matrix


class PyfitModel(ModelInterface):  # type: ignore[misc]  # without torch-sim its class is Any
    """Energies (eV), forces (eV/Å) and stress (eV/Å^3) of a potential for all systems of a torch-sim state.

    With several members these are means, and `energy_std`, `forces_std` and `stress_std` are the sample standard
    deviations; with an uncertainty there are the `extrapolation_grade` of each atom and, with error bars,
    `energy_uncertainty`, the standard deviation of the total energy. All results are detached and have the state's
    dtype. A system that cannot be computed gets NaN and does not stop the others (`MovingSystems`).
    """

    def __init__(
        self,
        potential: Potential | Path | Sequence[Path],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str = torch.float64,
        compute_forces: bool = True,
        compute_stress: bool = True,
        skin: float = 0.5,
        late: bool = False,
        e_shift: EnergyShift | None = None,
        uncertainty: Uncertainty | Path | None = None,
    ) -> None:
        """Make a model.

        Args:
            potential: the potential, or its .nn.dat file, or the files of several members. Later changes of its
                parameters have no effect.
            device: "cpu", "cuda:N" or "auto"; None: the potential's own, and "auto" for a file.
            dtype: float64 or float32, of features and networks, and what torch-sim's runners cast states to. A state
                of another precision is taken as it is: in float64 positions and results keep their digits.
            skin: Å, see `VerletList`; 0: neighbours are searched at every call.
            late: whether what a GPU finds out about its lists of neighbours is read one call later, so that no call
                waits for it: for dynamics, where no step is twice as long as the one before (moving.py).
            e_shift: eV per atom, one number or one for each element; None: the potential's own, or 0 with a warning
                if it is unknown.
            uncertainty: of this potential, or its file; None: the file beside that of the potential, if there is one.

        Raises:
            InputError: as `PyfitCalculator`.
        """
        super().__init__()
        ready = Ready.of(potential, "PyfitModel", device=device, dtype=dtype, e_shift=e_shift, uncertainty=uncertainty)
        self.potential, self.energy_shift, self.uncertainty = ready.potential, ready.energy_shift, ready.uncertainty
        self._device, self._dtype = self.potential.device, self.potential.dtype
        self._compute_forces, self._compute_stress = compute_forces, compute_stress
        self.skin, self.late = skin, late
        self._systems: MovingSystems | None = None
        self._shifts = self.energy_shift  # eV, of each atom of the systems, and
        self._sums_of_shifts = self.energy_shift  # of each system
        self._systems_stamp: _Stamp | None = None
        self._cells_stamp: _Stamp | None = None

    @property
    def compute_forces(self) -> bool:
        """Whether forces are computed."""
        return self._compute_forces

    @compute_forces.setter
    def compute_forces(self, compute_forces: bool) -> None:
        self._compute_forces = compute_forces

    @property
    def compute_stress(self) -> bool:
        """Whether the stress is computed."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, compute_stress: bool) -> None:
        self._compute_stress = compute_stress

    @torch.no_grad()
    def forward(self, state: Any, **ignored: Any) -> dict[str, Tensor]:
        """Compute everything for all systems of a state.

        Args:
            state: a `SimState`, or the dictionary that one is made from.

        Returns:
            `energy` (B,), `energies` (n,) of the atoms, `forces` (n, 3), `stress` (B, 3, 3), and what the class names.

        Raises:
            InputError: an element that the potential lacks.
            ValueError: a state on another device.
        """
        if isinstance(state, dict):
            state = SimState(**state)
        if state.positions.device != self._device:
            raise ValueError(f"PyfitModel: the state is on {state.positions.device}, the potential on {self._device}")
        systems = self._systems_of(state)
        self._take_cells(systems, state)
        positions = state.positions.detach()
        derivatives = self._compute_forces or self._compute_stress
        found = self._results(systems.predict(positions, derivatives=derivatives))
        return {name: value.to(positions.dtype) for name, value in found.items()}

    def _systems_of(self, state: Any) -> MovingSystems:
        """The systems of the call before, if sizes and elements are the same, and else new ones."""
        owners, numbers = state.system_idx, state.atomic_numbers
        before, self._systems = self._systems, None  # none, should the following fail
        stamp = _Stamp(owners, numbers)
        if before is None or not (stamp == self._systems_stamp or _are_systems(before, owners, numbers)):
            before = self._make_systems(owners, numbers.long())
            self._cells_stamp = None
        self._systems, self._systems_stamp = before, stamp
        return before

    def _make_systems(self, owners: Tensor, numbers: Tensor) -> MovingSystems:
        if bool((numbers == 0).any()):
            # In a file without symbols 0 stands for a potential's only element; in a simulation it is none.
            elements = ", ".join(self.potential.descriptor.elements)
            raise InputError(f"atomic_numbers: expected elements of the potential ({elements}), found 0")
        sizes = torch.bincount(owners).tolist()
        systems = MovingSystems(
            self.potential, sizes, numbers.clone(), skin=self.skin, late=self.late, uncertainty=self.uncertainty
        )
        self._shifts = self.energy_shift[systems.species]
        self._sums_of_shifts = self._shifts.new_zeros(len(sizes)).index_add(0, systems.owners, self._shifts)
        return systems

    def _take_cells(self, systems: MovingSystems, state: Any) -> None:
        stamp = _Stamp(state.cell, state.pbc)
        if stamp != self._cells_stamp:
            # Columns are the vectors. A copy: integrators change cells in place.
            cell = state.cell.detach().mT.clone(memory_format=torch.contiguous_format)
            pbc = torch.as_tensor(state.pbc, dtype=torch.bool, device=self._device).expand(len(cell), 3)
            systems.set_cells(cell, pbc.clone())
            self._cells_stamp = stamp

    def _results(self, found: Prediction) -> dict[str, Tensor]:
        results = {
            "energy": found.energy.double() - self._sums_of_shifts,
            "energies": found.atomic_energies.double() - self._shifts,
        }
        if found.spread is not None:
            results["energy_std"] = found.spread.energy
        for part, ending in ((found, ""), (found.spread, "_std")):
            if part is not None and part.forces is not None and part.stress is not None:
                if self._compute_forces:
                    results[f"forces{ending}"] = part.forces
                if self._compute_stress:
                    six = part.stress.unbind(dim=1)
                    results[f"stress{ending}"] = torch.stack([six[k] for k in _VOIGT], dim=1).unflatten(1, (3, 3))
        if found.uncertainty is not None:
            results["extrapolation_grade"] = found.uncertainty.grade
            if found.uncertainty.energy is not None:
                results["energy_uncertainty"] = found.uncertainty.energy
        return results


class _Stamp:
    """Compares values with those of an earlier call: tensors by identity and version, so that nothing waits."""

    def __init__(self, *values: Any) -> None:
        self._values = values
        self._versions = [one._version if torch.is_tensor(one) and not one.is_inference() else None for one in values]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Stamp) or self._versions != other._versions:
            return False
        pairs = zip(self._values, other._values, self._versions, strict=True)
        # Tensors of inference mode have no version: nobody knows whether they were changed.
        return all(a is b and (version is not None or not torch.is_tensor(a)) for a, b, version in pairs)

    __hash__ = None  # type: ignore[assignment]


def _are_systems(systems: MovingSystems, owners: Tensor, numbers: Tensor) -> bool:
    pairs = ((systems.owners, owners), (systems.atomic_numbers, numbers))
    return all(known.shape == given.shape and bool((known == given).all()) for known, given in pairs)
