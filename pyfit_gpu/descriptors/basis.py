"""The functions of an expansion, and how far their matrices are padded so that on a CPU bits depend on no address."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations_with_replacement

import torch
from torch import Tensor

from pyfit_gpu.descriptors.couplings import Couplings, Triple, triples_of_elements
from pyfit_gpu.descriptors.harmonics import addition_coefficients, n_rows
from pyfit_gpu.parallel import lazy

LINE = 64  # bytes of a cache line and of the widest vectors of a processor
WIDTH_STEP = 4  # places for pairs come in this multiple on a CPU; padding counts on it


@dataclass(frozen=True, eq=False)
class Basis:
    """The functions of an expansion as tensors of one device and dtype."""

    cutoff: float  # Å
    cutoff_width: float  # Å
    gaussian_width: float  # Å
    legendre_orders: tuple[int, ...]
    n_elements: int
    centers: Tensor  # (n_r0, 1) Å
    norm: Tensor  # (n_r0,) N_n
    coefficients: Tensor  # (n_l, n_angular) w_lm, zero where a row belongs to another order
    axes: Tensor  # (3, 3), the unit matrix
    zero: Tensor  # ()
    cross_terms: int = 0  # c: greatest n' - n of the Gaussians of one feature
    triples: tuple[Triple, ...] = ()  # Legendre orders of each four-body term

    @classmethod
    def of(
        cls,
        *,
        cutoff: float,
        cutoff_width: float,
        gaussian_width: float,
        legendre_orders: Sequence[int],
        gaussian_centers: Sequence[float],
        norm: Sequence[float],
        n_elements: int,
        device: torch.device,
        dtype: torch.dtype,
        cross_terms: int = 0,
        triples: Sequence[Triple] = (),
    ) -> Basis:
        return cls(
            cutoff=cutoff,
            cutoff_width=cutoff_width,
            gaussian_width=gaussian_width,
            legendre_orders=tuple(legendre_orders),
            n_elements=n_elements,
            centers=torch.tensor(gaussian_centers, device=device, dtype=dtype)[:, None],
            norm=torch.tensor(norm, device=device, dtype=dtype),
            coefficients=addition_coefficients(legendre_orders, device=device, dtype=dtype),
            axes=torch.eye(3, device=device, dtype=dtype),
            zero=torch.zeros((), device=device, dtype=dtype),
            cross_terms=cross_terms,
            triples=tuple(triples),
        )

    @property
    def n_centers(self) -> int:
        return len(self.norm)

    @lazy
    def n_angular(self) -> int:
        return n_rows(self.legendre_orders)

    @property
    def n_sums(self) -> int:
        """Sums over the neighbours of one element."""
        return self.n_angular * self.n_centers

    @lazy
    def padded_norm(self) -> Tensor:
        """(padded n_r0,), 1 beyond the Gaussian centres."""
        columns = padded(self.n_centers, self.norm, WIDTH_STEP)
        return torch.nn.functional.pad(self.norm, (0, columns - self.n_centers), value=1.0)

    @lazy
    def padded_angular(self) -> int:
        """Rows for the angular functions."""
        return padded(self.n_angular, self.norm, WIDTH_STEP, len(self.padded_norm))

    @lazy
    def padded_coefficients(self) -> Tensor:
        """(padded n_l, padded n_angular), zero beyond. Never a single row: that is multiplied in a way of its own."""
        n_orders = len(self.coefficients)
        rows = padded(max(n_orders, 2), self.norm, len(self.padded_norm))
        padding = (0, self.padded_angular - self.n_angular, 0, rows - n_orders)
        return torch.nn.functional.pad(self.coefficients, padding)

    @lazy
    def row_weights(self) -> list[float]:
        """Weights w_lm of the angular functions."""
        coefficients = addition_coefficients(self.legendre_orders, device=torch.device("cpu"), dtype=torch.float64)
        return [float(weight) for weight in coefficients.sum(dim=0).tolist()]

    @lazy
    def blocks(self) -> list[tuple[int, int]]:
        """The elements a and b of each block of features."""
        return list(combinations_with_replacement(range(self.n_elements), 2))

    @lazy
    def radial_products(self) -> list[slice]:
        """Features of one block and order: those of the Gaussians n and n' = n + k, for k = 0, 1, .."""
        counts = [self.n_centers - distance for distance in range(self.cross_terms + 1)]
        return [slice(end - count, end) for count, end in zip(counts, accumulate(counts), strict=True)]

    @lazy
    def radial_norms(self) -> list[Tensor]:
        """For each distance k = n' - n the roots of N_n N_n', (n_r0 - k,); for k = 0 N_n itself, to the last bit."""
        further = [self.radii[:-k] * self.radii[k:] for k in range(1, self.cross_terms + 1)]
        return [self.norm, *further]

    @lazy
    def n_pair_features(self) -> int:
        """Features made of two sums over neighbours."""
        return len(self.blocks) * len(self.legendre_orders) * self.radial_products[-1].stop

    @lazy
    def n_features(self) -> int:
        four_body = len(triples_of_elements(self.n_elements)) * len(self.triples) * self.n_centers
        return self.n_pair_features + four_body

    @lazy
    def couplings(self) -> Couplings:
        """Coefficients of the four-body terms, of which there is at least one."""
        return Couplings.of(self.legendre_orders, self.triples, like=self.norm)

    @lazy
    def radii(self) -> Tensor:
        """(n_r0,) roots of N_n: what a sum over neighbours is divided by."""
        return self.norm.sqrt()


def padded(count: int, like: Tensor, *others: int) -> int:
    """How many rows matrices of `others` columns need, so that on a CPU each begins at a multiple of 64 bytes.

    Args:
        count: rows that are used.
        like: gives device and dtype; not on a CPU, rows are not padded.
        others: numbers of columns, or numbers that they are a multiple of.
    """
    if like.device.type != "cpu":
        return count
    numbers = LINE // like.itemsize
    step = math.lcm(*(numbers // math.gcd(numbers, other) for other in others))
    return -(-count // step) * step
