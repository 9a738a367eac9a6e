"""Bonds by number of pair: changes of lengths and their transpose, changes of slopes, and joining."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from bond_order_passes import by_double_passes, changes_of, species_of
from bond_order_samples import make_bond_order
from torch import Tensor

from pyfit_gpu.models.bond_order import BondEnergies, BondOrder
from pyfit_gpu.models.bond_order_changes import change_of_slopes
from pyfit_gpu.models.pair_bonds import PairBonds, joined_pieces
from pyfit_gpu.models.potential import Form, Potential
from pyfit_gpu.models.surroundings import Surroundings
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.neighbors import find_neighbors

FORMS: tuple[Form, ...] = ("squared", "plain")
ELEMENTS = [("Si",), ("Si", "C"), ("O", "Si", "C")]

MakeFrames = Callable[..., list[Frame]]


class Sample:
    """Bonds of all atoms of some structures, with their neighbours and random moves of these."""

    def __init__(self, potential: Potential, frames: list[Frame]) -> None:
        self.neighbors = find_neighbors(Structures.from_frames(frames), potential.neighbor_cutoff)
        self.species = torch.cat([species_of(potential.descriptor.elements, frame) for frame in frames])
        rng = np.random.default_rng(1)
        self.moves = torch.from_numpy(rng.normal(size=(3, len(self.neighbors.index) + 1)))
        self.moves[:, -1] = 0
        vectors = torch.nn.functional.pad(self.neighbors.vectors.T, (0, 1), value=1.0)
        self.unit = vectors / torch.linalg.vector_norm(vectors, dim=0)
        self.outward = (self.moves * self.unit).sum(dim=0)
        self.pieces: list[tuple[PairBonds, Surroundings, Tensor]] = []  # with pairs (n, K)
        for chunk in potential.descriptor.chunks(self.neighbors, self.species):
            for rows, around in BondOrder(potential).surroundings(chunk):
                pairs = chunk.pairs[rows]
                self.pieces.append((PairBonds.of(chunk.atoms[rows], pairs, around), around, pairs))

    def parameters(self, potential: Potential, atoms: Tensor) -> Tensor:
        """(n, N), of each atom others."""
        baseline = potential.baseline[self.species]
        rng = np.random.default_rng(2)
        return (baseline * torch.from_numpy(rng.uniform(0.9, 1.1, baseline.shape)))[atoms]


@pytest.mark.parametrize("elements", ELEMENTS, ids="".join)
def test_changes_and_their_transpose(mixed_frames: MakeFrames, elements: tuple[str, ...]) -> None:
    """Changes are those by the vectors of the neighbours; derivatives by vectors those that changes multiply."""
    potential = make_bond_order(elements, bare=True)
    sample = Sample(potential, mixed_frames(elements))
    rng = np.random.default_rng(3)
    table = torch.zeros(4, sample.moves.shape[1], dtype=torch.float64)
    change = 0.0
    for piece, around, pairs in sample.pieces:
        found = piece.changes(sample.moves, sample.outward)
        is_bond = around.bonds.smooth > 0
        for one, other in zip(found, changes_of(around, sample.moves[:, pairs]), strict=True):
            chosen = (one, other) if one.dim() == 1 else (one * is_bond, other * is_bond)
            torch.testing.assert_close(*chosen, rtol=1e-12, atol=1e-12)
        of_detours = torch.from_numpy(rng.normal(size=found.detour.shape))
        of_bonds = torch.from_numpy(rng.normal(size=around.bonds.unit.shape)) * is_bond
        change += float((of_detours * found.detour).sum())
        change += float((of_bonds * sample.moves[:, pairs].gather(2, around.bonds.column.expand(3, -1, -1))).sum())
        piece.add_vjp(of_detours, of_bonds, table)
    by_vectors = table[:3] + table[3] * sample.unit
    assert not bool(by_vectors[:, -1].any())
    assert float((by_vectors * sample.moves).sum()) == pytest.approx(change, abs=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("elements", ELEMENTS, ids="".join)
def test_changes_of_slopes_are_those_of_two_passes(
    mixed_frames: MakeFrames, elements: tuple[str, ...], form: Form
) -> None:
    potential = make_bond_order(elements, form, bare=True)
    sample = Sample(potential, mixed_frames(elements)[:3])
    for piece, around, pairs in sample.pieces:
        parameters = sample.parameters(potential, piece.atoms)
        turns = torch.from_numpy(np.random.default_rng(4).normal(size=parameters.shape))
        second, mixed = by_double_passes(around, parameters, form)
        expected = torch.einsum("nab,nb->na", second, turns)
        expected += torch.einsum("nack,cnk->na", mixed, sample.moves[:, pairs])
        changes = piece.changes(sample.moves, sample.outward)
        found = change_of_slopes(BondEnergies(piece.around, parameters, form), turns, changes)
        assert bool(found.isfinite().all())
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("elements", ELEMENTS[:2], ids="-".join)
def test_joining_changes_nothing(mixed_frames: MakeFrames, elements: tuple[str, ...]) -> None:
    """Bit for bit, whatever pieces are joined; all atoms are there once."""
    potential = make_bond_order(elements, bare=True)
    sample = Sample(potential, mixed_frames(elements))
    n = len(sample.species)

    def evaluated(most: int) -> tuple[int, list[Tensor]]:
        results = [torch.zeros(n, dtype=torch.float64), torch.zeros_like(potential.baseline[sample.species])]
        moved, table = results[1].clone(), torch.zeros(4, sample.moves.shape[1], dtype=torch.float64)
        count = 0
        for piece in joined_pieces(((one, around) for one, around, _ in sample.pieces), PairBonds.joined, most):
            count += 1
            parameters = sample.parameters(potential, piece.atoms)
            energies = BondEnergies(piece.around, parameters, potential.form)
            slopes, of_detours, of_bonds = energies.grad_lengths()
            results[0].index_add_(0, piece.atoms, energies.energies)
            results[1].index_add_(0, piece.atoms, slopes)
            piece.add_vjp(of_detours, of_bonds, table)
            changes = piece.changes(sample.moves, sample.outward)
            found = change_of_slopes(energies, parameters, changes)
            moved.index_add_(0, piece.atoms, found)
        return count, [*results, moved, table]

    n_apart, apart = evaluated(1)
    n_together, together = evaluated(10**9)
    assert n_together < n_apart
    for one, other in zip(apart, together, strict=True):
        assert torch.equal(one, other)
    assert sum(piece.n_bytes for piece, _, _ in sample.pieces) == sum(
        piece.n_bytes
        for piece in joined_pieces(((one, around) for one, around, _ in sample.pieces), PairBonds.joined, 10**9)
    )
