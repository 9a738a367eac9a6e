"""The sets of the optional reference data that the benchmarks of uncertainty and selection train on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from closure import HEADER
from members import SHARED, load

import pyfit_gpu as pf
from pyfit_gpu.datasets.label_scales import balanced_weights
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.new_potential import new_potential

_COHESION = 4.63  # eV/atom, of silicon


@dataclass(frozen=True)
class SharedSet:
    """A potential whose parameters `randomized` draws, structures to train on, and others to test on."""

    potential: pf.Potential
    pool: pf.TrainingSet
    test: pf.TrainingSet
    force_weight: float  # Å^2

    def settings(self, evaluations: int, seed: int) -> pf.FitSettings:
        """A fit of about so many evaluations: a step has ten iterations, and an iteration hardly more than one."""
        found = pf.FitSettings(
            steps=max(1, evaluations // 11), l2=1e-4, force_weight=self.force_weight, seed=seed, keep="last"
        )
        return replace(found, l2=1e-7, l2_form="squared") if self.potential.is_physically_informed else found

    def informed(self, cutoff: float = 4.5) -> SharedSet:
        """The same for a physically informed network 40-16-16-8 of the plain form, energies those of atomisation."""
        potential = new_potential(
            ["Si"], cutoff, form="plain", n_centers=8, first_center=1.5,
            legendre_orders=HEADER.legendre_orders, hidden=(16, 16),
        )  # fmt: skip
        networks = ElementNetworks.random(potential.networks.layer_sizes, 0.1, 1, n_elements=1, activation=1)
        potential = replace(potential, networks=networks)
        lowest = float((self.pool.energy / self.pool.sizes).min())
        shift = -lowest - _COHESION

        def converted(part: pf.TrainingSet) -> pf.TrainingSet:
            features = pf.featurize(part.structures(), potential)
            return replace(part, potential=potential, features=features, energy_shift=(shift,))

        return replace(self, potential=potential, pool=converted(self.pool), test=converted(self.test))

    def cut(self, n: int) -> SharedSet:
        """The same with a pool of n structures, for a try."""
        rows = np.random.default_rng(5).permutation(len(self.pool))[:n]
        return replace(self, pool=self.pool.select(np.sort(rows)))

    def errors(self, potential: pf.Potential, part: pf.TrainingSet) -> dict[str, float]:
        """RMSE, MAE and largest error of the energies, meV/atom, and RMSE of the forces, eV/Å."""
        found = pf.predict(potential, part.structures(), derivatives=self.force_weight > 0)
        energy = 1e3 * (found.energy - part.energy_used) / part.sizes
        errors = {
            "energy RMSE": float(energy.square().mean().sqrt()),
            "energy MAE": float(energy.abs().mean()),
            "energy largest": float(energy.abs().max()),
        }
        if found.forces is not None:
            errors["forces RMSE"] = float((found.forces - part.forces).square().mean().sqrt())
        return errors


def _nist() -> SharedSet:
    """Energies, 40-16-16-1; a fifth of the structures, always the same ones, tests."""
    potential, whole = load("cpu", torch.float64)
    firsts = whole.select(np.flatnonzero(whole.first_copies == np.arange(len(whole))))
    order = np.random.default_rng(7).permutation(len(firsts))
    n_test = len(firsts) // 5
    test, pool = (firsts.select(np.sort(rows)) for rows in (order[:n_test], order[n_test:]))
    return SharedSet(potential, pool, test, 0.0)


def _mlearn() -> SharedSet:
    """Energies and forces of mlearn's silicon, mode 6, 99-24-24-1, weighted by the scales of the labels."""
    empty = new_potential(["Si"], 5.5, first_center=1.5)
    layers = empty.networks.layer_sizes
    networks = ElementNetworks.random(layers, empty.max_random, 1, n_elements=1, activation=1)
    potential = replace(empty, networks=networks)
    folder = SHARED / "data" / "mlearn"
    parts = [pf.load_structures(folder / f"Si_{name}.extxyz") for name in ("train", "test")]
    shift = -float((parts[0].energy.sum() / parts[0].n_atoms).round(decimals=6))
    pool, test = (pf.build_training_set(part, potential, e_shift=shift) for part in parts)
    return SharedSet(potential, pool, test, balanced_weights(pool)[0])


def _example() -> SharedSet:
    """Energies and forces of the silicon of the examples, mode 6, 99-8-8-1; 52 structures, always the same, test."""
    structures = pf.load_structures(Path(__file__).parents[2] / "examples" / "data" / "si_dft.extxyz")
    empty = new_potential(["Si"], 5.5, first_center=1.5, hidden=(8, 8))
    networks = ElementNetworks.random(empty.networks.layer_sizes, empty.max_random, 1, n_elements=1, activation=1)
    potential = replace(empty, networks=networks)
    whole = pf.build_training_set(structures, potential, e_shift=102.457)
    order = np.random.default_rng(7).permutation(len(whole))
    test, pool = (whole.select(np.sort(rows)) for rows in (order[:52], order[52:]))
    return SharedSet(potential, pool, test, balanced_weights(pool)[0])


SETS: dict[str, Callable[[], SharedSet]] = {"nist": _nist, "mlearn": _mlearn, "example": _example}


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's, equal values in any order."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])
