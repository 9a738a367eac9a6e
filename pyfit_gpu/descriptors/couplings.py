"""Four-body terms: invariants of third order in the sums over neighbours, and their derivatives.

    x^a_lm,n  = A^a_lm,n / r0_n                                       A: the sums of expansion.py, rows of harmonics.py
    G^abc_t,n = sum over the distinct orderings (p, q, r) of the elements (a, b, c)
                of sum_m1m2m3 C^t_m1m2m3 x^p_l1m1,n x^q_l2m2,n x^r_l3m3,n

for triples t = (l1 l2 l3) of Legendre orders. C are the Wigner 3j symbols in real harmonics, times the roots of the
harmonics' weights w_lm: the integrals of three harmonics over the sphere, scaled to a sum of squares of 1. So a term
is positive for three neighbours in one direction. The quadrature is exact for polynomials of this degree.

A term of one element is a cubic form of x, so everything follows from its gradient. With T(x, x) the gradient, made of
products of two rows, and T(x, y) twice its polarised form for two different elements, the derivative of G^abc with
respect to x of one of its elements is T of the other two. G itself follows from the derivatives with respect to the
rows of one order alone, which is in the triple p times: G = 1 / p sum_m x_m dG/dx_m (Euler).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.descriptors.harmonics import addition_coefficients, angular_rows, n_rows, rows_of_orders
from pyfit_gpu.parallel import lazy

Triple = tuple[int, int, int]
Entries = tuple[tuple[int, int, float], ...]  # numbers of two rows and the coefficient of their product
Monomials = dict[tuple[int, ...], float]  # products of rows, by their ascending numbers, with their coefficients

_NOTHING = 1e-14  # a coefficient below this is zero up to rounding


@dataclass(frozen=True)
class Part:
    """Derivatives of the terms of one triple with respect to the rows of one of its orders."""

    triple: int
    order: slice  # rows of the angular functions
    power: int  # how often the order is in the triple
    rows: slice  # of the derivatives


@dataclass(frozen=True, eq=False)
class Gradient:
    """Derivatives of some terms with respect to rows x: each a sum of products of two rows, as T above."""

    parts: tuple[Part, ...]
    entries: tuple[Entries, ...]  # of each derivative
    like: Tensor  # gives device and dtype

    @classmethod
    def of(cls, made: Sequence[tuple[int, slice, int, Sequence[Entries]]], like: Tensor) -> Gradient:
        """Join parts: each a triple, an order's rows and power, and its derivatives."""
        parts: list[Part] = []
        entries: list[Entries] = []
        for triple, order, power, own in made:
            parts.append(Part(triple, order, power, slice(len(entries), len(entries) + len(own))))
            entries += own
        return cls(tuple(parts), tuple(entries), like)

    @lazy
    def _dense(self) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers of the two rows of each different product, and the coefficients (n_derivatives, n_products)."""
        products = sorted({(i, j) for own in self.entries for i, j, _ in own})
        places = {product: place for place, product in enumerate(products)}
        matrix = torch.zeros(len(self.entries), len(products), dtype=torch.float64)
        for row, own in zip(matrix, self.entries, strict=True):
            for i, j, value in own:
                row[places[i, j]] = value
        first, second = torch.tensor(products, device=self.like.device).T.contiguous()
        return first, second, matrix.to(self.like)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(n_derivatives, n, n_r0): T(x, y) for rows (rows, n, n_r0) of one element, the same object, or of two."""
        if x.device.type != "cpu":  # few launches
            first, second, matrix = self._dense
            products = x.index_select(0, first) * y.index_select(0, second)
            if x is not y:
                products.addcmul_(x.index_select(0, second), y.index_select(0, first))
            return torch.mm(matrix, products.flatten(1)).unflatten(1, x.shape[1:])
        # Few coefficients are not zero; and an atom's bits must not depend on how many others a product is for.
        result = x.new_zeros(len(self.entries), *x.shape[1:])
        rows, others = x.unbind(0), y.unbind(0)
        for total, entries in zip(result.unbind(0), self.entries, strict=True):
            for i, j, value in entries:
                total.addcmul_(rows[i], others[j], value=value)
                if x is not y:
                    total.addcmul_(rows[j], others[i], value=value)
        return result


