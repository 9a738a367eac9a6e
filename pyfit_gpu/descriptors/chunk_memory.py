"""Memory that a chunk of atoms takes while its features and their derivatives are computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyfit_gpu.descriptors.harmonics import n_rows
from pyfit_gpu.devices import require_memory, rows_that_fit

# Shares of the memory for one chunk: on a CPU several threads compute one each.
_SHARE_CPU = 1 / 64
_SHARE_GPU = 1 / 4


def chunk_numbers(
    orders: Sequence[int], triples: Sequence[Sequence[int]], n_elements: int, n_centers: int, n_features: int
) -> tuple[int, int]:
    """Upper bounds of the numbers that are held at once for each atom of a chunk, and for each place for a pair.

    Args:
        orders: Legendre orders.
        triples: of the four-body terms.
    """
    functions, pairs = n_rows(orders), n_elements * (n_elements + 1) // 2
    # Sums, their copies or products, their gradients; for four-body terms derivatives by pairs of elements, and at most
    # so many products of two rows for one triple.
    slopes = pairs * sum(n_rows(sorted(set(triple))) for triple in triples)
    products = max((6 * (2 * a + 1) * (2 * b + 1) for a, b, _ in triples), default=0)
    per_atom = (3 * n_elements * functions + slopes + products) * n_centers + 3 * n_features
    return per_atom, 4 * functions + 5 * n_elements * n_centers + 20


def atoms_that_fit(numbers: tuple[int, int], width: int, device: torch.device, itemsize: int) -> int:
    """Number of atoms, with so many places for pairs each, that a chunk has room for: at least one.

    Args:
        numbers: of `chunk_numbers`.

    Raises:
        InputError: a single atom takes more than the memory has.
    """
    per_atom, per_place = numbers
    needed = itemsize * (per_atom + per_place * width)
    require_memory(needed, device, f"the features of one atom with up to {width} neighbours")
    return rows_that_fit(needed, device, share=_SHARE_CPU if device.type == "cpu" else _SHARE_GPU)
