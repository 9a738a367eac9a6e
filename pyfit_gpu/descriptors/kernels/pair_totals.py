"""Forces and virials from derivatives with respect to flat pairs: the sums of pair_sums.py by two kernels.

Pairs lie by central atom, so those of an atom are a run. Those of which it is the neighbour are another one of a table
that one sort gave (`Reactions`). An atom is summed by one program, in the order of both runs: nothing is added by
atomics, and the bits are the same from run to run. Derivatives come piece by piece, each of atoms that follow one
another, and are not kept: the pairs of a piece are, in an atom's run of the table, those up to a number.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from pyfit_gpu.fused import current
from pyfit_gpu.structures.neighbors import Neighbors
from pyfit_gpu.sums import sum_runs

_ATOMS, _PAIRS = 4, 32  # of a program, at a time: threads side by side read pairs that lie side by side (not measured)


@triton.jit(do_not_specialize=["atom_0", "n_atoms", "pair_0", "n_members"])
def _actions(
    grad, vectors, first, forces, virials, atom_0, n_atoms, pair_0, n_members,
    WITH_VIRIALS: tl.constexpr, ATOMS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Add the derivatives of an atom's pairs to its force, and store its virial: xx yy zz yz xz xy."""
    atom = tl.program_id(0) * ATOMS + tl.arange(0, ATOMS)
    member = tl.program_id(1)
    inside = atom < n_atoms
    atom = (atom + atom_0).to(tl.int64)
    begin = tl.load(first + atom, mask=inside, other=0)
    end = tl.load(first + atom + 1, mask=inside, other=0)
    zero = tl.zeros([ATOMS], grad.dtype.element_ty)
    x, y, z = zero, zero, zero
    xx, yy, zz, yz, xz, xy = zero, zero, zero, zero, zero, zero
    for done in range(0, tl.max(end - begin, axis=0), PAIRS):
        pair = begin[:, None] + done + tl.arange(0, PAIRS)[None, :]
        there = pair < end[:, None]
        own = grad + ((pair - pair_0) * n_members + member) * 3
        gx = tl.load(own, mask=there, other=0.0)
        gy = tl.load(own + 1, mask=there, other=0.0)
        gz = tl.load(own + 2, mask=there, other=0.0)
        x += tl.sum(gx, axis=1)
        y += tl.sum(gy, axis=1)
        z += tl.sum(gz, axis=1)
        if WITH_VIRIALS:
            vx = tl.load(vectors + pair * 3, mask=there, other=0.0)
            vy = tl.load(vectors + pair * 3 + 1, mask=there, other=0.0)
            vz = tl.load(vectors + pair * 3 + 2, mask=there, other=0.0)
            xx += tl.sum(gx * vx, axis=1)
            yy += tl.sum(gy * vy, axis=1)
            zz += tl.sum(gz * vz, axis=1)
            yz += tl.sum(gy * vz + gz * vy, axis=1) * 0.5
            xz += tl.sum(gx * vz + gz * vx, axis=1) * 0.5
            xy += tl.sum(gx * vy + gy * vx, axis=1) * 0.5
    row = atom * n_members + member
    force = forces + row * 3
    tl.store(force, tl.load(force, mask=inside) + x, mask=inside)
    tl.store(force + 1, tl.load(force + 1, mask=inside) + y, mask=inside)
    tl.store(force + 2, tl.load(force + 2, mask=inside) + z, mask=inside)
    if WITH_VIRIALS:
        virial = virials + row * 6
        tl.store(virial, xx, mask=inside)
        tl.store(virial + 1, yy, mask=inside)
        tl.store(virial + 2, zz, mask=inside)
        tl.store(virial + 3, yz, mask=inside)
        tl.store(virial + 4, xz, mask=inside)
        tl.store(virial + 5, xy, mask=inside)


