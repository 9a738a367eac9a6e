"""Derivatives of the features by the vectors of pairs: three forms against each other and against differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pair_sum
import pytest
import torch
from ase.data import chemical_symbols
from torch import Tensor

from pyfit_gpu.descriptors import lsp as module
from pyfit_gpu.descriptors.basis import Basis
from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.neighbors import Neighbors, find_neighbors

MakeFrame = Callable[..., Frame]
Neighborhood = tuple[np.ndarray, np.ndarray]  # vectors (K, 3) Å, elements (K,)

CUTOFF, CUTOFF_WIDTH, GAUSSIAN_WIDTH = 3.9, 1.1, 0.8  # Å
ORDERS = (2, 0, 1, 4, 1)
CENTERS = (1.7, 2.5, 3.3)  # Å
NORM = (2.9, 6.2, 16.0)
CROSS_TERMS, TRIPLES = 2, ((1, 1, 2), (0, 4, 4), (2, 2, 2), (0, 0, 0))
STEP = 1e-3  # Å
ELEMENTS = ("Si", "C", "O")


def neighborhoods(seed: int, n_elements: int, counts: Sequence[int] = (5, 7, 0, 1)) -> list[Neighborhood]:
    """Neighbours at random, of all elements; the last one of every atom stands exactly on the z axis."""
    rng = np.random.default_rng(seed)
    made = []
    for count in counts:
        directions = rng.normal(size=(count, 3))
        directions[-1:] = [0, 0, (-1) ** count]
        lengths = rng.uniform(1.3, CUTOFF, (count, 1))
        vectors = lengths * directions / np.linalg.norm(directions, axis=1, keepdims=True)
        made.append((vectors, rng.permutation(np.arange(count) % n_elements)))
    return made


def chunk_of(
    made: list[Neighborhood],
    n_elements: int,
    *,
    width: int = 8,
    front: int = 0,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    more_terms: bool = False,
) -> Chunk:
    """A chunk of atoms with these neighbours: `front` dummies before them, and others up to `width` after them."""
    vectors = torch.tensor(np.concatenate([vectors for vectors, _ in made]), dtype=dtype, device=device)
    kinds = np.concatenate([kinds for _, kinds in made])
    pairs = np.full((len(made), width), len(vectors))
    number = 0
    for atom, (mine, _) in enumerate(made):
        pairs[atom, front : front + len(mine)] = np.arange(number, number + len(mine))
        number += len(mine)
    basis = Basis.of(
        cutoff=CUTOFF,
        cutoff_width=CUTOFF_WIDTH,
        gaussian_width=GAUSSIAN_WIDTH,
        legendre_orders=ORDERS,
        gaussian_centers=CENTERS,
        norm=NORM,
        n_elements=n_elements,
        device=vectors.device,
        dtype=dtype,
        cross_terms=CROSS_TERMS if more_terms else 0,
        triples=TRIPLES if more_terms else (),
    )
    elements = torch.tensor(kinds, device=device) if n_elements > 1 else None
    return Chunk(basis, torch.arange(len(made), device=device), torch.tensor(pairs, device=device), vectors, elements)


def expected_raw(
    vectors: np.ndarray, kinds: np.ndarray, n_elements: int, more_terms: bool, monkeypatch: pytest.MonkeyPatch
) -> np.ndarray:
    """G of one atom, (n_features,), as sums over pairs and triples of neighbours; N_n is NORM here."""
    monkeypatch.setitem(pair_sum.MODES, 3, (1.5, lambda r0: np.array(NORM), lambda g, shift: g))
    return pair_sum.lsp(
        vectors,
        kinds,
        n_elements,
        gi_mode=3,
        shift=0.0,
        rc=CUTOFF / 1.5,
        d=CUTOFF_WIDTH,
        sigma=GAUSSIAN_WIDTH,
        legendre_orders=ORDERS,
        r0=CENTERS,
        cross_terms=CROSS_TERMS if more_terms else 0,
        triples=TRIPLES if more_terms else (),
    )


more_terms = pytest.mark.parametrize("more_terms", [False, True], ids=["pairs", "more terms"])


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=shape), dtype=dtype)


def assert_close(found: Tensor, expected: Tensor | np.ndarray, tolerance: float) -> None:
    """Relative to the largest value expected, or to 1."""
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    scale = max(1.0, np.abs(expected).max(initial=0))
    assert np.abs(found.double().numpy() - expected).max(initial=0) < tolerance * scale  # and so no NaN


@more_terms
@pytest.mark.parametrize("n_elements", [1, 2, 3])
def test_jacobian_against_the_pair_sum(n_elements: int, more_terms: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = neighborhoods(1, n_elements)
    chunk = chunk_of(made, n_elements, more_terms=more_terms)
    expected_g = [expected_raw(*neighborhood, n_elements, more_terms, monkeypatch) for neighborhood in made]
    assert_close(chunk.raw(), np.stack(expected_g), 1e-13)
    expected = np.zeros((len(made), len(expected_g[0]), 3, 8))
    for atom, (vectors, kinds) in enumerate(made):
        for place, component in np.ndindex(vectors.shape):
            found = []
            for steps in (1, -1, 2, -2):
                moved = vectors.copy()
                moved[place, component] += steps * STEP
                found.append(expected_raw(moved, kinds, n_elements, more_terms, monkeypatch))
            expected[atom, :, component, place] = (8 * (found[0] - found[1]) - (found[2] - found[3])) / (12 * STEP)
    assert np.abs(expected).max() > 0.1
    assert_close(chunk.jacobian(), expected, 1e-9)


@more_terms
@pytest.mark.parametrize("n_elements", [1, 2, 3])
def test_three_forms_agree(n_elements: int, more_terms: bool) -> None:
    chunk = chunk_of(neighborhoods(2, n_elements), n_elements, more_terms=more_terms)
    jacobian = chunk.jacobian()
    tangent, grad = normal(3, 4, 3, 8), normal(4, *chunk.raw().shape)
    assert_close(chunk.jvp(tangent), torch.einsum("nfck,nck->nf", jacobian, tangent), 1e-13)
    assert_close(chunk.vjp(grad), torch.einsum("nfck,nf->nck", jacobian, grad), 1e-13)
    by_features = (chunk.jvp(tangent) * grad).sum()
    assert_close(by_features, (chunk.vjp(grad) * tangent).sum(), 1e-13)
    assert by_features.abs() > 0.1


@more_terms
@pytest.mark.parametrize("n_elements", [1, 2, 3])
def test_dummy_places_are_exactly_zero(n_elements: int, more_terms: bool) -> None:
    """And what stands in a dummy's place of a tangent means nothing."""
    made = neighborhoods(5, n_elements)
    chunk = chunk_of(made, n_elements, front=1, more_terms=more_terms)
    dummy = chunk.pairs == sum(len(kinds) for _, kinds in made)
    assert dummy.sum() == 4 * 8 - 13
    grad = normal(6, *chunk.raw().shape)
    for form in (chunk.jacobian(), chunk.vjp(grad)[:, None]):
        by_place = form.movedim(-1, 1)
        assert by_place[dummy].eq(0).all()
        assert by_place[~dummy].ne(0).flatten(1).any(dim=1).all()
    tangent = normal(7, 4, 3, 8)
    noise = torch.where(dummy[:, None], 100 * normal(8, 4, 3, 8), tangent)
    assert torch.equal(chunk.jvp(noise), chunk.jvp(tangent))


