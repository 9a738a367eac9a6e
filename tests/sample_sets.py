"""Training sets and potentials made of random numbers, for tests to which their physics does not matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.formats.nn_dat_header import header_lines
from pyfit_gpu.formats.training_set.shards import Shard, register_shard, shard_path
from pyfit_gpu.formats.training_set.writer import writing_set
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential, n_bond_order_parameters
from pyfit_gpu.training.settings import FitSettings

NAN = float("nan")


def make_settings(base: FitSettings | None = None, **named: object) -> FitSettings:
    """Change settings of a fit by their flat names, as on the command line: those of the optimiser go to it."""
    base = base or FitSettings()
    base = replace(base, optimizer=named.pop("optimizer", base.optimizer))
    own = {one.name for one in fields(base.optimizer)}
    optimizer = replace(base.optimizer, **{name: value for name, value in named.items() if name in own})
    return replace(base, optimizer=optimizer, **{name: value for name, value in named.items() if name not in own})


def make_descriptor(elements: Sequence[str] = ("Si",), **settings: object) -> LocalStructureParameters:
    return LocalStructureParameters(
        **{
            "elements": tuple(elements),
            "gi_mode": 5,
            "shift": 0.5,
            "cutoff": 4.3,
            "cutoff_width": 1.1,
            "gaussian_width": 0.8,
            "legendre_orders": (0, 2),
            "gaussian_centers": (1.7, 2.5, 3.3),
            **settings,
        }
    )


def make_potential(
    elements: Sequence[str] = ("Si",),
    *,
    hidden: Sequence[int] = (5, 4),
    n_outputs: int = 1,
    activation: int = 1,
    max_random: float = 0.7,
    seed: int = 3,
    **settings: object,
) -> Potential:
    descriptor = make_descriptor(elements, **settings)
    sizes = (descriptor.n_features, *hidden, n_outputs)
    is_informed = n_outputs == n_bond_order_parameters(len(elements))
    return Potential(
        descriptor=descriptor,
        networks=ElementNetworks.random(sizes, max_random, seed, n_elements=len(elements), activation=activation),
        masses=(28.0855,) * len(elements),
        max_random=max_random,
        use_baseline=False,
        bond_order_parameters=(0.0,) * (len(elements) * n_outputs if is_informed else 8),
        energy_shift=torch.full((len(elements),), NAN, dtype=torch.float64),
    )


def make_set(
    sizes: Sequence[int] = (2, 1, 3, 4, 2),
    elements: Sequence[str] = ("Si",),
    *,
    groups: Sequence[str] | None = None,
    energy: Sequence[float] | None = None,
    energy_shift: tuple[float, ...] | None = None,
    weight: Sequence[float] | None = None,
    seed: int = 0,
    **settings: object,
) -> TrainingSet:
    """Every structure has an energy (near -0.3 eV/atom on the networks' scale), forces and a stress."""
    rng = np.random.default_rng(seed)
    n_structures, n_atoms = len(sizes), sum(sizes)
    potential = make_potential(elements, **settings)

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape))

    sizes_tensor = torch.tensor(sizes)
    features = draw(n_atoms, potential.descriptor.n_features)
    species = torch.from_numpy(rng.integers(0, len(elements), n_atoms))
    volume = torch.from_numpy(rng.uniform(15.0, 25.0, n_structures)) * sizes_tensor
    if energy is None:
        energy = (np.array(sizes) * rng.normal(-0.3, 0.1, n_structures)).tolist()
    return TrainingSet(
        potential=potential.without_parameters(),
        energy_shift=(0.0,) * len(elements) if energy_shift is None else energy_shift,
        groups=tuple(groups) if groups is not None else tuple("abc"[k % 3] for k in range(n_structures)),
        features=features,
        species=species,
        positions=draw(n_atoms, 3),
        forces=draw(n_atoms, 3),
        sizes=sizes_tensor,
        energy=torch.tensor(energy, dtype=torch.float64),
        volume=volume,
        weight=torch.ones(n_structures, dtype=torch.float64) if weight is None else torch.tensor(weight).double(),
        cell=draw(n_structures, 3, 3),
        pbc=torch.from_numpy(rng.integers(0, 2, (n_structures, 3)).astype(bool)),
        stress=draw(n_structures, 6),
    )


def with_settings(training_set: TrainingSet, **settings: object) -> TrainingSet:
    """The same numbers, said to be made with other settings of the descriptor."""
    potential = training_set.potential
    return replace(training_set, potential=replace(potential, descriptor=replace(potential.descriptor, **settings)))


def save_shard(training_set: TrainingSet, path: Path, shard: Shard) -> tuple[Path, list[int]]:
    """Shard of the set `path` as `prepare` writes it: its file, and the shards that are still missing."""
    target = shard_path(path, shard.index, shard.count)
    sizes = len(training_set), training_set.n_atoms, training_set.features.shape[1]
    with writing_set(target, *sizes, splits=training_set.splits, shard=shard.describe()) as writer:
        writer.append(training_set)
    return target, register_shard(path, shard, writer.content_hash, len(training_set))


def arrays_of(training_set: TrainingSet) -> dict[str, bytes]:
    """Every tensor with its dtype and shape, NaNs by their bits."""
    tensors = {name: value for name, value in vars(training_set).items() if isinstance(value, torch.Tensor)}
    return {name: f"{t.dtype} {tuple(t.shape)} ".encode() + t.numpy().tobytes() for name, t in tensors.items()}


def assert_same_set(found: TrainingSet, expected: TrainingSet) -> None:
    """Everything, bit for bit."""
    assert len(arrays_of(expected)) == 11
    for name, value in arrays_of(expected).items():
        assert arrays_of(found)[name] == value, name
    assert header_lines(found.potential) == header_lines(expected.potential)
    for name in ("descriptor", "energy_shift", "groups"):
        assert getattr(found, name) == getattr(expected, name), name