@dataclass(frozen=True, eq=False)
class Couplings:
    """The coefficients of the gradients of some triples."""

    n_triples: int
    span: slice  # rows of the angular functions among which those of the triples are: the rows x
    gradients: tuple[Gradient, ...]  # the first has one part of each triple, which is enough for its value

    @classmethod
    def of(cls, orders: Sequence[int], triples: Sequence[Triple], like: Tensor) -> Couplings:
        """Find the coefficients.

        Args:
            orders: Legendre orders of the angular functions.
            triples: of these orders, at least one.
            like: gives device and dtype.
        """
        rows = dict(reversed(list(zip(orders, rows_of_orders(orders), strict=True))))
        used = [rows[order] for triple in triples for order in triple]
        start = min(own.start for own in used)
        values, others = [], []
        for number, triple in enumerate(triples):
            gradient = _gradient(_cubic_form(triple, [rows[order].start - start for order in triple]))
            made = []
            for order in dict.fromkeys(triple):
                entries = [gradient[row - start] for row in range(rows[order].start, rows[order].stop)]
                made.append((number, rows[order], triple.count(order), entries))
            least, *more = sorted(made, key=lambda part: sum(map(len, part[3])) + len(part[3]))
            values.append(least)
            others += more
        gradients = tuple(Gradient.of(made, like) for made in (values, others) if made)
        return cls(len(triples), slice(start, max(own.stop for own in used)), gradients)


