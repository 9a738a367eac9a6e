"""Every backend against a loop over images that knows the lattice planes, and the errors."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pair_sum
import pytest
import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.structures import neighbors as module
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.neighbors import Neighbors, find_neighbors

MakeFrame = Callable[..., Frame]

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}  # Å, coordinates up to some tens of Å


@pytest.fixture(params=["vesin", "torch", "torch-cluster"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "torch-cluster":
        pytest.importorskip("torch_cluster")
    return request.param


def assert_same_pairs(found: Neighbors, frames: list[Frame], cutoff: float, tolerance: float = 1e-12) -> None:
    """Each atom has the neighbours of the plain loop, each once: the number in the batch and the vector."""
    counts = found.counts.tolist()
    assert len(counts) == sum(frame.n_atoms for frame in frames)
    assert sum(counts) == len(found.index) == len(found.vectors)
    ends = np.cumsum(counts)
    atom, offset = 0, 0
    for frame in frames:
        for vectors, index in pair_sum.neighbor_vectors(frame.positions, frame.cell, frame.pbc, cutoff):
            own = slice(ends[atom] - counts[atom], ends[atom])
            assert counts[atom] == len(index), f"atom {atom}"
            deviation = np.abs(found.vectors[own].numpy()[:, None] - vectors[None]).max(axis=2, initial=0)
            same = (deviation < tolerance) & (found.index[own].numpy()[:, None] == index[None] + offset)
            assert (same.sum(axis=0) == 1).all(), f"atom {atom}"
            assert (same.sum(axis=1) == 1).all(), f"atom {atom}"
            atom += 1
        offset += frame.n_atoms


def search(frames: list[Frame], cutoff: float, backend: str, dtype: torch.dtype = torch.float64) -> Neighbors:
    return find_neighbors(Structures.from_frames(frames, dtype=dtype), cutoff, backend=backend)


@pytest.mark.parametrize("seed", range(6))
def test_random_skewed_cells(random_frame: MakeFrame, backend: str, seed: int) -> None:
    frame = random_frame(seed, 5, skew=0.9)
    assert_same_pairs(search([frame], 4.5, backend), [frame], 4.5)


@pytest.mark.parametrize("n_atoms", [1, 3])
def test_cutoff_larger_than_the_cell(random_frame: MakeFrame, backend: str, n_atoms: int) -> None:
    frame = random_frame(11, n_atoms, length=2.6, skew=0.3)
    assert np.linalg.norm(frame.cell, axis=1).max() < 4.0
    found = search([frame], 7.5, backend)
    assert found.counts.min() > 50
    assert_same_pairs(found, [frame], 7.5)


def test_vectors_much_longer_than_the_lattice_planes_are_apart(make_frame: MakeFrame, backend: str) -> None:
    """Where the older programs, which count images by |a|, miss neighbours: here planes are 0.4 |a| apart."""
    cell = [[4.0, 0, 0], [3.6, 1.7, 0], [3.4, 1.5, 1.6]]
    frame = make_frame([[0, 0, 0], [2.0, 0.8, 0.7]], cell)
    heights = 1 / np.linalg.norm(np.linalg.inv(frame.cell), axis=0)
    assert heights.max() < 0.5 * np.linalg.norm(frame.cell, axis=1).min()
    assert_same_pairs(search([frame], 5.0, backend), [frame], 5.0)


def test_atoms_outside_the_cell(random_frame: MakeFrame, backend: str) -> None:
    inside, outside = random_frame(3, 6), random_frame(3, 6, scatter=4)
    assert np.abs(outside.positions - inside.positions).max() > 10
    found = search([outside], 4.0, backend)
    assert_same_pairs(found, [outside], 4.0)
    assert_same_pairs(found, [inside], 4.0)


@pytest.mark.parametrize("pbc", [(True, True, False), (False, True, False), (True, False, True), (False,) * 3], ids=str)
@pytest.mark.parametrize("rows", ["kept", "zero", "parallel"])
def test_mixed_periodicity(random_frame: MakeFrame, backend: str, pbc: tuple[bool, bool, bool], rows: str) -> None:
    """Cell vectors of directions that are not periodic mean nothing, whatever they are."""
    frame = random_frame(5, 5, scatter=1, pbc=pbc)
    if rows == "zero":
        frame.cell[~frame.pbc] = 0.0
    elif rows == "parallel":
        frame.cell[~frame.pbc] = 2 * frame.cell[frame.pbc.argmax()]
    assert_same_pairs(search([frame], 4.5, backend), [frame], 4.5)


def test_lone_atom_in_vacuum(make_frame: MakeFrame, backend: str) -> None:
    found = search([make_frame([[1, 2, 3]])], 5.0, backend)
    assert found.counts.tolist() == [0]
    assert found.index.shape == found.centers.shape == found.distances.shape == (0,)
    assert found.vectors.shape == (0, 3)
    assert found.index.dtype == found.counts.dtype == torch.int64


def test_batch_equals_single(make_frame: MakeFrame, random_frame: MakeFrame, backend: str) -> None:
    frames = [
        random_frame(1, 4),
        make_frame([[0, 0, 0]]),
        random_frame(2, 9, scatter=2),
        make_frame([[0, 0, 0], [0, 0, 2.3]]),
        random_frame(3, 1, length=2.4),
        random_frame(4, 5, pbc=(True, True, False)),
    ]
    together = search(frames, 4.4, backend)
    assert_same_pairs(together, frames, 4.4)
    alone = [search([frame], 4.4, backend) for frame in frames]
    offsets = np.cumsum([0, *(frame.n_atoms for frame in frames)])
    assert torch.equal(together.counts, torch.cat([one.counts for one in alone]))
    shifted = [one.index + offset for one, offset in zip(alone, offsets, strict=False)]
    assert torch.equal(together.index, torch.cat(shifted))
    assert torch.equal(together.vectors, torch.cat([one.vectors for one in alone]))


def test_torch_cluster_is_asked_again_while_it_drops_neighbours(
    random_frame: MakeFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for torch_cluster.radius: rows of y, then of x, at most max_num_neighbors of each y, silently."""
    limits = []

    def radius(x: Tensor, y: Tensor, r: float, batch_x: Tensor, batch_y: Tensor, max_num_neighbors: int) -> Tensor:
        limits.append(max_num_neighbors)
        assert (batch_x.diff() >= 0).all()  # as the real one needs it
        near = (torch.cdist(y, x) <= r) & (batch_y[:, None] == batch_x)
        return (near & (near.cumsum(dim=1) <= max_num_neighbors)).nonzero().T

    stand_in = types.ModuleType("torch_cluster")
    stand_in.__spec__ = importlib.machinery.ModuleSpec("torch_cluster", None)
    vars(stand_in)["radius"] = radius
    monkeypatch.setitem(sys.modules, "torch_cluster", stand_in)
    monkeypatch.setattr(module, "_most_neighbors", lambda structures, cutoff: 5)
    frames = [random_frame(1, 4, scatter=1), random_frame(2, 7)]
    found = search(frames, 4.0, "torch-cluster")
    assert found.counts.max() > 10
    assert limits[:3] == [5, 10, 20]
    assert_same_pairs(found, frames, 4.0)


