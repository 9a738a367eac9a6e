"""The features against double sums over pairs, their symmetries and sum rules, and the settings' checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pair_sum
import pytest
import torch
from ase.data import chemical_symbols
from held_memory import PeakMemory
from torch import Tensor

from pyfit_gpu.descriptors import lsp as module
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.errors import InputError
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.neighbors import find_neighbors

MakeFrame = Callable[..., Frame]

# Relative to max(1, |G|). float32: sums of tens of terms, each good to 1e-7.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}
SETTINGS = LocalStructureParameters(
    elements=("Si",),
    gi_mode=5,
    shift=0.5,
    cutoff=4.3,
    cutoff_width=1.1,
    gaussian_width=0.8,
    legendre_orders=(0, 1, 2, 4),
    gaussian_centers=(1.7, 2.5, 3.3),
)
SIC = replace(SETTINGS, elements=("Si", "C"))


def species_of(frames: list[Frame], elements: tuple[str, ...]) -> Tensor:
    symbols = [chemical_symbols[number] for frame in frames for number in frame.atomic_numbers]
    return torch.tensor([elements.index(symbol) for symbol in symbols])


def features(settings: LocalStructureParameters, *frames: Frame, dtype: torch.dtype = torch.float64) -> Tensor:
    neighbors = find_neighbors(Structures.from_frames(frames, dtype=dtype), settings.neighbor_cutoff)
    return settings(neighbors, species_of(list(frames), settings.elements))


def raw(settings: LocalStructureParameters, *frames: Frame) -> Tensor:
    """G itself."""
    return features(replace(settings, gi_mode=3, shift=0.0, cutoff=settings.cutoff / 1.5), *frames)


def expected_features(settings: LocalStructureParameters, *frames: Frame) -> np.ndarray:
    nn = {
        "symbols": list(settings.elements),
        "gi_mode": settings.gi_mode,
        "shift": settings.shift,
        "rc": settings.cutoff,
        "d": settings.cutoff_width,
        "sigma": settings.gaussian_width,
        "legendre_orders": settings.legendre_orders,
        "r0": settings.gaussian_centers,
        "cross_terms": settings.cross_terms,
        "triples": settings.triples,
    }
    rows = []
    for frame in frames:
        symbols = [chemical_symbols[number] for number in frame.atomic_numbers]
        rows.append(pair_sum.features(pair_sum.Structure(frame.positions, frame.cell, frame.pbc, symbols), nn))
    return np.concatenate(rows)


def assert_close(found: Tensor, expected: np.ndarray | Tensor, tolerance: float = TOLERANCE[torch.float64]) -> None:
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    error = np.abs(found.double().numpy() - expected) / np.maximum(1, np.abs(expected))
    assert error.max(initial=0) < tolerance  # and so no NaN


ORDERS = [(0, 1, 2, 4), (8, 0, 3, 5, 1), (6,), (2, 2)]


@pytest.mark.parametrize("orders", ORDERS, ids=str)
@pytest.mark.parametrize("gi_mode", [0, 1, 3, 4, 5, 6])
def test_one_element_against_the_pair_sum(random_frame: MakeFrame, gi_mode: int, orders: tuple[int, ...]) -> None:
    settings = replace(SETTINGS, gi_mode=gi_mode, legendre_orders=orders)
    frames = [random_frame(1, 4, scatter=1), random_frame(2, 3, pbc=(True, False, True))]
    assert_close(features(settings, *frames), expected_features(settings, *frames))


@pytest.mark.parametrize("elements", [("Si", "C"), ("C", "Si"), ("C", "O", "Si")], ids=str)
@pytest.mark.parametrize("gi_mode", [0, 3, 5])
def test_several_elements_against_the_pair_sum(
    random_frame: MakeFrame, gi_mode: int, elements: tuple[str, ...]
) -> None:
    settings = replace(SETTINGS, elements=elements, gi_mode=gi_mode, legendre_orders=(3, 0, 1))
    frames = [random_frame(3, 5, elements=elements), random_frame(4, 2, elements=elements)]
    found = features(settings, *frames)
    assert found.shape == (7, settings.n_features)
    assert_close(found, expected_features(settings, *frames))
    if len(elements) == 2:
        cross = raw(settings, *frames)[:, 9:18]
        assert cross.min() < -1e-3  # blocks of two elements can be negative: why modes 1 and 4 are refused


def test_order_of_the_features(make_frame: MakeFrame) -> None:
    """One neighbour at r: G_ln = f_n(r)^2 / r0_n^2 for every l, so only n varies: l is outermost."""
    frame = make_frame([[0, 0, 0], [0, 1.2, 2.0]])
    r = np.hypot(1.2, 2.0)
    fc = (r - 4.3) ** 4 / (1.1**4 + (r - 4.3) ** 4)
    r0 = np.array([1.7, 2.5, 3.3])
    expected = np.tile((np.exp(-(((r - r0) / 0.8) ** 2)) * fc / r0) ** 2, 4)
    assert_close(raw(SETTINGS, frame), np.stack([expected, expected]))


def test_rotation_and_reflection(random_frame: MakeFrame) -> None:
    frame = random_frame(5, 6, elements=("Si", "C"))
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    for turn in (rotation, -rotation):
        turned = replace(frame, positions=frame.positions @ turn.T, cell=frame.cell @ turn.T)
        assert_close(features(SIC, turned), features(SIC, frame))


def test_translation(random_frame: MakeFrame) -> None:
    frame = random_frame(5, 6, elements=("Si", "C"))
    moved = replace(frame, positions=frame.positions + np.array([7.3, -11.1, 0.4]))
    assert_close(features(SIC, moved), features(SIC, frame))


def test_permutation(random_frame: MakeFrame) -> None:
    frame = random_frame(6, 7, elements=("Si", "C"))
    order = np.random.default_rng(1).permutation(7)
    permuted = replace(frame, positions=frame.positions[order], atomic_numbers=frame.atomic_numbers[order])
    assert_close(features(SIC, permuted), features(SIC, frame)[order])


def test_supercell(random_frame: MakeFrame) -> None:
    frame = random_frame(7, 3, length=4.5, elements=("Si", "C"))
    shifts = [[i, j, k] for i in range(2) for j in range(3) for k in range(2)] @ frame.cell
    larger = replace(
        frame,
        positions=(shifts[:, None] + frame.positions).reshape(-1, 3),
        cell=np.diag([2, 3, 2]) @ frame.cell,
        atomic_numbers=np.tile(frame.atomic_numbers, 12),
    )
    assert_close(features(SIC, larger), features(SIC, frame).repeat(12, 1))


def test_batch_equals_single(random_frame: MakeFrame, make_frame: MakeFrame) -> None:
    elements = ("Si", "C")
    frames = [random_frame(seed, n, elements=elements) for seed, n in [(1, 6), (2, 1), (3, 9)]]
    frames.insert(1, make_frame([[0, 0, 0]], symbols=["C"]))
    alone = torch.cat([features(SIC, frame) for frame in frames])
    assert_close(features(SIC, *frames), alone)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "settings",
    [
        replace(SETTINGS, legendre_orders=(0, 1, 2, 4, 6)),
        SIC,
        replace(SETTINGS, gaussian_centers=(2.5,)),
        replace(SIC, gaussian_centers=(2.5,)),
    ],
    ids=["Si", "SiC", "Si, one centre", "SiC, one centre"],
)
def test_bits_do_not_depend_on_other_atoms(
    random_frame: MakeFrame, settings: LocalStructureParameters, dtype: torch.dtype
) -> None:
    """So shards joined are the unsharded set: every place in a chunk, and a chunk of one atom, gives the same bits."""
    frames = [random_frame(seed, 3 + seed % 5, elements=settings.elements) for seed in range(20)]
    frames += [random_frame(seed, 1, length=2.3, skew=0.1, elements=settings.elements) for seed in range(8)]
    alone = [features(settings, frame, dtype=dtype) for frame in frames]
    assert torch.equal(features(settings, *frames, dtype=dtype), torch.cat(alone))
    assert torch.equal(features(settings, *reversed(frames), dtype=dtype), torch.cat(alone[::-1]))


@pytest.mark.parametrize("n_elements", [1, 2])
def test_memory_is_that_of_the_outputs_and_one_chunk(
    random_frame: MakeFrame, monkeypatch: pytest.MonkeyPatch, n_elements: int
) -> None:
    monkeypatch.setattr(module, "_CHUNK_CPU", (32, 65_536))
    settings = replace(SIC, elements=SIC.elements[:n_elements])
    frames = [random_frame(seed, 8, elements=settings.elements) for seed in range(8)] * 64
    neighbors = find_neighbors(Structures.from_frames(frames), settings.neighbor_cutoff)
    species = species_of(frames, settings.elements)
    with PeakMemory() as whole:
        outputs = settings.raw(neighbors, species)
    largest = 0
    for chunk in settings.chunks(neighbors, species):
        with PeakMemory() as own:
            chunk.raw()
        largest = max(largest, own.peak)
    n_atoms, n_pairs = len(species), len(neighbors.index)
    # Atoms sorted, with counts and first pairs, and what sorting takes; per pair a byte for its element.
    rest = 80 * n_atoms + (n_elements > 1) * n_pairs
    assert whole.peak < outputs.untyped_storage().nbytes() + 1.1 * largest + rest
    assert rest + 1.1 * largest < 24 * n_pairs  # a copy of all vectors would show


def test_chunks_of_float32_are_twice_as_large() -> None:
    atoms, pairs = module.chunk_limits(on_gpu=False, itemsize=8)
    assert module.chunk_limits(on_gpu=False, itemsize=4) == (2 * atoms, 2 * pairs)


@pytest.mark.usefixtures("three_threads")
def test_chunks_of_several_threads(random_frame: MakeFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are twice as large, and many pairs have as many workers as torch may use threads."""
    atoms, pairs = module.chunk_limits(on_gpu=False, itemsize=8)
    assert module.chunk_limits(on_gpu=False, itemsize=8, n_threads=3) == (2 * atoms, 2 * pairs)
    neighbors = find_neighbors(Structures.from_frames([random_frame(1, 5)]), 4.0)
    assert module.chunk_workers(neighbors).count == 1
    monkeypatch.setattr(module, "_FEW_PAIRS", len(neighbors.vectors))
    assert module.chunk_workers(neighbors).count == 3


