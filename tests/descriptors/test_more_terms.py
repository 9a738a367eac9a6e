"""Cross and four-body terms: symmetries, their order and scale, their coefficients, special neighbourhoods."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pair_sum
import pytest
import torch
from ase.data import chemical_symbols
from sample_sets import make_descriptor
from torch import Tensor

from pyfit_gpu.descriptors.couplings import Couplings, Gradient, coupling_coefficients
from pyfit_gpu.descriptors.harmonics import addition_coefficients, angular_rows, n_rows
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.neighbors import find_neighbors

MakeFrame = Callable[..., Frame]

TRIPLES = ((1, 1, 2), (1, 2, 3), (2, 2, 2))
CENTERS = (1.7, 2.5, 3.3)
SIC_O = ("Si", "C", "O")


def settings_of(elements: tuple[str, ...] = ("Si",), **settings: object) -> LocalStructureParameters:
    named = {"gi_mode": 6, "legendre_orders": (0, 1, 2, 3), "cross_terms": 1, "triples": TRIPLES, **settings}
    return make_descriptor(elements, **named)


def raw(settings: LocalStructureParameters, *frames: Frame, dtype: torch.dtype = torch.float64) -> Tensor:
    symbols = [chemical_symbols[number] for frame in frames for number in frame.atomic_numbers]
    species = torch.tensor([settings.elements.index(symbol) for symbol in symbols])
    return settings.raw(find_neighbors(Structures.from_frames(frames, dtype=dtype), settings.neighbor_cutoff), species)


def parts(settings: LocalStructureParameters, of_raw: Tensor) -> tuple[Tensor, Tensor]:
    """The two parts of G: (n, blocks of two elements, ..) and (n, blocks of three elements, ..)."""
    count = settings.n_elements
    four_body = count * (count + 1) * (count + 2) // 6 * len(settings.triples) * len(settings.gaussian_centers)
    pairs, others = of_raw.split([settings.n_features - four_body, four_body], dim=1)
    n = len(of_raw)
    return pairs.view(n, count * (count + 1) // 2, -1), others.view(n, count * (count + 1) * (count + 2) // 6, -1)


def assert_close(found: Tensor, expected: Tensor | np.ndarray, tolerance: float = 1e-12) -> None:
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    error = np.abs(found.double().numpy() - expected) / np.maximum(1, np.abs(expected))
    assert error.max(initial=0) < tolerance  # and so no NaN


class TestCoefficients:
    @pytest.mark.parametrize("triple", [(0, 0, 0), (0, 2, 2), *TRIPLES, (2, 2, 4), (3, 4, 5), (4, 4, 8), (1, 7, 8)])
    def test_against_wigner_symbols(self, triple: tuple[int, int, int]) -> None:
        """The same invariant of three directions, and C alone has squares that add up to 1."""
        directions = np.random.default_rng(3).normal(size=(6, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        units = torch.tensor(directions.T)
        rows, roots = [], []
        for order in triple:
            rows.append(angular_rows(units, (order,), out=units.new_empty(n_rows((order,)), 6)).numpy())
            weights = addition_coefficients((order,), device=units.device, dtype=units.dtype)[0]
            roots.append(weights.sqrt().numpy())
        coefficients = coupling_coefficients(triple)
        found = np.einsum("abc,ai,bj,ck->ijk", coefficients, *rows)
        np.testing.assert_allclose(found, pair_sum.invariant(directions, triple), rtol=0, atol=1e-13)
        assert np.square(coefficients / np.einsum("a,b,c->abc", *roots)).sum() == pytest.approx(1, rel=1e-13)

    @pytest.mark.parametrize(("triple", "count"), [((1, 1, 2), 11), ((1, 2, 3), 21), ((2, 2, 2), 25), ((4, 4, 4), 97)])
    def test_only_what_is_not_zero(self, triple: tuple[int, int, int], count: int) -> None:
        assert np.count_nonzero(coupling_coefficients(triple)) == count

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("triples", [TRIPLES, ((0, 0, 0),), ((2, 2, 4), (1, 1, 2))], ids=str)
    def test_a_dense_matrix_gives_the_same(self, triples: tuple[tuple[int, int, int], ...], dtype: torch.dtype) -> None:
        """The way of a GPU, on a tensor that says it is on one."""
        couplings = Couplings.of((0, 1, 2, 3, 4), triples, like=torch.empty(0, dtype=dtype))
        count = couplings.span.stop - couplings.span.start
        x, y = torch.randn(2, count, 5, 3, dtype=dtype, generator=torch.Generator().manual_seed(1))
        for gradient in couplings.gradients:
            for other in (x, y):
                assert_close(_dense(gradient, x, other), gradient(x, other), 1e-13 if dtype.itemsize == 8 else 1e-5)


def _dense(gradient: Gradient, x: Tensor, y: Tensor) -> Tensor:
    class Elsewhere(Tensor):
        device = torch.device("cuda")

    first = x.as_subclass(Elsewhere)
    return gradient(first, first if y is x else y.as_subclass(Elsewhere)).as_subclass(Tensor)


def test_without_more_terms_it_is_mode_5(random_frame: MakeFrame) -> None:
    settings = settings_of(cross_terms=0, triples=())
    frames = [random_frame(1, 4), random_frame(2, 3)]
    assert_close(raw(settings, *frames), raw(replace(settings, gi_mode=5), *frames), 1e-13)


@pytest.mark.parametrize(
    ("settings", "n_features"),
    [
        ({}, 29),
        ({"legendre_orders": (3, 0, 2, 1), "triples": TRIPLES[::-1]}, 29),
        ({"cross_terms": 2, "triples": ((0, 0, 0), (0, 2, 2), (1, 1, 2))}, 33),
        ({"legendre_orders": (4, 2), "cross_terms": 0, "triples": ((2, 2, 4), (2, 2, 2))}, 12),
        ({"legendre_orders": (2,), "gaussian_centers": (2.5,), "cross_terms": 0, "triples": ((2, 2, 2),)}, 2),
        ({"triples": ()}, 20),
        ({"cross_terms": 0, "triples": ((0, 0, 0),)}, 15),
        ({"elements": ("Si", "C"), "triples": ((1, 1, 2),)}, 72),
        ({"elements": SIC_O}, 210),
        ({"elements": SIC_O, "legendre_orders": (2, 1), "cross_terms": 2, "triples": ((1, 1, 2), (2, 2, 2))}, 132),
    ],
    ids=str,
)
def test_against_the_sums_over_three_neighbours(
    random_frame: MakeFrame, settings: dict[str, object], n_features: int
) -> None:
    own = settings_of(**settings)
    frames = [random_frame(1, 5, elements=own.elements, scatter=1), random_frame(2, 3, pbc=(True, False, True))]
    assert own.n_features == n_features
    expected = []
    for frame in frames:
        symbols = [chemical_symbols[number] for number in frame.atomic_numbers]
        nn = {"symbols": list(own.elements), "gi_mode": 6, "shift": 0.0, "rc": own.cutoff, "d": own.cutoff_width}
        nn |= {"sigma": own.gaussian_width, "legendre_orders": own.legendre_orders, "r0": own.gaussian_centers}
        nn |= {"cross_terms": own.cross_terms, "triples": own.triples}
        expected.append(pair_sum.features(pair_sum.Structure(frame.positions, frame.cell, frame.pbc, symbols), nn))
    found = raw(own, *frames)
    assert_close(own.transform(found, str), np.concatenate(expected))
    single = raw(own, *frames, dtype=torch.float32)
    assert single.dtype == torch.float32
    assert_close(own.transform(single, str), np.concatenate(expected), 2e-5)


def test_order_and_sign(make_frame: MakeFrame) -> None:
    """One neighbour, far out to one side: products of f_n / r0_n, the four-body ones times |3j(l1 l2 l3; 0 0 0)|."""
    settings = settings_of(cross_terms=2)
    frame = make_frame([[0, 0, 0], [0.3, -1.2, 2.0]])
    r = np.linalg.norm(frame.positions[1])
    fc = (r - 4.3) ** 4 / (1.1**4 + (r - 4.3) ** 4)
    x = np.exp(-(((r - np.array(CENTERS)) / 0.8) ** 2)) * fc / CENTERS
    products = [x[n] * x[n + k] for k in range(3) for n in range(3 - k)]
    symbols = [2 / 15, 3 / 35, 2 / 35]  # squares, (112), (123) and (222)
    expected = np.concatenate([np.tile(products, 4), *(np.sqrt(square) * x**3 for square in symbols)])
    assert_close(raw(settings, frame), np.stack([expected, expected]))


@pytest.mark.parametrize("sign", [1, -1])
def test_rotation_and_reflection(random_frame: MakeFrame, sign: int) -> None:
    settings, frame = settings_of(SIC_O), random_frame(5, 6, elements=SIC_O)
    rotation = sign * np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = replace(frame, positions=frame.positions @ rotation.T, cell=frame.cell @ rotation.T)
    assert_close(raw(settings, turned), raw(settings, frame))


def test_permutation_of_atoms(random_frame: MakeFrame) -> None:
    settings, frame = settings_of(SIC_O), random_frame(6, 7, elements=SIC_O)
    order = np.random.default_rng(1).permutation(7)
    permuted = replace(frame, positions=frame.positions[order], atomic_numbers=frame.atomic_numbers[order])
    assert_close(raw(settings, permuted), raw(settings, frame)[order])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:], ids=str)
def test_order_of_the_elements(random_frame: MakeFrame, order: tuple[int, ...]) -> None:
    """Blocks change places, and nothing else."""
    settings, frame = settings_of(SIC_O), random_frame(6, 7, elements=SIC_O)
    other = settings_of(tuple(SIC_O[k] for k in order))
    for size, found, expected in zip(
        (2, 3), parts(other, raw(other, frame)), parts(settings, raw(settings, frame)), strict=True
    ):
        blocks = list(itertools.combinations_with_replacement(range(3), size))
        places = [blocks.index(tuple(sorted(order[k] for k in block))) for block in blocks]
        assert places != sorted(places)
        assert_close(found, expected[:, places])


@pytest.mark.parametrize("elements", [("Si", "C"), SIC_O, ("Si", "C", "O", "Ge")], ids="".join)
def test_blocks_add_up_to_one_element(random_frame: MakeFrame, elements: tuple[str, ...]) -> None:
    frame = random_frame(8, 8, elements=elements)
    silicon = replace(frame, atomic_numbers=np.full(8, 14))
    found, expected = settings_of(elements), settings_of()
    for several, one in zip(parts(found, raw(found, frame)), parts(expected, raw(expected, silicon)), strict=True):
        assert several.abs().amax(dim=(0, 2)).min() > 1e-4  # every block counts
        assert_close(several.sum(dim=1), one[:, 0])


def test_an_element_without_atoms_adds_zero_blocks(random_frame: MakeFrame) -> None:
    settings, frame = settings_of(("Si", "C")), random_frame(8, 4)
    for several, one in zip(
        parts(settings, raw(settings, frame)), parts(settings_of(), raw(settings_of(), frame)), strict=True
    ):
        assert_close(several[:, 0], one[:, 0])
        assert several[:, 1:].eq(0).all()


def test_without_neighbours(make_frame: MakeFrame, random_frame: MakeFrame) -> None:
    settings = settings_of()
    assert raw(settings, make_frame([[0, 0, 0]])).eq(0).all()
    assert raw(settings, random_frame(1, 3), make_frame([[0, 0, 0]]))[3].eq(0).all()
