"""Variances of energies and forces, up to the factor of a label, from the covariance of all parameters.

The derivatives of predictions are rows of the Jacobian as training makes them (network_jacobian.py, force_rows.py). All
is float64: variances are small differences of large numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pyfit_gpu.devices import require_memory
from pyfit_gpu.models.batches import Batch
from pyfit_gpu.models.error_bars import ErrorBars
from pyfit_gpu.models.force_rows import Slab, runs_of_structures, slabs_of, structure_groups
from pyfit_gpu.models.map_parts import MapPart
from pyfit_gpu.models.network_jacobian import NetworkJacobian, atoms_by_element
from pyfit_gpu.models.potential import Potential

_ROW_ATOMS = 4096  # most atoms whose activations are held at once, unless a single structure has more


@torch.no_grad()
def energy_variances(bars: ErrorBars, potential: Potential, inputs: Tensor, species: Tensor, sizes: Tensor) -> Tensor:
    """(B,) j^T C j of the energies of structures.

    Args:
        inputs: (n_atoms, F) of the networks.
        species: (n_atoms,) int64.
        sizes: (B,) int64, atoms of each structure.
    """
    found = torch.empty(len(sizes), dtype=torch.float64, device=inputs.device)
    for structures, rows in _energy_rows(potential, inputs, species, sizes):
        found[structures] = bars.relative_variances(rows[:, None])[:, 0]
    return found


def _energy_rows(
    potential: Potential, inputs: Tensor, species: Tensor, sizes: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield structures (R,) and the derivatives of their energies (R, P), in the order of the .nn.dat file."""
    networks = potential.networks.to(inputs.device, torch.float64)
    plain = networks.without_offset()
    first_atom = 0
    for structures in runs_of_structures(sizes.tolist(), _ROW_ATOMS):
        own = sizes[structures]
        atoms = slice(first_atom, first_atom + int(own.sum()))
        first_atom = atoms.stop
        jacobian = NetworkJacobian(plain, inputs[atoms].double(), atoms_by_element(species[atoms], networks.n_elements))
        for group in structure_groups(own, species[atoms], networks.n_elements):
            rows = networks.gradient_from_without_offset(jacobian.energy_rows(group.members))
            yield structures.start + group.rows, rows


@torch.no_grad()
def force_variances(bars: ErrorBars, potential: Potential, batch: Batch, inputs: Tensor) -> Tensor:
    """(n, 3) j^T C j of the components of the forces on the atoms of a batch.

    Args:
        inputs: (n, F) of the networks.

    Raises:
        InputError: a structure of so many atoms that there is no memory for it.
    """
    networks = potential.networks.to(inputs.device, torch.float64)
    plain = networks.without_offset()
    neighbors = batch.neighbors.to(torch.float64)
    part = MapPart.of(neighbors, batch.species, batch.sizes, potential.descriptor)
    found = torch.empty(len(inputs), 3, dtype=torch.float64, device=inputs.device)
    for slab, _, atoms in slabs_of([part], batch.species, networks.n_elements):
        _require_slab_memory(slab, inputs, networks.n_parameters)
        jacobian = NetworkJacobian(plain, inputs[atoms].double(), slab.by_element)
        for group, moves, turns in slab.force_moves():
            rows = jacobian.moved_rows(group.members, moves, turns).flatten(0, 1)
            variances = bars.relative_variances(networks.gradient_from_without_offset(rows)[:, None])
            found[atoms.start + group.rows] = variances.view(-1, 3)
    return found


def _require_slab_memory(slab: Slab, inputs: Tensor, n_parameters: int) -> None:
    """Refuse a slab whose moves of the inputs, or rows and their copies, do not fit into the memory."""
    n_atoms = len(slab.species)
    n_bytes = 8 * 3 * (2 * sum(slab.n_places) * inputs.shape[1] + 2 * n_atoms * n_parameters)
    require_memory(n_bytes, inputs.device, f"error bars of the forces on {n_atoms} atoms from all parameters")
