"""Local structure parameters: the environment of each atom, invariant under rotation and permutation.

    fc(r)     = (r - rc)^4 / (d^4 + (r - rc)^4)  for r < rc, else 0
    f_n(r)    = exp(-((r - r0_n) / sigma)^2) fc(r)
    G^ab_ln   = (2 - delta_ab) / N_n  sum_{j of a} sum_{k of b} f_n(r_ij) f_n(r_ik) P_l(cos theta_jik)

for pairs a <= b of elements, then l, then n: S (S + 1) / 2 blocks of n_l n_r0 values. The double sum is never
formed: by the addition theorem (harmonics.py) it is a product of two sums over neighbours, so an atom with K
neighbours costs O(K), and so do the derivatives (expansion.py). Family of descriptors: Pun, Batra, Ramprasad,
Mishin, Nat. Commun. 10, 2339 (2019); the blocks per pair of elements are this project's generalisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from pyfit_gpu.descriptors.basis import WIDTH_STEP, Basis
from pyfit_gpu.descriptors.chunk_memory import atoms_that_fit, chunk_numbers
from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.descriptors.kernels.chunk import FusedChunk
from pyfit_gpu.descriptors.kernels.expansion import FusedExpansion, expansion_of
from pyfit_gpu.descriptors.modes import GI_MODES, GiMode
from pyfit_gpu.descriptors.settings_checks import (
    check_lengths,
    check_mode_and_elements,
    check_more_terms,
    check_orders_and_centers,
)
from pyfit_gpu.devices import require_memory
from pyfit_gpu.errors import InputError
from pyfit_gpu.fused import by_kernels, has_fused_kernels
from pyfit_gpu.parallel import Workers
from pyfit_gpu.structures.neighbors import Neighbors

# Atoms with similar neighbour counts are evaluated together. On a CPU a chunk is small enough to keep most rows in the
# cache of a core, with twice as many pairs in float32 (AMD EPYC, 1 MiB: predictions take 0.65 to 0.75 of the time that
# they take with eight times as many); on a GPU launches dominate small chunks.
_CHUNK_CPU = (512, 8_192)  # atoms, pairs
# Threads wait for one another at the interpreter, between any two operations: with several, chunks are twice as large
# (AMD EPYC, 2 threads: features and predictions take 0.83 and 0.92 of the time), and few pairs have one thread.
_THREADS_CHUNK = 2
_FEW_PAIRS = 16_384
_CHUNK_GPU = (131_072, 4_000_000)
# Neighbour counts are padded to a multiple of this on a GPU, of `WIDTH_STEP` on a CPU: a GPU wants fewer, larger chunks
# (H100: 8 and 32 are slower).
_WIDTH_STEP_GPU = 16


@dataclass(frozen=True)
class LocalStructureParameters:
    """The settings that decide a network's inputs, and the evaluation."""

    elements: tuple[str, ...]  # chemical symbols in the order that numbers the species
    gi_mode: int  # one of GI_MODES
    shift: float  # added to G in modes 0, 1, 3 and 4
    cutoff: float  # rc, Å
    cutoff_width: float  # d, Å
    gaussian_width: float  # sigma, Å
    legendre_orders: tuple[int, ...]
    gaussian_centers: tuple[float, ...]  # r0, Å
    cross_terms: int = 0  # c: greatest n' - n of the Gaussians n, n' of one feature, in the order of the centres
    triples: tuple[tuple[int, int, int], ...] = ()  # Legendre orders l1 <= l2 <= l3 of each four-body term

    def __post_init__(self) -> None:
        check_mode_and_elements(self.gi_mode, self.elements)
        check_lengths({name: getattr(self, name) for name in ("cutoff", "cutoff_width", "gaussian_width")})
        if not math.isfinite(self.shift):
            raise InputError(f"shift: expected a finite number, got {self.shift}", setting="shift")
        orders, centers = self.legendre_orders, self.gaussian_centers
        check_orders_and_centers(self.gi_mode, orders, centers)
        check_more_terms(self.gi_mode, self.cross_terms, self.triples, orders, len(centers))

    @property
    def mode(self) -> GiMode:
        return GI_MODES[self.gi_mode]

    @property
    def n_elements(self) -> int:
        return len(self.elements)

    @property
    def n_features(self) -> int:
        return self.n_pair_features + self.n_four_body_features

    @property
    def n_pair_features(self) -> int:
        n, n_centers, c = self.n_elements, len(self.gaussian_centers), self.cross_terms
        n_radial = (c + 1) * n_centers - c * (c + 1) // 2
        return n * (n + 1) // 2 * len(self.legendre_orders) * n_radial

    @property
    def n_four_body_features(self) -> int:
        n = self.n_elements
        return n * (n + 1) * (n + 2) // 6 * len(self.triples) * len(self.gaussian_centers)

    @property
    def chunk_numbers(self) -> tuple[int, int]:
        """Numbers held for each atom of a chunk, and for each place for a pair: see `chunk_memory`."""
        n_centers = len(self.gaussian_centers)
        return chunk_numbers(self.legendre_orders, self.triples, self.n_elements, n_centers, self.n_features)

    @property
    def neighbor_cutoff(self) -> float:
        """Å; modes 3 and 4 look 1.5 times as far as the bond-order formulas of the same potential."""
        return self.mode.reach * self.cutoff

    def identity(self) -> dict[str, object]:
        """The settings that decide the inputs, by name: two sets with equal identities can serve one network."""
        more = {"cross_terms": self.cross_terms, "triples": [list(triple) for triple in self.triples]}
        return {
            "elements": list(self.elements),
            "gi_mode": self.gi_mode,
            "shift": self.shift if self.mode.uses_shift else None,
            "cutoff": self.cutoff,
            "cutoff_width": self.cutoff_width,
            "gaussian_width": self.gaussian_width,
            "legendre_orders": list(self.legendre_orders),
            "gaussian_centers": list(self.gaussian_centers),
            **(more if self.mode.more_terms else {}),
        }

    def difference(self, other: LocalStructureParameters) -> str:
        """The first setting by which `other` gives other inputs, with both values; empty: there is none."""
        theirs = other.identity()
        for name, value in self.identity().items():
            if theirs[name] != value:
                return f"{name}: expected {value}, found {theirs[name]}"
        return ""

    def __call__(
        self, neighbors: Neighbors, species: Tensor, where: Callable[[int], str] = "atom {} of the batch".format
    ) -> Tensor:
        """The network inputs of every atom.

        Args:
            neighbors: of all atoms of a batch, found with `neighbor_cutoff`.
            species: (n_atoms,) int64, index into `elements`.
            where: names an atom, counted from 0, in an error.

        Returns:
            (n_atoms, n_features), dtype and device of the neighbour vectors.

        Raises:
            InputError: the logarithm of a value that is not positive (mode 1 with shift 0 and an isolated atom).
        """
        return self.transform(self.raw(neighbors, species), where)

    def raw(self, neighbors: Neighbors, species: Tensor) -> Tensor:
        """(n_atoms, n_features): G itself, before shift, logarithm or asinh."""
        vectors, n_atoms = neighbors.vectors, len(neighbors.counts)
        self.require_memory(n_atoms, vectors.device, 2 * vectors.itemsize)  # and what is made of them
        plain = partial(self._raw_of_chunks, neighbors, species)
        if not (has_fused_kernels(vectors.device) and self.suits_kernels):
            return plain()
        expansion = expansion_of(basis_of(self, vectors.device, vectors.dtype))
        return by_kernels(vectors.device, partial(expansion.raw_of_all, neighbors, species), plain)

    @property
    def suits_kernels(self) -> bool:
        """Whether fused kernels can be made for these settings, where a device has any."""
        return FusedExpansion.suits(basis_of(self, torch.device("cpu"), torch.float64))

    def _raw_of_chunks(self, neighbors: Neighbors, species: Tensor) -> Tensor:
        raw = neighbors.vectors.new_empty(len(neighbors.counts), self.n_features)

        def fill(chunk: Chunk) -> None:
            raw.index_copy_(0, chunk.atoms, chunk.raw())

        workers = chunk_workers(neighbors)
        workers.run(fill, self.chunks(neighbors, species, n_threads=workers.count))
        return raw

    def chunks(
        self, neighbors: Neighbors, species: Tensor, *, max_pairs: int | None = None, n_threads: int = 1
    ) -> Iterator[Chunk]:
        """All atoms in chunks, ordered by species within each, which compute G and its derivatives when asked.

        Args:
            max_pairs: of a chunk, where fewer than usual are wanted.
            n_threads: that compute chunks side by side. The bits of G and of `vjp` do not depend on it.
        """
        vectors, counts = neighbors.vectors, neighbors.counts
        n_pairs = len(vectors)
        order, sizes = _chunks(self, counts, species, max_pairs, vectors.itemsize, n_threads)
        # One byte per pair: arrays over all pairs are large beside a chunk.
        kinds = None if self.n_elements == 1 else species.to(torch.uint8)[neighbors.index]
        basis = basis_of(self, vectors.device, vectors.dtype)
        make = FusedChunk if has_fused_kernels(vectors.device) and self.suits_kernels else Chunk
        counts = counts[order, None]
        first = (torch.cumsum(neighbors.counts, 0) - neighbors.counts)[order, None]
        start = 0
        for n, width in sizes:
            own, start = slice(start, start + n), start + n
            rank = torch.arange(width, device=vectors.device)
            pairs = torch.where(rank < counts[own], first[own] + rank, n_pairs)
            yield make(basis, order[own], pairs, vectors, kinds)

    def require_memory(self, n_atoms: int, device: torch.device, itemsize: int) -> None:
        """Refuse to hold the features of so many atoms where they cannot fit.

        Raises:
            InputError: with the numbers.
        """
        purpose = f"{self.n_features} inputs of each of {n_atoms} atoms"
        require_memory(n_atoms * self.n_features * itemsize, device, purpose)

    def transform(self, raw: Tensor, where: Callable[[int], str]) -> Tensor:
        """G to the network's input, as the mode says."""
        if self.mode.needs_positive and raw.numel() and bool(raw.min() + self.shift <= 0):
            atom, feature = divmod(int(raw.argmin()), raw.shape[1])
            raise InputError(
                f"{where(atom)}: feature {feature + 1}: the logarithm of G + shift needs a number above 0, got "
                f"{float(raw[atom, feature] + self.shift):.3g} (gi_mode {self.gi_mode}, shift {self.shift}; an atom "
                "without neighbours has G = 0)"
            )
        return self.mode.transform(raw, self.shift)

    def transform_slope(self, raw: Tensor) -> Tensor:
        """Derivative of `transform` with respect to G, of the same shape as `raw`."""
        return self.mode.slope(raw, self.shift)


