"""Fused kernels, interpreted, against torch's operations: features and derivatives, of flat and padded pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import interpreted  # noqa: F401, first
import pytest
import torch
from sample_sets import make_descriptor
from torch import Tensor

from pyfit_gpu import fused
from pyfit_gpu.descriptors import lsp
from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.descriptors.kernels import expansion, neighborhoods
from pyfit_gpu.descriptors.kernels.chunk import FusedChunk
from pyfit_gpu.descriptors.kernels.expansion import FusedExpansion
from pyfit_gpu.descriptors.kernels.pairs import FlatPairs
from pyfit_gpu.descriptors.kernels.vectors import jacobian_source
from pyfit_gpu.descriptors.lsp import LocalStructureParameters, basis_of
from pyfit_gpu.descriptors.modes import GI_MODES
from pyfit_gpu.structures.neighbors import Neighbors

CPU = torch.device("cpu")
DTYPES = (torch.float64, torch.float32)
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5}
ELEMENTS = ("Si", "C", "O", "N")
COUNTS = (4, 0, 6, 3, 9)  # neighbours of each atom
TRIPLES = ((0, 2, 2), (1, 1, 2), (2, 2, 2))
MODES = {
    "mode 0": {"gi_mode": 0},
    "mode 1": {"gi_mode": 1},
    "mode 2": {"gi_mode": 2, "legendre_orders": (5,)},
    "mode 3": {"gi_mode": 3},
    "mode 4": {"gi_mode": 4, "legendre_orders": (4,)},
    "mode 5": {"gi_mode": 5, "legendre_orders": (0, 3, 1)},
    "mode 6": {"gi_mode": 6, "legendre_orders": (0, 1, 2), "cross_terms": 2, "triples": TRIPLES},
    "cross terms": {"gi_mode": 6, "legendre_orders": (2, 1), "cross_terms": 1},
    "four-body": {"gi_mode": 6, "legendre_orders": (2, 0, 2, 1), "triples": TRIPLES},
}
CASES = [
    *((mode, 1) for mode in MODES),
    *((mode, 2) for mode in ("mode 0", "mode 3", "mode 5", "mode 6")),
    *(pytest.param(mode, 3, marks=pytest.mark.slow) for mode in list(MODES)[5:]),
]


def settings_of(mode: str, n_elements: int, **more: object) -> LocalStructureParameters:
    return make_descriptor(ELEMENTS[:n_elements], **{"gaussian_centers": (1.7, 2.5, 3.3), **MODES[mode], **more})


def neighbors_of(
    settings: LocalStructureParameters, counts: Sequence[int] = COUNTS, dtype: torch.dtype = torch.float64
) -> Neighbors:
    """Neighbours in any direction between 1.5 Å and the cutoff."""
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(sum(counts), 3, generator=generator, dtype=torch.float64)
    lengths = torch.rand(sum(counts), 1, generator=generator, dtype=torch.float64)
    vectors *= (1.5 + (settings.neighbor_cutoff - 1.5) * lengths) / vectors.norm(dim=1, keepdim=True)
    index = torch.arange(sum(counts)) * 7 % max(len(counts), 1)
    return Neighbors(torch.tensor(counts, dtype=torch.int64), index, vectors.to(dtype))


def species_of(settings: LocalStructureParameters, n_atoms: int) -> Tensor:
    return torch.arange(n_atoms) % settings.n_elements


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    scale = expected.abs().max()
    assert scale > 0
    assert (found - expected).abs().max() <= TOLERANCE[expected.dtype] * scale  # and so no NaN


class Case(NamedTuple):
    """One neighbourhood by kernels and by torch's operations: all atoms are one chunk."""

    fused: FusedExpansion
    flat: FlatPairs
    chunk: Chunk
    padded: FusedChunk
    numbers: Tensor  # (n_pairs,) of the pairs in the chunk's rows and places

    def flattened(self, values: Tensor) -> Tensor:
        """(.., n, places) to (.., n_pairs)."""
        return values.flatten(-2)[..., self.numbers]


