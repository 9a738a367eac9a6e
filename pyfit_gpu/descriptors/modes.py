"""The modes of the descriptor: how G is transformed into the inputs of a network, one row per mode.

A mode is a number on the first line of a .nn.dat file. Everything in which modes differ stands in `GI_MODES`, so that
a new one is a row here, its formulas in docs/theory.md and a case in tests/descriptors/test_modes.py. torch is not
imported: the command line's help reads the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GiMode:
    """One way from G to the inputs of a network."""

    text: str  # formula, for messages and help
    transform: Callable[[Tensor, float], Tensor]  # G and shift to the inputs, element by element
    slope: Callable[[Tensor, float], Tensor]  # derivative of `transform` with respect to G, of the same shape
    norm: Callable[[float], float]  # N of a Gaussian centre, Å
    reach: float = 1.0  # cutoff of the neighbours over rc
    uses_shift: bool = True  # whether the shift decides the inputs
    default_shift: float = 0.0
    needs_positive: bool = False  # G + shift must be above 0
    several_elements: bool = True  # whether blocks of two elements, which can be negative, may be transformed
    divides_by_center: bool = True  # whether a centre of 0 Å makes no feature
    more_terms: bool = False  # whether products of two Gaussians and four-body terms may be among the features


def _square(center: float) -> float:
    return center**2


def _sixteen(center: float) -> float:
    return 16.0


def _shifted(raw: Tensor, shift: float) -> Tensor:
    return raw + shift


def _one(raw: Tensor, shift: float) -> Tensor:
    return raw.new_ones(raw.shape)


def _log(raw: Tensor, shift: float) -> Tensor:
    return (raw + shift).log_()


def _inverse(raw: Tensor, shift: float) -> Tensor:
    return (raw + shift).reciprocal_()


def _asinh(raw: Tensor, shift: float) -> Tensor:
    return raw.asinh()


def _asinh_slope(raw: Tensor, shift: float) -> Tensor:
    return (raw.square() + 1).rsqrt_()


def _asinh_shifted(raw: Tensor, shift: float) -> Tensor:
    return (raw + shift).asinh_()


def _asinh_shifted_slope(raw: Tensor, shift: float) -> Tensor:
    return _asinh_slope(raw + shift, shift)


_LOG = {"default_shift": 0.5, "needs_positive": True, "several_elements": False}

GI_MODES: dict[int, GiMode] = {
    0: GiMode("G + shift, N = 16", _shifted, _one, _sixteen, divides_by_center=False),
    1: GiMode("ln(G + shift), N = r0^2", _log, _inverse, _square, **_LOG),  # type: ignore[arg-type]
    2: GiMode("asinh(G + shift), N = r0^2, cutoff 1.5 rc", _asinh_shifted, _asinh_shifted_slope, _square, reach=1.5),
    3: GiMode("G + shift, N = r0^2, cutoff 1.5 rc", _shifted, _one, _square, reach=1.5),
    4: GiMode("ln(G + shift), N = r0^2, cutoff 1.5 rc", _log, _inverse, _square, reach=1.5, **_LOG),  # type: ignore[arg-type]
    5: GiMode("asinh(G), N = r0^2", _asinh, _asinh_slope, _square, uses_shift=False),
    6: GiMode(
        "asinh(G) with cross and four-body terms, N = r0^2",
        _asinh,
        _asinh_slope,
        _square,
        uses_shift=False,
        more_terms=True,
    ),
}


def describe_modes() -> str:
    """List the modes for messages: `0: G + shift, N = 16; 1: ..`."""
    return "; ".join(f"{number}: {mode.text}" for number, mode in GI_MODES.items())
