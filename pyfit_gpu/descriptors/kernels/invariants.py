"""Source of the kernels between sums over neighbours and features: features, their tangents and gradients.

With x of neighbourhoods.py, in any order of the elements a, b and c,

    G^ab_l,n,k = h  sum_m (x^a_lm,n x^b_lm,n+k + x^a_lm,n+k x^b_lm,n)      h: 1/2 if a = b, else 1
    G^abc_t,n  = o / 6  sum_r x^a_r,n T_r(x^b, x^c)_n                      o: distinct orderings of a, b and c
    T_r(y, z)  = sum_ij v_rij (y_i z_j + y_j z_i)                          v: couplings.py; its T(y, y) is half of this

so no line asks which elements are equal. A thread has one Gaussian of one atom.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

from pyfit_gpu.descriptors.basis import Basis
from pyfit_gpu.descriptors.harmonics import rows_of_orders
from pyfit_gpu.descriptors.kernels.cubic import Forms
from pyfit_gpu.descriptors.kernels.source import fill

_THREADS = """
number = tl.program_id(0) * ATOMS + tl.arange(0, ATOMS)[:, None] + tl.zeros((ATOMS, WIDTH), tl.int64)
n = tl.arange(0, WIDTH)[None, :] + tl.zeros((ATOMS, WIDTH), tl.int64)
here = (number < n_atoms) & (n < $N)
first = number * $SUMS + n
"""
_FEATURES = """
def $name($arguments, blocks, factors, out, n_atoms, ATOMS: tl.constexpr, WIDTH: tl.constexpr):
    $threads
    block = tl.program_id(1)
    factor = tl.load(factors + block)
    $elements
    to = out + number * $FEATURES + n
    if block < $PAIR_BLOCKS:
        to += block * $PAIR_FEATURES
        $pairs
    else:
        to += $FIRST_TRIPLE + (block - $PAIR_BLOCKS) * $TRIPLE_FEATURES
        $triples
"""
_GRADIENT = """
def sums_gradient(sums, grad, numbers, table, out, n_atoms, ATOMS: tl.constexpr, WIDTH: tl.constexpr):
    $threads
    own = tl.program_id(1)
    zero = tl.zeros((ATOMS, WIDTH), grad.dtype.element_ty)
    $zeros
    for other in range($ELEMENTS):
        low, high = tl.minimum(own, other), tl.maximum(own, other)
        block = low * $ELEMENTS - low * (low - 1) // 2 + high - low
        at = grad + number * $FEATURES + block * $PAIR_FEATURES + n
        at_b = sums + other * $ROWS + first
        $pairs
    $triples
    scale = tl.load(table + $N + n, mask=n < $N, other=0.0)
    to = out + own * $ROWS + first
    $stores
"""
# Pairs of elements b <= c, of which `numbers` has, after the blocks for each element, both and 1, or 1/2 if b = c.
_OTHERS = """
for others in range($OTHERS):
    $elements
    $lines
"""
_SLOPES = """
def slopes(sums, others, factors, out, n_atoms, ATOMS: tl.constexpr, WIDTH: tl.constexpr):
    $threads
    block = tl.program_id(1)
    factor = tl.load(factors + block)
    $elements
    to = out + (number * $OTHERS + block) * $SLOPES + n
    $lines