@triton.jit(do_not_specialize=["n_atoms", "pair_0", "last_pair", "n_members"])
def _reactions(
    grad, order, first, done, forces, n_atoms, pair_0, last_pair, n_members,
    ATOMS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Take the derivatives of a piece's pairs off the forces on their neighbours.

    `done` (n_members, n_atoms) has how far the run of each atom in the table has got.
    """
    atom = (tl.program_id(0) * ATOMS + tl.arange(0, ATOMS)).to(tl.int64)
    member = tl.program_id(1)
    inside = atom < n_atoms
    at = tl.load(done + member * n_atoms + atom, mask=inside, other=0)
    end = tl.load(first + atom + 1, mask=inside, other=0)
    zero = tl.zeros([ATOMS], grad.dtype.element_ty)
    x, y, z = zero, zero, zero
    more = tl.max(end - at, axis=0)
    while more > 0:
        place = at[:, None] + tl.arange(0, PAIRS)[None, :]
        there = place < end[:, None]
        pair = tl.load(order + place, mask=there, other=0).to(tl.int64)
        there = there & (pair < last_pair)  # those of an atom ascend
        own = grad + ((pair - pair_0) * n_members + member) * 3
        x += tl.sum(tl.load(own, mask=there, other=0.0), axis=1)
        y += tl.sum(tl.load(own + 1, mask=there, other=0.0), axis=1)
        z += tl.sum(tl.load(own + 2, mask=there, other=0.0), axis=1)
        taken = tl.sum(tl.where(there, 1, 0), axis=1)
        at += taken
        more = tl.max(tl.where(taken == PAIRS, end - at, 0), axis=0)
    tl.store(done + member * n_atoms + atom, at, mask=inside)
    force = forces + (atom * n_members + member) * 3
    tl.store(force, tl.load(force, mask=inside) - x, mask=inside)
    tl.store(force + 1, tl.load(force + 1, mask=inside) - y, mask=inside)
    tl.store(force + 2, tl.load(force + 2, mask=inside) - z, mask=inside)


class FlatTotals:
    """Contributions of the pairs of a batch, summed piece by piece as they come."""

    def __init__(self, neighbors: Neighbors, sizes: Tensor, n_members: int, *, largest: int, virials: bool) -> None:
        """Begin with zero.

        Args:
            neighbors: vectors in the dtype of the derivatives.
            sizes: (B,) int64, atoms of each structure.
            largest: of the sizes.
        """
        vectors, n_atoms = neighbors.vectors, len(neighbors.counts)
        self._vectors = vectors.contiguous()
        self._first = neighbors.first
        self._reactions = neighbors.reactions
        self._sizes, self._largest = sizes, largest
        self._done = self._reactions.first[:-1].repeat(n_members, 1)
        self._forces = vectors.new_zeros(n_atoms, n_members, 3)
        self._virials = vectors.new_empty(n_atoms, n_members, 6) if virials else None

    def add(self, atoms: range, pairs: range, grad: Tensor) -> None:
        """Take dE/dv (pairs, n_members, 3) eV/Å of a piece. Pieces come in their order."""
        grad, n_members, n_all = grad.contiguous(), grad.shape[1], len(self._forces)
        virials = self._forces if self._virials is None else self._virials
        shape = {"ATOMS": _ATOMS, "PAIRS": _PAIRS, "enable_fp_fusion": True}

        def grid(n_atoms: int) -> Sequence[int]:
            return (-(-n_atoms // _ATOMS), n_members)

        with current(grad.device):
            _actions[grid(len(atoms))](
                grad, self._vectors, self._first, self._forces, virials, atoms.start, len(atoms), pairs.start,
                n_members, WITH_VIRIALS=self._virials is not None, **shape,
            )  # fmt: skip
            _reactions[grid(n_all)](
                grad, self._reactions.order, self._reactions.first, self._done, self._forces, n_all, pairs.start,
                pairs.stop, n_members, **shape,
            )  # fmt: skip

    def finish(self) -> tuple[Tensor, Tensor | None]:
        """Forces (n_atoms, n_members, 3) and virials (B, n_members, 6), once all pieces are there."""
        if self._virials is None:
            return self._forces, None
        return self._forces, sum_runs(self._virials, self._sizes, longest=self._largest)
