"""Source of the kernels that go over the neighbours of each atom: sums over them, and changes of these.

    x^a_lm,n = sqrt(w_lm) / r0_n  sum_{j of a} Y_lm(u_ij) f_n(r_ij)

with the functions of expansion.py; these are A scaled so that features are plain products (theory.md, "Cross and
four-body terms"). A thread has one Gaussian of one atom and goes through its neighbours in their order, all rows lm in
registers: no number is added by two threads, so bits do not change from run to run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

from pyfit_gpu.descriptors.basis import Basis
from pyfit_gpu.descriptors.kernels.angular import add_moved_rows, add_rows
from pyfit_gpu.descriptors.kernels.radial import UNIT, cutoff, cutoff_slope, gaussian, gaussian_slope
from pyfit_gpu.descriptors.kernels.source import fill

# A program has the atoms that fill 32 or WIDTH threads, all of which go on until the last one has no neighbour left.
_TEMPLATE = """
def $name($arguments, n_atoms, ATOMS: tl.constexpr, WIDTH: tl.constexpr):
    number = tl.program_id(0) * ATOMS + tl.arange(0, ATOMS)[:, None] + tl.zeros((ATOMS, WIDTH), tl.int64)
    n = tl.arange(0, WIDTH)[None, :] + tl.zeros((ATOMS, WIDTH), tl.int64)
    here = number < n_atoms
    start = tl.load(starts + number, mask=here, other=0)
    end = tl.load(ends + number, mask=here, other=0)
    center = tl.load(table + n, mask=n < $N, other=1.0)
    $zeros
    for step in range(tl.max(tl.max(end - start, axis=1), axis=0)):
        pair = start + step
        there = pair < end
        $functions
        $masks
        $rows
    here = here & (n < $N)
    scale = tl.load(table + $N + n, mask=n < $N, other=0.0)
    to = out + number * $SUMS + tl.program_id(1) * $GROUP + n
    $stores
"""
_ARGUMENTS = "vectors, kinds, starts, ends, table"
_REGISTERS = 480  # bytes of a thread for sums; a multiprocessor has room for few threads with more


def elements_at_once(basis: Basis) -> int:
    """Number of elements whose sums a thread holds: as many as registers do, for each group goes over all pairs."""
    return max(1, min(basis.n_elements, _REGISTERS // (basis.n_angular * basis.norm.itemsize)))


@lru_cache(maxsize=32)
def sums_source(basis: Basis) -> str:
    """The kernel of the sums. Its grid: atoms, and groups of elements."""
    group = elements_at_once(basis)
    return _filled(
        basis,
        name="sums",
        arguments=f"{_ARGUMENTS}, out",
        functions=[*UNIT, *cutoff(basis), *gaussian(basis, "center"), "f = gauss * fc"],
        masks=_masks(basis, group, ("f",)),
        rows=add_rows(basis.legendre_orders, group),
    )


@lru_cache(maxsize=32)
def moved_sums_source(basis: Basis, *, padded: bool) -> str:
    """The kernel of the changes of the sums along changes of the pairs' vectors, flat or padded."""
    group = elements_at_once(basis)
    move = "number * 3 * width + step" if padded else "3 * (pair - pair_0)"
    stride = "width" if padded else "1"
    functions = [
        f"at = moves + {move}",
        *(f"d{axis} = tl.load(at + {k} * {stride}, mask=there, other=0.0)" for k, axis in enumerate("xyz")),
        *UNIT,
        *cutoff(basis),
        *cutoff_slope(basis),
        *gaussian(basis, "center"),
        "along = dx * x + dy * y + dz * z",
        "dx, dy, dz = (dx - along * x) * inverse, (dy - along * y) * inverse, (dz - along * z) * inverse",
        "f = gauss * fc",
        f"d = {gaussian_slope(basis)} * along",
    ]
    return _filled(
        basis,
        name="moved_sums",
        arguments=f"{_ARGUMENTS}, moves, out, {'width' if padded else 'pair_0'}",
        functions=functions,
        masks=_masks(basis, group, ("f", "d")),
        rows=add_moved_rows(basis.legendre_orders, group),
    )


def _filled(
    basis: Basis, *, name: str, arguments: str, functions: list[str], masks: Iterator[str], rows: Iterator[str]
) -> str:
    group = elements_at_once(basis)
    every = [(e, row) for e in range(group) for row in range(basis.n_angular)]
    return fill(
        _TEMPLATE,
        name=name,
        arguments=arguments,
        zeros=[f"a_{e}_{row} = tl.zeros((ATOMS, WIDTH), vectors.dtype.element_ty)" for e, row in every],
        functions=functions,
        masks=list(masks),
        rows=list(rows),
        stores=list(_stores(basis, group)),
        N=basis.n_centers,
        SUMS=basis.n_elements * basis.n_sums,
        GROUP=group * basis.n_sums,
    )


def _masks(basis: Basis, group: int, names: tuple[str, ...]) -> Iterator[str]:
    """Lines for f_e, which is f, or zero where the neighbour is of another element than e or is none."""
    if basis.n_elements == 1:
        yield from (f"{name}_0 = tl.where(there, {name}, 0.0)" for name in names)
        return
    yield f"kind = tl.load(kinds + pair, mask=there, other=255).to(tl.int32) - tl.program_id(1) * {group}"
    for e in range(group):
        yield from (f"{name}_{e} = tl.where(kind == {e}, {name}, 0.0)" for name in names)


def _stores(basis: Basis, group: int) -> Iterator[str]:
    """Lines that store x = sqrt(w) / r0 a; the last group can have fewer elements."""
    for e in range(group):
        if basis.n_elements % group:
            yield f"if tl.program_id(1) * {group} + {e} < {basis.n_elements}:"
        for row, weight in enumerate(basis.row_weights):
            place, root = (e * basis.n_angular + row) * basis.n_centers, math.sqrt(weight)
            line = f"tl.store(to + {place}, a_{e}_{row} * {root!r} * scale, mask=here)"
            yield f"    {line}" if basis.n_elements % group else line
