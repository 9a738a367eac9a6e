"""Weights of structures by group or energy, and target errors of groups, from lists of rules.

Where several rules apply to a structure, the last one counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pyfit_gpu.datasets.splits import matching_groups
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError


def _check_number(number: float, where: str) -> None:
    if not (math.isfinite(number) and number >= 0):
        raise InputError(f"{where}: expected a number of 0 or more, got {number:g}")


def _check_window(low: float, high: float, where: str) -> None:
    if not low < high:
        raise InputError(f"{where}: expected a lower end below the upper one, got {low:g} and {high:g}")


def _by_group(training_set: TrainingSet, rules: Sequence[tuple[str, float]], what: str) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for pattern, number in rules:
        _check_number(number, f"{what} {pattern!r}")
        for name in matching_groups(pattern, training_set.groups, what):
            numbers[name] = number
    return numbers


def weight_groups(training_set: TrainingSet, rules: Sequence[tuple[str, float]]) -> TrainingSet:
    """Multiply the weights of structures by group: w_s <- w_s * f of the last rule that matches.

    Args:
        training_set: a set with the weights of the data files, or with weights that were multiplied before.
        rules: names of groups, with shell wildcards, and factors.

    Raises:
        InputError: a pattern that matches no group, or a factor that is negative or not finite.
    """
    factors = _by_group(training_set, rules, "group weight")
    by_structure = [factors.get(group, 1.0) for group in training_set.groups]
    return replace(training_set, weight=training_set.weight * training_set.weight.new_tensor(by_structure))


def energy_above_lowest(training_set: TrainingSet) -> Tensor:
    """(B,) eV/atom: E_used / n minus the lowest of the whole set; NaN where there is no energy."""
    per_atom = training_set.energy_used / training_set.sizes
    known = per_atom[training_set.has_energy]
    return per_atom - known.min() if len(known) else per_atom


def weight_windows(training_set: TrainingSet, rules: Sequence[tuple[float, float, float]]) -> TrainingSet:
    """Multiply the weights of structures by their energy: w_s <- w_s * f of the last rule with low <= e_s < high.

    e_s is `energy_above_lowest`. Structures in no window, or without an energy, keep their weights. A window without
    structures is no fault: one set of rules may serve several sets.

    Args:
        rules: low and high in eV/atom, infinite where open, and factors.

    Raises:
        InputError: low not below high, or a factor that is negative or not finite.
    """
    energy = energy_above_lowest(training_set)
    factors = torch.ones_like(training_set.weight)
    for low, high, number in rules:
        where = f"energy window {low:g}:{high:g}"
        _check_window(low, high, where)
        _check_number(number, where)
        factors[(low <= energy) & (energy < high)] = number
    return replace(training_set, weight=training_set.weight * factors)


def group_targets(training_set: TrainingSet, rules: Sequence[tuple[str, float]]) -> dict[str, float]:
    """RMSE to reach, by name of group, eV/atom; groups that no rule matches have none.

    Raises:
        InputError: a pattern that matches no group, or a target that is negative or not finite.
    """
    return _by_group(training_set, rules, "group target")