@more_terms
@pytest.mark.parametrize("n_elements", [1, 3])
@pytest.mark.parametrize(("width", "front"), [(7, 0), (12, 0), (12, 3)])
def test_padding_does_not_matter(n_elements: int, width: int, front: int, more_terms: bool) -> None:
    """Width 7 is the largest number of neighbours: no padding for that atom."""
    made = neighborhoods(9, n_elements)
    reference, chunk = (
        chunk_of(made, n_elements, more_terms=more_terms),
        chunk_of(made, n_elements, width=width, front=front, more_terms=more_terms),
    )
    grad, tangent = normal(10, *chunk.raw().shape), normal(11, 4, 3, 7)
    wider = torch.zeros(4, 3, width, dtype=torch.float64)
    wider[..., front : front + 7] = tangent
    eight = torch.nn.functional.pad(tangent, (0, 1))
    assert_close(chunk.raw(), reference.raw(), 1e-13)
    assert_close(chunk.jvp(wider), reference.jvp(eight), 1e-13)
    assert_close(chunk.vjp(grad)[..., front : front + 7], reference.vjp(grad)[..., :7], 1e-13)
    assert_close(chunk.jacobian()[..., front : front + 7], reference.jacobian()[..., :7], 1e-13)


@more_terms
@pytest.mark.parametrize("n_elements", [1, 2])
def test_atoms_without_neighbours(n_elements: int, more_terms: bool) -> None:
    """Alone in a chunk, and beside others."""
    for counts in ((0, 0), (3, 0, 2)):
        chunk = chunk_of(neighborhoods(12, n_elements, counts), n_elements, width=4, more_terms=more_terms)
        alone = torch.tensor(counts) == 0
        n = len(counts)
        jacobian = chunk.jacobian()
        forms = [chunk.raw(), chunk.jvp(normal(13, n, 3, 4)), chunk.vjp(torch.ones_like(chunk.raw()))]
        for form in (*forms, jacobian):
            assert form[alone].eq(0).all()
            assert form.isfinite().all()
        assert jacobian[~alone].ne(0).flatten(1).any(dim=1).all()