class FourBody:
    """The four-body terms of some atoms, of any number of elements. Derivatives are computed once."""

    def __init__(self, couplings: Couplings, radii: Tensor, sums: Sequence[Tensor]) -> None:
        """Describe them; no derivative is computed yet.

        Args:
            radii: (n_r0,) Å.
            sums: A of each element, (n, n_angular or more, n_r0 or more).
        """
        self.couplings = couplings
        self.radii = radii
        self.blocks = triples_of_elements(len(sums))
        self._rows = self._rows_of(sums)
        self._slopes: dict[tuple[int, int, int], Tensor] = {}

    def _rows_of(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """Rows x of each element, (rows, n, n_r0), contiguous: then there are few and long operations."""
        span, n_centers = self.couplings.span, len(self.radii)
        result = []
        for own in sums:
            rows = own.new_empty(span.stop - span.start, len(own), n_centers)
            result.append(torch.div(own[:, span, :n_centers].transpose(0, 1), self.radii, out=rows))
        return result

    def _of_order(self, rows: Tensor, part: Part) -> Tensor:
        return rows[part.order.start - self.couplings.span.start : part.order.stop - self.couplings.span.start]

    def _terms(self, gradients: Sequence[int], block: tuple[int, int, int]) -> Iterator[tuple[int, Part, Tensor]]:
        """Yield an element of a block, a part and the derivatives (2 l + 1, n, n_r0) with respect to its rows x."""
        for moved in sorted(set(block)):
            others = list(block)
            others.remove(moved)
            a, b = others
            for number in gradients:
                if (a, b, number) not in self._slopes:
                    gradient = self.couplings.gradients[number]
                    self._slopes[a, b, number] = gradient(self._rows[a], self._rows[b])
                for part in self.couplings.gradients[number].parts:
                    yield moved, part, self._slopes[a, b, number][part.rows]

    @property
    def _all(self) -> range:
        return range(len(self.couplings.gradients))

    def raw(self) -> Tensor:
        """(n, n_blocks, n_triples, n_r0): G, by the rows of one order of each triple, of whose power it is."""
        return self._along(self._rows, [0], scaled=True)

    def jvp(self, tangent: Sequence[Tensor]) -> Tensor:
        """(n, n_blocks, n_triples, n_r0): JVP of G along changes of A of each element."""
        return self._along(self._rows_of(tangent), self._all)

    def _along(self, rows: Sequence[Tensor], gradients: Sequence[int], *, scaled: bool = False) -> Tensor:
        """Sums over rows of each element times derivatives; `scaled`: divided by the power of the rows."""
        whole = rows[0].new_zeros(len(self.blocks), self.couplings.n_triples, *rows[0].shape[1:])
        for block, result in zip(self.blocks, whole.unbind(0), strict=True):
            for moved, part, slopes in self._terms(gradients, block):
                own, factor = self._of_order(rows[moved], part), 1 / part.power if scaled else 1.0
                if own.device.type != "cpu":
                    result[part.triple].add_((own * slopes).sum(dim=0), alpha=factor)
                    continue
                total = result[part.triple]
                for row, slope in zip(own.unbind(0), slopes.unbind(0), strict=True):
                    total.addcmul_(row, slope, value=factor)
        return whole.movedim(2, 0)

    def add_grad(self, grad: Tensor, grad_sums: Sequence[Tensor]) -> None:
        """Add dE/dA of each element to `grad_sums`, for `grad` = dE/dG (n, n_blocks, n_triples, n_r0)."""
        totals = [torch.zeros_like(rows) for rows in self._rows]
        by_term = (grad / self.radii).movedim(0, 2).contiguous()
        for block, own in zip(self.blocks, by_term, strict=True):
            for moved, part, slopes in self._terms(self._all, block):
                self._of_order(totals[moved], part).addcmul_(own[part.triple], slopes)
        for total, rows in zip(grad_sums, totals, strict=True):
            total[:, self.couplings.span, : len(self.radii)] += rows.transpose(0, 1)

    def derivatives(self) -> Iterator[tuple[int, int, int, slice, Tensor]]:
        """Yield dG/dA by block, triple, element and one of the triple's orders.

        Yields:
            Numbers of the block, of the triple and of the element, the order's rows of the angular functions, and
            derivatives (2 l + 1, n, n_r0).
        """
        for number, block in enumerate(self.blocks):
            for moved, part, slopes in self._terms(self._all, block):
                yield number, part.triple, moved, part.order, slopes / self.radii


def triples_of_elements(n_elements: int) -> list[tuple[int, int, int]]:
    """The elements a <= b <= c of each block of four-body terms."""
    return list(combinations_with_replacement(range(n_elements), 3))


def _cubic_form(triple: Triple, first_rows: Sequence[int]) -> Monomials:
    """The term of a triple, its rows beginning at these numbers, as a polynomial of the rows."""
    form: Monomials = {}
    coefficients = coupling_coefficients(triple)
    for place in np.argwhere(coefficients):
        rows = sorted(int(start + m) for start, m in zip(first_rows, place, strict=True))
        form[tuple(rows)] = form.get(tuple(rows), 0.0) + float(coefficients[tuple(place)])
    return form


def _gradient(form: Monomials) -> dict[int, Entries]:
    """Derivative with respect to each row: numbers of two rows, ascending, and the coefficient of their product."""
    result: dict[int, list[tuple[int, int, float]]] = {}
    for rows, value in form.items():
        for row, power in Counter(rows).items():
            place = rows.index(row)
            i, j = rows[:place] + rows[place + 1 :]
            result.setdefault(row, []).append((i, j, power * value))
    return {row: tuple(entries) for row, entries in result.items()}


@cache
def coupling_coefficients(triple: Triple) -> np.ndarray:
    """(2 l1 + 1, 2 l2 + 1, 2 l3 + 1): C times the roots of w, exactly zero where it is zero up to rounding."""
    n = sum(triple) + 2
    z, weights = np.polynomial.legendre.leggauss(n)
    angles = np.arange(2 * n) * (np.pi / n)
    flat = np.sqrt(1 - z**2)[:, None]
    unit = np.stack([flat * np.cos(angles), flat * np.sin(angles), np.repeat(z[:, None], 2 * n, axis=1)])
    points = torch.from_numpy(unit.reshape(3, -1))
    roots, harmonics = [], []
    for order in triple:
        rows = angular_rows(points, (order,), out=points.new_empty(n_rows((order,)), points.shape[1]))
        own = addition_coefficients((order,), device=points.device, dtype=points.dtype)[0].sqrt()
        roots.append(own.numpy())
        harmonics.append((rows * own[:, None]).numpy())
    first, second, third = harmonics
    by_point = np.repeat(weights, 2 * n) * third
    coefficients = np.stack([(row * second) @ by_point.T for row in first])
    coefficients /= np.linalg.norm(coefficients)
    coefficients[np.abs(coefficients) < _NOTHING] = 0.0
    return coefficients * roots[0][:, None, None] * roots[1][:, None] * roots[2]
