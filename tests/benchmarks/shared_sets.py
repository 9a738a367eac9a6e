"""The sets of the optional reference data that the benchmarks of uncertainty and selection train on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from members import SHARED, load

import pyfit_gpu as pf
from pyfit_gpu.models.energy_shift import find_shift
from pyfit_gpu.models.new_potential import new_potential_for


@dataclass(frozen=True)
class SharedSet:
    """A potential without parameters that matter, structures to train on, and others to test on."""

    potential: pf.Potential
    pool: pf.TrainingSet
    test: pf.TrainingSet
    force_weight: float  # Å^2


def load_nist() -> SharedSet:
    """40-16-16-1, energies alone; a fifth of the structures, always the same ones, tests."""
    potential, whole = load("cpu", torch.float64)
    firsts = whole.select(np.flatnonzero(whole.first_copies == np.arange(len(whole))).tolist())
    order = np.random.default_rng(7).permutation(len(firsts))
    n_test = len(firsts) // 5
    test, pool = (firsts.select(np.sort(rows).tolist()) for rows in (order[:n_test], order[n_test:]))
    return SharedSet(potential, pool, test, 0.0)