@more_terms
@pytest.mark.parametrize("length", [CUTOFF, CUTOFF * (1 + 1e-12), CUTOFF + 1])
def test_a_neighbour_at_the_cutoff_or_beyond_counts_nothing(length: float, more_terms: bool) -> None:
    made = neighborhoods(14, 1, (4,))
    far = (np.concatenate([made[0][0], [[0, 0, length]]]), np.zeros(5, dtype=int))
    with_far, without = chunk_of([far], 1, more_terms=more_terms), chunk_of(made, 1, more_terms=more_terms)
    assert torch.equal(with_far.raw(), without.raw())
    assert torch.equal(with_far.jacobian(), without.jacobian())


@more_terms
@pytest.mark.parametrize("n_elements", [1, 2])
def test_float32(n_elements: int, more_terms: bool) -> None:
    made = neighborhoods(15, n_elements)
    exact, single = (
        chunk_of(made, n_elements, more_terms=more_terms),
        chunk_of(made, n_elements, dtype=torch.float32, more_terms=more_terms),
    )
    grad, tangent = normal(16, *exact.raw().shape), normal(17, 4, 3, 8)
    found = (single.raw(), single.jacobian(), single.vjp(grad.float()), single.jvp(tangent.float()))
    expected = (exact.raw(), exact.jacobian(), exact.vjp(grad), exact.jvp(tangent))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert_close(one, other, 5e-6)


@more_terms
@pytest.mark.parametrize("n_elements", [1, 2])
def test_the_order_of_questions_does_not_matter(n_elements: int, more_terms: bool) -> None:
    """Parts are computed once and shared by all forms, some with operations in place: no form may change another."""
    made = neighborhoods(18, n_elements)
    chunk = chunk_of(made, n_elements, more_terms=more_terms)
    grad, tangent = normal(19, *chunk.raw().shape), normal(20, 4, 3, 8)
    questions = {
        "raw": lambda chunk: chunk.raw(),
        "jacobian": lambda chunk: chunk.jacobian(),
        "vjp": lambda chunk: chunk.vjp(grad),
        "jvp": lambda chunk: chunk.jvp(tangent),
    }
    first = {name: question(chunk_of(made, n_elements, more_terms=more_terms)) for name, question in questions.items()}
    for names in (list(questions), list(reversed(questions))):
        chunk = chunk_of(made, n_elements, more_terms=more_terms)
        for name in names * 2:
            assert torch.equal(questions[name](chunk), first[name])


