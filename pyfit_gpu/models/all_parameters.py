"""Variances of energies and forces, up to the factor of a label, from the covariance of all parameters.

The derivatives of predictions are rows of the Jacobian as training makes them (network_jacobian.py, force_rows.py). All
is float64: variances are small differences of large numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.devices import require_memory
from pyfit_gpu.models.batches import Batch
from pyfit_gpu.models.bond_order import BondEnergies, BondOrder
from pyfit_gpu.models.energy import network_outputs
from pyfit_gpu.models.error_bars import ErrorBars
from pyfit_gpu.models.force_rows import Slab, runs_of_structures, slabs_of, structure_groups
from pyfit_gpu.models.map_parts import MapPart
from pyfit_gpu.models.network_jacobian import NetworkJacobian, atoms_by_element
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.turning_slopes import TurningSlopes

_ROW_ATOMS = 4096  # most atoms whose activations are held at once, unless a single structure has more


@dataclass(frozen=True, eq=False)
class LocalSlopes:
    """Local parameters of the atoms of a batch, of a physically informed network, and slopes dE/dp: float64."""

    model: BondOrder
    parameters: Tensor  # (n, N)
    slopes: Tensor  # (n, N)

    @classmethod
    @torch.no_grad()
    def of(cls, potential: Potential, batch: Batch, inputs: Tensor) -> LocalSlopes | None:
        """Find them from the inputs (n, F) of the networks; None: the outputs of a straight network are the energies.

        Args:
            potential: of one member.
        """
        if not potential.is_physically_informed:
            return None
        double = potential.to(inputs.device, torch.float64)
        model = BondOrder(double)
        outputs = network_outputs(double, _own(inputs, double.networks), batch.species)
        parameters = model.parameters(outputs, batch.species)[0]
        slopes = torch.empty_like(parameters)
        for chunk in potential.descriptor.chunks(batch.neighbors.to(torch.float64), batch.species):
            for rows, around in model.surroundings(chunk):
                atoms = chunk.atoms[rows]
                found = BondEnergies(around, parameters.index_select(0, atoms), model.form)
                slopes.index_copy_(0, atoms, found.grad_parameters())
        return cls(model, parameters, slopes)


def _own(inputs: Tensor, networks: ElementNetworks) -> Tensor:
    """Inputs in float64; those that the networks of a bare potential have, which is none."""
    return inputs[:, : networks.layer_sizes[0]].double()


@torch.no_grad()
def energy_variances(
    bars: ErrorBars,
    potential: Potential,
    inputs: Tensor,
    species: Tensor,
    sizes: Tensor,
    local: LocalSlopes | None = None,
) -> Tensor:
    """(B,) j^T C j of the energies of structures.

    Args:
        inputs: (n_atoms, F) of the networks.
        species: (n_atoms,) int64.
        sizes: (B,) int64, atoms of each structure.
        local: what a physically informed network gives the atoms.
    """
    found = torch.empty(len(sizes), dtype=torch.float64, device=inputs.device)
    for structures, rows in _energy_rows(potential, inputs, species, sizes, local):
        found[structures] = bars.relative_variances(rows[:, None])[:, 0]
    return found


def _energy_rows(
    potential: Potential, inputs: Tensor, species: Tensor, sizes: Tensor, local: LocalSlopes | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield structures (R,) and the derivatives of their energies (R, P), in the order of the .nn.dat file."""
    networks = potential.networks.to(inputs.device, torch.float64)
    plain = networks.without_offset()
    first_atom = 0
    for structures in runs_of_structures(sizes.tolist(), _ROW_ATOMS):
        own = sizes[structures]
        atoms = slice(first_atom, first_atom + int(own.sum()))
        first_atom = atoms.stop
        slopes = None if local is None else local.slopes[atoms]
        by_element = atoms_by_element(species[atoms], networks.n_elements)
        jacobian = NetworkJacobian(plain, _own(inputs[atoms], networks), by_element, slopes)
        for group in structure_groups(own, species[atoms], networks.n_elements):
            rows = networks.gradient_from_without_offset(jacobian.energy_rows(group.members))
            yield structures.start + group.rows, rows


@torch.no_grad()
def force_variances(
    bars: ErrorBars, potential: Potential, batch: Batch, inputs: Tensor, local: LocalSlopes | None = None
) -> Tensor:
    """(n, 3) j^T C j of the components of the forces on the atoms of a batch.

    Args:
        inputs: (n, F) of the networks.
        local: what a physically informed network gives the atoms.

    Raises:
        InputError: a structure of so many atoms that there is no memory for it.
    """
    networks = potential.networks.to(inputs.device, torch.float64)
    plain = networks.without_offset()
    neighbors = batch.neighbors.to(torch.float64)
    part = MapPart.of(neighbors, batch.species, batch.sizes, potential.descriptor)
    found = torch.empty(len(inputs), 3, dtype=torch.float64, device=inputs.device)
    for slab, _, atoms in slabs_of([part], batch.species, networks.n_elements):
        _require_slab_memory(slab, networks, inputs.device)
        slopes = None if local is None else local.slopes[atoms]
        jacobian = NetworkJacobian(plain, _own(inputs[atoms], networks), slab.by_element, slopes)
        turning = None if local is None else TurningSlopes(local.model, local.parameters[atoms], jacobian)
        for group, moves, turns in slab.force_moves(turning):
            rows = jacobian.moved_rows(group.members, moves, turns).flatten(0, 1)
            variances = bars.relative_variances(networks.gradient_from_without_offset(rows)[:, None])
            found[atoms.start + group.rows] = variances.view(-1, 3)
    return found


def _require_slab_memory(slab: Slab, networks: ElementNetworks, device: torch.device) -> None:
    """Refuse a slab whose moves of inputs and turns of slopes, or rows and their copies, do not fit into the memory."""
    n_atoms, sizes = len(slab.species), networks.layer_sizes
    moved = 2 * sizes[0] + (3 * sizes[-1] if sizes[-1] > 1 else 0)
    n_bytes = 8 * 3 * (sum(slab.n_places) * moved + 2 * n_atoms * networks.n_parameters)
    require_memory(n_bytes, device, f"error bars of the forces on {n_atoms} atoms from all parameters")
