"""Features that would fill the memory: fewer atoms at once, or a message with the numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands.helpers import OWN, done, refused
from sample_sets import make_descriptor, make_potential

import pyfit_gpu as pf
from pyfit_gpu import devices
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import save_potential
from pyfit_gpu.models.batches import batch_atoms
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.neighbors import find_neighbors

CPU = torch.device("cpu")
MORE = {"gi_mode": 6, "cross_terms": 1, "triples": ((0, 2, 2), (2, 2, 2))}


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the bytes that every device is said to have."""
    return lambda n_bytes: monkeypatch.setattr(devices, "known_memory", lambda device: n_bytes)


@pytest.fixture
def structures() -> Structures:
    return pf.load_structures(OWN / "structures.poscar.dat")


@pytest.mark.parametrize("settings", [{}, MORE], ids=["pairs", "four bodies"])
def test_less_memory_gives_smaller_chunks_and_the_same_bits(
    memory: Callable[[int], None], structures: Structures, settings: dict
) -> None:
    descriptor = make_descriptor(**settings)
    neighbors = find_neighbors(structures, descriptor.neighbor_cutoff)
    species = torch.zeros(structures.n_atoms, dtype=torch.int64)
    sizes, found = [], []
    for n_bytes in (2**34, 2**20):
        memory(n_bytes)
        sizes.append([len(chunk.atoms) for chunk in descriptor.chunks(neighbors, species)])
        found.append(descriptor(neighbors, species))
    assert max(sizes[1]) < max(sizes[0])
    assert sum(sizes[1]) == sum(sizes[0]) == structures.n_atoms
    assert torch.equal(*found)


def test_smaller_batches(memory: Callable[[int], None]) -> None:
    memory(2**36)
    assert batch_atoms(CPU, 99) == 50_000
    memory(2**30)
    assert [batch_atoms(CPU, n_features) for n_features in (99, 2**12, 2**40)] == [2**24 // (8 * 99), 2**9, 1]


def test_what_cannot_fit_is_named(memory: Callable[[int], None], structures: Structures) -> None:
    potential = make_potential(**MORE)
    n_features, n_atoms = potential.descriptor.n_features, structures.n_atoms
    memory(8 * n_features * n_atoms - 1)
    words = rf"memory: expected at least .* for {n_features} inputs of each of {n_atoms} atoms, found "
    with pytest.raises(InputError, match=words):
        pf.featurize(structures, potential)
    with pytest.raises(InputError, match=words):
        pf.build_training_set(structures, potential)
    memory(1000)
    with pytest.raises(InputError, match=r"for the features of one atom with up to \d+ neighbours, found 1000 B"):
        pf.predict(potential, structures)


def test_commands_name_it(memory: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_potential(make_potential(**MORE), "si.nn.dat")
    data = str(OWN / "structures.poscar.dat")
    memory(1000)
    match = r"memory: expected at least .*, found 1000 B"
    refused("prepare", data, "--potential", "si.nn.dat", "--out", "si.h5", match=match)
    refused("evaluate", data, "--potential", "si.nn.dat", "--out", "si.csv", match=match)
    memory(2**20)
    done("prepare", data, "--potential", "si.nn.dat", "--out", "small.h5")
    memory(2**40)
    done("prepare", data, "--potential", "si.nn.dat", "--out", "large.h5")
    small, large = (pf.load_training_set(name) for name in ("small.h5", "large.h5"))
    assert torch.equal(small.features, large.features)
