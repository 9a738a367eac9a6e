"""How slopes dE/dp depend on parameters and vectors: against differences and plain double passes of autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from bond_order_passes import by_double_passes, species_of
from bond_order_samples import make_bond_order
from torch import Tensor

from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.models.bond_order import BondOrder
from pyfit_gpu.models.bond_order_changes import slope_derivatives
from pyfit_gpu.models.potential import Form, Potential
from pyfit_gpu.models.surroundings import Surroundings
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.neighbors import Neighbors, find_neighbors

FORMS: tuple[Form, ...] = ("squared", "plain")
ELEMENTS = [("Si",), ("Si", "C"), ("O", "Si", "C")]
STEP = 1e-4


def chunks(potential: Potential, neighbors: Neighbors, species: Tensor) -> Iterator[tuple[Chunk, Tensor]]:
    """Yield chunks and the local parameters (n, N) of their atoms, different ones for each."""
    for chunk in potential.descriptor.chunks(neighbors, species):
        rng = np.random.default_rng(len(chunk.atoms))
        parameters = potential.baseline[species[chunk.atoms]]
        yield chunk, parameters * torch.from_numpy(rng.uniform(0.9, 1.1, parameters.shape))


def pieces(potential: Potential, frame: Frame) -> Iterator[tuple[Surroundings, Tensor]]:
    species = species_of(potential.descriptor.elements, frame)
    neighbors = find_neighbors(Structures.from_frames([frame]), potential.neighbor_cutoff)
    for chunk, parameters in chunks(potential, neighbors, species):
        for rows, around in BondOrder(potential).surroundings(chunk):
            yield around, parameters[rows]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("elements", ELEMENTS, ids="".join)
def test_derivatives_are_those_of_two_passes(
    mixed_frames: Callable[..., list[Frame]], elements: tuple[str, ...], form: Form
) -> None:
    """Crystals, a molecule, lone atoms, a slab."""
    potential = make_bond_order(elements, form, bare=True)
    for frame in mixed_frames(elements):
        for around, parameters in pieces(potential, frame):
            found = slope_derivatives(around, parameters, form)
            expected = by_double_passes(around, parameters, form)
            for one, other in zip(found, expected, strict=True):
                assert bool(one.isfinite().all())
                torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(found[0], found[0].transpose(1, 2), rtol=1e-10, atol=1e-10)


def slope(function: Callable[[float], Tensor]) -> Tensor:
    """Fourth-order central difference at 0."""
    one, two = (function(n * STEP) - function(-n * STEP) for n in (1, 2))
    return (8 * one - two) / (12 * STEP)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("elements", ELEMENTS, ids="".join)
def test_derivatives_are_those_of_differences(
    random_frame: Callable[..., Frame], elements: tuple[str, ...], form: Form
) -> None:
    """Slopes are those of `vjp`; vectors move each by itself, and with them all that follows from them."""
    potential = make_bond_order(elements, form, bare=True)
    frame = random_frame(1, 3, length=4.2, elements=elements)
    model = BondOrder(replace(potential, use_baseline=False))
    species = species_of(elements, frame)
    neighbors = find_neighbors(Structures.from_frames([frame]), potential.neighbor_cutoff)
    moves = torch.from_numpy(np.random.default_rng(2).normal(size=neighbors.vectors.shape))
    for chunk, parameters in chunks(potential, neighbors, species):
        turns = torch.from_numpy(np.random.default_rng(3).normal(size=parameters.shape))

        def slopes(
            by_vectors: float,
            by_parameters: float,
            *,
            was: Chunk = chunk,
            at: Tensor = parameters,
            turn: Tensor = turns,
        ) -> Tensor:
            moved = replace(neighbors, vectors=neighbors.vectors + by_vectors * moves)
            again = next(c for c in potential.descriptor.chunks(moved, species) if torch.equal(c.atoms, was.atoms))
            return model.vjp((at + by_parameters * turn)[None], species[was.atoms], again)[1][0]

        along_vectors, along_parameters = slope(partial(slopes, by_parameters=0)), slope(partial(slopes, 0))
        padded = torch.cat([moves, torch.zeros(1, 3, dtype=moves.dtype)])
        by_pair = padded[chunk.pairs]  # (n, K, 3)
        for rows, around in model.surroundings(chunk):
            of_parameters, of_vectors = slope_derivatives(around, parameters[rows], form)
            found = torch.einsum("nack,nkc->na", of_vectors, by_pair[rows])
            torch.testing.assert_close(found, along_vectors[rows], rtol=1e-8, atol=1e-8)
            found = torch.einsum("nab,nb->na", of_parameters, turns[rows])
            torch.testing.assert_close(found, along_parameters[rows], rtol=1e-8, atol=1e-8)