def test_float32(random_frame: MakeFrame, backend: str) -> None:
    frames = [random_frame(seed, 6, scatter=1) for seed in range(3)]
    found = search(frames, 4.5, backend, torch.float32)
    assert found.vectors.dtype == torch.float32
    assert_same_pairs(found, frames, 4.5, TOLERANCE[torch.float32])


def test_centers_are_sorted_and_distances_are_lengths(random_frame: MakeFrame, backend: str) -> None:
    found = search([random_frame(1, 4), random_frame(2, 7)], 4.0, backend)
    assert torch.equal(found.centers, torch.repeat_interleave(torch.arange(11), found.counts))
    torch.testing.assert_close(found.distances, found.vectors.norm(dim=1))
    assert found.distances.max() <= 4.0


def test_pairs_are_mutual(random_frame: MakeFrame, backend: str) -> None:
    """Every pair i, j comes back as j, i with the opposite vector: the vectors sum to zero over a structure."""
    found = search([random_frame(8, 6)], 5.0, backend)
    torch.testing.assert_close(found.vectors.sum(dim=0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-10)
    assert torch.equal(torch.bincount(found.index, minlength=6), found.counts)


@pytest.mark.parametrize("other", [[1.5, 1, 1], [1.5, 1, 4], [1.5, 1, 1.0005]], ids=["same", "image", "close"])
def test_two_atoms_at_one_place(make_frame: MakeFrame, backend: str, other: list[float]) -> None:
    good = make_frame([[0, 0, 0]], 3 * np.eye(3), source="si.dat, structure 1 (line 1)")
    positions = [[0, 0, 0], [1.5, 1, 1], other]
    bad = make_frame(positions, 3 * np.eye(3), source="si.dat, structure 2 (line 10)")
    with pytest.raises(InputError, match=r"si\.dat, structure 2 \(line 10\), atom 2.*atom 3\b.*one place"):
        search([good, bad], 2.0, backend)
    with pytest.raises(InputError, match=r"one place.*0\.001 Å"):
        search([good, bad], 2.0, backend)


def test_an_atom_at_one_place_with_its_own_image(make_frame: MakeFrame, backend: str) -> None:
    frame = make_frame([[0, 0, 0]], np.diag([5e-4, 3.0, 3.0]))
    with pytest.raises(InputError, match=r"made\.dat, structure 1 \(line 1\), atom 1.*one place"):
        search([frame], 0.01, backend)


def test_close_but_apart(make_frame: MakeFrame, backend: str) -> None:
    found = search([make_frame([[0, 0, 0], [0, 0, 0.0011]])], 2.0, backend)
    assert found.counts.tolist() == [1, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("pbc", [True, False])
def test_positions_that_are_not_finite(make_frame: MakeFrame, backend: str, pbc: bool, bad: float) -> None:
    cell = 3 * np.eye(3) if pbc else None
    frames = [make_frame([[0, 0, 0]], cell), make_frame([[0, 0, 0], [1, 1, 1]], cell, source="si.dat, structure 2")]
    structures = Structures.from_frames(frames)
    positions = structures.positions.clone()
    positions[1, 1, 2] = bad
    message = rf"si\.dat, structure 2, atom 2: positions: expected finite numbers, found \[1\.0, 1\.0, {bad}\]"
    with pytest.raises(InputError, match=message):
        find_neighbors(replace(structures, positions=positions), 2.0, backend=backend)


def test_unknown_backend(make_frame: MakeFrame) -> None:
    with pytest.raises(ValueError, match=r"backend: expected one of auto, vesin, .*triton, got 'scipy'"):
        search([make_frame([[0, 0, 0]])], 2.0, "scipy")
    with pytest.raises(ValueError, match="backend: triton has no kernels on cpu"):
        search([make_frame([[0, 0, 0]])], 2.0, "triton")


def test_backend_that_is_not_installed(make_frame: MakeFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="torch-cluster is not installed"):
        search([make_frame([[0, 0, 0]])], 2.0, "torch-cluster")


def test_auto_on_the_host(random_frame: MakeFrame) -> None:
    frames = [random_frame(1, 4)]
    assert_same_pairs(search(frames, 4.0, "auto"), frames, 4.0)


def test_the_graph_is_on_the_device_of_the_structures(random_frame: MakeFrame) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    frames = [random_frame(seed, 5, scatter=1) for seed in range(3)]
    structures = Structures.from_frames(frames, device="cuda")
    for name in ("torch", "vesin", "auto"):
        found = find_neighbors(structures, 4.5, backend=name)
        assert {t.device.type for t in (found.counts, found.index, found.vectors)} == {"cuda"}
        on_host = Neighbors(*(t.cpu() for t in (found.counts, found.index, found.vectors)))
        assert_same_pairs(on_host, frames, 4.5)