def made(settings: LocalStructureParameters, neighbors: Neighbors) -> Case:
    counts, vectors = neighbors.counts, neighbors.vectors
    species = species_of(settings, len(counts))
    basis = basis_of(settings, CPU, vectors.dtype)
    width = -(-int(counts.max()) // 4) * 4 + 4  # as wide as those of a CPU, and places that no atom fills
    first, rank = torch.cumsum(counts, 0) - counts, torch.arange(width)
    pairs = torch.where(rank < counts[:, None], first[:, None] + rank, len(vectors))
    kinds = None if settings.n_elements == 1 else species.to(torch.uint8)[neighbors.index]
    arguments = (basis, torch.arange(len(counts)), pairs, vectors, kinds)
    numbers = (pairs.flatten() < len(vectors)).nonzero()[:, 0]
    flat = FlatPairs.of(neighbors, species, settings.n_elements)
    return Case(FusedExpansion(basis), flat, Chunk(*arguments), FusedChunk(*arguments), numbers)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are used on the CPU."""
    monkeypatch.setattr(fused, "has_fused_kernels", lambda device: True)
    monkeypatch.setattr(lsp, "has_fused_kernels", lambda device: True)


def random_like(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("mode", "n_elements"), CASES)
def test_all_forms(mode: str, n_elements: int, dtype: torch.dtype, kernels: None) -> None:
    settings = settings_of(mode, n_elements)
    case = made(settings, neighbors_of(settings, dtype=dtype))
    chunk, flat, by_kernels = case.chunk, case.flat, case.fused
    n, width = chunk.pairs.shape
    sums = by_kernels.sums(flat)
    assert_close(by_kernels.raw(flat, sums), chunk.raw())
    assert_close(case.padded.raw(), chunk.raw())

    grad = random_like(n, settings.n_features, dtype=dtype)
    expected = chunk.vjp(grad)
    assert_close(by_kernels.vjp(flat, grad, sums), case.flattened(expected.transpose(0, 1)).T)
    dummies = chunk.pairs == len(flat.vectors)
    assert_close(case.padded.vjp(grad), expected.masked_fill(dummies[:, None], 0))

    tangent = random_like(n, 3, width, dtype=dtype)
    expected = chunk.jvp(tangent.masked_fill(dummies[:, None], 0))
    assert_close(by_kernels.jvp(flat, case.flattened(tangent.transpose(0, 1)).T, sums), expected)
    assert_close(case.padded.jvp(tangent), expected)

    expected = chunk.jacobian()
    assert_close(by_kernels.jacobian(flat, sums), case.flattened(expected.movedim(0, 2)))
    assert_close(case.padded.jacobian(), expected)


def test_every_mode() -> None:
    """A new one is tried, too."""
    assert {settings["gi_mode"] for settings in MODES.values()} == set(GI_MODES)


@pytest.mark.parametrize("n_elements", [1, 2])
def test_forms_agree(n_elements: int) -> None:
    """The JVP is the Jacobian times the tangent, and the VJP its transpose."""
    settings = settings_of("mode 6", n_elements)
    case = made(settings, neighbors_of(settings))
    tangent = random_like(sum(COUNTS), 3, dtype=torch.float64)
    grad = random_like(len(COUNTS), settings.n_features, dtype=torch.float64)
    jacobian = case.fused.jacobian(case.flat)
    by_pair = (jacobian * tangent.T).sum(dim=1)
    centers = torch.repeat_interleave(torch.tensor(COUNTS))
    found = torch.zeros(len(COUNTS), settings.n_features, dtype=torch.float64).index_add(0, centers, by_pair.T)
    assert_close(case.fused.jvp(case.flat, tangent), found)
    assert_close(case.fused.vjp(case.flat, grad), (jacobian * grad[centers].T[:, None]).sum(dim=0).T)


def test_vjp_against_differences() -> None:
    settings = settings_of("mode 6", 1)
    neighbors = neighbors_of(settings, (2, 1))
    grad = random_like(2, settings.n_features, dtype=torch.float64)
    direction = random_like(3, 3, dtype=torch.float64)

    def energy(step: float) -> float:
        moved = Neighbors(neighbors.counts, neighbors.index, neighbors.vectors + step * direction)
        case = made(settings, moved)
        return float((case.fused.raw(case.flat) * grad).sum())

    case = made(settings, neighbors)
    found = float((case.fused.vjp(case.flat, grad) * direction).sum())
    assert found == pytest.approx((energy(1e-5) - energy(-1e-5)) / 2e-5, rel=1e-8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_depend_on_the_own_neighbors_alone(dtype: torch.dtype) -> None:
    """Not on other atoms, on pieces or on the run."""
    settings = settings_of("mode 6", 2)
    neighbors = neighbors_of(settings, dtype=dtype)
    case = made(settings, neighbors)
    grad = random_like(len(COUNTS), settings.n_features, dtype=dtype)
    raw, by_pair = case.fused.raw(case.flat), case.fused.vjp(case.flat, grad)
    assert torch.equal(case.fused.raw(case.flat), raw)
    starts = [*case.flat.starts.tolist(), sum(COUNTS)]
    for start, stop in ((0, 1), (1, 3), (3, 5)):
        pairs = range(starts[start], starts[stop])
        piece = case.flat.piece(range(start, stop), pairs)
        assert torch.equal(case.fused.raw(piece), raw[start:stop])
        assert torch.equal(case.fused.vjp(piece, grad[start:stop]), by_pair[pairs.start : pairs.stop])


def test_pieces_in_the_other_forms() -> None:
    settings = settings_of("mode 6", 2)
    case = made(settings, neighbors_of(settings))
    tangent = random_like(sum(COUNTS), 3, dtype=torch.float64)
    piece = case.flat.piece(range(2, 4), range(4, 13))
    assert torch.equal(case.fused.jvp(piece, tangent[4:13]), case.fused.jvp(case.flat, tangent)[2:4])
    assert torch.equal(case.fused.jacobian(piece), case.fused.jacobian(case.flat)[..., 4:13])


@pytest.mark.parametrize("padded", [False, True])
def test_offsets_of_features_have_64_bits(padded: bool) -> None:
    """Ten million pairs times a hundred features times three are too many for 32, and too large for a test."""
    source = jacobian_source(basis_of(settings_of("mode 6", 2), CPU, torch.float64), padded=padded)
    assert f"apart = {'width' if padded else 'n_places'}.to(tl.int64)\n" in source


@pytest.mark.parametrize("counts", [(0,), (0, 0, 0), ()], ids=str)
def test_no_neighbors(counts: tuple[int, ...]) -> None:
    settings = settings_of("mode 6", 2)
    neighbors = neighbors_of(settings, counts)
    pairs = FlatPairs.of(neighbors, species_of(settings, len(counts)), 2)
    by_kernels = FusedExpansion(basis_of(settings, CPU, torch.float64))
    n = len(counts)
    zeros = torch.zeros(n, settings.n_features, dtype=torch.float64)
    assert torch.equal(by_kernels.raw(pairs), zeros)
    assert by_kernels.vjp(pairs, zeros).shape == (0, 3)
    assert torch.equal(by_kernels.jvp(pairs, neighbors.vectors), zeros)
    assert by_kernels.jacobian(pairs).shape == (settings.n_features, 3, 0)


def test_beyond_the_cutoff() -> None:
    """A neighbour at the cutoff or beyond, as a list with a skin has it, changes nothing."""
    settings = settings_of("mode 6", 1)
    neighbors = neighbors_of(settings, (3,))
    far = torch.tensor([[settings.cutoff, 0, 0], [0, -settings.cutoff - 0.7, 0]], dtype=torch.float64)
    more = Neighbors(torch.tensor([5]), torch.zeros(5, dtype=torch.int64), torch.cat((neighbors.vectors, far)))
    case, with_far = made(settings, neighbors), made(settings, more)
    assert torch.equal(with_far.fused.raw(with_far.flat), case.fused.raw(case.flat))
    grad = random_like(1, settings.n_features, dtype=torch.float64)
    found = with_far.fused.vjp(with_far.flat, grad)
    assert torch.equal(found[:3], case.fused.vjp(case.flat, grad))
    assert torch.equal(found[3:], torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("n_centers", [1, 2, 33])
def test_numbers_of_gaussians(n_centers: int) -> None:
    """One, a power of two, and more than a warp has threads."""
    centers = tuple(1.5 + 0.07 * n for n in range(n_centers))
    more = {"legendre_orders": (0, 1), "cross_terms": min(1, n_centers - 1), "triples": ((0, 1, 1),)}
    settings = settings_of("mode 6", 1, gaussian_centers=centers, **more)
    case = made(settings, neighbors_of(settings, (2, 3)))
    grad = random_like(2, settings.n_features, dtype=torch.float64)
    assert_close(case.fused.raw(case.flat), case.chunk.raw())
    assert_close(case.fused.vjp(case.flat, grad), case.flattened(case.chunk.vjp(grad).transpose(0, 1)).T)
    assert_close(case.fused.jacobian(case.flat), case.flattened(case.chunk.jacobian().movedim(0, 2)))


def test_groups_of_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four elements, three at a time, of which the last group lacks two."""
    settings = settings_of("mode 6", 4, legendre_orders=(0, 1), triples=(), cross_terms=0)
    neighbors = neighbors_of(settings)
    expected = made(settings, neighbors).chunk.raw()
    monkeypatch.setattr(neighborhoods, "_REGISTERS", 3 * 8 * 4)
    settings = settings_of("mode 6", 4, legendre_orders=(0, 1), triples=(), cross_terms=0, cutoff_width=1.25)
    case = made(settings, neighbors)
    assert neighborhoods.elements_at_once(case.fused.basis) == 3
    assert case.fused.sums(case.flat).shape[1] == 4
    assert_close(case.fused.raw(case.flat), case.chunk.raw())
    assert not torch.equal(expected, case.chunk.raw())  # another width: a kernel of its own


class TestSettings:
    """`LocalStructureParameters` where a device has fused kernels."""

    @pytest.mark.parametrize("n_bytes", [2**20, 2000])
    def test_features(self, n_bytes: int, kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """At once, and in pieces."""
        monkeypatch.setattr(expansion, "_BYTES_OF_SUMS", n_bytes)
        settings = settings_of("mode 6", 2)
        neighbors = neighbors_of(settings)
        species = species_of(settings, len(COUNTS))
        monkeypatch.setattr(Chunk, "raw", forbidden)
        found = settings.raw(neighbors, species)
        monkeypatch.undo()
        assert_close(found, settings.raw(neighbors, species))

    def test_chunks(self, kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = settings_of("mode 6", 2)
        neighbors = neighbors_of(settings)
        chunks = list(settings.chunks(neighbors, species_of(settings, len(COUNTS))))
        monkeypatch.setattr(Chunk, "raw", forbidden)
        found = torch.cat([chunk.fresh().raw() for chunk in chunks])
        last = chunks[-1].part(torch.tensor([0])).raw()
        monkeypatch.undo()
        assert_close(found, torch.cat([Chunk.raw(chunk.fresh()) for chunk in chunks]))
        assert torch.equal(last, found[-len(chunks[-1].atoms)][None])

    def test_too_long_for_kernels(self, kernels: None) -> None:
        assert settings_of("mode 6", 3).suits_kernels
        assert not settings_of("mode 5", 1, legendre_orders=tuple(range(30))).suits_kernels
        centers = tuple(1.0 + 0.01 * n for n in range(65))
        assert not settings_of("mode 5", 1, legendre_orders=(0,), gaussian_centers=centers).suits_kernels

    def test_a_kernel_that_cannot_be_compiled(
        self, kernels: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Then torch's operations compute it, and one line says why."""
        settings = settings_of("mode 5", 1)
        neighbors = neighbors_of(settings)
        species = species_of(settings, len(COUNTS))
        monkeypatch.setattr(fused, "_known", {})
        monkeypatch.setattr(FusedExpansion, "_launch", fails)
        found = settings.raw(neighbors, species)
        assert "registers" in caplog.text
        grad = random_like(len(COUNTS), settings.n_features, dtype=torch.float64)
        by_chunks = [chunk.vjp(grad[chunk.atoms]) for chunk in settings.chunks(neighbors, species)]
        monkeypatch.undo()
        assert torch.equal(found, settings.raw(neighbors, species))
        chunks = settings.chunks(neighbors, species)
        for by_kernels, chunk in zip(by_chunks, chunks, strict=True):
            assert torch.equal(by_kernels, chunk.vjp(grad[chunk.atoms]))


def forbidden(*arguments: object) -> Tensor:
    raise AssertionError("torch's operations are used")


def fails(*arguments: object) -> None:
    from triton.runtime.errors import OutOfResources

    raise OutOfResources(300, 255, "registers")


@pytest.mark.parametrize("form", ["raw", "vjp", "jvp", "jacobian"])
def test_launches(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few, whatever the number of atoms."""
    settings = settings_of("mode 6", 2)
    case = made(settings, neighbors_of(settings))
    launched: list[str] = []

    def count(self: FusedExpansion, source: str, *arguments: object) -> None:
        launched.append(source)

    monkeypatch.setattr(FusedExpansion, "_launch", count)
    more: dict[str, tuple[Tensor, ...]] = {
        "vjp": (torch.zeros(len(COUNTS), settings.n_features),),
        "jvp": (case.flat.vectors,),
    }
    function: Callable[..., Tensor] = getattr(case.fused, form)
    function(case.flat, *more.get(form, ()))
    assert len(launched) == {"raw": 2}.get(form, 3)