@pytest.mark.parametrize("chunk", [(1, 65_536), (3, 65_536), (512, 60), (512, 1)], ids=str)
def test_chunks_do_not_matter(random_frame: MakeFrame, monkeypatch: pytest.MonkeyPatch, chunk: tuple[int, int]) -> None:
    frames = [random_frame(seed, 5, elements=("Si", "C"), pbc=(True, True, seed == 1)) for seed in range(3)]
    whole = features(SIC, *frames)
    monkeypatch.setattr(module, "_CHUNK_CPU", chunk)
    assert_close(features(SIC, *frames), whole)


def test_sum_over_blocks_is_the_feature_of_one_element(random_frame: MakeFrame) -> None:
    elements = ("Si", "C", "O")
    frame = random_frame(8, 8, elements=elements)
    blocks = raw(replace(SETTINGS, elements=elements), frame).view(8, 6, -1)
    silicon = replace(frame, atomic_numbers=np.full(8, 14))
    assert_close(blocks.sum(dim=1), raw(SETTINGS, silicon))


def test_an_element_without_atoms_adds_zero_blocks(random_frame: MakeFrame) -> None:
    frame = random_frame(8, 4)
    first, *others = raw(SIC, frame).view(4, 3, -1).unbind(dim=1)
    assert_close(first, raw(SETTINGS, frame))
    assert all(block.eq(0).all() for block in others)


