"""Checks of the settings of a descriptor. Errors name the setting, from which a file's line follows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ase.data import atomic_numbers as ATOMIC_NUMBERS

from pyfit_gpu.descriptors.modes import GI_MODES, describe_modes
from pyfit_gpu.errors import InputError

MAX_LEGENDRE_ORDER = 60  # tested up to here


def check_mode_and_elements(gi_mode: int, elements: Sequence[str]) -> None:
    if gi_mode not in GI_MODES:
        raise InputError(f"gi_mode: expected one of ({describe_modes()}), got {gi_mode}", setting="gi_mode")
    unknown = [symbol for symbol in elements if ATOMIC_NUMBERS.get(symbol, 0) == 0]
    twice = sorted({symbol for symbol in elements if elements.count(symbol) > 1})
    if not elements or twice or unknown:
        faults = [f"{symbol} is no element" for symbol in unknown]
        faults += [f"{symbol} is there twice" for symbol in twice]
        why = f": {', '.join(faults)}" if faults else ""
        raise InputError(f"elements: expected different chemical symbols, got {elements}{why}", setting="elements")
    if len(elements) > 1 and not GI_MODES[gi_mode].several_elements:
        usable = ", ".join(str(number) for number, mode in GI_MODES.items() if mode.several_elements)
        raise InputError(
            f"gi_mode: expected one that takes {len(elements)} elements ({usable}), got {gi_mode}: "
            "blocks of two elements can be negative, and this mode does not take such numbers",
            setting="gi_mode",
        )


def check_lengths(lengths: Mapping[str, float]) -> None:
    """Refuse lengths in Å, by the names of their settings, that are not above 0."""
    for name, length in lengths.items():
        if not 0 < length < math.inf:
            raise InputError(f"{name}: expected a length above 0 Å, got {length}", setting=name)


def check_orders_and_centers(gi_mode: int, orders: Sequence[int], centers: Sequence[float]) -> None:
    allowed = range(MAX_LEGENDRE_ORDER + 1)
    if not orders or any(order not in allowed for order in orders):
        raise InputError(
            f"legendre_orders: expected whole numbers from 0 to {MAX_LEGENDRE_ORDER}, got {orders}",
            setting="legendre_orders",
        )
    least = 0.0 if GI_MODES[gi_mode].divides_by_center else -math.inf
    if not centers or not all(least < center < math.inf for center in centers):
        raise InputError(
            f"gaussian_centers: expected lengths above {least} Å, got {centers}", setting="gaussian_centers"
        )


def check_more_terms(
    gi_mode: int, cross_terms: int, triples: Sequence[tuple[int, ...]], orders: Sequence[int], n_centers: int
) -> None:
    for name, value in (("cross_terms", cross_terms), ("triples", triples)):
        if value and not GI_MODES[gi_mode].more_terms:
            raise InputError(f"{name}: expected none in gi_mode {gi_mode}, got {value}", setting=name)
    if not 0 <= cross_terms < n_centers:
        raise InputError(
            f"cross_terms: expected a whole number from 0 to {n_centers - 1} (there are {n_centers} Gaussian "
            f"centres), got {cross_terms}",
            setting="cross_terms",
        )
    listed, earlier = frozenset(orders), set[tuple[int, ...]]()
    for number, triple in enumerate(triples, 1):
        fault = _fault_of(triple, listed) or ("it is there twice" if triple in earlier else "")
        earlier.add(triple)
        if fault:
            raise InputError(f"triples: triple {number}, {' '.join(map(str, triple))}: {fault}", setting="triples")


def _fault_of(triple: tuple[int, ...], orders: frozenset[int]) -> str:
    """Say why three orders make no four-body term; empty: they do."""
    if len(triple) != 3:
        return "expected three Legendre orders"
    unlisted = [order for order in triple if order not in orders]
    if unlisted:
        return f"order {unlisted[0]} is not one of the Legendre orders {tuple(sorted(orders))}"
    if sorted(triple) != list(triple):
        return "expected ascending orders"
    if sum(triple) % 2:
        return f"the sum of the orders, {sum(triple)}, is odd, and such a term is zero"
    if triple[2] > triple[0] + triple[1]:
        return f"{triple[2]} is above {triple[0]} + {triple[1]}, and such a term is zero"
    return ""
