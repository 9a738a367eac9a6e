"""Source of the kernels that make features of the sums over neighbours, element by element in the Gaussian n.

With x of neighbourhoods.py, in any order of the elements a, b and c,

    G^ab_l,n,k = h  sum_m (x^a_lm,n x^b_lm,n+k + x^a_lm,n+k x^b_lm,n)      h: 1/2 if a = b, else 1
    G^abc_t,n  = o / 6  sum_r x^a_r,n T_r(x^b, x^c)_n                      o: distinct orderings of a, b and c
    T_r(y, z)  = sum_ij v_rij (y_i z_j + y_j z_i)                          v: couplings.py, T(y, y) is twice as much there

so no line asks which elements are equal. A thread has one Gaussian of one atom.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyfit_gpu.descriptors.basis import Basis
from pyfit_gpu.descriptors.harmonics import rows_of_orders
from pyfit_gpu.descriptors.kernels.source import fill

_FEATURES = """
def features(sums, blocks, factors, out, n_atoms, ATOMS: tl.constexpr, WIDTH: tl.constexpr):
    number = tl.program_id(0) * ATOMS + tl.arange(0, ATOMS)[:, None] + tl.zeros((ATOMS, WIDTH), tl.int64)
    n = tl.arange(0, WIDTH)[None, :] + tl.zeros((ATOMS, WIDTH), tl.int64)
    here = (number < n_atoms) & (n < $N)
    block = tl.program_id(1)
    a = tl.load(blocks + 3 * block).to(tl.int64)
    b = tl.load(blocks + 3 * block + 1).to(tl.int64)
    c = tl.load(blocks + 3 * block + 2).to(tl.int64)
    factor = tl.load(factors + block)
    stride = n_atoms * $N
    place = sums + number * $N + n
    at_a, at_b, at_c = (place + a * $ROWS * stride, place + b * $ROWS * stride, place + c * $ROWS * stride)
    to = out + number * $FEATURES + n
    if block < $PAIR_BLOCKS:
        to += block * $PAIR_FEATURES
        $pairs
    else:
        to += $FIRST_TRIPLE + (block - $PAIR_BLOCKS) * $TRIPLE_FEATURES
        $triples
"""


@dataclass(frozen=True)
class Forms:
    """The cubic forms of the four-body terms in rows x: the entries v of T for each row, by triple."""

    rows: tuple[int, ...]  # rows that are in any triple
    products: tuple[tuple[int, int], ...]  # pairs of rows i <= j that are in any entry
    entries: tuple[dict[int, tuple[tuple[int, int, float], ...]], ...]  # of each triple: i, j, v by row r

    @classmethod
    def of(cls, basis: Basis) -> Forms:
        """Bring the coefficients of couplings.py, made for A / r0, to rows with the roots of their weights."""
        if not basis.triples:
            return cls((), (), ())
        roots = [math.sqrt(weight) for weight in basis.row_weights]
        start = basis.couplings.span.start
        entries: list[dict[int, tuple[tuple[int, int, float], ...]]] = [{} for _ in basis.triples]
        for gradient in basis.couplings.gradients:
            for part in gradient.parts:
                rows = range(part.order.start, part.order.stop)
                for row, own in zip(rows, gradient.entries[part.rows], strict=True):
                    entries[part.triple][row] = tuple(
                        (i + start, j + start, value / (roots[row] * roots[i + start] * roots[j + start]))
                        for i, j, value in own
                    )
        every = [(i, j) for form in entries for own in form.values() for i, j, _ in own]
        rows = sorted({row for form in entries for row in form} | {row for pair in every for row in pair})
        return cls(tuple(rows), tuple(sorted(set(every))), tuple(entries))


def load_row(name: str, at: str, basis: Basis, row: int, shift: int = 0) -> str:
    """The line that loads a row of sums, at n or at n + shift."""
    inside = (
        "here" if shift == 0 else f"here & (n < {basis.n_centers - shift})" if shift > 0 else f"here & (n >= {-shift})"
    )
    offset = f" + {shift}" if shift else ""
    return f"{name} = tl.load({at} + {row} * stride{offset}, mask={inside}, other=0.0)"


def features_source(basis: Basis) -> str:
    """The kernel of the features. Its grid: atoms, and blocks of two elements and then of three."""
    n_orders, per_order = len(basis.legendre_orders), basis.radial_products[-1].stop
    return fill(
        _FEATURES,
        pairs=list(_pair_terms(basis)),
        triples=list(_triple_terms(basis)) if basis.triples else ["pass"],
        N=basis.n_centers,
        ROWS=basis.n_angular,
        FEATURES=basis.n_features,
        PAIR_BLOCKS=len(basis.blocks),
        PAIR_FEATURES=n_orders * per_order,
        FIRST_TRIPLE=basis.n_pair_features,
        TRIPLE_FEATURES=len(basis.triples) * basis.n_centers,
    )


def _pair_terms(basis: Basis) -> Iterator[str]:
    """Lines that store the features of one block of two elements."""
    per_order = basis.radial_products[-1].stop
    for order, rows in enumerate(rows_of_orders(basis.legendre_orders)):
        for place, row in enumerate(range(rows.start, rows.stop)):
            yield load_row("x", "at_a", basis, row)
            yield load_row("y", "at_b", basis, row)
            for k in range(basis.cross_terms + 1):
                if k:
                    yield load_row("x_k", "at_a", basis, row, k)
                    yield load_row("y_k", "at_b", basis, row, k)
                own = "x * y_k + x_k * y" if k else "2.0 * x * y"
                yield f"g_{k} {'+' if place else ''}= {own}"
        for k, columns in enumerate(basis.radial_products):
            mask = f"here & (n < {basis.n_centers - k})"
            yield f"tl.store(to + {order * per_order + columns.start}, factor * g_{k}, mask={mask})"


def _triple_terms(basis: Basis) -> Iterator[str]:
    """Lines that store the features of one block of three elements."""
    forms = Forms.of(basis)
    for row in forms.rows:
        yield load_row(f"y_{row}", "at_b", basis, row)
        yield load_row(f"z_{row}", "at_c", basis, row)
    for i, j in forms.products:
        yield f"p_{i}_{j} = y_{i} * z_{j} + y_{j} * z_{i}"
    for row in forms.rows:
        yield load_row("x", "at_a", basis, row)
        for triple, form in enumerate(forms.entries):
            if row in form:
                begun = any(earlier in form for earlier in forms.rows[: forms.rows.index(row)])
                yield f"g_{triple} {'+' if begun else ''}= x * ({weighted(form[row])})"
    for triple in range(len(forms.entries)):
        yield f"tl.store(to + {triple * basis.n_centers}, factor * g_{triple}, mask=here)"


def weighted(entries: Sequence[tuple[int, int, float]]) -> str:
    """The expression of T for one row."""
    return " + ".join(f"{value!r} * p_{i}_{j}" for i, j, value in entries)
