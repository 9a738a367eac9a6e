"""Source of the kernels that give derivatives with respect to the vectors of pairs. A pair is one thread's, or a
thread's for each Gaussian; no two threads add to one number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pyfit_gpu.descriptors.basis import Basis
from pyfit_gpu.descriptors.harmonics import rows_of_orders
from pyfit_gpu.descriptors.kernels.angular import Level, Row, gradient_of_level, levels, product
from pyfit_gpu.descriptors.kernels.cubic import Forms
from pyfit_gpu.descriptors.kernels.radial import UNIT, cutoff, cutoff_slope, gaussian, gaussian_slope
from pyfit_gpu.descriptors.kernels.source import fill

# Where there is no pair, what is read of sums is 0, and so is every result.
# Pairs lie one after the other, or in K = width places for each atom.
_FLAT = ("pair = place + pair_0", "there = inside", "center = tl.load(centers + pair, mask=there, other=0) - atom_0")
_PADDED = (
    "center = place // width",
    "pair = tl.load(starts + center, mask=inside, other=0) + place % width",
    "there = inside & (pair < tl.load(ends + center, mask=inside, other=0))",
)
_ARGUMENTS = {False: "centers, atom_0, pair_0", True: "starts, ends, width"}
_KIND = ("kind = tl.load(kinds + pair, mask=there, other=0).to(tl.int64)",)
_ONE_KIND = ("kind = 0",)

_GRADIENT = """
def gradient(vectors, kinds, $where, grad, table, out, n_places, PLACES: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * PLACES + tl.arange(0, PLACES)
    inside = place < n_places
    $locate
    $kind
    $functions
    at = grad + center * $SUMS + kind * $ROWS
    zero = tl.zeros_like(x)
    one = zero + 1.0
    gx, gy, gz, along = zero, zero, zero, zero
    $zeros
    $angular
    for n in range($N):
        center_n = tl.load(table + n)
        $radial
        total = zero
        $sums
        along += slope * total
    $rows
    outward = gx * x + gy * y + gz * z
    $stores
"""


@lru_cache(maxsize=32)
def gradient_source(basis: Basis, *, padded: bool) -> str:
    """The kernel of dE/dv, from dE/dA. Its grid: places of pairs."""
    to, stride = ("out + center * 3 * width + place % width", "width") if padded else ("out + 3 * place", "1")
    stores = [f"to = {to}"]
    for k, axis in enumerate("xyz"):
        value = f"(g{axis} - outward * {axis}) * inverse + along * {axis}"
        stores.append(f"tl.store(to + {k} * {stride}, {value}, mask=inside)")
    return fill(
        _GRADIENT,
        where=_ARGUMENTS[padded],
        locate=_PADDED if padded else _FLAT,
        kind=_KIND if basis.n_elements > 1 else _ONE_KIND,
        functions=[*UNIT, *cutoff(basis), *cutoff_slope(basis)],
        zeros=[f"w_{row} = zero" for row in range(basis.n_angular)],
        angular=list(_angular_rows(basis)),
        radial=[*gaussian(basis, "center_n"), "f = gauss * fc", f"slope = {gaussian_slope(basis)}"],
        sums=list(_sums_over_gaussians(basis)),
        rows=list(_gradient_rows(basis)),
        stores=stores,
        N=basis.n_centers,
        SUMS=basis.n_elements * basis.n_sums,
        ROWS=basis.n_sums,
    )


def _angular_rows(basis: Basis) -> Iterator[str]:
    """Lines for y_row, the angular functions."""
    for level in levels(basis.legendre_orders):
        yield from level.lines
        for row in level.rows:
            for part in "cs" if level.m else "c":
                factors = (part, row.polynomial) if level.m else ("one", row.polynomial)
                yield f"y_{row.number(part)} = {product(*factors)}"


def _sums_over_gaussians(basis: Basis) -> Iterator[str]:
    """Lines that add one Gaussian's share to w_row, weights of the angular functions, and to the total of dE/dr."""
    for row in range(basis.n_angular):
        yield f"h = tl.load(at + {row * basis.n_centers} + n, mask=there, other=0.0)"
        yield f"total += y_{row} * h"
        yield f"w_{row} += f * h"


def _gradient_rows(basis: Basis) -> Iterator[str]:
    """Lines that add up dE/du from the weights, rows of one m at a time."""
    for level in levels(basis.legendre_orders, derivatives=True):
        yield from level.lines
        for part in "cs" if level.m else "c":
            yield f"value_{part}, slope_{part} = zero, zero"
            for row in level.rows:
                weight = f"w_{row.number(part)}"
                yield f"value_{part} += {product(weight, row.polynomial)}"
                if row.above is not None:
                    yield f"slope_{part} += {product(weight, repr(row.slope), row.above)}"
        yield from gradient_of_level(level)


# A program has the pairs of one warp for each Gaussian.
_JACOBIAN = """
def jacobian(
    vectors, kinds, $where, sums, slopes, table, numbers, out, n_places, PLACES: tl.constexpr, WIDTH: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * PLACES + tl.arange(0, PLACES)[None, :] + tl.zeros((WIDTH, PLACES), tl.int64)
    n = tl.arange(0, WIDTH)[:, None] + tl.zeros((WIDTH, PLACES), tl.int64)
    inside = place < n_places
    $locate
    $kind
    $functions
    zero = tl.zeros_like(x)
    first = center * $SUMS + n
    $to
    for other in range($ELEMENTS):
        low, high = tl.minimum(kind, other), tl.maximum(kind, other)
        block = low * $ELEMENTS - low * (low - 1) // 2 + high - low
        at = sums + first + other * $ROWS
        $pairs
    $triples
"""
_TRIPLES = """
for others in range($OTHERS):
    block = tl.load(numbers + kind * $OTHERS + others).to(tl.int64)
    at = slopes + (center * $OTHERS + others) * $SLOPES + n
    $lines
"""


@lru_cache(maxsize=32)
def jacobian_source(basis: Basis, *, padded: bool) -> str:
    """The kernel of dG/dv. Its grid: places of pairs. Features of which no element is the neighbour's are left out."""
    functions = [*UNIT, *cutoff(basis), *cutoff_slope(basis)]
    for k in range(basis.cross_terms + 1):
        inside = f"n + {k} < {basis.n_centers}"
        functions += [
            f"center_k = tl.load(table + n + {k}, mask={inside}, other=1.0)",
            *gaussian(basis, "center_k"),
            f"scale = tl.load(table + {basis.n_centers} + n + {k}, mask={inside}, other=0.0)",
            f"f_{k} = gauss * fc * scale * inverse",
            f"d_{k} = {gaussian_slope(basis)} * scale",
        ]
    forms, others = Forms.of(basis), basis.n_elements * (basis.n_elements + 1) // 2
    triples = fill(
        _TRIPLES, OTHERS=others, SLOPES=len(forms.slopes) * basis.n_centers, lines=list(_triple_rows(basis, forms))
    )
    to = ("width", "center * $F * 3 * width + place % width") if padded else ("n_places", "place")
    return fill(
        _JACOBIAN,
        where=_ARGUMENTS[padded],
        locate=_PADDED if padded else _FLAT,
        kind=_KIND if basis.n_elements > 1 else _ONE_KIND,
        functions=functions,
        to=[
            f"apart = {to[0]}.to(tl.int64)",  # times the features, it is soon beyond 32 bits
            f"to = out + {to[1].replace('$F', str(basis.n_features))} + 3 * n * apart",
        ],
        pairs=list(_pair_rows(basis)),
        triples=triples.splitlines() if basis.triples else [],
        N=basis.n_centers,
        SUMS=basis.n_elements * basis.n_sums,
        ROWS=basis.n_sums,
        ELEMENTS=basis.n_elements,
    )


def _pair_rows(basis: Basis) -> Iterator[str]:
    """Lines that store the derivatives of the features of two elements."""
    shifts, n_orders = range(basis.cross_terms + 1), len(basis.legendre_orders)
    targets = [[Target(f"v_{order}_{k}", 0, k) for k in shifts] for order in range(n_orders)]
    yield from _sums_of_rows(basis, targets)
    per_order = basis.radial_products[-1].stop
    yield f"into = to + block * {n_orders * per_order} * 3 * apart"
    for order in range(n_orders):
        for k, columns in enumerate(basis.radial_products):
            mask = f"inside & (n < {basis.n_centers - k})"
            yield from _stores([(f"v_{order}_{k}", 0), (f"v_{order}_0", k)], order * per_order + columns.start, mask)


def _triple_rows(basis: Basis, forms: Forms) -> Iterator[str]:
    """Lines that store the derivatives of the features of three elements."""
    numbers = {(slope.triple, slope.row): number for number, slope in enumerate(forms.slopes)}
    targets = []
    for rows in rows_of_orders(basis.legendre_orders):
        triples = [triple for triple in range(forms.n_triples) if (triple, rows.start) in numbers]
        targets.append([Target(f"v_{triple}", numbers[triple, rows.start] - rows.start, 0) for triple in triples])
    yield from _sums_of_rows(basis, targets)
    yield f"into = to + ({basis.n_pair_features} + block * {forms.n_triples * basis.n_centers}) * 3 * apart"
    for triple in range(forms.n_triples):
        yield from _stores([(f"v_{triple}", 0)], triple * basis.n_centers, f"inside & (n < {basis.n_centers})")


@dataclass(frozen=True)
class Target:
    """A sum of rows of one order, times the angular functions and times their derivatives."""

    name: str  # of the sum; with x, y or z that of its gradient
    offset: int  # of the rows where they lie, from their numbers
    shift: int  # of the Gaussian


def _sums_of_rows(basis: Basis, targets: Sequence[Sequence[Target]]) -> Iterator[str]:
    """Lines for sums of rows at `at`, for all targets of each order."""
    for name in dict.fromkeys(target.name for own in targets for target in own):
        yield f"{name}, {name}x, {name}y, {name}z = zero, zero, zero, zero"
    for level in levels(basis.legendre_orders, derivatives=True):
        yield from level.lines
        for row in level.rows:
            root = math.sqrt(basis.row_weights[row.cosine])
            value, slope = _scaled(root, row.polynomial), _scaled(root * row.slope, row.above or "0.0")
            for target in targets[row.order]:
                yield from _add_row(basis, level, row, target, value, slope)


def _scaled(factor: float, polynomial: str) -> str:
    """The product. It gets no name of its own: Triton makes a number that gets one float32."""
    return repr(factor) if polynomial == "1.0" else f"({factor!r} * {polynomial})"


def _add_row(basis: Basis, level: Level, row: Row, target: Target, value: str, slope: str) -> Iterator[str]:
    """Lines that add the rows of one order and m to a sum and to its gradient, times these expressions for p and p'."""
    name, mask = target.name, f"there & (n < {basis.n_centers - target.shift})"
    for part in "cs" if level.m else "c":
        number = row.number(part) + target.offset
        yield f"h_{part} = tl.load(at + {number * basis.n_centers + target.shift}, mask={mask}, other=0.0)"
    yield "h = c * h_c + s * h_s" if level.m else "h = h_c"
    yield f"{name} += {value} * h"
    if row.above:
        yield f"{name}z += {slope} * h"
    if level.m == 1:
        yield f"{name}x, {name}y = {name}x + {value} * h_c, {name}y + {value} * h_s"
    elif level.m:
        yield f"{name}x += {level.m}.0 * {value} * (c_ * h_c + s_ * h_s)"
        yield f"{name}y += {level.m}.0 * {value} * (c_ * h_s - s_ * h_c)"


def _stores(sums: Sequence[tuple[str, int]], feature: int, mask: str) -> Iterator[str]:
    """Lines that store the derivatives of a feature: of sums, each times the function of the Gaussian n + k."""
    for axis in ("", "x", "y", "z"):
        letter = "f" if axis else "d"
        yield f"w{axis} = " + " + ".join(f"{letter}_{k} * {name}{axis}" for name, k in sums)
    yield "w -= wx * x + wy * y + wz * z"
    for number, axis in enumerate("xyz"):
        yield f"tl.store(into + {3 * feature + number} * apart, w{axis} + w * {axis}, mask={mask})"
