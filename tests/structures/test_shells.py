"""Distances from which a new descriptor's cutoff and first centre follow, against those of known crystals."""

from __future__ import annotations

from collections.abc import Sequence

import frame_samples
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from pyfit_gpu.errors import InputError
from pyfit_gpu.models.new_potential import lengths_from
from pyfit_gpu.structures import shells
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.shells import Shells, find_shells

INFINITY = float("inf")


def frame(atoms: Atoms) -> Frame:
    return frame_samples.frame(
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        atomic_numbers=atoms.numbers,
        forces=None,
    )


def found(*structures: Atoms) -> Shells:
    return find_shells([frame(atoms) for atoms in structures])


def in_a_row(distances: Sequence[float]) -> list[Atoms]:
    """Pairs of atoms, each alone with the other."""
    return [Atoms("H2", positions=[[0, 0, 0], [0, 0, distance]]) for distance in distances]


@pytest.mark.parametrize(
    ("symbol", "lattice", "a", "nearest", "third"),
    [
        ("Si", "diamond", 5.43, np.sqrt(3) / 4, np.sqrt(11) / 4),
        ("Li", "bcc", 3.45, np.sqrt(3) / 2, np.sqrt(2)),
        ("Cs", "bcc", 6.14, np.sqrt(3) / 2, np.sqrt(2)),
        ("Cu", "fcc", 3.6, np.sqrt(1 / 2), np.sqrt(3 / 2)),
        ("NaCl", "rocksalt", 5.6, 1 / 2, np.sqrt(3) / 2),
        ("SiC", "zincblende", 4.36, np.sqrt(3) / 4, np.sqrt(11) / 4),
    ],
)
@pytest.mark.parametrize("cubic", [False, True], ids=["primitive", "cubic"])
def test_crystals(symbol: str, lattice: str, a: float, nearest: float, third: float, cubic: bool) -> None:
    made = bulk(symbol, lattice, a=a, cubic=cubic)
    assert found(made) == Shells(pytest.approx(nearest * a, abs=1e-12), pytest.approx(third * a, abs=1e-12))


def test_the_third_shell_is_that_of_the_median_atom() -> None:
    """Two of five atoms are in the larger crystal, then three of five."""
    small, large = (bulk("Li", "bcc", a=a) for a in (3.4, 3.8))
    assert found(small, large, small, large, small).third == pytest.approx(np.sqrt(2) * 3.4)
    assert found(small, large, large, large, small).third == pytest.approx(np.sqrt(2) * 3.8)


def test_one_atom_in_a_hundred_may_be_nearer() -> None:
    """A single collision says nothing about bonds; below it is the smallest of all others."""
    apart = in_a_row(np.linspace(1.2, 1.8, 100))
    assert found(*apart).nearest == pytest.approx(1.2 + 0.6 / 99)  # the first of 100 pairs is the one in a hundred
    assert found(*apart, *in_a_row([0.3])).nearest == pytest.approx(1.2)
    assert found(*apart, *in_a_row([0.3] * 2)).nearest == pytest.approx(0.3)


def test_fewer_neighbors_than_three_shells() -> None:
    water = molecule("H2O")
    assert found(water) == Shells(pytest.approx(water.get_distance(0, 1)), INFINITY)
    assert found(Atoms("Ar")) == Shells(INFINITY, INFINITY)
    assert found(Atoms("Ar"), Atoms("Ar"), bulk("Cu", "fcc", a=3.6)).third == INFINITY


def test_no_structure() -> None:
    with pytest.raises(InputError, match="at least one structure, got none"):
        find_shells([])


@pytest.mark.parametrize(("n_frames", "looked_at"), [(5, 5), (11, 6), (40, 10)])
def test_of_many_atoms_a_part_is_looked_at(n_frames: int, looked_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second, every fourth structure, so that none of the set's ends is left out."""
    seen: list[float] = []
    real = Structures.from_frames

    def from_frames(frames: Sequence[Frame]) -> Structures:
        seen.extend(one.cell[0, 0] for one in frames)
        return real(frames)

    monkeypatch.setattr(shells, "_MOST_ATOMS", 20)
    monkeypatch.setattr(Structures, "from_frames", from_frames)
    cells = [5.0 + k / 100 for k in range(n_frames)]
    find_shells([frame(bulk("Li", "sc", a=a) * (2, 1, 1)) for a in cells])
    step = -(-n_frames // looked_at)
    assert sorted(seen) == pytest.approx([2 * a for a in cells[::step]])


@pytest.mark.parametrize(
    ("shells_found", "width", "cutoff", "first"),
    [
        (Shells(2.351, 4.502), 1.0, 5.3, 1.8),
        (Shells(2.351, 4.502), 1.5, 5.7, 1.8),
        (Shells(0.96, INFINITY), 1.0, 6.0, 0.5),  # molecules; 0.4 Å would be nearer than any atoms come
        (Shells(2.0, INFINITY), 1.0, 6.0, 1.4),
        (Shells(INFINITY, INFINITY), 1.0, 6.0, 2.4),  # atoms alone: the Gaussians begin in the middle
    ],
    ids=str,
)
def test_lengths(shells_found: Shells, width: float, cutoff: float, first: float) -> None:
    assert lengths_from(shells_found, width) == (pytest.approx(cutoff), pytest.approx(first))
