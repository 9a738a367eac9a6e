"""Structures of a pool as rows and with scores, and the selection among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from bond_order_samples import make_bond_order
from sample_sets import make_potential, make_set, with_settings

import pyfit_gpu as pf
from pyfit_gpu.datasets import pool
from pyfit_gpu.datasets.pool import energy_error_bars, energy_spread, highest_grade, select_structures, structure_rows
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.training_set.reader import save_training_set
from pyfit_gpu.models.potential import join_members
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.clusters import build_extrapolation_grade
from pyfit_gpu.training.laplace import build_error_bars

ELEMENTS = ("Si", "C")


@pytest.fixture
def structures(mixed_frames: Callable[..., list[Frame]]) -> pf.Structures:
    return pf.Structures.from_frames([frame for seed in range(3) for frame in mixed_frames(ELEMENTS, seed)])


def loop_over(whole: TrainingSet) -> list[range]:
    """Atoms of each structure."""
    ends = np.cumsum(whole.sizes.numpy()).tolist()
    return [range(first, end) for first, end in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("at_once", [1, 5, 10**6])
def test_rows_by_a_loop(at_once, monkeypatch, tmp_path):
    monkeypatch.setattr(pool, "_ATOMS_AT_ONCE", at_once)
    whole = make_set(elements=ELEMENTS)
    expected = []
    for atoms in loop_over(whole):
        row = []
        for element in range(2):
            own = [k for k in atoms if whole.species[k] == element]
            row += [*(whole.features[own].sum(dim=0) / len(atoms)).tolist(), len(own) / len(atoms)]
        expected.append(row)
    np.testing.assert_allclose(structure_rows(whole), expected, rtol=1e-14, atol=1e-15)
    save_training_set(whole, tmp_path / "set.h5")
    assert torch.equal(structure_rows(load_training_set(tmp_path / "set.h5", lazy=True)), structure_rows(whole))


@pytest.mark.parametrize("at_once", [4, 10**6])
def test_scores_are_those_of_predictions(at_once, structures, monkeypatch):
    monkeypatch.setattr(pool, "_ATOMS_AT_ONCE", at_once)
    potential = make_potential(ELEMENTS)
    whole = pf.build_training_set(structures, potential)
    bars = build_error_bars(potential, whole.select(range(12)))
    uncertainty = Uncertainty.of(potential, build_extrapolation_grade(whole.select(range(12)), potential), bars)
    found = pf.predict(potential, structures, derivatives=False, uncertainty=uncertainty).uncertainty
    assert found is not None
    assert found.energy is not None
    highest = [float(found.grade[list(atoms)].max()) for atoms in loop_over(whole)]
    np.testing.assert_allclose(highest_grade(uncertainty.grade, whole), highest, rtol=1e-10)
    np.testing.assert_allclose(energy_error_bars(potential, bars, whole), found.energy / whole.sizes, rtol=1e-8)
    members = pf.join_members([make_potential(ELEMENTS, seed=seed) for seed in (1, 2, 3)])
    spread = pf.predict(members, structures, derivatives=False).spread
    assert spread is not None
    np.testing.assert_allclose(energy_spread(members, whole), spread.energy / whole.sizes, rtol=1e-8)


def test_a_spread_takes_several_potentials():
    with pytest.raises(InputError, match="spread: expected several potentials, got one"):
        energy_spread(make_potential(), make_set())


def copies_of(structures: pf.Structures, rows: Sequence[int]) -> pf.Structures:
    """The structures, and copies of some before and after them."""
    return structures.select([*rows, *range(len(structures)), *rows])


@pytest.mark.parametrize("method", ["farthest", "determinant", "random"])
def test_copies_are_chosen_once(structures, method):
    potential = make_potential(ELEMENTS)
    n = len(structures)
    with_copies = copies_of(structures, [5, 2])
    n_distinct = int((pf.build_training_set(structures, potential).first_copies == np.arange(n)).sum())
    found = select_structures(with_copies, potential, n_distinct, method=method)
    assert 0 in found.rows
    assert 1 in found.rows
    assert {2 + 5, 2 + 2, n + 2, n + 3}.isdisjoint(found.rows)
    with pytest.raises(InputError, match=f"n: expected a number from 1 to {n_distinct}"):
        select_structures(with_copies, potential, n_distinct + 1, method=method)


@pytest.mark.parametrize("method", ["farthest", "determinant", "random"])
def test_known_structures_are_not_chosen(structures, method):
    potential = make_potential(ELEMENTS)
    known = structures.select([3, 0, 9])
    found = select_structures(structures, potential, 8, method=method, known=known)
    assert {3, 0, 9}.isdisjoint(found.rows)
    as_set = pf.build_training_set(known, potential)
    assert select_structures(structures, potential, 8, method=method, known=as_set).rows == found.rows
    assert found.distance[1] <= found.distance[0] < np.inf


def test_scores_decide(structures):
    scores = torch.arange(len(structures)).double()
    found = select_structures(structures, make_potential(ELEMENTS), 2, method="uncertainty", scores=scores)
    assert found.rows == (len(structures) - 1, len(structures) - 2)


@pytest.mark.parametrize("bare", [True, False], ids=["bare", "network"])
def test_spread_of_bond_order_potentials(structures, bare):
    """Their energies depend on more than the inputs: on the set's positions."""
    first = make_bond_order(ELEMENTS, bare=bare)
    moved = [tuple(bias + 0.01 * k for bias in first.networks.biases) for k in range(3)]
    networks = [replace(first.networks, biases=biases) for biases in moved]
    potential = join_members([replace(first, networks=own) for own in networks])
    whole = pf.build_training_set(structures, potential)
    expected = pf.predict(potential, structures).spread.energy / torch.tensor(structures.sizes)
    assert torch.allclose(energy_spread(potential, whole), expected, rtol=0, atol=1e-12)
    assert expected.max() > 1e-3
    without = replace(whole, positions=torch.full_like(whole.positions, torch.nan))
    with pytest.raises(InputError, match="spread: expected structures with positions for a"):
        energy_spread(potential, without)


def test_sets_of_other_settings():
    potential = make_potential()
    other = with_settings(make_set(), cutoff=4.0)
    with pytest.raises(InputError, match="the set does not fit the potential: cutoff: expected"):
        select_structures(other, potential, 1)
    with pytest.raises(InputError, match="the set does not fit the potential: cutoff: expected"):
        select_structures(make_set(), potential, 1, known=other)


def test_elements_that_the_potential_lacks(structures):
    with pytest.raises(InputError, match=r"atom 1: expected an element of the potential \(Si\), found C"):
        select_structures(structures, make_potential(["Si"]), 1)