@pytest.mark.parametrize(("gi_mode", "expected"), [(0, 0.25), (1, np.log(0.25)), (3, 0.25), (4, np.log(0.25)), (5, 0)])
def test_lone_atom(make_frame: MakeFrame, random_frame: MakeFrame, gi_mode: int, expected: float) -> None:
    """G = 0 in every component, not an error, alone or beside others."""
    settings = replace(SETTINGS, gi_mode=gi_mode, shift=0.25)
    lone = make_frame([[0, 0, 0]])
    assert_close(features(settings, lone), np.full((1, 12), expected))
    assert_close(features(settings, random_frame(1, 3), lone)[3:], np.full((1, 12), expected))


@pytest.mark.parametrize("gi_mode", [1, 4])
def test_logarithm_of_zero_names_the_atom(make_frame: MakeFrame, gi_mode: int) -> None:
    settings = replace(SETTINGS, gi_mode=gi_mode, shift=0.0)
    frame = make_frame([[0, 0, 0], [0, 0, 2.3], [0, 2.2, 0], [40, 0, 0]])
    with pytest.raises(InputError, match=rf"atom 3 of the batch.*logarithm.*gi_mode {gi_mode}, shift 0"):
        features(settings, frame)
    structures = Structures.from_frames([frame])
    neighbors = find_neighbors(structures, settings.neighbor_cutoff)
    with pytest.raises(InputError, match=r"made\.dat, structure 1 \(line 1\), atom 4.*logarithm"):
        settings(neighbors, torch.zeros(4, dtype=torch.int64), structures.describe_atom)


