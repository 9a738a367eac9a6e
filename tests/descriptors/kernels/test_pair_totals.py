"""Sums over flat pairs against loops, in any pieces, interpreted."""

from __future__ import annotations

import interpreted  # noqa: F401, first
import numpy as np
import pytest
import torch
from torch import Tensor

from pyfit_gpu.descriptors.kernels.pair_totals import FlatTotals
from pyfit_gpu.structures.neighbors import Neighbors

SIZES = [3, 1, 5, 2]


def made_pairs(dtype: torch.dtype, most: int = 9, seed: int = 0) -> Neighbors:
    """Pairs within structures, also of an atom with itself; atom 3 has none.

    Atom 5 has more than a program reads at once, all of them with atom 6. They are not symmetric: at the cutoff a pair
    may be there one way only.
    """
    rng = np.random.default_rng(seed)
    structure = np.repeat(np.arange(len(SIZES)), SIZES)
    counts = rng.integers(1, most, len(structure))
    counts[3], counts[5] = 0, 70
    index = [rng.choice(np.flatnonzero(structure == structure[i]), n) for i, n in enumerate(counts)]
    index[5][:] = 6
    vectors = torch.from_numpy(rng.normal(size=(counts.sum(), 3))).to(dtype)
    return Neighbors(torch.from_numpy(counts), torch.from_numpy(np.concatenate(index)), vectors)


def by_loops(neighbors: Neighbors, grad: Tensor) -> tuple[Tensor, Tensor]:
    grad = grad.double()
    structure = np.repeat(np.arange(len(SIZES)), SIZES)
    forces = torch.zeros(sum(SIZES), grad.shape[1], 3, dtype=torch.float64)
    virials = torch.zeros(len(SIZES), grad.shape[1], 3, 3, dtype=torch.float64)
    vectors = neighbors.vectors.double()
    for g, v, i, j in zip(grad, vectors, neighbors.centers.tolist(), neighbors.index.tolist(), strict=True):
        forces[i] += g
        forces[j] -= g
        outer = v[:, None] * g[:, None, :]
        virials[structure[i]] += (outer + outer.transpose(1, 2)) / 2
    order = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    return forces, torch.stack([virials[..., a, b] for a, b in order], dim=-1)


def summed(neighbors: Neighbors, grad: Tensor, cuts: list[int], *, virials: bool = True) -> tuple[Tensor, Tensor]:
    first = neighbors.first.tolist()
    sizes = torch.tensor(SIZES)
    totals = FlatTotals(neighbors, sizes, grad.shape[1], largest=max(SIZES), virials=virials)
    for start, stop in zip([0, *cuts], [*cuts, sum(SIZES)], strict=True):
        pairs = range(first[start], first[stop])
        # Nothing is read beyond the piece: there is no number.
        memory = torch.full((len(pairs) + 300, *grad.shape[1:]), torch.nan, dtype=grad.dtype)
        memory[: len(pairs)] = grad[pairs.start : pairs.stop]
        totals.add(range(start, stop), pairs, memory[: len(pairs)])
    return totals.finish()


def made_grad(neighbors: Neighbors, n_members: int) -> Tensor:
    values = np.random.default_rng(1).normal(size=(len(neighbors.index), n_members, 3))
    return torch.from_numpy(values).to(neighbors.vectors.dtype)


@pytest.mark.parametrize("n_members", [1, 3])
@pytest.mark.parametrize("cuts", [[], [5], [1, 2, 3, 4, 6, 10]], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=str)
def test_against_loops(dtype: torch.dtype, tolerance: float, cuts: list[int], n_members: int) -> None:
    neighbors = made_pairs(dtype)
    grad = made_grad(neighbors, n_members)
    for found, expected in zip(summed(neighbors, grad, cuts), by_loops(neighbors, grad), strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def test_same_bits_from_run_to_run_and_for_every_member() -> None:
    neighbors = made_pairs(torch.float64)
    grad = made_grad(neighbors, 1)
    alone = summed(neighbors, grad, [4])
    for found, expected in zip(summed(neighbors, grad.repeat(1, 3, 1), [4]), alone, strict=True):
        for member in range(3):
            assert torch.equal(found[:, member], expected[:, 0])


def test_without_virials() -> None:
    neighbors = made_pairs(torch.float64)
    grad = made_grad(neighbors, 2)
    forces, nothing = summed(neighbors, grad, [], virials=False)
    assert nothing is None
    assert torch.equal(forces, summed(neighbors, grad, [])[0])


def test_no_pairs_at_all() -> None:
    none = Neighbors(torch.zeros(11, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3))
    forces, virials = summed(none, torch.zeros(0, 2, 3), [5])
    assert not forces.any()
    assert not virials.any()
    assert virials.shape == (4, 2, 6)
