"""Weights of forces and virials by the scales of the labels, against the formula in plain NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_sets import NAN, make_set

from pyfit_gpu.datasets.label_scales import balanced_weights
from pyfit_gpu.datasets.training_set import TrainingSet

SIZES = (2, 1, 3, 4, 2, 5, 3)
WEIGHTS = (1.0, 0.5, 2.0, 0.25, 1.0, 3.0, 1.5)


def formula(training_set: TrainingSet) -> tuple[float, float]:
    """Structure by structure, as docs/theory.md has it."""
    starts = np.concatenate(([0], np.cumsum(training_set.sizes.numpy())))
    shares, energies, weights, forces, virials = [], [], [], [], []
    for k, n in enumerate(training_set.sizes.tolist()):
        atoms = slice(starts[k], starts[k + 1])
        weight, energy = float(training_set.weight[k]), float(training_set.energy[k])
        if np.isnan(energy) or weight == 0:
            continue
        species = training_set.species[atoms].numpy()
        shares.append([np.mean(species == one) for one in range(training_set.descriptor.n_elements)])
        energies.append(energy / n)
        weights.append(weight)
        own = training_set.forces[atoms].numpy()
        if not np.isnan(own).any():
            forces += [(weight, component) for component in own.ravel()]
        virial = float(training_set.volume[k]) / n * training_set.stress[k].numpy()
        if training_set.volume[k] > 0 and not np.isnan(virial).any():
            virials += [(weight, component) for component in virial]
    a, b, w = np.array(shares), np.array(energies), np.array(weights)
    by_element = np.linalg.pinv(a.T @ (w[:, None] * a)) @ a.T @ (w * b)
    spread = np.sqrt(np.average((b - a @ by_element) ** 2, weights=w))

    def balanced(share: float, labels: list[tuple[float, float]]) -> float:
        if not any(value for _, value in labels):
            return 0.0
        of, values = np.array(labels).T
        return float(f"{max(share * spread, 0.05) ** 2 / np.average(values**2, weights=of):.2g}")

    return balanced(0.7, forces), balanced(0.3, virials)


def spread_out(elements: tuple[str, ...] = ("Si", "C"), **settings: object) -> TrainingSet:
    """Energies whose spread is far above the least that counts."""
    energy = np.random.default_rng(4).normal(-3.0, 1.0, len(SIZES)) * SIZES
    return make_set(SIZES, elements, energy=energy.tolist(), weight=WEIGHTS, **settings)


def without(training_set: TrainingSet, label: str, *structures: int) -> TrainingSet:
    values = getattr(training_set, label).clone()
    rows = torch.repeat_interleave(training_set.sizes) if label == "forces" else torch.arange(len(training_set))
    values[torch.isin(rows, torch.tensor(structures, dtype=rows.dtype))] = NAN
    return replace(training_set, **{label: values})


@pytest.mark.parametrize("elements", [("Si",), ("Si", "C"), ("Si", "C", "Ge")], ids=len)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_formula(elements: tuple[str, ...], seed: int) -> None:
    whole = spread_out(elements, seed=seed)
    assert min(balanced_weights(whole)) > 0
    assert balanced_weights(whole) == pytest.approx(formula(whole), rel=1e-12)


def test_labels_that_are_not_known() -> None:
    """A structure without an energy does not train, whatever else it has; one force of a structure is not enough."""
    some = without(without(without(spread_out(), "forces", 1, 3), "stress", 2, 4), "energy", 5)
    some = replace(some, volume=some.volume * (torch.arange(len(some)) != 6))
    assert balanced_weights(some) == pytest.approx(formula(some), rel=1e-12)
    part = some.forces.clone()
    part[0, 0] = NAN  # of the first structure's two atoms
    assert balanced_weights(replace(some, forces=part)) == balanced_weights(without(some, "forces", 0))


@pytest.mark.parametrize("value", [NAN, 0.0])
def test_a_label_that_is_nowhere_or_always_zero_has_no_weight(value: float) -> None:
    whole = spread_out()
    forces, stress = balanced_weights(whole)
    assert balanced_weights(replace(whole, forces=torch.full_like(whole.forces, value))) == (0.0, stress)
    assert balanced_weights(replace(whole, stress=torch.full_like(whole.stress, value))) == (forces, 0.0)
    assert balanced_weights(replace(whole, volume=torch.zeros_like(whole.volume))) == (forces, 0.0)


def test_scales() -> None:
    """Weights are lengths and numbers squared; digits that a factor of 10 keeps make the comparison exact."""
    whole = spread_out()
    forces, stress = balanced_weights(whole)
    assert balanced_weights(replace(whole, forces=10 * whole.forces)) == pytest.approx((forces / 100, stress))
    assert balanced_weights(replace(whole, stress=10 * whole.stress)) == pytest.approx((forces, stress / 100))
    assert balanced_weights(replace(whole, volume=10 * whole.volume)) == pytest.approx((forces, stress / 100))
    assert balanced_weights(replace(whole, energy=10 * whole.energy)) == pytest.approx((100 * forces, 100 * stress))
    assert balanced_weights(replace(whole, weight=10 * whole.weight)) == (forces, stress)


def test_what_the_composition_explains_does_not_count() -> None:
    whole = spread_out()
    shift = 7.0 * whole.count_species(0) - 900.0 * whole.count_species(1)
    assert balanced_weights(replace(whole, energy=whole.energy + shift)) == balanced_weights(whole)
    assert balanced_weights(replace(whole, energy_shift=(106.0, -3.0))) == balanced_weights(whole)


def test_energies_that_hardly_differ_count_as_a_twentieth_of_an_electronvolt() -> None:
    whole = spread_out()
    equal = replace(whole, energy=whole.sizes * -3.0, forces=torch.full_like(whole.forces, -0.5))
    assert balanced_weights(equal)[0] == 0.01  # (0.05 eV / 0.5 eV/Å)^2
    assert balanced_weights(equal) == pytest.approx(formula(equal), rel=1e-12)
    one = whole.select([3])
    assert balanced_weights(one) == pytest.approx(formula(one), rel=1e-12)
    assert min(balanced_weights(one)) > 0


def test_a_structure_of_weight_zero_does_not_count() -> None:
    whole = spread_out()
    weight = whole.weight.clone()
    weight[[0, 5]] = 0.0
    found = balanced_weights(replace(whole, weight=weight))
    assert found == balanced_weights(whole.select([1, 2, 3, 4, 6]))
    assert found != balanced_weights(whole)
    assert balanced_weights(replace(whole, weight=0 * weight)) == (0.0, 0.0)


def test_nothing_trains() -> None:
    assert balanced_weights(without(spread_out(), "energy", *range(len(SIZES)))) == (0.0, 0.0)


def test_single_precision_gives_the_same() -> None:
    whole = spread_out()
    assert balanced_weights(whole.to("cpu", torch.float32)) == balanced_weights(whole)