@pytest.mark.parametrize("settings", [replace(SETTINGS, gi_mode=1, legendre_orders=(0, 8)), SIC])
def test_float32(random_frame: MakeFrame, settings: LocalStructureParameters) -> None:
    frames = [random_frame(seed, 5, elements=settings.elements) for seed in range(3)]
    found = features(settings, *frames, dtype=torch.float32)
    assert found.dtype == torch.float32
    assert_close(found, expected_features(settings, *frames), TOLERANCE[torch.float32])


def test_sizes_and_cutoffs() -> None:
    assert SETTINGS.n_features == 12
    assert SIC.n_features == 36
    cutoffs = {mode: replace(SETTINGS, gi_mode=mode).neighbor_cutoff for mode in (0, 1, 3, 4, 5)}
    assert cutoffs == {0: 4.3, 1: 4.3, 3: 1.5 * 4.3, 4: 1.5 * 4.3, 5: 4.3}


def test_identity_holds_what_decides_the_inputs() -> None:
    assert replace(SETTINGS, shift=0.7).identity() == SETTINGS.identity()  # mode 5 ignores the shift
    first = replace(SETTINGS, gi_mode=1)
    changes = {
        "gi_mode": 3,
        "shift": 0.7,
        "cutoff": 4.4,
        "cutoff_width": 1.2,
        "gaussian_width": 0.9,
        "legendre_orders": (0, 1, 2, 3),
        "gaussian_centers": (1.7, 2.5, 3.4),
        "elements": ("C",),
    }
    for name, value in changes.items():
        other = replace(first, **{name: value}).identity()
        assert {key for key in other if other[key] != first.identity()[key]} == {name}


@pytest.mark.parametrize("gi_mode", [7, -1])
def test_unknown_mode_lists_the_known(gi_mode: int) -> None:
    with pytest.raises(InputError, match=rf"gi_mode.*0: .*1: .*3: .*4: .*5: .*6: .*got {gi_mode}"):
        replace(SETTINGS, gi_mode=gi_mode)


@pytest.mark.parametrize("gi_mode", [1, 4])
def test_logarithm_for_several_elements_names_mode_five(gi_mode: int) -> None:
    with pytest.raises(InputError, match=rf"gi_mode: expected one that takes 2 elements \(.*5.*\), got {gi_mode}"):
        replace(SIC, gi_mode=gi_mode)


BAD = [
    *((name, value) for name in ("cutoff", "cutoff_width", "gaussian_width") for value in (0.0, -1.0, np.nan, np.inf)),
    *(("shift", value) for value in (np.nan, np.inf)),
    *(("legendre_orders", value) for value in ((), (0, -1), (0, 2.5))),
    *(("gaussian_centers", value) for value in ((), (2.0, 0.0), (-1.0,), (np.nan, 2.0), (2.0, np.nan), (np.inf,))),
    *(("elements", value) for value in ((), ("Si", "Si"), ("Xx",), ("X",))),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=str)
def test_fields_are_checked(name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"{name}: expected.*got"):
        replace(SETTINGS, gi_mode=3, **{name: value})


def test_centers_need_not_be_positive_where_they_divide_nothing(random_frame: MakeFrame) -> None:
    settings = replace(SETTINGS, gi_mode=0, gaussian_centers=(0.0, 2.0))
    frame = random_frame(1, 3)
    assert_close(features(settings, frame), expected_features(settings, frame))
