"""Bonds of the median atom of each element."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from pyfit_gpu.errors import InputError
from pyfit_gpu.physics.members import as_frame
from pyfit_gpu.structures.bonds import Bonds, find_bonds


def usual(*lengths: float, coordination: float = 6.0) -> Bonds:
    own = torch.tensor(lengths, dtype=torch.float64)
    return Bonds((own[:, None] + own) / 2, torch.full((len(lengths),), coordination, dtype=torch.float64))


CRYSTALS = [("Al", 2.8638, 12), ("Si", 2.3513, 4), ("Na", 3.6633, 14)]


@pytest.mark.parametrize(("name", "length", "coordination"), CRYSTALS)
def test_crystals(name: str, length: float, coordination: int) -> None:
    """Second neighbours of bcc are bonds as well: they are 1.155 times as far."""
    found = find_bonds([as_frame(bulk(name))], [name], usual(length * 1.1))
    assert float(found.lengths) == pytest.approx(length, abs=1e-3)
    assert float(found.coordination) == coordination


def test_two_elements() -> None:
    """Atoms of one kind that do not touch have the usual length and no bonds with each other."""
    frame = as_frame(bulk("SiC", "zincblende", 4.36))
    expected = usual(2.35, 1.54)
    found = find_bonds([frame], ["Si", "C"], expected)
    np.testing.assert_allclose(found.lengths, [[2.35, 1.8879], [1.8879, 1.54]], atol=1e-4)
    assert found.coordination.tolist() == [4, 4]
    other = find_bonds([frame], ["C", "Si"], usual(1.54, 2.35))
    np.testing.assert_allclose(other.lengths, [[1.54, 1.8879], [1.8879, 2.35]], atol=1e-4)


def test_the_median_atom_decides() -> None:
    frames = [as_frame(bulk("Si", a=5.43 * scale)) for scale in (0.8, 0.97, 1.0, 1.03, 1.1)]
    found = find_bonds(frames, ["Si"], usual(2.35))
    assert float(found.lengths) == pytest.approx(5.43 * np.sqrt(3) / 4, abs=1e-6)


def test_what_is_not_there_is_as_usual() -> None:
    expected = usual(2.35, 1.54, coordination=5.0)
    assert find_bonds([], ["Si", "C"], expected) is expected
    alone = as_frame(Atoms("Si", cell=[20, 20, 20], pbc=True))
    found = find_bonds([alone], ["Si", "C"], expected)
    assert torch.equal(found.lengths, expected.lengths)
    assert found.coordination.tolist() == [1.0, 5.0]  # never none: it divides


def test_elements_that_are_not_given() -> None:
    frame = as_frame(bulk("SiC", "zincblende", 4.36))
    with pytest.raises(InputError, match="C"):
        find_bonds([frame], ["Si"], usual(2.35))
    unnamed = replace(as_frame(bulk("Si")), atomic_numbers=np.zeros(2, dtype=np.int64))
    assert float(find_bonds([unnamed], ["Si"], usual(2.35)).coordination) == 4


def test_structures_of_different_sizes() -> None:
    """They are looked at in batches: silicon and diamond have no bonds with each other."""
    frames = [as_frame(bulk("Si"))] * 40 + [as_frame(bulk("C", cubic=True) * (4, 4, 4))]
    found = find_bonds(frames, ["Si", "C"], usual(2.5, 1.6))
    np.testing.assert_allclose(found.lengths, [[2.3513, 2.05], [2.05, 1.5459]], atol=1e-3)
    assert found.coordination.tolist() == [4, 4]