"""


@lru_cache(maxsize=32)
def features_source(basis: Basis, *, tangent: bool = False) -> str:
    """The kernel of the features, or of their changes along changes of the sums.

    Its grid: atoms, and blocks of two elements and then of three.
    """
    n_orders, per_order = len(basis.legendre_orders), basis.radial_products[-1].stop
    return fill(
        _FEATURES,
        name="features_tangent" if tangent else "features",
        arguments="sums, moved" if tangent else "sums",
        threads=_threads(basis),
        elements=list(_elements(basis, "blocks + 3 * block", "abc", tangent)),
        pairs=list(_pair_terms(basis, tangent)),
        triples=list(_triple_terms(basis, tangent)) if basis.triples else ["pass"],
        FEATURES=basis.n_features,
        PAIR_BLOCKS=len(basis.blocks),
        PAIR_FEATURES=n_orders * per_order,
        FIRST_TRIPLE=basis.n_pair_features,
        TRIPLE_FEATURES=len(basis.triples) * basis.n_centers,
    )


def _threads(basis: Basis) -> list[str]:
    return fill(_THREADS, N=basis.n_centers, SUMS=basis.n_elements * basis.n_sums).splitlines()


def _elements(basis: Basis, at: str, names: str, tangent: bool = False) -> Iterator[str]:
    """Lines that find the elements of a block, and where their sums lie. With one element equal loads are joined."""
    for k, name in enumerate(names):
        yield f"{name} = tl.load({at} + {k}).to(tl.int64)" if basis.n_elements > 1 else f"{name} = 0"
        yield f"at_{name} = sums + {name} * {basis.n_sums} + first"
        if tangent:
            yield f"moved_{name} = moved + {name} * {basis.n_sums} + first"


def _load(name: str, at: str, basis: Basis, row: int, shift: int = 0) -> str:
    """The line that loads a row of sums, at n or at n + shift."""
    mask, last = "here", basis.n_centers - shift
    if shift:
        mask = f"here & (n < {last})" if shift > 0 else f"here & (n >= {-shift})"
    return f"{name} = tl.load({at} + {row * basis.n_centers + shift}, mask={mask}, other=0.0)"


def _pair_terms(basis: Basis, tangent: bool) -> Iterator[str]:
    """Lines that store the features of one block of two elements."""
    per_order = basis.radial_products[-1].stop
    for order, rows in enumerate(rows_of_orders(basis.legendre_orders)):
        for row in range(rows.start, rows.stop):
            for k in range(basis.cross_terms + 1):
                yield _load(f"x_{k}", "at_a", basis, row, k)
                yield _load(f"y_{k}", "at_b", basis, row, k)
                if tangent:
                    yield _load(f"dx_{k}", "moved_a", basis, row, k)
                    yield _load(f"dy_{k}", "moved_b", basis, row, k)
                    own = f"dx_0 * y_{k} + x_0 * dy_{k} + dx_{k} * y_0 + x_{k} * dy_0"
                else:
                    own = f"x_0 * y_{k} + x_{k} * y_0"
                yield f"g_{k} {'=' if row == rows.start else '+='} {own}"
        for k, columns in enumerate(basis.radial_products):
            mask = f"here & (n < {basis.n_centers - k})"
            yield f"tl.store(to + {order * per_order + columns.start}, factor * g_{k}, mask={mask})"


def _triple_terms(basis: Basis, tangent: bool) -> Iterator[str]:
    """Lines that store the features of one block of three elements: product by product, times all rows that have it."""
    forms = Forms.of(basis)
    for row in forms.rows:
        for name in "abc":
            yield _load(f"{name}_{row}", f"at_{name}", basis, row)
            if tangent:
                yield _load(f"d{name}_{row}", f"moved_{name}", basis, row)
    yield from (f"g_{triple} = tl.zeros((ATOMS, WIDTH), sums.dtype.element_ty)" for triple in range(forms.n_triples))
    for (i, j), uses in forms.products.items():
        yield f"p = b_{i} * c_{j} + b_{j} * c_{i}"
        if tangent:
            yield f"d = db_{i} * c_{j} + db_{j} * c_{i} + b_{i} * dc_{j} + b_{j} * dc_{i}"
        for triple in range(forms.n_triples):
            own = [(forms.slopes[number].row, value) for number, value in uses if forms.slopes[number].triple == triple]
            if own:
                total = f"g_{triple} + p * ({_weighted('a', own)})"
                moved = f"p * ({_weighted('da', own)}) + d * ({_weighted('a', own)})"
                yield f"g_{triple} = " + (f"g_{triple} + {moved}" if tangent else total)
    for triple in range(forms.n_triples):
        yield f"tl.store(to + {triple * basis.n_centers}, factor * g_{triple}, mask=here)"


def _weighted(name: str, terms: Sequence[tuple[int, float]]) -> str:
    """The expression of a sum of rows."""
    return " + ".join(f"{value!r} * {name}_{row}" for row, value in terms)


@lru_cache(maxsize=32)
def sums_gradient_source(basis: Basis) -> str:
    """The kernel of dE/dA, from dE/dG. Its grid: atoms, and elements."""
    n_orders, per_order = len(basis.legendre_orders), basis.radial_products[-1].stop
    roots = [math.sqrt(weight) for weight in basis.row_weights]
    return fill(
        _GRADIENT,
        threads=_threads(basis),
        zeros=[f"g_{row} = zero" for row in range(basis.n_angular)],
        pairs=list(_pair_gradients(basis)),
        triples=_triple_gradients(basis),
        stores=[
            f"tl.store(to + {row * basis.n_centers}, g_{row} * {root!r} * scale, mask=here)"
            for row, root in enumerate(roots)
        ],
        N=basis.n_centers,
        ROWS=basis.n_sums,
        ELEMENTS=basis.n_elements,
        FEATURES=basis.n_features,
        PAIR_FEATURES=n_orders * per_order,
    )


def _pair_gradients(basis: Basis) -> Iterator[str]:
    """Lines that add to g_row what the features of this element and another one give."""
    per_order = basis.radial_products[-1].stop
    for order, rows in enumerate(rows_of_orders(basis.legendre_orders)):
        for k, columns in enumerate(basis.radial_products):
            place = order * per_order + columns.start
            yield f"near_{k} = tl.load(at + {place}, mask=here & (n < {basis.n_centers - k}), other=0.0)"
            yield f"far_{k} = tl.load(at + {place - k}, mask=here & (n >= {k}), other=0.0)"
        for row in range(rows.start, rows.stop):
            for k in range(basis.cross_terms + 1):
                yield _load("y", "at_b", basis, row, k)
                yield _load("z", "at_b", basis, row, -k)
                yield f"g_{row} += near_{k} * y + far_{k} * z"


def _triple_gradients(basis: Basis) -> list[str]:
    """Lines that add to g_row what the features of this element and two others give."""
    if not basis.triples:
        return []
    forms = Forms.of(basis)
    count, n_others = basis.n_elements, basis.n_elements * (basis.n_elements + 1) // 2
    lines = [
        f"block = tl.load(numbers + own * {n_others} + others)",
        "half = tl.where(b == c, 0.5, 1.0)" if count > 1 else "half = 0.5",
        f"at = grad + number * {basis.n_features} + {basis.n_pair_features} + n"
        f" + block * {forms.n_triples * basis.n_centers}",
    ]
    for triple in range(forms.n_triples):
        lines.append(f"h_{triple} = half * tl.load(at + {triple * basis.n_centers}, mask=here, other=0.0)")
    lines += [_load(f"{name}_{row}", f"at_{name}", basis, row) for row in forms.rows for name in "bc"]
    for (i, j), uses in forms.products.items():
        lines.append(f"p = b_{i} * c_{j} + b_{j} * c_{i}")
        for triple in range(forms.n_triples):
            own = [(forms.slopes[number].row, value) for number, value in uses if forms.slopes[number].triple == triple]
            lines += [f"w = h_{triple} * p"] if own else []
            lines += [f"g_{row} += {value!r} * w" for row, value in own]
    elements = list(_elements(basis, f"numbers + {count * n_others} + 2 * others", "bc"))
    return fill(_OTHERS, OTHERS=n_others, elements=elements, lines=lines).splitlines()


@lru_cache(maxsize=32)
def slopes_source(basis: Basis) -> str:
    """The kernel of T, the derivatives of four-body terms, for pairs of elements. Its grid: atoms, and these pairs."""
    forms = Forms.of(basis)
    lines = [_load(f"{name}_{row}", f"at_{name}", basis, row) for row in forms.rows for name in "bc"]
    for number, slope in enumerate(forms.slopes):
        terms = " + ".join(f"{value!r} * (b_{i} * c_{j} + b_{j} * c_{i})" for i, j, value in slope.entries)
        lines.append(f"tl.store(to + {number * basis.n_centers}, factor * ({terms}), mask=here)")
    elements = list(_elements(basis, "others + 2 * block", "bc"))
    return fill(
        _SLOPES,
        threads=_threads(basis),
        elements=elements,
        lines=lines,
        OTHERS=basis.n_elements * (basis.n_elements + 1) // 2,
        SLOPES=len(forms.slopes) * basis.n_centers,
    )
