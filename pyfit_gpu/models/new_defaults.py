"""Settings of a new potential where none are given. torch is not imported: the command line's help reads them."""

from __future__ import annotations

from dataclasses import dataclass

from pyfit_gpu.descriptors.modes import GI_MODES

GI_MODE = 6
INFORMED_GI_MODE = 2  # of the published physically informed networks
INFORMED_MAX_RANDOM = 0.1  # likewise


@dataclass(frozen=True)
class Defaults:
    """Defaults of `new_potential` that may differ between the modes."""

    legendre_orders: tuple[int, ...]
    cross_terms: int
    triples: tuple[tuple[int, int, int], ...]  # of these, the ones whose orders are among the potential's
    n_centers: int = 8
    cutoff_width: float = 1.0  # Å
    gaussian_width: float = 0.5  # Å
    first_center: float = 1.5  # Å
    hidden: tuple[int, ...] = (16, 16)
    max_random: float = 0.3


# What was measured: docs/accuracy.md.
_MORE_TERMS = Defaults(
    legendre_orders=(0, 1, 2, 3, 4),
    cross_terms=1,
    triples=((1, 1, 2), (1, 2, 3), (2, 2, 2)),
    first_center=1.0,
    hidden=(24, 24),
    max_random=0.1,
)
_PAIR_TERMS = Defaults(legendre_orders=(0, 1, 2, 4, 6), cross_terms=0, triples=())


def default_mode(form: str | None) -> int:
    """The mode of a straight network (None), or of a physically informed one."""
    return GI_MODE if form is None else INFORMED_GI_MODE


def defaults_of(gi_mode: int) -> Defaults:
    return _MORE_TERMS if gi_mode in GI_MODES and GI_MODES[gi_mode].more_terms else _PAIR_TERMS