@lru_cache(maxsize=16)
def basis_of(settings: LocalStructureParameters, device: torch.device, dtype: torch.dtype) -> Basis:
    """The basis of some settings, cached: its tensors come from the host, which a loop over batches would wait for."""
    return Basis.of(
        cutoff=settings.neighbor_cutoff,
        cutoff_width=settings.cutoff_width,
        gaussian_width=settings.gaussian_width,
        legendre_orders=settings.legendre_orders,
        gaussian_centers=settings.gaussian_centers,
        norm=[settings.mode.norm(center) for center in settings.gaussian_centers],
        n_elements=settings.n_elements,
        device=device,
        dtype=dtype,
        cross_terms=settings.cross_terms,
        triples=settings.triples,
    )


def chunk_workers(neighbors: Neighbors) -> Workers:
    """Workers for the chunks of some atoms: for few pairs the calling thread alone, which need not be waited for."""
    few = len(neighbors.vectors) < _FEW_PAIRS
    return Workers.shared(neighbors.vectors.device, n_threads=1 if few else None)


def chunk_limits(*, on_gpu: bool, itemsize: int, n_threads: int = 1) -> tuple[int, int]:
    """Atoms, and places for pairs, of one chunk at most."""
    if on_gpu:
        return _CHUNK_GPU
    factor = 8 // itemsize * (_THREADS_CHUNK if n_threads > 1 else 1)
    atoms, pairs = _CHUNK_CPU
    return atoms * factor, pairs * factor