@more_terms
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("n_elements", [1, 2])
@pytest.mark.parametrize("n_centers", [1, 2])
def test_bits_of_all_forms_do_not_depend_on_other_atoms(
    n_centers: int, n_elements: int, dtype: torch.dtype, more_terms: bool
) -> None:
    """Products with an axis of 1 have ways of their own, which depend on how many there are."""
    n, width = 40, 28
    whole = chunk_of(
        neighborhoods(23, n_elements, (width,) * n), n_elements, width=width, dtype=dtype, more_terms=more_terms
    )
    cross_terms = min(whole.basis.cross_terms, n_centers - 1)
    centers, norm = whole.basis.centers[:n_centers], whole.basis.norm[:n_centers]
    whole.basis = replace(whole.basis, centers=centers, norm=norm, cross_terms=cross_terms)
    grad, tangent = normal(24, *whole.raw().shape, dtype=dtype), normal(25, n, 3, width, dtype=dtype)

    def forms(chunk: Chunk) -> tuple[Tensor, ...]:
        return (
            chunk.raw(),
            chunk.vjp(grad[chunk.atoms]),
            chunk.jvp(tangent[chunk.atoms]),
            chunk.jacobian(),
        )

    expected = forms(whole)
    for start, stop in ((0, 1), (7, 9), (3, 30)):
        part = whole.fresh()
        part.atoms, part.pairs = part.atoms[start:stop], part.pairs[start:stop]
        for found, of_all in zip(forms(part), expected, strict=True):
            assert torch.equal(found, of_all[start:stop])


@more_terms
@pytest.mark.parametrize("n_elements", [1, 2])
def test_everything_is_on_the_device_of_the_input(n_elements: int, more_terms: bool) -> None:
    """Tensors on the meta device refuse to meet any of the host."""
    chunk = chunk_of(neighborhoods(21, n_elements), n_elements, device="meta", more_terms=more_terms)
    raw = chunk.raw()
    tangent = torch.empty(4, 3, 8, dtype=torch.float64, device="meta")
    for form in (raw, chunk.jacobian(), chunk.vjp(raw), chunk.jvp(tangent)):
        assert form.device.type == "meta"


def settings_of(gi_mode: int, n_elements: int) -> LocalStructureParameters:
    return LocalStructureParameters(
        elements=ELEMENTS[:n_elements],
        gi_mode=gi_mode,
        shift=0.3,
        cutoff=CUTOFF / 1.5 if gi_mode in (3, 4) else CUTOFF,
        cutoff_width=CUTOFF_WIDTH,
        gaussian_width=GAUSSIAN_WIDTH,
        legendre_orders=ORDERS,
        gaussian_centers=CENTERS,
        cross_terms=CROSS_TERMS if gi_mode == 6 else 0,
        triples=TRIPLES if gi_mode == 6 else (),
    )


Sample = tuple[Neighbors, Tensor]


@pytest.fixture
def sample(random_frame: MakeFrame, make_frame: MakeFrame) -> Callable[[LocalStructureParameters], Sample]:
    """Neighbours and elements of some crystals and of an atom without neighbours."""

    def make(settings: LocalStructureParameters) -> Sample:
        frames = [random_frame(seed, 4, elements=settings.elements) for seed in range(2)]
        frames.insert(1, make_frame([[0, 0, 0]]))
        symbols = [chemical_symbols[number] for frame in frames for number in frame.atomic_numbers]
        species = torch.tensor([settings.elements.index(symbol) for symbol in symbols])
        return find_neighbors(Structures.from_frames(frames), settings.neighbor_cutoff), species

    return make


