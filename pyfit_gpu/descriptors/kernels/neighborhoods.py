"""Source of the kernels that go over the neighbours of each atom: sums over them, and changes of these.

    x^a_lm,n = sqrt(w_lm) / r0_n  sum_{j of a} Y_lm(u_ij) f_n(r_ij)

with the functions of expansion.py; these are A scaled so that features are plain products (theory.md, "Cross and
four-body terms"). A thread has one Gaussian of one atom and goes through its neighbours in their order, all rows lm in
registers: no number is added by two threads, so bits do not change from run to run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pyfit_gpu.descriptors.basis import Basis
from pyfit_gpu.descriptors.kernels.angular import add_rows
from pyfit_gpu.descriptors.kernels.source import fill

# A program has the atoms that fill 32 WIDTH threads, all of which go on until the last one has no neighbour left.
_SUMS = """
def sums(vectors, kinds, first, table, out, atom_0, n_atoms, ATOMS: tl.constexpr, WIDTH: tl.constexpr):
    number = tl.program_id(0) * ATOMS + tl.arange(0, ATOMS)[:, None] + tl.zeros((ATOMS, WIDTH), tl.int64)
    n = tl.arange(0, WIDTH)[None, :] + tl.zeros((ATOMS, WIDTH), tl.int64)
    here = number < n_atoms
    start = tl.load(first + atom_0 + number, mask=here, other=0)
    end = tl.load(first + atom_0 + number + 1, mask=here, other=0)
    center = tl.load(table + n, mask=n < $N, other=1.0)
    $zeros
    for step in range(tl.max(tl.max(end - start, axis=1), axis=0)):
        pair = start + step
        there = pair < end
        x = tl.load(vectors + 3 * pair, mask=there, other=1.0)
        y = tl.load(vectors + 3 * pair + 1, mask=there, other=0.0)
        z = tl.load(vectors + 3 * pair + 2, mask=there, other=0.0)
        $unit
        $radial
        $masks
        $rows
    here = here & (n < $N)
    scale = tl.load(table + $N + n, mask=n < $N, other=0.0)
    place = out + (tl.program_id(1) * $GROUP_ROWS * n_atoms + number) * $N + n
    $stores
"""

UNIT = (
    "square = x * x + y * y + z * z",
    "inverse = tl.rsqrt(square)",
    "r = square * inverse",
    "x, y, z = x * inverse, y * inverse, z * inverse",
)


def cutoff_lines(basis: Basis) -> tuple[str, ...]:
    """Lines for fc, and for what its derivative is made of."""
    return (
        f"inside = tl.minimum(r - {basis.cutoff!r}, 0.0)",
        "fourth = (inside * inside) * (inside * inside)",
        f"over = 1.0 / (fourth + {basis.cutoff_width**4!r})",
        "fc = fourth * over",
    )


def gaussian(basis: Basis, center: str) -> str:
    """The expression of the Gaussian at `center`, without the cutoff."""
    return f"tl.exp((r - {center}) * (r - {center}) * {-1 / basis.gaussian_width**2!r})"


def elements_at_once(basis: Basis, itemsize: int) -> int:
    """Number of elements whose sums a thread holds: as many as registers hold, for each group goes over all pairs."""
    return max(1, min(basis.n_elements, 480 // (basis.n_angular * itemsize)))


def sums_source(basis: Basis, itemsize: int) -> str:
    """The kernel of the sums. Its grid: atoms, and groups of elements."""
    group = elements_at_once(basis, itemsize)
    rows = [(e, row) for e in range(group) for row in range(basis.n_angular)]
    return fill(
        _SUMS,
        zeros=[f"a_{e}_{row} = tl.zeros((ATOMS, WIDTH), vectors.dtype.element_ty)" for e, row in rows],
        unit=UNIT,
        radial=[*cutoff_lines(basis), f"f = {gaussian(basis, 'center')} * fc"],
        masks=list(_masks(basis, group)),
        rows=list(add_rows(basis.legendre_orders, group)),
        stores=list(_stores(basis, group)),
        N=basis.n_centers,
        GROUP_ROWS=group * basis.n_angular,
    )


def _masks(basis: Basis, group: int) -> Iterator[str]:
    """Lines for f_e, zero where the neighbour is of another element than e or is none."""
    if basis.n_elements == 1:
        yield "f_0 = tl.where(there, f, 0.0)"
        return
    yield f"kind = tl.load(kinds + pair, mask=there, other=255).to(tl.int32) - tl.program_id(1) * {group}"
    for e in range(group):
        yield f"f_{e} = tl.where(kind == {e}, f, 0.0)"


def _stores(basis: Basis, group: int) -> Iterator[str]:
    """Lines that store x = sqrt(w) / r0 a; the last group can have fewer elements."""
    for e in range(group):
        if basis.n_elements % group:
            yield f"if tl.program_id(1) * {group} + {e} < {basis.n_elements}:"
        for row, weight in enumerate(basis.row_weights):
            offset = (e * basis.n_angular + row) * basis.n_centers
            line = f"tl.store(place + {offset} * n_atoms, a_{e}_{row} * {math.sqrt(weight)!r} * scale, mask=here)"
            yield f"    {line}" if basis.n_elements % group else line