def padded_widths(counts: Tensor, *, on_gpu: bool) -> Tensor:
    """(n_atoms,) places for the pairs of each atom, for as many neighbours as it has."""
    step = _WIDTH_STEP_GPU if on_gpu else WIDTH_STEP
    return ((counts + step - 1) // step * step).clamp(min=step)


def _chunks(
    settings: LocalStructureParameters,
    counts: Tensor,
    species: Tensor,
    most_pairs: int | None,
    itemsize: int,
    n_threads: int,
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Numbers of the atoms in the order of the chunks, and each chunk's number of atoms and places per atom.

    Atoms with equally many places are ordered by species. An atom without neighbours has places too. Their number
    depends only on the atom's own neighbour count, so its features have the same bits whichever atoms are computed
    with it: in one file or in shards.
    """
    on_gpu = counts.device.type != "cpu"
    max_atoms, max_pairs = chunk_limits(on_gpu=on_gpu, itemsize=itemsize, n_threads=n_threads)
    if most_pairs is not None:
        max_pairs = min(max_pairs, most_pairs)
    widths = padded_widths(counts, on_gpu=on_gpu)
    order = torch.argsort(widths * settings.n_elements + species if settings.n_elements > 1 else widths, stable=True)
    ordered = widths[order]
    distinct = torch.stack(torch.unique_consecutive(ordered, return_counts=True)).tolist()  # the only wait for a GPU
    sizes, numbers = [], settings.chunk_numbers
    for width, number in zip(*distinct, strict=True):
        fitting = atoms_that_fit(numbers, width, counts.device, itemsize)
        size = max(1, min(max_atoms, max_pairs // width, fitting))
        sizes += [(min(size, number - start), width) for start in range(0, number, size)]
    return order, sizes