MODES_AND_ELEMENTS = [(0, 1), (1, 1), (3, 1), (4, 1), (5, 1), (0, 2), (3, 2), (5, 2), (5, 3), (6, 1), (6, 3)]


@pytest.mark.parametrize(("gi_mode", "n_elements"), MODES_AND_ELEMENTS)
def test_features_against_finite_differences(
    sample: Callable[..., Sample], gi_mode: int, n_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G and the network's input along a random movement of all pair vectors, chunk by chunk."""
    settings = settings_of(gi_mode, n_elements)
    neighbors, species = sample(settings)
    movement = normal(22, len(neighbors.index), 3)

    def difference(function: Callable[[Neighbors, Tensor], Tensor]) -> Tensor:
        values = [
            function(replace(neighbors, vectors=neighbors.vectors + steps * STEP * movement), species)
            for steps in (1, -1, 2, -2)
        ]
        return (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * STEP)

    # Few atoms at a time, so that the chunks' own numbers of atoms and pairs differ from the batch's.
    monkeypatch.setattr(module, "_CHUNK_CPU", (2, 65_536))
    of_raw = torch.full_like(settings.raw(neighbors, species), torch.nan)
    extended = torch.cat((movement, torch.zeros(1, 3, dtype=torch.float64)))
    for chunk in settings.chunks(neighbors, species):
        of_raw[chunk.atoms] = chunk.jvp(extended[chunk.pairs].transpose(1, 2))
    assert_close(of_raw, difference(settings.raw), 1e-8)
    slope = settings.transform_slope(settings.raw(neighbors, species))
    assert_close(slope * of_raw, difference(settings), 1e-8)
    assert of_raw.abs().max() > 0.1


@pytest.mark.parametrize("gi_mode", [0, 1, 3, 4, 5, 6])
def test_slope_of_the_network_input(gi_mode: int) -> None:
    """d ln(G + shift) = 1 / (G + shift), d asinh(G) = 1 / sqrt(1 + G^2), else 1."""
    settings = settings_of(gi_mode, 1)
    raw = torch.tensor([[0.0, 0.01, 0.4, 3.0, 250.0]], dtype=torch.float64)
    expected = {1: 1 / (raw + 0.3), 4: 1 / (raw + 0.3), **dict.fromkeys((5, 6), 1 / (1 + raw**2).sqrt())}.get(
        gi_mode, torch.ones_like(raw)
    )
    torch.testing.assert_close(settings.transform_slope(raw), expected, rtol=1e-14, atol=0)
    if gi_mode in (5, 6):  # blocks of two elements can be negative
        torch.testing.assert_close(settings.transform_slope(-raw), expected, rtol=1e-14, atol=0)
    single = settings.transform_slope(raw.float())
    assert single.dtype == torch.float32


@pytest.mark.parametrize("size", [(512, 65_536), (3, 65_536), (512, 30)])
def test_chunks_hold_every_atom_and_pair_once(
    sample: Callable[..., Sample], monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    settings = settings_of(5, 2)
    neighbors, species = sample(settings)
    monkeypatch.setattr(module, "_CHUNK_CPU", size)
    n_pairs = len(neighbors.index)
    atoms, pairs = [], []
    for chunk in settings.chunks(neighbors, species):
        real = chunk.pairs < n_pairs
        assert torch.equal(real.sum(dim=1), neighbors.counts[chunk.atoms])
        owners = chunk.atoms[:, None].expand_as(chunk.pairs)[real]
        assert torch.equal(neighbors.centers[chunk.pairs[real]], owners)
        assert torch.equal(chunk.vectors.transpose(1, 2)[real], neighbors.vectors[chunk.pairs[real]])
        atoms.append(chunk.atoms)
        pairs.append(chunk.pairs[real])
    assert torch.equal(torch.cat(atoms).sort().values, torch.arange(len(species)))
    assert torch.equal(torch.cat(pairs).sort().values, torch.arange(n_pairs))
