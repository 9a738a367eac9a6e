"""Second derivatives of bond-order energies by plain double passes of autograd, and changes of lengths from vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ase.data import chemical_symbols
from torch import Tensor

from pyfit_gpu.models.bond_order import BondEnergies
from pyfit_gpu.models.kept_surroundings import Lengths, with_leaves
from pyfit_gpu.models.potential import Form
from pyfit_gpu.models.surroundings import Surroundings
from pyfit_gpu.structures.frames import Frame


def species_of(elements: Sequence[str], frame: Frame) -> Tensor:
    return torch.tensor([elements.index(chemical_symbols[number]) for number in frame.atomic_numbers])


def changes_of(around: Surroundings, moves: Tensor) -> Lengths:
    """Changes of the lengths while the neighbours' vectors change by `moves`, (3, n, K) Å, to first order."""
    bonds, triples = around.bonds, around.triples
    of_bonds = moves.gather(2, bonds.column.expand(3, -1, -1))
    outward = (bonds.unit * of_bonds).sum(dim=0)
    along = (around.vectors * moves).sum(dim=0) / around.distances  # (n, K)
    # r_jk changes by the difference of both moves along v_k - v_j.
    starts = bonds.unit * bonds.distance
    between, apart = (
        ends.flatten(1)[:, triples.neighbor] - begins.flatten(1)[:, triples.bond]
        for ends, begins in ((around.vectors, starts), (moves, of_bonds))
    )
    detour = (between * apart).sum(dim=0) / triples.distance
    detour = detour + along.flatten()[triples.neighbor] - outward.flatten()[triples.bond]
    return Lengths(
        distance=outward,
        unit=(of_bonds - bonds.unit * outward) / bonds.distance,
        smooth=bonds.slope * outward,
        detour=detour,
        smooth_detour=triples.smooth * triples.steepness * detour,
    )


def by_double_passes(around: Surroundings, parameters: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """The same derivatives, from a graph of the energy and one of its gradient."""
    leaf = parameters.clone().requires_grad_()
    moves = torch.zeros_like(around.vectors).requires_grad_()
    free, lengths = with_leaves(around)
    energy = BondEnergies(free, leaf, form).energies.sum()
    slopes, *of_lengths = torch.autograd.grad(energy, (leaf, *lengths), create_graph=True)
    change = sum((one * by).sum() for one, by in zip(of_lengths, changes_of(around, moves), strict=True))
    (of_vectors,) = torch.autograd.grad(change, moves, create_graph=True)
    second = [torch.autograd.grad(slope.sum(), leaf, retain_graph=True)[0] for slope in slopes.unbind(1)]
    # Of E's derivative by a vector, the one by a parameter: each component by itself.
    mixed = torch.zeros(len(parameters), parameters.shape[1], 3, moves.shape[2], dtype=parameters.dtype)
    for axis in range(3):
        for place in range(moves.shape[2]):
            (own,) = torch.autograd.grad(of_vectors[axis, :, place].sum(), leaf, retain_graph=True)
            mixed[:, :, axis, place] = own
    return torch.stack(second, dim=1), mixed
